"""Requests share runs where that was proved right, and each gets its own answer."""

import asyncio
import contextlib
import threading

import grpc
import httpx
import numpy as np
import pytest
from semver import Version
from typer.testing import CliRunner

from onnx_models import leaky, look_up, matmul, rows_but, scaled, slow, string_identity
from rowwise_models import drops_stop_words, keeps_by_mask, reshapes_to_rows_of_another, squeezes_single_frames
from turnout.cli.main import application
from turnout.config import BatchingSettings, Runtime
from turnout.host.cpu import whole_cores
from turnout.registry.manifest.manifest import BatchingDeclaration as DeclaredBatching
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.serving.sessions.fixed_shape_run import PreparedRun
from turnout.serving.versions.handle import _BOUND_AFTER, _MOST_BOUND
from wire import answers_together, outputs_of, refusal, request, stub_of

ALWAYS = BatchingSettings(only_where_it_pays=False)
ONE_RUNNER = Runtime(runners=1, inline_threshold_us=0)


def _handle(server, model: str = "m"):
    return server.services.catalog.snapshot.models[model].versions[Version(1, 0, 0)].handle


def _printed(*arguments: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(application(), [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


def _batches(server) -> tuple[int, float]:
    """How many runs there were, and how many rows in all."""
    histogram = _handle(server).recorder.batches.histogram()
    return sum(histogram.counts), histogram.total


async def test_concurrent_requests_share_runs_and_each_gets_its_own_rows(publish_model, start_server) -> None:
    model = matmul()
    publish_model("m", "1.0.0", model)
    server = await start_server(batching=ALWAYS, runtime=ONE_RUNNER)
    random = np.random.default_rng(3)
    sent = [random.standard_normal((1 + i % 3, 64)).astype(np.float32) for i in range(60)]
    answers = await answers_together(server, model, sent)
    runs, rows = _batches(server)
    assert rows == sum(len(x) for x in sent)
    assert runs < len(sent)
    assert max(answer.timing.batch_rows for answer in answers) > 3


@pytest.mark.parametrize(
    ("runtime", "parallel"),
    [
        (Runtime(runners=2), min(2, whole_cores())),
        (Runtime(runners=2, intra_op_threads=whole_cores()), 1),
        (Runtime(runners=2, intra_op_threads=0), 1),
        (Runtime(runners=1), 1),
    ],
    ids=["a core each", "all cores each", "as ONNX Runtime likes", "one"],
)
async def test_a_queue_is_divided_between_runs_that_have_cores_of_their_own(
    publish_model, start_server, runtime: Runtime, parallel: int
) -> None:
    publish_model("m", "1.0.0", matmul(2048))  # a row costs nearly as much in a batch as alone, or less
    plan = _handle(await start_server(batching=ALWAYS, runtime=runtime)).loaded.plan
    assert plan.parallel == parallel
    assert 1 <= plan.efficient_rows <= plan.max_rows == 32


async def test_a_model_whose_rows_leak_into_each_other_is_not_batched(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", leaky())
    server = await start_server(batching=ALWAYS, runtime=ONE_RUNNER)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    async with stub_of(server) as stub:
        answers = await asyncio.gather(*(stub.Predict(request("m", x=x + i)) for i in range(20)))
    for answer in answers:
        np.testing.assert_array_equal(outputs_of(answer)["y"], x - x.mean(axis=0))
        assert answer.timing.batch_rows == 0
    entry = server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)]
    assert "differs" in entry.batching


async def test_rows_kept_by_a_mask_are_answered_to_their_own_client(publish_model, start_server) -> None:
    """With as many rows kept as clients, an answer cut by row counts is another client's."""
    publish_model("m", "1.0.0", keeps_by_mask())
    server = await start_server(batching=ALWAYS, runtime=ONE_RUNNER)
    assert "Compress" in server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)].batching

    async def ask(client: int, stub) -> None:
        random = np.random.default_rng(client)
        for _ in range(10):
            x = random.standard_normal((1, 64)).astype(np.float32)
            x[0, 0] = -100 if random.random() < 0.5 else client
            answer = await stub.Predict(request("m", x=x))
            np.testing.assert_array_equal(outputs_of(answer)["kept"], x[x[:, 0] > -50])

    async with stub_of(server) as stub:
        await asyncio.gather(*(ask(client, stub) for client in range(8)))


