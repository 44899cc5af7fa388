"""`turnout shadow`."""

from typing import Annotated

from turnout.cli.options import NameArgument, ServerTarget, option
from turnout.cli.output import reporting


def shadow(
    name: NameArgument,
    worst: Annotated[
        int, option("--worst", "N", "How many of the worst disagreements to show for each shadow.", min=0, max=100)
    ] = 5,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Show where the shadows of a model answer differently from its baseline."""
    from turnout.cli.connection import Server
    from turnout.cli.traffic.shadow_view import report_body, report_lines
    from turnout_proto.v1 import traffic_pb2 as pb

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        request = pb.GetShadowReportRequest(model=name, worst=worst)
        reports = control.GetShadowReport(request, timeout=30.0).shadows
        lines = [line for report in reports for line in (*report_lines(report), "")]
        nothing = (
            f"{name} has had no shadow since this server started; `turnout traffic set {name} --shadow VERSION=10%`"
            " starts one"
        )
        out.show({"model": name, "shadows": [report_body(r) for r in reports]}, *(lines[:-1] or [nothing]))
