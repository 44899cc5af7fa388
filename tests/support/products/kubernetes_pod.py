"""Runs a pod of a manifest as a process of this machine: with its command, environment, files, probes and shutdown.

It does what a node does: the file system is read-only except for the pod's volumes, the user is the pod's and has no
capabilities, probes are judged by their status, and at the end the preStop action runs, followed by SIGTERM and, after
the grace period, SIGKILL. Paths and ports are different ones, since other tests use the machine too.
"""

import os
import re
import shlex
import signal
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports import free_port
from turnout.host.cpu import KEEP_PRIORITY

ROOT = Path(__file__).resolve().parents[3]
Document = dict[str, Any]

_USER = 10001
"""User of the image, for pods that do not set one."""

_CAN_CONFINE = os.geteuid() == 0 and (
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
)


def image_environment() -> dict[str, str]:
    """Returns the environment variables of the Dockerfile's last stage, except PATH."""
    stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    pairs = [shlex.split(line[4:]) for line in stage.splitlines() if line.startswith("ENV ")]
    return {
        name: value for name, _, value in (pair.partition("=") for line in pairs for pair in line) if name != "PATH"
    }


@dataclass
class Pod:
    """A running pod.

    Attributes:
        spec: Specification of the pod.
        ports: Ports on this machine, by the container's port number.
        log: File with its output.
        process: Process of its only container.
    """

    spec: Document
    ports: Mapping[int, int]
    log: Path
    process: "subprocess.Popen[bytes]"
    _tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def container(self) -> Document:
        (container,) = self.spec["containers"]
        return container

    def address(self, name: str) -> str:
        """Returns HOST:PORT of a port by name."""
        (port,) = [port["containerPort"] for port in self.container["ports"] if port["name"] == name]
        return f"127.0.0.1:{self.ports[port]}"

    def probe(self, kind: str) -> bool:
        """Runs a probe once, like a node: any status from 200 to 399 passes, and certificates are not checked."""
        probe = self.container[kind]
        get = probe["httpGet"]
        number = get["port"] if isinstance(get["port"], int) else None
        where = f"127.0.0.1:{self.ports[number]}" if number else self.address(get["port"])
        url = f"{get.get('scheme', 'HTTP').lower()}://{where}{get['path']}"
        context = ssl.create_default_context() if url.startswith("https") else None
        if context is not None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1), context=context) as answer:
                return 200 <= answer.status < 400
        except OSError:
            return False

    def wait_for(self, kind: str) -> None:
        """Repeats a probe until it passes, for as long as the startup probe allows, but much more often."""
        probe = self.container["startupProbe"]
        deadline = time.monotonic() + min(probe["periodSeconds"] * probe["failureThreshold"], 180)
        while not self.probe(kind):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{kind}: {self.log.read_text()}"
            time.sleep(0.05)

    def stop(self, after_pre_stop: Callable[[], object] = lambda: None) -> tuple[int, float]:
        """Stops the pod like a node does. Returns the exit code, and the seconds left of the grace period.

        Args:
            after_pre_stop: Called before SIGTERM is sent.
        """
        begun = time.monotonic()
        grace = self.spec["terminationGracePeriodSeconds"]
        if "lifecycle" in self.container:
            time.sleep(
                self.container["lifecycle"]["preStop"]["sleep"]["seconds"]
            )  # the preStop action itself, not a wait of the test
        after_pre_stop()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(begun + grace - time.monotonic())
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it was still running after {grace} s: {self.log.read_text()}") from None
        return code, begun + grace - time.monotonic()


