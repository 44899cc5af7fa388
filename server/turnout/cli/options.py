"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ModelsOption = Annotated[
    str | None,
    typer.Option(
        "--models",
        metavar="DIR",
        help="Model repository: a directory, s3://, gs:// or oci://. (default: models)",
        show_default=False,
    ),
]
StateOption = Annotated[
    str | None,
    typer.Option("--state", metavar="URL", help="State store. (default: DIR/.turnout/state.db)", show_default=False),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Configuration. (default: ./turnout.toml if there)", show_default=False
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="The server's control listener. (default: as configured, 127.0.0.1:8003)",
        show_default=False,
    ),
]
LiveOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="Ask the server with this control listener. (default: read the disk)",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="Answer, and fail, in JSON.")]
ActorOption = Annotated[
    str | None,
    typer.Option("--actor", metavar="WHO", help="For the record. (default: login@host)", show_default=False),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="WHY", help="For the record.", show_default=False)]
TimeoutOption = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long to wait.")]
