"""Calls every public method of tritonclient's four clients, and prints as JSON what this server did with each.

`python walk.py DATA_ADDRESS HTTP_ADDRESS`. By class and method: `yes` where the answer was what it should be, `client
only` where there is nothing to ask the server, `refused CODE` where it refused in words, or else what was wrong. The
server has the model `scale` 1.9.0 (y = 2 x) and 1.10.0 (y = 3 x), allows all of `[oip]`, and traces every request.
"""

import asyncio
import inspect
import json
import queue
import sys
import traceback
import uuid

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as httpclient
import tritonclient.http.aio as http_aio
from refusals import refused
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

X = np.array([[1.0, -2.0, 0.5, 4.0]], np.float32)
WAIT = 100
"""Seconds that an answer may take."""

MODULES = {module.__name__: module for module in (grpcclient, grpc_aio, httpclient, http_aio)}


class Client:
    """A client of one class, sync or not, and what its answers are alike in."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.grpc = ".grpc" in name
        self.module = grpcclient if self.grpc else httpclient
        self.loop = asyncio.new_event_loop()
        self.aio = name.endswith(".aio")

        async def made():
            return MODULES[name].InferenceServerClient(address)

        self.client = self.loop.run_until_complete(made()) if self.aio else MODULES[name].InferenceServerClient(address)

    def call(self, method: str, *values, **named):
        """Calls a method; messages become JSON."""
        if self.grpc and "as_json" in inspect.signature(getattr(self.client, method)).parameters:
            named["as_json"] = True
        done = getattr(self.client, method)(*values, **named)
        return self.loop.run_until_complete(done) if inspect.iscoroutine(done) else done

    def tensor(self, array: np.ndarray = X):
        made = self.module.InferInput("x", array.shape, "FP32")
        made.set_data_from_numpy(array)
        return made

    def close(self) -> None:
        self.call("close")
        self.loop.close()


class Region:
    """System shared memory of this process."""

    def __init__(self, size: int) -> None:
        self.name = f"walk-{uuid.uuid4().hex[:12]}"
        self.key = f"/{self.name}"
        self.size = size

    def __enter__(self) -> "Region":
        self.handle = shm.create_shared_memory_region(self.name, self.key, self.size, create_only=True)
        return self

    def __exit__(self, *_: object) -> None:
        shm.destroy_shared_memory_region(self.handle)


def number(value) -> int:
    """A 64-bit number of protobuf's JSON is text."""
    return int(value)


def check_infer(client: Client) -> None:
    answer = client.call(
        "infer", "scale", [client.tensor()], model_version="1.9.0", request_id="r-1", priority=1, timeout=60_000_000,
        headers={"x-routing-key": "k"}, parameters={"mine": 1},
    )  # fmt: skip
    np.testing.assert_array_equal(answer.as_numpy("y"), 2 * X)
    named = {"compression_algorithm": "gzip"} if client.grpc else {"request_compression_algorithm": "gzip"}
    classes = [client.module.InferRequestedOutput("y", class_count=1)]
    answer = client.call("infer", "scale", [client.tensor()], outputs=classes, **named)
    assert answer.as_numpy("y").ravel().tolist() == [b"12.000000:3"]
    sequence = {"sequence_id": 7, "sequence_start": True}
    error = refused(client.call, method="infer", model_name="scale", inputs=[client.tensor()], **sequence)
    assert "sequences are not supported" in error.message()


def check_async_infer(client: Client) -> None:
    if not client.grpc:
        np.testing.assert_array_equal(
            client.call("async_infer", "scale", [client.tensor()]).get_result(timeout=WAIT).as_numpy("y"), 3 * X
        )
        return
    answers: queue.Queue = queue.Queue()
    client.call("async_infer", "scale", [client.tensor()], lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=WAIT)
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("y"), 3 * X)


def check_stream(client: Client) -> None:
    answers: list = []
    client.call("start_stream", lambda result, error: answers.append((result, error)))
    for n in range(3):
        client.call("async_stream_infer", "scale", [client.tensor(n * X)], request_id=str(n))
    client.call("stop_stream")
    for n, (result, error) in enumerate(answers):
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), 3 * n * X)
    assert len(answers) == 3


def check_stream_infer(client: Client) -> None:
    async def requests():
        for n in range(3):
            yield {"model_name": "scale", "inputs": [client.tensor(n * X)]}

    async def answered():
        return [answer async for answer in client.client.stream_infer(requests())]

    answers = client.loop.run_until_complete(answered())
    for n, (result, error) in enumerate(answers):
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), 3 * n * X)
    assert len(answers) == 3