@contextmanager
def running(
    spec: Document,
    folder: Path,
    volumes: Mapping[str, Path],
    *,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    name: str = "turnout-5d8f9c7b4-abcde",
) -> Iterator[Pod]:
    """Starts a pod, and kills it at the end.

    Args:
        spec: Specification of the pod.
        folder: The only writable folder. The pod's user must be able to reach it.
        volumes: Directory of each volume, by name: in the folder, or anywhere if read-only. /dev/shm is the machine's.
        secrets: Secrets used in its environment, by name and key.
        name: Name of the pod.
    """
    (container,) = spec["containers"]
    paths = {
        mount["mountPath"]: volumes[mount["name"]]
        for mount in container["volumeMounts"]
        if mount["mountPath"] != "/dev/shm"
    }
    ports = {port["containerPort"]: free_port() for port in container["ports"]}
    # The loopback listener is not a port of the container, and other tests may use the same port.
    control = re.search(r"--control=127\.0\.0\.1:(\d+)", " ".join(container["args"]))
    ports |= {int(control[1]): free_port()} if control else {}

    def here(text: str) -> str:
        text = re.sub(rf"(?:^|(?<==))({'|'.join(map(re.escape, paths))})(?=/|$)", lambda m: str(paths[m[1]]), text)
        for there, port in ports.items():
            text = re.sub(rf"(0\.0\.0\.0|127\.0\.0\.1):{there}$", f"127.0.0.1:{port}", text)
        return text

    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "TMPDIR": str(paths["/tmp"])}
    environment |= {key: here(value) for key, value in image_environment().items()}
    environment[KEEP_PRIORITY] = "1"  # as every server under test: see conftest.py
    if not control:  # the default port is the container's own, and here two of them may run at the same time
        environment["TURNOUT_CONTROL"] = f"127.0.0.1:{free_port()}"
    for variable in container.get("env", []):
        environment[variable["name"]] = here(_value(variable, secrets or {}, name))
    security = {**spec.get("securityContext", {}), **container["securityContext"]}
    command = [here(part) for part in [*container["command"], *container["args"]]]
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_confined(security, folder), *command], env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=output,
            stderr=output,
        )  # fmt: skip
    pod = Pod(spec, ports, log, process)
    try:
        yield pod
    finally:
        process.kill()
        process.wait()


def _value(variable: Document, secrets: Mapping[str, Mapping[str, str]], name: str) -> str:
    if "value" in variable:
        return str(variable["value"])
    source = variable["valueFrom"]
    if "secretKeyRef" in source:
        return secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
    assert source == {"fieldRef": {"fieldPath": "metadata.name"}}, source
    return name


def _confined(security: Document, folder: Path) -> list[str]:
    """Returns the command prefix that applies the security context; [] if this machine cannot (it needs root)."""
    if not _CAN_CONFINE:
        return []
    assert security["readOnlyRootFilesystem"]
    assert security["runAsNonRoot"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    user = security.get("runAsUser", _USER)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)
    steps = [f"mount --bind {folder} {folder}", *_way_in(), "mount -o remount,ro,bind /", 'exec "$@"']
    confine = ["unshare", "--mount", "sh", "-c", " && ".join(steps), "sh", "setpriv"]
    confine += [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    return confine if security["allowPrivilegeEscalation"] else [*confine, "--no-new-privs"]


def _way_in() -> list[str]:
    """Returns commands that make this Python and this checkout accessible to other users, even inside root's folders.

    They affect only the pod's view of the file system: each inaccessible folder is covered by an accessible one that
    contains only the folder that is needed.
    """
    needed = {Path(sys.executable).resolve(), Path(sys.prefix), ROOT}
    closed = sorted(
        {
            (parent, parent / path.relative_to(parent).parts[0])
            for path in needed
            for parent in path.parents
            if not parent.stat().st_mode & stat.S_IXOTH
        }
    )
    commands = ["mount -t tmpfs tmpfs /mnt"]
    for number, (_, child) in enumerate(closed):
        commands += [f"mkdir /mnt/{number}", f"mount --bind {child} /mnt/{number}"]
    commands += [f"mount -t tmpfs -o mode=0755 tmpfs {parent}" for parent in sorted({parent for parent, _ in closed})]
    for number, (_, child) in enumerate(closed):
        commands += [f"mkdir -p {child}", f"mount --bind /mnt/{number} {child}"]
    return commands
