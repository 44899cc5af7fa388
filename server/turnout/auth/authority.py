"""Authenticates and authorizes callers, for every listener and the data plane.

    credential -> caller (cached) -> permissions -> quota

The authority is used on the event loop; files and keys are read in other threads. Callers are cached by a digest of
their credential, so identifying a known one is a single look-up, and permission checks are cached with the caller. A
changed policy and a revoked token take effect for all cached callers and all open streams.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from math import inf
from typing import Protocol
from weakref import WeakSet

from structlog.typing import FilteringBoundLogger

from turnout.auth.caller import Caller, Decisions
from turnout.auth.credentials import tokens
from turnout.auth.credentials.certificates import identity_of_certificate
from turnout.auth.credentials.jwt import JwtVerifier, UnknownKey, credential_of
from turnout.auth.credentials.key_fetcher import KeyFetcher
from turnout.auth.identity import ANONYMOUS, CONSOLE, LOCAL, Identity
from turnout.auth.known_callers import KnownCallers
from turnout.auth.open_streams import ENDED, OpenStreams
from turnout.auth.policy.permissions import Need, ResourceKind
from turnout.auth.policy.policy import AccessPolicy
from turnout.auth.policy.policy_file import load_policy
from turnout.auth.policy.quotas import Quota, QuotaExceeded, Quotas
from turnout.auth.refusals import Refusals
from turnout.auth.roles import SERVER, AccessRole, AccessScope
from turnout.config import Auth, is_loopback
from turnout.config.files import stamp_of
from turnout.errors import ConfigError, PermissionDeniedError, TurnoutError, UnauthenticatedError
from turnout.state.tokens import TokenRecord
from turnout.telemetry.metrics.auth import AuthRecorder, RefusalReason
from turnout.threads import Threads

_RETRY_SECONDS = 10.0
"""Interval in seconds at which a policy file that cannot be used is read again."""
_BEARER = "bearer "
_SHOWN = 64

NO_CREDENTIAL = "authentication is required: send a token (authorization: Bearer ...) or present a client certificate"


class Peer(Protocol):
    """Where a call comes from."""

    @property
    def host(self) -> str:
        """The caller's IP address; "" if it has none."""
        ...


class Credentials(Peer, Protocol):
    """The credentials that a call carries."""

    @property
    def authorization(self) -> str:
        """The `authorization` header; "" if the call has none."""
        ...

    @property
    def certificate(self) -> str:
        """The client's certificate in PEM, signed by a trusted authority; "" if the call has none."""
        ...


