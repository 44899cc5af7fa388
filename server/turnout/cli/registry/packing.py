"""Generates the other files of an export, with which the version can be served elsewhere."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from turnout import __version__
from turnout.errors import ConfigError
from turnout.registry.storage.listing import Published

PACKAGE = "turnout"
LOCK_FILE = "environment.txt"
WHEELS = "wheels"


def locked(package: str = PACKAGE) -> tuple[str, ...]:
    """Returns `name==version` of every installed dependency of `package`, without the package itself.

    Raises:
        ConfigError: A dependency is not installed.
    """
    versions: dict[str, str] = {}
    pending = [(package, "")]
    seen = set(pending)
    while pending:
        name, extra = pending.pop()
        for requirement in _requirements(name, extra):
            needed = canonicalize_name(requirement.name)
            try:
                versions[needed] = distribution(requirement.name).version
            except PackageNotFoundError:
                raise ConfigError(f"{requirement.name}, which {name} needs, is not installed here") from None
            for one in ((needed, ""), *((needed, wanted) for wanted in requirement.extras)):
                if one not in seen:
                    seen.add(one)
                    pending.append(one)
    versions.pop(canonicalize_name(package), None)
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()))


def lock_text(published: Published) -> str:
    """Returns the installed versions of all dependencies as a constraints file."""
    manifest = published.manifest
    head = (
        f"# What {manifest.model} {manifest.version} was exported with: turnout {__version__},"
        f" Python {platform.python_version()}, {platform.system()} {platform.machine()}."
    )
    return "\n".join([head, *locked()]) + "\n"


def dockerfile(published: Published, wheel: str | None) -> str:
    """Returns a Dockerfile that serves exactly this version. If there is no `wheel`, pip has to find Turnout."""
    manifest = published.manifest
    name, version = manifest.model, manifest.version
    turnout = f"{WHEELS}/{wheel}" if wheel else f"{PACKAGE}=={__version__}"
    python = ".".join(platform.python_version_tuple()[:2])
    wheels = f"COPY {WHEELS} {WHEELS}\n" if wheel else ""
    image_tag = str(version).replace("+", "_")
    return f"""\
# syntax=docker/dockerfile:1
# Serves {name} {version} and nothing else:
#   docker build -t {name}:{image_tag} .
#   docker run -e TURNOUT_INSECURE=true -p 127.0.0.1:8001:8001 -p 127.0.0.1:8000:8000 {name}:{image_tag}
# To serve other machines, configure certificates and TURNOUT_AUTH__ENABLED=true instead of TURNOUT_INSECURE=true.
FROM python:{python}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY {LOCK_FILE} ./
{wheels}RUN python -m venv /opt/turnout \\
 && /opt/turnout/bin/pip install --constraint {LOCK_FILE} {turnout}

FROM python:{python}-slim-bookworm
LABEL org.opencontainers.image.title="{name}" \\
      org.opencontainers.image.version="{version}" \\
      turnout.digest="{published.digest}"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin turnout \\
 && install -d -o turnout -g turnout /models
COPY --from=build /opt/turnout /opt/turnout
ENV PATH=/opt/turnout/bin:$PATH \\
    PYTHONUNBUFFERED=1 \\
    TURNOUT_MODELS=/models \\
    TURNOUT_GRPC=0.0.0.0:8001 \\
    TURNOUT_HTTP=0.0.0.0:8000
USER 10001
COPY --chown=10001 models /models
RUN turnout verify {name}@{published.digest} \\
 && turnout release {name}@{version} --actor export --reason "the one version of this image"
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \\
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["turnout"]
CMD ["serve"]
"""


def serving_section(published: Published, wheel: str | None) -> str:
    """Returns the section of the card that describes the export."""
    manifest = published.manifest
    where = (
        f"Turnout {__version__} comes from `{WHEELS}/{wheel}`."
        if wheel
        else f"pip has to find Turnout {__version__}: if yours cannot, export with `--wheel`."
    )
    return f"""
## This export

- `models/` is a model repository with only this version and its attestations.
- `turnout import DIR --digest {published.digest}` imports it into another repository, where it has the same digest.
- `Dockerfile` builds an image that serves {manifest.model} {manifest.version} and nothing else. {where}
- `{LOCK_FILE}` lists the versions of all packages that Turnout used when this was exported.
"""


def _requirements(name: str, extra: str) -> Iterator[Requirement]:
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        wanted = marker is None or marker.evaluate({"extra": extra})
        # Only requirements that the extra adds; the others are visited without it.
        if wanted and (not extra or (marker is not None and not marker.evaluate({"extra": ""}))):
            yield requirement
