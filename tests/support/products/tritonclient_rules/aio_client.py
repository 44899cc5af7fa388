"""tritonclient.grpc.aio.InferenceServerClient."""

import asyncio

import numpy as np
from run_rules import Addresses
from tensors import FACTORS, VERSIONS, X, rounds, tensor
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException


async def test_many_calls_at_once_get_their_own_answers(addresses: Addresses) -> None:
    async with InferenceServerClient(addresses.data) as client:
        arrays = [X + i for i in range(50)]
        calls = [client.infer("scale", [tensor("x", a)], request_id=str(i)) for i, a in enumerate(arrays)]
        results = await asyncio.gather(*calls)
    for i, (array, result) in enumerate(zip(arrays, results, strict=True)):
        np.testing.assert_array_equal(result.as_numpy("y"), 3 * array)
        assert result.get_response().id == str(i)


async def test_model_version_is_a_selector(addresses: Addresses) -> None:
    async with InferenceServerClient(addresses.data) as client:
        for selector, factor in FACTORS.items():
            result = await client.infer("scale", [tensor("x", X)], model_version=selector)
            assert result.get_response().model_version == VERSIONS[factor]


async def test_a_stream_answers_in_order_and_says_that_each_answer_is_the_last(addresses: Addresses) -> None:
    async def requests():
        for i in range(20):
            yield {"model_name": "scale", "inputs": [tensor("x", X + i)], "request_id": str(i), "model_version": "~1.9"}

    async with InferenceServerClient(addresses.data) as client:
        answers = [answer async for answer in client.stream_infer(requests())]
    for i, (result, error) in enumerate(answers):
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), 2 * (X + i))
        response = result.get_response()
        assert (response.id, response.model_version) == (str(i), "1.9.0")
        assert response.parameters["triton_final_response"].bool_param
    assert len(answers) == 20


async def test_an_item_that_fails_leaves_the_stream_alive(addresses: Addresses) -> None:
    async def requests():
        yield {"model_name": "nobody", "inputs": [tensor("x", X)], "request_id": "a"}
        yield {"model_name": "scale", "inputs": [tensor("x", X)], "request_id": "b", "model_version": "^^"}
        yield {"model_name": "scale", "inputs": [tensor("x", X.astype(np.float64))], "request_id": "c"}
        yield {"model_name": "scale", "inputs": [tensor("x", X)], "request_id": "d"}

    async with InferenceServerClient(addresses.data) as client:
        answers = [answer async for answer in client.stream_infer(requests())]
    assert ["no model" in str(answers[0][1]), answers[1][1] is not None, answers[2][1] is not None] == [True] * 3
    np.testing.assert_array_equal(answers[3][0].as_numpy("y"), 3 * X)


async def test_a_cancelled_stream_harms_nobody(addresses: Addresses) -> None:
    first = asyncio.Event()

    async def requests():
        yield {"model_name": "scale", "inputs": [tensor("x", X)]}
        for _ in range(8):
            yield {"model_name": "slow", "inputs": rounds(60_000)}
        await asyncio.Event().wait()

    async with InferenceServerClient(addresses.data) as client:
        stream = client.stream_infer(requests())
        async for _ in stream:
            first.set()
            break
        stream.cancel()
        assert first.is_set()
        np.testing.assert_array_equal((await client.infer("slow", rounds(1))).as_numpy("y"), X + 1)


async def test_the_clients_timeout_is_the_deadline(addresses: Addresses) -> None:
    async with InferenceServerClient(addresses.data) as client:
        try:
            await client.infer("slow", rounds(200_000), client_timeout=0.05)
        except InferenceServerException as error:
            assert error.status() == "StatusCode.DEADLINE_EXCEEDED"  # noqa: PT017 - no pytest here
        else:
            raise AssertionError("it was answered")


async def test_questions_are_answered(addresses: Addresses) -> None:
    async with InferenceServerClient(addresses.data) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("scale", "^1")
        assert (await client.get_server_metadata()).name == "turnout"
        assert list((await client.get_model_metadata("scale")).versions) == ["1.9.0", "1.10.0", "2.0.0"]
