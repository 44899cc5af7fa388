"""tritonclient.grpc.InferenceServerClient.async_infer and async_stream_infer, answered through callbacks."""

import queue

import numpy as np
from run_rules import Addresses
from tensors import X, rounds, tensor
from tritonclient.grpc import InferenceServerClient

WAIT = 100
"""Seconds that an answer may take."""


def test_callbacks_get_the_answers(addresses: Addresses) -> None:
    answers: queue.Queue = queue.Queue()
    with InferenceServerClient(addresses.data) as client:
        for i in range(30):
            client.async_infer(
                "scale",
                [tensor("x", X + i)],
                callback=lambda result, error: answers.put((result, error)),
                model_version="^1",
                request_id=str(i),
            )
        for _ in range(30):
            result, error = answers.get(timeout=WAIT)
            assert error is None
            number = int(result.get_response().id)
            np.testing.assert_array_equal(result.as_numpy("y"), 3 * (X + number))


def test_callbacks_get_the_errors(addresses: Addresses) -> None:
    answers: queue.Queue = queue.Queue()
    with InferenceServerClient(addresses.data) as client:
        client.async_infer("nobody", [tensor("x", X)], callback=lambda result, error: answers.put((result, error)))
        result, error = answers.get(timeout=WAIT)
    assert result is None
    assert error.status() == "StatusCode.NOT_FOUND"


def test_a_stream_keeps_the_order_of_its_requests(addresses: Addresses) -> None:
    answers: queue.Queue = queue.Queue()
    with InferenceServerClient(addresses.data) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer("slow", rounds(20_000), request_id="slow")
        for i in range(10):
            client.async_stream_infer("scale", [tensor("x", X + i)], request_id=str(i))
        ids = []
        for _ in range(11):
            result, error = answers.get(timeout=WAIT)
            assert error is None, error
            ids.append(result.get_response().id)
    assert ids == ["slow", *map(str, range(10))]


def test_closing_a_stream_waits_for_what_is_under_way(addresses: Addresses) -> None:
    answers: list = []
    with InferenceServerClient(addresses.data) as client:
        client.start_stream(callback=lambda result, error: answers.append((result, error)))
        for _ in range(4):
            client.async_stream_infer("slow", rounds(5_000))
        client.stop_stream()
        assert len(answers) == 4
    assert all(error is None for _, error in answers)


def test_an_empty_final_response_is_not_sent_where_every_request_has_one_answer(addresses: Addresses) -> None:
    answers: list = []
    with InferenceServerClient(addresses.data) as client:
        client.start_stream(callback=lambda result, error: answers.append((result, error)))
        client.async_stream_infer("scale", [tensor("x", X)], enable_empty_final_response=True)
        client.stop_stream()
    ((result, error),) = answers
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param


def test_an_error_on_a_stream_comes_as_an_error_and_the_stream_goes_on(addresses: Addresses) -> None:
    answers: queue.Queue = queue.Queue()
    with InferenceServerClient(addresses.data) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer("scale", [tensor("x", X)], model_version="7.7.7")
        client.async_stream_infer("scale", [tensor("x", X)])
        result, error = answers.get(timeout=WAIT)
        assert result is None
        assert "7.7.7" in error.message()
        result, error = answers.get(timeout=WAIT)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), 3 * X)
