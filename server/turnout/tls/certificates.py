"""The certificates in force, and reloading them from their files."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from structlog.typing import FilteringBoundLogger

from turnout.config import LISTENERS, ListenerName, TlsSettings
from turnout.config.files import Stamp, read_setting_file, stamp_of
from turnout.errors import ConfigError
from turnout.telemetry.metrics.tls import TlsRecorder
from turnout.threads import Threads
from turnout.tls.identity import IdentitySource, PemFile, ServerIdentity, check_identity, utc_text

_MOST_MIB = 1
"""Maximum size of one file in MiB. Certificate chains take a few KiB, bundles of authorities up to a few hundred."""

Install = Callable[[ServerIdentity], Awaitable[None]]
"""Makes a listener present another identity to new connections. Raises ConfigError if it cannot."""


class Certificates:
    """The identity of each listener, from the last time that its files were usable.

    Unusable files change nothing: the previous identity stays in force, an error is logged, and a metric is set. The
    same applies to a certificate that clients would refuse because of its dates, as long as the previous one is valid.
    """

    def __init__(self, tls: TlsSettings, recorder: TlsRecorder, log: FilteringBoundLogger) -> None:
        """Creates the object without reading any file."""
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
        """Reads the files of all listeners at startup.

        Raises:
            ConfigError: A file is unusable.
        """
        self._seen = self._look()
        for listener in LISTENERS:
            identity = read_identity(self._tls, listener)
            if identity is not None:
                self._put_in_force(listener, identity)

    def of(self, listener: ListenerName) -> ServerIdentity | None:
        """Returns the current identity of `listener`; None for plain text. Can be called from any thread."""
        return self._in_force.get(listener)

    def source(self, listener: ListenerName) -> IdentitySource | None:
        """Returns a function that returns the current identity of `listener`; None for plain text."""
        return (lambda: self._in_force[listener]) if listener in self._in_force else None

    def on_change(self, listener: ListenerName, install: Install) -> None:
        """Registers a function to call with each later identity of `listener`, before `of` returns that identity."""
        self._installs[listener] = install

    async def watch(self) -> None:
        """Reloads the files whenever they change. Runs until it is cancelled."""
        if not self._in_force or not self._tls.poll_interval_s:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(self._tls.poll_interval_s)
            seen = await self._threads.run(self._look)
            # Unusable files are tried again each time: of a certificate and its key, one is replaced first.
            if seen != self._seen or self._doubts:
                self._seen = seen
                await self.reload(patient=True)

    async def reload(self, *, patient: bool = False) -> None:
        """Reads the files of all listeners, and puts changed identities into force.

        If `patient`, unusable files are reported only if the next attempt fails in the same way: they may be about to
        be replaced.
        """
        async with self._reloading:
            await self._reload(patient)

    async def _reload(self, patient: bool) -> None:
        for listener, before in list(self._in_force.items()):
            try:
                identity = await self._threads.run(read_identity, self._tls, listener)
                if identity is not None and identity.files != before.files:
                    _check_dates(before, identity, time.time())
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
        """Shuts down the thread."""
        self._threads.shutdown(wait=False)

    def _put_in_force(self, listener: ListenerName, identity: ServerIdentity) -> None:
        self._in_force[listener] = identity
        self._recorder.expires[listener] = identity.expires
        self._recorder.reloads.setdefault(listener, 0)
        self._recorder.failed.setdefault(listener, False)
        for warning in identity.warnings:
            self._log.warning("tls certificate", listener=listener, reason=warning)

    def _doubt(self, listener: ListenerName, reason: str, patient: bool) -> None:
        """Logs that the files are unusable, once for each reason."""
        seen, self._doubts[listener] = self._doubts.get(listener), reason
        was_logged = self._recorder.failed[listener]
        if (was_logged and seen == reason) or (not was_logged and seen != reason and patient):
            return
        self._recorder.failed[listener] = True
        self._log.error(
            "tls files cannot be used; the previous certificate stays in force", listener=listener, reason=reason
        )

    def _trust(self, listener: ListenerName) -> None:
        self._doubts.pop(listener, None)
        if self._recorder.failed[listener]:
            self._recorder.failed[listener] = False
            self._log.info("tls files can be used again", listener=listener)

    def _look(self) -> Mapping[str, Stamp | None]:
        """Returns the stamp of each file, which shows changes. A symbolic link counts as its current target."""
        paths = (path for tls in map(self._tls.of, LISTENERS) if tls for path in (tls.cert, tls.key, tls.client_ca))
        return {path: stamp_of(path) for path in paths if path}


def read_identity(tls: TlsSettings, listener: ListenerName) -> ServerIdentity | None:
    """Returns the identity in the files of `listener`; None for plain text.

    Raises:
        ConfigError: A file is unusable.
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


def _check_dates(before: ServerIdentity, after: ServerIdentity, now: float) -> None:
    """Raises ConfigError if `after` is expired or not yet valid, and `before`, which it would replace, is valid."""
    if before.is_valid_at(now) and not after.is_valid_at(now):
        raise ConfigError("; ".join(after.warnings))
