"""`turnout predict`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnout.cli.options import ServerTarget, argument, option
from turnout.cli.output import CommandOutput, facts, reporting, table
from turnout.errors import InvalidRequest
from turnout.text.quantities import seconds_text

if TYPE_CHECKING:
    from turnout.cli.connection import Server
    from turnout.registry.manifest.signature import Signature
    from turnout_client import Client, Prediction


def predict(
    version: Annotated[str, argument("NAME[@SELECTOR]", "A model, or one of its versions, such as magika@^3.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="VALUE is @FILE.npy, JSON, random, or random:4x64 if the shape matters. Repeat for each input.",
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="NAME", help="Output to return; may be repeated. (default: all)"),
    ] = None,
    key: Annotated[str, option("--key", "KEY", "Routing key: the same key always gets the same version.")] = "",
    timeout: Annotated[float, option("--timeout", "SECONDS", "Deadline.", min=0.001)] = 30.0,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Ask a running server for a prediction."""
    from turnout.cli.connection import Server
    from turnout.cli.serve.inputs import missing, read_inputs
    from turnout.cli.workspace import split_reference

    with reporting(as_json=target.as_json) as out:
        name, selector = split_reference(version)
        server = Server.named(target)
        with server.client(timeout) as client:
            signature = _signature(server, client, name, selector or "", timeout)
            arrays = read_inputs(inputs or [], signature)
            if lacking := missing(arrays, signature):
                wanted = "; ".join(map(str, lacking))
                raise InvalidRequest(f"missing inputs (give them with --input): {wanted}")
            prediction = client.predict(
                name, arrays, version=selector or "", outputs=tuple(outputs or ()), routing_key=key
            )
        _print(out, prediction)


def _signature(server: "Server", client: "Client", name: str, selector: str, timeout: float) -> "Signature":
    """Returns the signature of a version.

    The role `predict` may read no more of a model than the Open Inference Protocol says, which does not include the
    names of free dimensions, nor which inputs have defaults: then the server finds out which are missing.
    """
    from turnout.cli.registry.description import spec_of
    from turnout.oip.elements import ELEMENT_TYPES
    from turnout.registry.manifest.signature import Signature, TensorSpec
    from turnout_client import PermissionDenied

    try:
        known = client.get_version(name, selector)
    except PermissionDenied:
        told = server.model_metadata(name, selector, timeout)
        types = {element.name: dtype for dtype, element in ELEMENT_TYPES.items()}
        inputs, outputs = (
            tuple(
                TensorSpec(one.name, types[one.datatype], tuple(None if size < 0 else size for size in one.shape), True)
                for one in tensors
            )
            for tensors in (told.inputs, told.outputs)
        )
        return Signature(inputs, outputs)
    return Signature(tuple(map(spec_of, known.inputs)), tuple(map(spec_of, known.outputs)))


def _print(out: CommandOutput, prediction: "Prediction") -> None:
    from turnout.cli.serve.inputs import array_body, dtype_name, summary

    timing = prediction.timing
    names = ("model", "version", "digest", "role", "epoch", "request_id")
    body: dict[str, Any] = {name: getattr(prediction, name) for name in names} | {"timing": asdict(timing)}
    if out.as_json:
        body["outputs"] = {name: array_body(array) for name, array in prediction.outputs.items()}
    rows = [
        (name, f"{dtype_name(array)}[{', '.join(map(str, array.shape))}]", summary(array))
        for name, array in prediction.outputs.items()
    ]
    batch = f", in a batch of {timing.batch_rows} rows" if timing.batch_rows > 1 else ""
    queued = f", after {seconds_text(timing.queue_seconds)} in the queue" if timing.queue_seconds else ""
    by = f"{prediction.model} {prediction.version} ({prediction.role})"
    answer = facts([("answered by", by), ("took", f"{seconds_text(timing.compute_seconds)}{queued}{batch}")])
    out.show(body, answer, "", table(("OUTPUT", "TYPE", "VALUE"), rows))