class Authority:
    """Decides who callers are and what they may do, by the policy and the tokens in force."""

    def __init__(
        self,
        settings: Auth,
        policy: AccessPolicy,
        recorder: AuthRecorder,
        log: FilteringBoundLogger,
        share: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Creates the authority, without any tokens.

        Rates and quotas are divided among `share` processes. Credentials expire by `clock`, in seconds since 1970.
        """
        self._settings = settings
        self._policy = policy
        self._recorder = recorder
        self._log = log
        self._share = share
        self._clock = clock
        self._tokens: Mapping[str, TokenRecord] = {}
        self._jwts = JwtVerifier(settings.jwt)
        self._key_changes = 0
        self._callers = KnownCallers()
        self._decisions = Decisions()
        self._all: WeakSet[Caller] = WeakSet()
        self._quotas = Quotas()
        self._refusals = Refusals(recorder, log)
        self._streams = OpenStreams(self._refusals)
        self._keys = KeyFetcher(self._jwts.keys, recorder, log, self._withdraw_keys)
        self._verifying = Threads("verify JWTs", 2)
        self._files = Threads("policy file")
        self._stamp = stamp_of(settings.policy) if settings.policy else None
        self._reason, self._read_at = "", 0.0
        self._anonymous = self._made(ANONYMOUS, "none")
        self._local = self._made(LOCAL, "loopback")
        recorder.enabled = True
        self._show_limits()

    # Authentication.

    def known(self, call: Credentials) -> Caller | None:
        """Returns the caller if it is anonymous, local or cached; None if its credential has to be verified."""
        authorization = call.authorization
        key: bytes | str
        if authorization:
            key = _key(authorization)
        elif not (key := call.certificate):
            local = self._settings.loopback and is_loopback(call.host)
            return self._local if local else self._anonymous
        caller = self._callers.find(key)
        return caller if caller is not None and not caller.ended and caller.expires > self._clock() else None

    async def identify(self, call: Credentials) -> Caller:
        """Returns the caller; `anonymous` if the call has no credential.

        Raises:
            UnauthenticatedError: The credential is invalid.
        """
        caller = self.known(call)
        if caller is not None:
            return caller
        try:
            return await self._looked_into(call)
        except UnauthenticatedError as error:
            self._refusals.record(RefusalReason.BAD_CREDENTIAL, reason=error.message, peer=call.host)
            raise UnauthenticatedError(error.message) from None

    async def _looked_into(self, call: Credentials) -> Caller:
        authorization = call.authorization
        if not authorization:
            pem = call.certificate
            identity, expires = identity_of_certificate(pem)
            if expires <= self._clock():
                raise UnauthenticatedError("the client's certificate has expired")
            return self._remember(pem, self._made(identity, "certificate", expires))
        if authorization[: len(_BEARER)].lower() != _BEARER:
            raise UnauthenticatedError("expected authorization: Bearer TOKEN")
        text = authorization[len(_BEARER) :].strip()
        own = text.startswith(tokens.PREFIX) or not self._settings.jwt
        caller = self.of_token(text) if own else await self._of_jwt(text)
        if authorization not in (f"Bearer {text}", f"bearer {text}"):
            return caller  # not cached, since a client could spell one credential in any number of ways
        return self._remember(_key(authorization), caller)

    async def _of_jwt(self, text: str) -> Caller:
        """Returns the caller that a JWT identifies. Runs in a thread, since any client can cause this 0.5 ms of work.

        Raises:
            UnauthenticatedError: The JWT is invalid.
        """
        while True:
            changes = self._key_changes
            try:
                identity, expires, credential = await self._verifying.run(self._jwts.verify, text)
            except UnknownKey as error:
                await self._keys.fetch_for(error.issuer)
                identity, expires, credential = await self._verifying.run(self._jwts.verify, text)
            if changes == self._key_changes:  # otherwise the key that verified it may have been withdrawn
                return self._made(identity, credential, expires)

    def of_token(self, text: str) -> Caller:
        """Returns the bearer of one of this server's tokens. The caller is not cached.

        Raises:
            UnauthenticatedError: The token is invalid.
        """
        token_id = tokens.id_of(text)
        if token_id is None:
            raise UnauthenticatedError("the token is not one of this server's")
        record = self._tokens.get(token_id)
        if not tokens.proves(text, record) or record is None:
            raise UnauthenticatedError("the token is unknown, or was revoked")
        return self._of_record(record)

    def of_token_id(self, token_id: str) -> Caller | None:
        """Returns the bearer of a token that was verified earlier; None if the token is no longer valid."""
        record = self._tokens.get(token_id)
        try:
            return None if record is None else self._of_record(record)
        except UnauthenticatedError:
            return None

    def of_console(self) -> Caller:
        """Returns the caller that signed in to the console with the console's own token."""
        return self._made(CONSOLE, "console.token")

    def _of_record(self, record: TokenRecord) -> Caller:
        expires = inf if record.expires is None else record.expires.timestamp()
        if expires <= self._clock():
            raise UnauthenticatedError("the token has expired")
        scopes = (tokens.scope_of(record),)
        identity = tokens.identity_of(record)
        return self._added(identity, scopes, f"token {record.id}", expires, own=True)

    def _made(self, identity: Identity, credential: str, expires: float = inf) -> Caller:
        return self._added(identity, self._policy.scopes_of(identity), credential, expires)

    def _added(
        self, identity: Identity, scopes: Sequence[AccessScope], credential: str, expires: float, *, own: bool = False
    ) -> Caller:
        quota = self._quota(identity)
        caller = Caller(identity, scopes, credential, expires, quota, own=own, decisions=self._decisions)
        self._all.add(caller)
        return caller

    def _remember(self, key: bytes | str, caller: Caller) -> Caller:
        self._callers.add(key, caller)
        self._recorder.callers = len(self._callers)
        return caller

    # Authorization.

    def check(
        self, caller: Caller | None, roles: Sequence[AccessRole], model: str, what: str = "", peer: Peer | None = None
    ) -> None:
        """Checks that the caller has one of `roles` on a model.

        One of the roles is enough. A caller that was not identified (None) is a bug, and is refused. `model` is
        `SERVER` for the server; `what` is the method or route that is called, and `peer` where the call comes from, for
        the log.

        Raises:
            UnauthenticatedError: The caller is unknown, or its credential has expired or was revoked.
            PermissionDeniedError: The caller has none of the roles. The message does not say whether the model exists.
        """
        if caller is not None and not caller.ended:
            for role in roles:
                if caller.may(role, model):
                    return
        raise self.refusal(caller, roles, model, what, peer)

    def check_known(self, caller: Caller | None, what: str = "", peer: Peer | None = None) -> None:
        """Checks that the caller is known, or that `anonymous` has some grant. Raises the errors of `check`."""
        if caller is None or caller.ended or (caller.identity.anonymous and not caller.scopes):
            raise self.refusal(caller, (), SERVER, what, peer)

    def check_any(
        self, caller: Caller | None, roles: Sequence[AccessRole], what: str = "", peer: Peer | None = None
    ) -> None:
        """Checks that the caller has one of `roles` on at least one model. Raises the errors of `check`."""
        self.check_known(caller, what, peer)
        assert caller is not None, "it was checked"
        for scope in caller.scopes:
            if any(scope.covers(role, pattern.text.replace("*", "")) for role in roles for pattern in scope.models):
                return
        raise self.refusal(caller, roles, "", what, peer)

    def check_need(self, caller: Caller, need: Need, what: str, peer: Peer | None = None) -> None:
        """Checks whatever can be checked about a call before its model is known.

        Raises the errors of `check`.
        """
        if need.kind is ResourceKind.SERVER:
            self.check(caller, need.roles, SERVER, what, peer)
        elif need.kind is ResourceKind.LISTED:
            self.check_any(caller, need.roles, what, peer)
        elif need.kind is not ResourceKind.HEALTH:
            self.check_known(caller, what, peer)

    def check_setting(
        self, caller: Caller | None, need: Need, model: str, what: str, peer: Peer | None = None, *, changes: bool
    ) -> None:
        """Checks that the caller may read or change a setting of a model or the server. Raises as `check`."""
        assert need.also is not None, "a setting's need has both roles"
        self.check(caller, (need.also[1],) if changes else need.roles, model or SERVER, what, peer)

    def permitted(self, caller: Caller | None, model: str, what: str, peer: Peer) -> None:
        """Logs a permitted call that may change something or takes files."""
        if caller is not None:
            identity, model = caller.identity.actor, model[:_SHOWN]
            self._log.info(
                "permitted", call=what, identity=identity, credential=caller.credential, model=model, peer=peer.host
            )

    def refusal(
        self, caller: Caller | None, roles: Sequence[AccessRole], model: str, what: str, peer: Peer | None = None
    ) -> TurnoutError:
        """Counts and logs a refused call, and returns the error for the caller."""
        host = "" if peer is None else peer.host
        if caller is None or (caller.identity.anonymous and not caller.ended):
            self._refusals.record(RefusalReason.NO_CREDENTIAL, call=what, model=model[:_SHOWN], peer=host)
            return UnauthenticatedError(NO_CREDENTIAL)
        identity = caller.identity.actor
        if caller.ended:
            self._refusals.record(
                RefusalReason.BAD_CREDENTIAL, call=what, identity=identity, reason=caller.ended, peer=host
            )
            return UnauthenticatedError(ENDED)
        needed = " or ".join(roles) or "anything"
        self._refusals.record(
            RefusalReason.DENIED, call=what, identity=identity, credential=caller.credential, needs=needed,
            model=model[:_SHOWN], peer=host,
        )  # fmt: skip
        on = f"the model {model[:_SHOWN]!r}" if model else "this server"
        return PermissionDeniedError(f"{identity} lacks the role {needed} on {on}")

    def enter(self, caller: Caller) -> Quota | None:
        """Counts the start of a request. Call `leave` on the returned quota when the request ends.

        Raises:
            QuotaExceeded: The caller has reached its rate or its maximum number of requests in flight.
        """
        quota = caller.quota
        if quota is None:
            return None
        try:
            quota.enter(time.monotonic())
        except QuotaExceeded as error:
            key = error.limit, error.bound
            self._recorder.limited[key] = self._recorder.limited.get(key, 0) + 1
            raise
        return quota

    # Changes of tokens, policy and keys.

    def put_tokens(self, records: Iterable[TokenRecord]) -> None:
        """Replaces the tokens by those of the state store. Any other token is unknown from now on."""
        before, self._tokens = self._tokens, {one.id: one for one in records if one.revoked is None}
        gone = {f"token {token_id}" for token_id in before if before[token_id] != self._tokens.get(token_id)}
        self._revoke(gone)

    def put_policy(self, policy: AccessPolicy) -> None:
        """Puts another policy into force, also for cached callers."""
        self._policy = policy
        for caller in self._all:
            caller.change(policy.scopes_of(caller.identity), self._quota(caller.identity))
        self._show_limits()

    async def start(self) -> None:
        """Fetches the keys of all issuers. An issuer that cannot be reached is tried again later."""
        await self._keys.fetch_all()

    async def watch(self) -> None:
        """Ends streams of expired credentials, and has keys fetched again. Runs until it is cancelled; never blocks."""
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            self._streams.end(self._clock())
            self._keys.fetch_due()

    async def watch_policy(self) -> None:
        """Follows changes of the policy file, whose file system may hang. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            stamp = await self._files.run(stamp_of, self._settings.policy)
            # A file that could not be read is tried again, since the reason may have been the system's and not its own.
            again = self._recorder.policy_failed and time.monotonic() >= self._read_at + _RETRY_SECONDS
            if stamp != self._stamp or again:
                self._stamp = stamp
                await self.reload()

    async def reload(self) -> None:
        """Reads the policy file again; an invalid file changes nothing and is logged."""
        if not self._settings.policy:
            return
        self._read_at = time.monotonic()
        try:
            policy = await self._files.run(load_policy, self._settings.policy, self._share)
        except ConfigError as error:
            if self._reason != error.message:
                self._reason = error.message
                self._log.error(
                    "the policy file cannot be used; the previous policy stays in force", reason=error.message
                )
            self._recorder.policy_failed = True
            return
        if self._recorder.policy_failed:
            self._log.info("the policy file can be used again")
        self._recorder.policy_failed, self._reason = False, ""
        if policy != self._policy:
            self.put_policy(policy)
            self._recorder.reloads += 1
            self._log.info("policy changed", grants=len(policy.grants), limits=len(policy.limits))

    @property
    def policy_failed(self) -> bool:
        """Whether the policy file is invalid, so that the previous policy is still in force."""
        return self._recorder.policy_failed

    def close(self) -> None:
        """Cancels fetches and shuts down the threads."""
        self._keys.close()
        self._verifying.shutdown(wait=False)
        self._files.shutdown(wait=False)

    def stream(self, caller: Caller) -> AbstractContextManager[None]:
        """Ends the current task's stream when the caller's credential ends. Raises as `OpenStreams.opened`."""
        return self._streams.opened(caller)

    def change(self, caller: Caller) -> AbstractContextManager[None]:
        """Ends the current task's call when the caller's credential is revoked. Raises as `OpenStreams.opened`."""
        return self._streams.opened(caller, outlasts_expiry=True)

    # Helpers.

    def _quota(self, identity: Identity) -> Quota | None:
        limit = self._policy.limit_of(identity)
        return None if limit is None else self._quotas.of(identity.name, limit, time.monotonic())

    def _revoke(self, credentials: Set[str]) -> None:
        """Removes the callers that were authenticated by one of these credentials, and ends their streams."""
        if not credentials:
            return
        for caller in self._all:
            if caller.credential in credentials:
                caller.ended = "revoked"
        self._streams.end(self._clock())
        self._callers.remove_ended()
        self._recorder.callers = len(self._callers)

    def _show_limits(self) -> None:
        limited = self._recorder.limited
        limited_by = {(one.name, bound) for one in self._policy.limits for bound in ("rate", "in_flight")}
        self._recorder.limited = {key: limited.get(key, 0) for key in sorted(limited_by)}

    def _withdraw_keys(self, issuer: str, kids: Set[str]) -> None:
        """Revokes the callers whose JWT was signed by one of these keys, which are no longer the issuer's."""
        self._key_changes += 1
        self._revoke({credential_of(issuer, kid) for kid in kids})


def _key(authorization: str) -> bytes:
    """Returns the cache key for a credential. A digest, so that no secret is kept or revealed by look-up times."""
    return hashlib.blake2b(authorization.encode("latin-1", "replace")).digest()  # a third quicker than SHA-256
