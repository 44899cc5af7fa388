"""The identities in force, and the files that they come from."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from structlog.typing import FilteringBoundLogger

from turnout.config import LISTENERS, ListenerName, ListenerTls, TlsSettings
from turnout.config.files import Stamp, read_setting_file, stamp_of
from turnout.errors import ConfigError
from turnout.telemetry.metrics.tls import TlsRecorder
from turnout.threads import Threads
from turnout.tls.identity import IdentitySource, PemFile, ServerIdentity, check_identity, utc_text

_MOST_MIB = 1
"""Of one file: certificate chains take some KiB, bundles of authorities up to some hundred."""

Install = Callable[[ServerIdentity], Awaitable[None]]
"""Has a listener show another identity to new connections; raises ConfigError if it cannot."""


class Certificates:
    """What each listener shows its clients, as of the last time that its files could be used.

    A file that cannot be used changes nothing: what was in force stays so, the log says why, and a metric says that.
    """

    def __init__(self, tls: TlsSettings, recorder: TlsRecorder, log: FilteringBoundLogger) -> None:
        """Prepares; nothing is read.

        Args:
            tls: Names the files.
            recorder: Counts.
            log: Tells of changes.
        """
        self._tls = tls
        self._recorder = recorder
        self._log = log
        self._in_force: dict[ListenerName, ServerIdentity] = {}
        self._installs: dict[ListenerName, Install] = {}
        self._seen: Mapping[str, Stamp | None] = {}
        self._doubts: dict[ListenerName, str] = {}
        self._threads = Threads("tls")
        self._reloading = asyncio.Lock()

    def load(self) -> None:
        """Reads the files of all listeners, at the start.

        Raises:
            ConfigError: One of them cannot be used.
        """
        self._seen = self._look()
        for listener in LISTENERS:
            identity = read_identity(self._tls, listener)
            if identity is not None:
                self._put_in_force(listener, identity)

    def of(self, listener: ListenerName) -> ServerIdentity | None:
        """Returns what `listener` shows now; None for plain text. It may be called from any thread."""
        return self._in_force.get(listener)

    def source(self, listener: ListenerName) -> IdentitySource | None:
        """Returns what tells of the identity of `listener` whenever it is asked; None for plain text."""
        return (lambda: self._in_force[listener]) if listener in self._in_force else None

    def on_change(self, listener: ListenerName, install: Install) -> None:
        """Has `install` called with each later identity of `listener`, before `of` tells of it."""
        self._installs[listener] = install

    async def watch(self) -> None:
        """Reads the files whenever they change, for as long as it runs."""
        if not self._in_force or not self._tls.poll_interval_s:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(self._tls.poll_interval_s)
            seen = await self._threads.run(self._look)
            # What could not be used is tried again each time: of two files that belong together one comes first.
            if seen != self._seen or self._doubts:
                self._seen = seen
                await self.reload(patient=True)

    async def reload(self, *, patient: bool = False) -> None:
        """Reads the files of all listeners, and puts what changed into force.

        Args:
            patient: Files that cannot be used may be about to be replaced: say so only if the next time agrees.
        """
        async with self._reloading:
            await self._reload(patient)

    async def _reload(self, patient: bool) -> None:
        for listener, before in list(self._in_force.items()):
            try:
                identity = await self._threads.run(read_identity, self._tls, listener)
                if identity is not None and identity.files != before.files:
                    if listener in self._installs:
                        await self._installs[listener](identity)
                    self._put_in_force(listener, identity)
                    self._recorder.reloads[listener] += 1
                    self._log.info(
                        "tls certificate changed",
                        listener=listener,
                        subject=identity.subject,
                        expires=utc_text(identity.expires),
                    )
            except ConfigError as error:
                self._doubt(listener, error.message, patient)
            else:
                self._trust(listener)

    def close(self) -> None:
        """Ends its thread."""
        self._threads.shutdown(wait=False)

    def _put_in_force(self, listener: ListenerName, identity: ServerIdentity) -> None:
        self._in_force[listener] = identity
        self._recorder.expires[listener] = identity.expires
        self._recorder.reloads.setdefault(listener, 0)
        self._recorder.failed.setdefault(listener, False)
        for warning in identity.warnings:
            self._log.warning("tls certificate", listener=listener, reason=warning)

    def _doubt(self, listener: ListenerName, reason: str, patient: bool) -> None:
        """Says that the files cannot be used, once for each reason."""
        seen, self._doubts[listener] = self._doubts.get(listener), reason
        was_logged = self._recorder.failed[listener]
        if (was_logged and seen == reason) or (not was_logged and seen != reason and patient):
            return
        self._recorder.failed[listener] = True
        self._log.error(
            "tls files cannot be used; the certificate before stays in force", listener=listener, reason=reason
        )

    def _trust(self, listener: ListenerName) -> None:
        self._doubts.pop(listener, None)
        if self._recorder.failed[listener]:
            self._recorder.failed[listener] = False
            self._log.info("tls files can be used again", listener=listener)

    def _look(self) -> Mapping[str, Stamp | None]:
        """Returns what shows that a file changed; a link counts as what it leads to now."""
        return {path: stamp_of(path) for tls in map(self._tls.of, LISTENERS) if tls is not None for path in _paths(tls)}


def read_identity(tls: TlsSettings, listener: ListenerName) -> ServerIdentity | None:
    """Returns what the files of `listener` hold; None for plain text.

    Raises:
        ConfigError: One of them cannot be used.
    """
    own = tls.of(listener)
    if own is None:
        return None

    def pem(name: str, path: str) -> PemFile:
        setting = tls.setting(listener, name)
        return PemFile(setting, path, read_setting_file(setting, path, _MOST_MIB, ", which no certificate file is"))

    mode = own.client_certificates
    client_ca = pem("client_ca", own.client_ca) if mode != "none" else None
    return check_identity(pem("cert", own.cert), pem("key", own.key), client_ca, mode, time.time())


def _paths(tls: ListenerTls) -> list[str]:
    return [path for path in (tls.cert, tls.key, tls.client_ca) if path]
