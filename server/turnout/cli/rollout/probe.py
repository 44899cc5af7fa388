"""`turnout rollout probe`: lists the configured probes, or tries one."""

from typing import Annotated

import typer

from turnout.cli.options import ServerTarget, argument, option
from turnout.cli.output import reporting
from turnout.errors import InvalidRequest
from turnout_proto.v1 import rollout_pb2 as pb

_TIMEOUT = 90.0
"""Seconds; a probe's own timeout is at most 60."""


def probe(
    probe: Annotated[str | None, argument("PROBE", "The probe to try. (default: list them)")] = None,
    model: Annotated[str | None, option("--model", "NAME@VERSION", "The candidate to ask about.")] = None,
    target: ServerTarget = ServerTarget(),
) -> None:
    """List the probes in the server's configuration, or try one. Trying a probe does not count for any rollout.

    Exit codes if you try one:
    0    it passed
    1    it failed
    3    it was inconclusive: neither passed nor failed
    """
    from turnout.cli.connection import Server
    from turnout.cli.messages import message_body
    from turnout.cli.rollout.probe_view import configured_table, tried_lines
    from turnout.cli.workspace import exact_reference

    with reporting(as_json=target.as_json) as out:
        if (probe is None) != (model is None):
            missing = "--model" if model is None else "probe"
            raise InvalidRequest.at(missing, "expected a probe and --model NAME@VERSION, or neither to list the probes")
        with Server.named(target).control() as control:
            if probe is None or model is None:
                known = control.ListProbes(pb.ListProbesRequest(), timeout=_TIMEOUT).probes
                displayed = (
                    configured_table(known)
                    if known
                    else "the server's configuration has no probe: add a section [probe.NAME]"
                )
                out.show({"probes": [message_body(one) for one in known]}, displayed)
                return
            name, version = exact_reference(model)
            request = pb.TryProbeRequest(probe=probe, model=name, version=str(version))
            response = control.TryProbe(request, timeout=_TIMEOUT)
        named = {"probe": probe, "model": name, "version": str(version)}
        body = named | message_body(response, null=("baseline", "value", "detail"))
        out.show(body, *tried_lines(probe, response))
    if response.outcome != "passed":
        raise typer.Exit(1 if response.outcome == "failed" else 3)
