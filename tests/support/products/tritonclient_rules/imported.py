"""What clients of a Triton model repository ask of it, unchanged: integer versions, names with dots, labels."""

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from refusals import refused
from run_rules import Addresses

X = np.array([[0, 1, 2, 3]], np.float32)


def softmax(temperature: float) -> np.ndarray:
    scores = np.exp(X / temperature)
    return scores / scores.sum()


def tensor(client, array: np.ndarray = X):
    made = client.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return [made]


def clients(addresses: Addresses):
    yield grpcclient, grpcclient.InferenceServerClient(addresses.data)
    yield httpclient, httpclient.InferenceServerClient(addresses.http)


def test_an_integer_names_the_version_that_it_named(addresses: Addresses) -> None:
    for module, client in clients(addresses):
        with client:
            for number in (1, 3):
                result = client.infer("scores", tensor(module), model_version=str(number))
                np.testing.assert_allclose(result.as_numpy("y"), softmax(number), rtol=1e-5)
            assert client.is_model_ready("scores", "3")
            assert not client.is_model_ready("scores", "2"), "Triton would not serve it"
            np.testing.assert_array_equal(
                client.infer("plain", tensor(module), model_version="10").as_numpy("y"), 10 * X
            )


def test_no_version_means_the_highest_that_is_served(addresses: Addresses) -> None:
    for module, client in clients(addresses):
        with client:
            np.testing.assert_allclose(client.infer("scores", tensor(module)).as_numpy("y"), softmax(3), rtol=1e-5)
            np.testing.assert_array_equal(client.infer("Scale.x2", tensor(module)).as_numpy("y"), 2 * X)
            np.testing.assert_array_equal(client.infer("plain", tensor(module)).as_numpy("y"), 10 * X)


def test_labels_come_with_classes(addresses: Addresses) -> None:
    for module, client in clients(addresses):
        with client:
            wanted = [module.InferRequestedOutput("y", class_count=2)]
            answer = client.infer("scores", tensor(module), model_version="1", outputs=wanted).as_numpy("y")
            assert [bytes(text).decode().split(":")[-1] for text in np.ravel(answer)] == ["dog", "cat"]


def test_batches_of_clients_are_taken(addresses: Addresses) -> None:
    for module, client in clients(addresses):
        with client:
            rows = np.repeat(X, 5, axis=0)
            answer = client.infer("scores", tensor(module, rows), model_version="3").as_numpy("y")
            np.testing.assert_allclose(answer, np.repeat(softmax(3), 5, axis=0), rtol=1e-5)


def test_what_triton_would_not_serve_is_refused(addresses: Addresses) -> None:
    with grpcclient.InferenceServerClient(addresses.data) as client:
        error = refused(client.infer, model_name="scores", inputs=tensor(grpcclient), model_version="2")
        assert error.status() == "StatusCode.NOT_FOUND"
        error = refused(client.infer, model_name="scores", inputs=tensor(grpcclient), model_version="4")
        assert error.status() == "StatusCode.NOT_FOUND"