async def test_dropped_stop_words_take_no_other_clients_words(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", drops_stop_words())
    server = await start_server(
        batching=BatchingSettings(only_where_it_pays=False, max_delay_ms=20), runtime=ONE_RUNNER
    )
    terms = ["the", "Frog", "a", "Points"] * 5
    async with stub_of(server) as stub:
        answers = await asyncio.gather(*(stub.Predict(request("m", x=np.array([w], dtype=object))) for w in terms))
    kept = {"the": "", "a": ""}
    assert [outputs_of(answer)["y"].tolist() for answer in answers] == [[kept.get(w, w.lower())] for w in terms]


async def test_sizes_that_are_not_proved_yet_run_alone_and_share_runs_later(publish_model, start_server) -> None:
    """Below, an If on the length drops a dimension, so that the graph is proved for one length at a time."""
    publish_model("m", "1.0.0", squeezes_single_frames())
    server = await start_server(
        batching=BatchingSettings(only_where_it_pays=False, max_delay_ms=20), runtime=ONE_RUNNER
    )
    async with stub_of(server) as stub:
        async with asyncio.timeout(120):
            rows = 0
            while rows < 2:
                sent = [np.full((1, 5, 4), i, np.float32) for i in range(6)]
                answers = await asyncio.gather(*(stub.Predict(request("m", x=x)) for x in sent))
                for x, answer in zip(sent, answers, strict=True):
                    np.testing.assert_array_equal(outputs_of(answer)["y"], x)
                rows = max(answer.timing.batch_rows for answer in answers)


async def test_one_bad_request_in_a_batch_fails_alone(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", look_up())
    server = await start_server(
        batching=BatchingSettings(only_where_it_pays=False, max_delay_ms=200), runtime=ONE_RUNNER
    )
    async with stub_of(server) as stub:
        good = [stub.Predict(request("m", index=np.array([i]))) for i in range(5)]
        refused = await refusal(stub.Predict(request("m", index=np.array([5000]))))
        answers = await asyncio.gather(*good)
    assert refused.code.name == "INTERNAL"
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(outputs_of(answer)["y"], np.arange(4 * i, 4 * i + 4, dtype=np.float32)[None])


async def test_other_shapes_and_other_shared_values_wait_in_other_lines(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(batching=ALWAYS, runtime=ONE_RUNNER)
    x = np.zeros((1, 4), np.float32)
    async with stub_of(server) as stub:
        calls = [stub.Predict(request("m", x=x, n=np.int64(i % 4))) for i in range(40)]
        answers = await asyncio.gather(*calls)
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(outputs_of(answer)["y"], x + i % 4)


async def test_a_free_runner_waits_for_company_only_as_long_as_configured(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(
        batching=BatchingSettings(only_where_it_pays=False, max_rows=8, max_delay_ms=2000), runtime=ONE_RUNNER
    )
    x = np.zeros((1, 4), np.float32)
    async with stub_of(server) as stub:
        answers = await asyncio.gather(*(stub.Predict(request("m", x=x), timeout=30) for _ in range(8)))
        alone = await stub.Predict(request("m", x=x), timeout=30)
    assert [answer.timing.batch_rows for answer in answers] == [8] * 8
    assert alone.timing.batch_rows == 1
    assert alone.timing.queue_us >= 1_900_000


async def test_a_request_larger_than_a_batch_runs_by_itself(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(batching=BatchingSettings(only_where_it_pays=False, max_rows=4), runtime=ONE_RUNNER)
    x = np.ones((9, 4), np.float32)
    async with stub_of(server) as stub:
        answer = await stub.Predict(request("m", x=x))
    np.testing.assert_array_equal(outputs_of(answer)["y"], 2 * x)


async def test_strings_are_batched_too(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", string_identity())
    server = await start_server(batching=ALWAYS, runtime=ONE_RUNNER)
    name = _handle(server).manifest.signature.inputs[0].name
    rank = len(_handle(server).manifest.signature.inputs[0].shape)
    sent = [np.array(f"wörd {i}", dtype=object).reshape((1,) * rank) for i in range(20)]
    async with stub_of(server) as stub:
        answers = await asyncio.gather(*(stub.Predict(request("m", **{name: terms})) for terms in sent))
    for terms, answer in zip(sent, answers, strict=True):
        assert next(iter(outputs_of(answer).values())).ravel().tolist() == terms.ravel().tolist()


async def test_quick_models_run_without_a_thread_and_count_all_the_same(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(batching=ALWAYS, runtime=Runtime(inline_threshold_us=100_000))
    async with stub_of(server) as stub:
        for rows in (1, 3):
            x = np.ones((rows, 4), np.float32)
            answer = await stub.Predict(request("m", x=x))
            np.testing.assert_array_equal(outputs_of(answer)["y"], 2 * x)
            assert (answer.timing.queue_us, answer.timing.batch_rows) == (0, rows)
    assert _batches(server) == (2, 4.0)
    assert not _handle(server)._batchers[""].runners


async def test_kinds_that_come_often_are_bound_so_many_of_them_and_all_are_answered_right(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(batching=ALWAYS, runtime=Runtime(inline_threshold_us=100_000))
    handle = _handle(server)
    assert handle.loaded is not None
    most = max(handle.loaded.inline_bytes // 16, 1)  # rows of four floats
    kinds = range(1, min(most, _MOST_BOUND + 4) + 1)
    async with stub_of(server) as stub:
        for value in range(_BOUND_AFTER + 4):
            for rows in kinds:
                x = np.full((rows, 4), value, np.float32)
                np.testing.assert_array_equal(outputs_of(await stub.Predict(request("m", x=x)))["y"], 2 * x)
    assert 0 < handle._bound_kinds == min(len(kinds), _MOST_BOUND)
    assert sum(isinstance(known.run, PreparedRun) for known in handle._checked.values()) == handle._bound_kinds
    await handle.close()
    assert not handle._checked


async def test_control_flow_never_runs_on_the_event_loop(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(runtime=Runtime(inline_threshold_us=1_000_000))
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=np.ones((1, 4), np.float32), n=np.int64(1)))
    assert _handle(server)._batchers[""].runners


async def test_a_version_whose_outputs_do_not_add_up_is_demoted_and_everybody_gets_their_own(
    publish_model, start_server
) -> None:
    """Its publisher declares that it batches, and the rows of the check at load are all kept: rows that are left out
    come only with real requests.
    """
    declared = VersionMetadata(batching=DeclaredBatching(axes={"x": 0, "y": 0}))
    publish_model("m", "1.0.0", rows_but(123), metadata=declared)
    batching = BatchingSettings(only_where_it_pays=False, max_delay_ms=100_000, max_rows=8)
    server = await start_server(batching=batching, runtime=ONE_RUNNER)
    catalog = server.services.catalog

    def entry():
        return catalog.snapshot.models["m"].versions[Version(1, 0, 0)]

    assert entry().max_batch_rows == 8, entry().batching
    async with stub_of(server) as stub, httpx.AsyncClient() as http:
        before = (await http.get(f"http://{server.http}/metrics")).text
        assert 'turnout_batching_demoted_total{model="m",version="1.0.0"} 0.0' in before
        for batch_rows in (1, 0):  # the second time nothing is put together from the beginning
            values = [1.0, 123.0, 2.0, 123.0, 3.0, 123.0, 123.0, 123.0]
            async with asyncio.timeout(60):
                answers = await asyncio.gather(
                    *(stub.Predict(request("m", x=np.full((1, 2), value, np.float32))) for value in values)
                )
            for value, answer in zip(values, answers, strict=True):
                np.testing.assert_array_equal(
                    outputs_of(answer)["y"], np.full((int(value != 123), 2), value, np.float32)
                )
                assert answer.timing.batch_rows == batch_rows
        reason = "unbatched: demoted at run time: output y had 3 rows of 8"
        assert (entry().state, entry().batching, entry().reason, entry().max_batch_rows) == (
            "ready",
            reason,
            reason,
            0,
        )
        after = (await http.get(f"http://{server.http}/metrics")).text
        assert 'turnout_batching_demoted_total{model="m",version="1.0.0"} 1.0' in after
    assert _batches(server) == (16, 16.0)  # each request once, by itself
    assert entry().handle.loaded.plan.max_rows == 0  # by which a shadow's copies are put together, too
    show = await asyncio.to_thread(_printed, "show", "m@1.0.0", "--server", str(server.control))
    assert reason in " ".join(show.split())
    models = await asyncio.to_thread(_printed, "models", "--server", str(server.control))
    assert f"m 1.0.0: {reason}" in " ".join(models.split())
    # It stays so until it is loaded again.
    await server.parts.serving.manager.unload("m", Version(1, 0, 0))
    await server.parts.serving.manager.load("m", Version(1, 0, 0))
    assert (entry().max_batch_rows, entry().reason) == (8, "")


async def test_requests_that_onnx_would_refuse_do_not_end_the_batching_of_others(
    publish_model, start_server, tmp_path
) -> None:
    case = tmp_path / "case.npz"
    np.savez(case, **{"inputs/x": np.ones((1, 2, 2), np.float32), "inputs/c": np.ones((1, 1), np.float32)})
    publish_model("m", "1.0.0", reshapes_to_rows_of_another(), golden=(case,))
    batching = BatchingSettings(only_where_it_pays=False, max_delay_ms=100_000, max_rows=8)
    server = await start_server(batching=batching, runtime=ONE_RUNNER)
    entry = server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)]
    assert entry.max_batch_rows == 8, entry.batching

    async def send(stub, side: int):
        random = np.random.default_rng(side)
        sent = [random.standard_normal((1, side, side)).astype(np.float32) for _ in range(8)]
        ones = np.ones((1, 1), np.float32)
        calls = (stub.Predict(request("m", x=x, c=ones)) for x in sent)
        async with asyncio.timeout(60):
            return sent, await asyncio.gather(*calls, return_exceptions=True)

    async with stub_of(server) as stub:
        _, refused = await send(stub, 1)  # together they are two rows of four, and each alone is a quarter
        assert all(isinstance(error, grpc.aio.AioRpcError) for error in refused)
        _, odd = await send(stub, 4)  # each alone is answered with four rows for its one
        assert all(outputs_of(answer)["y"].shape == (4, 1, 4) for answer in odd)
        sent, answers = await send(stub, 2)
    for x, answer in zip(sent, answers, strict=True):
        np.testing.assert_array_equal(outputs_of(answer)["y"], x.reshape(1, 1, 4))
        assert answer.timing.batch_rows == 8
    assert (entry.max_batch_rows, entry.reason) == (8, "")


async def test_four_requests_at_once_run_on_four_runners_though_one_alone_was_idle(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(runtime=Runtime(runners=4, inline_threshold_us=0))
    handle = _handle(server)
    batcher, run = handle._batchers[""], handle.loaded.run
    servers_snapshot = threading.Barrier(1)

    def run_together(inputs, names):
        servers_snapshot.wait(120)  # breaks unless as many runs have begun as are to go on at the same time
        return run(inputs, names)

    batcher._unused = [lambda: contextlib.nullcontext(run_together)] * 4
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=np.zeros((1, 4), np.float32), n=np.int64(1)))
        async with asyncio.timeout(120):
            while len(batcher._idle) < 1:
                await asyncio.sleep(0.001)
        servers_snapshot = threading.Barrier(4)
        for _ in range(5):
            rounds = range(5, 9)  # the number of rounds is shared by a run, and so these are four
            x = np.ones((1, 4), np.float32)
            answers = await asyncio.gather(*(stub.Predict(request("m", x=x, n=np.int64(n))) for n in rounds))
            for n, answer in zip(rounds, answers, strict=True):
                np.testing.assert_array_equal(outputs_of(answer)["y"], x + n)
    assert batcher.runners == 4