def check_live(client: Client) -> None:
    assert client.call("is_server_live") is True


def check_ready(client: Client) -> None:
    assert client.call("is_server_ready") is True


def check_model_ready(client: Client) -> None:
    assert client.call("is_model_ready", "scale", "^1.9") is True
    assert client.call("is_model_ready", "scale", "7.0.0") is False


def check_server_metadata(client: Client) -> None:
    answer = client.call("get_server_metadata")
    assert answer["name"] == "turnout"
    assert {"logging", "trace", "system_shared_memory", "model_repository"} <= set(answer["extensions"])
    assert not {"statistics", "cuda_shared_memory", "sequence"} & set(answer["extensions"])


def check_model_metadata(client: Client) -> None:
    answer = client.call("get_model_metadata", "scale", "1.9.0")
    assert (answer["name"], answer["versions"]) == ("scale", ["1.9.0", "1.10.0"])
    assert answer["inputs"][0]["name"] == "x"


def check_model_config(client: Client) -> None:
    answer = client.call("get_model_config", "scale", "1.9.0")
    config = answer["config"] if client.grpc else answer
    assert config["parameters"]["turnout_version"]["string_value"] == "1.9.0"


def states(client: Client) -> dict[str, str]:
    answer = client.call("get_model_repository_index")
    models = answer["models"] if client.grpc else answer
    return {one["version"]: one["state"] for one in models if one["name"] == "scale"}


def check_index(client: Client) -> None:
    assert states(client) == {"1.9.0": "READY", "1.10.0": "READY"}


def check_load(client: Client) -> None:
    client.call("unload_model", "scale@1.9.0", unload_dependents=True)
    assert states(client) == {"1.9.0": "UNAVAILABLE", "1.10.0": "READY"}
    client.call("load_model", "scale@1.9.0")
    assert states(client) == {"1.9.0": "READY", "1.10.0": "READY"}


def check_statistics(client: Client) -> None:
    def statistics():
        (one,) = client.call("get_inference_statistics", "scale", "1.10.0")["model_stats"]
        stats = one["inference_stats"]
        counts = {name: number(stats[name].get("count", 0)) for name in ("success", "queue", "compute_infer")}
        times = number(stats["success"].get("ns", 0)), number(stats["compute_infer"].get("ns", 0))
        return number(one.get("inference_count", 0)), number(one.get("execution_count", 0)), counts, times

    before = statistics()
    client.call("infer", "scale", [client.tensor(np.repeat(X, 3, axis=0))], model_version="1.10.0")
    after = statistics()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 1)
    assert {name: after[2][name] - before[2][name] for name in after[2]} == dict.fromkeys(after[2], 1)
    assert after[3][0] - before[3][0] > after[3][1] - before[3][1] > 0
    everything = client.call("get_inference_statistics")["model_stats"]
    assert [(one["name"], one["version"]) for one in everything] == [("scale", "1.9.0"), ("scale", "1.10.0")]


def settings_of(client: Client, answer) -> dict:
    """Both forms of settings as one."""
    if not client.grpc:
        return answer
    return {name: next(iter(value.values()), []) for name, value in answer["settings"].items()}


def check_log(client: Client) -> None:
    for settings, verbose in (({"log_verbose_level": 1}, 1), ({"log_verbose_level": 0, "log_format": "default"}, 0)):
        assert settings_of(client, client.call("update_log_settings", settings))["log_verbose_level"] == verbose
        found = settings_of(client, client.call("get_log_settings"))
        assert (found["log_verbose_level"], found["log_error"], found["log_format"]) == (verbose, True, "json")


def check_trace(client: Client) -> None:
    def rate(answer) -> str:
        found = settings_of(client, answer)["trace_rate"]
        return found[0] if client.grpc else found

    assert rate(client.call("update_trace_settings", "scale", {"trace_rate": "7"})) == "7"
    assert (rate(client.call("get_trace_settings", "scale")), rate(client.call("get_trace_settings"))) == ("7", "1")
    assert rate(client.call("update_trace_settings", "scale", {"trace_rate": None})) == "1"
    level = settings_of(client, client.call("get_trace_settings"))["trace_level"]
    assert level == ["TIMESTAMPS"]


