"""`turnout export`."""

import shutil
from pathlib import Path
from typing import Annotated

from turnout.cli.options import DiskTarget, argument, option
from turnout.cli.output import facts, reporting
from turnout.errors import InvalidRequest
from turnout.registry.manifest.names import parse_version
from turnout.text.quantities import size_text


def export(
    version: Annotated[str, argument("NAME@SELECTOR", "For example magika@3.2.0.")],
    to: Annotated[Path, option("--to", "DIR", "Directory to create.")],
    wheel: Annotated[
        Path | None, option("--wheel", "FILE", "Turnout's wheel, for an image built without a package index.")
    ] = None,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Write a version to a directory, with its card, a lock of its environment and a Dockerfile that serves it.

    `turnout import` imports it into another repository, where it has the same digest.
    """
    from turnout.cli.registry.card import markdown
    from turnout.cli.registry.packing import LOCK_FILE, WHEELS, dockerfile, lock_text, serving_section
    from turnout.cli.registry.survey import details_from_disk
    from turnout.cli.workspace import Workspace, split_reference
    from turnout.registry.transfer.copying import copy_version
    from turnout.registry.transfer.receive import new_directory

    with reporting(as_json=target.as_json) as out:
        name, selector = split_reference(version)
        if not selector:
            raise InvalidRequest.at("version", f"expected NAME@SELECTOR, such as {name}@3.2.0")
        if wheel is not None and not (wheel.is_file() and wheel.name.startswith("turnout-") and wheel.suffix == ".whl"):
            raise InvalidRequest.at("--wheel", f"{wheel.name!r} is not a wheel of Turnout")
        workspace = Workspace.open(target)
        chosen = details_from_disk(workspace, name, selector).chosen
        assert chosen is not None, "a selector names a version, or is refused"
        try:
            with new_directory(to) as home, out.progress("exporting", chosen.size_bytes) as advance:
                exact = parse_version(chosen.version)
                published = copy_version(workspace.repository, name, exact, home / "models", advance)
                if wheel is not None:
                    (home / WHEELS).mkdir()
                    shutil.copyfile(wheel, home / WHEELS / wheel.name)
                packed = wheel.name if wheel else None
                (home / "README.md").write_text(markdown(chosen) + serving_section(published, packed))
                (home / LOCK_FILE).write_text(lock_text(published))
                (home / "Dockerfile").write_text(dockerfile(published, packed))
        except OSError as error:
            raise InvalidRequest.at("--to", f"{to.name} cannot be written to ({error.strerror})") from error
        manifest, digest = published.manifest, published.digest
        body = {"model": name, "version": chosen.version, "digest": digest, "size_bytes": manifest.size}
        pairs = [
            ("digest", digest),
            ("files", f"{len(manifest.files)}, {size_text(manifest.size)}"),
            ("import it with", f"turnout import {to} --digest {digest}"),
        ]
        out.show(body | {"directory": str(to)}, f"{name} {chosen.version} is exported to {to}", facts(pairs))