def check_system_memory(client: Client) -> None:
    def regions() -> list[str]:
        answer = client.call("get_system_shared_memory_status")
        return sorted(answer.get("regions", ())) if client.grpc else sorted(one["name"] for one in answer)

    with Region(2 * X.nbytes) as region:
        client.call("register_system_shared_memory", region.name, region.key, region.size)
        assert regions() == [region.name]
        shm.set_shared_memory_region(region.handle, [X])
        x, y = client.module.InferInput("x", X.shape, "FP32"), client.module.InferRequestedOutput("y")
        x.set_shared_memory(region.name, X.nbytes)
        y.set_shared_memory(region.name, X.nbytes, X.nbytes)
        client.call("infer", "scale", [x], outputs=[y])
        np.testing.assert_array_equal(shm.get_contents_as_numpy(region.handle, np.float32, X.shape, X.nbytes), 3 * X)
        client.call("unregister_system_shared_memory", region.name)
        assert regions() == []
        client.call("unregister_system_shared_memory")


def check_cuda_status(client: Client) -> None:
    assert client.call("get_cuda_shared_memory_status") in ({}, [])


def check_cuda_unregister(client: Client) -> None:
    client.call("unregister_cuda_shared_memory")


def check_cuda_register(client: Client) -> None:
    client.call("register_cuda_shared_memory", "r", b"A" * 86 + b"==", 0, 64)


def check_plugin(client: Client) -> None:
    from tritonclient.grpc.auth import BasicAuth

    plugin = BasicAuth("ann", "secret")
    client.client.register_plugin(plugin)
    assert client.client.plugin() is plugin
    assert client.call("is_server_live") is True
    client.client.unregister_plugin()


def check_body(client: Client) -> None:
    body, size = client.client.generate_request_body([client.tensor()])
    assert json.loads(body[:size])["inputs"][0]["name"] == "x"
    text = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]}).encode()
    assert client.client.parse_response_body(text).as_numpy("y").tolist() == [1.0]


def check_close(client: Client) -> None:
    client.close()


SERVED = {
    "infer": check_infer,
    "async_infer": check_async_infer,
    "start_stream": check_stream,
    "async_stream_infer": check_stream,
    "stop_stream": check_stream,
    "stream_infer": check_stream_infer,
    "is_server_live": check_live,
    "is_server_ready": check_ready,
    "is_model_ready": check_model_ready,
    "get_server_metadata": check_server_metadata,
    "get_model_metadata": check_model_metadata,
    "get_model_config": check_model_config,
    "get_model_repository_index": check_index,
    "load_model": check_load,
    "unload_model": check_load,
    "get_inference_statistics": check_statistics,
    "get_log_settings": check_log,
    "update_log_settings": check_log,
    "get_trace_settings": check_trace,
    "update_trace_settings": check_trace,
    "get_system_shared_memory_status": check_system_memory,
    "register_system_shared_memory": check_system_memory,
    "unregister_system_shared_memory": check_system_memory,
    "get_cuda_shared_memory_status": check_cuda_status,
    "unregister_cuda_shared_memory": check_cuda_unregister,
    "register_cuda_shared_memory": check_cuda_register,
}
CLIENT_ONLY = {
    "plugin": check_plugin,
    "register_plugin": check_plugin,
    "unregister_plugin": check_plugin,
    "generate_request_body": check_body,
    "parse_response_body": check_body,
    "close": check_close,
}


def outcome(client: Client, method: str) -> str:
    """Returns what became of a method."""
    check = SERVED.get(method) or CLIENT_ONLY.get(method)
    if check is None:
        return "nobody knows this method"
    try:
        check(client)
    except InferenceServerException as error:
        return f"refused {(error.status() or '').removeprefix('StatusCode.')}" if error.message() else "refused"
    except Exception:  # noqa: BLE001 - whatever it is, it is what the test shows
        return traceback.format_exc()
    return "yes" if method in SERVED else "client only"


def main() -> None:
    data, http = sys.argv[1:]
    found: dict[str, dict[str, str]] = {}
    for name, module in MODULES.items():
        client = Client(name, data if ".grpc" in name else http)
        members = inspect.getmembers(module.InferenceServerClient, callable)
        methods = [method for method, _ in members if not method.startswith("_")]
        methods.sort(key="close".__eq__)  # the last, after which nothing can be asked
        found[name] = {method: outcome(client, method) for method in methods}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
