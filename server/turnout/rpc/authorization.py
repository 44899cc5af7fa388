"""Authenticates and authorizes gRPC calls on every transport, before any other processing.

`protected` identifies the caller before a message is parsed, and rejects unknown callers. `MessageCheck` then checks
that the caller may perform the operation on the model named in the message, replaces the message's actor with the
authenticated identity, and removes models from the response that the caller may not see. The data plane authorizes
inference requests itself.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from turnout.auth.actor_remark import with_remark
from turnout.auth.authority import Authority
from turnout.auth.caller import Caller
from turnout.auth.policy.permissions import METHODS, Need, ResourceKind, need_of
from turnout.auth.policy.quotas import Quota
from turnout.auth.roles import SERVER, AccessRole
from turnout.chunks import Serialized
from turnout.errors import MODEL_SEEN, TurnoutError, UnauthenticatedError
from turnout.rpc.errors import to_status
from turnout.rpc.transport.port import RESPONSES, Method, Methods, Response, RpcCall, StatusError, Stream, Unary

_HEALTH_MODEL = "model:"

ModelOfUpload = Callable[[str], str | None]
"""Returns the model of an upload; None if the upload does not exist."""


def protected(methods: Methods, authority: Authority | None) -> Methods:
    """Wraps methods so that each call is authenticated and authorized.

    Without an authority, `[auth]` is not enabled.

    Raises:
        LookupError: A method has no entry in the table of permissions.
    """
    needs = {path: need_of(METHODS, path) for path in methods}
    if authority is None:
        return methods
    return {path: _protected(path, needs[path], method, authority) for path, method in methods.items()}


_Answer = Callable[[Serialized, RpcCall], Response | Awaitable[Response]]


def _protected(path: str, need: Need, method: Method, authority: Authority) -> Method:
    if need.kind is ResourceKind.PUBLIC:
        return method

    async def identify(call: RpcCall) -> Caller | None:
        """Returns the caller; None if the caller is unknown and the method allows that. Raises UnauthenticatedError."""
        try:
            return await authority.identify(call)
        except UnauthenticatedError:
            if need.kind is not ResourceKind.HEALTH:
                raise
            return None  # the server's own health is public

    def check(call: RpcCall, caller: Caller) -> None:
        """Checks that a caller may call the method on any model at all. Raises the same errors as `Authority.check`."""
        authority.check_need(caller, need, path, call)

    if isinstance(method, Unary):
        behaviour = _until_revoked(method.answer, authority) if need.audited else method.answer
        return replace(method, answer=_unary(behaviour, authority, identify, check))
    counted = need.kind is not ResourceKind.INFERENCE  # inference streams count each message instead
    return replace(method, serve=_streaming(method.serve, authority, identify, check, counted=counted))


_Identify = Callable[[RpcCall], Awaitable[Caller | None]]
_Check = Callable[[RpcCall, Caller], None]


def _unary(behaviour: _Answer, authority: Authority, identify: _Identify, check: _Check) -> _Answer:
    """Wraps a unary method, which raises no TurnoutError. A caller that is known is authorized without suspending."""

    def answer(message: Serialized, call: RpcCall) -> Response | Awaitable[Response]:
        try:
            caller = authority.known(call)
            return identified(message, call) if caller is None else entered(message, call, caller)
        except TurnoutError as error:
            status = to_status(error)
        raise StatusError(status)

    async def identified(message: Serialized, call: RpcCall) -> Response:
        try:
            done = entered(message, call, await identify(call))
            return done if isinstance(done, RESPONSES) else await done
        except TurnoutError as error:
            status = to_status(error)
        del message
        raise StatusError(status)

    def entered(message: Serialized, call: RpcCall, caller: Caller | None) -> Response | Awaitable[Response]:
        call.caller = caller
        quota: Quota | None = None
        if caller is not None:
            check(call, caller)
            quota = authority.enter(caller)
        # Every call sets this variable, so it is never reset. A reset could fail: a call that has no task yet may later
        # continue in a different context.
        MODEL_SEEN.set(None if caller is None else caller.seen)
        if quota is None:
            return behaviour(message, call)
        try:
            done = behaviour(message, call)
        except BaseException:
            quota.leave()
            raise
        if isinstance(done, RESPONSES):
            quota.leave()
            return done
        return left(done, quota)

    async def left(done: Awaitable[Response], quota: Quota) -> Response:
        try:
            return await done
        finally:
            quota.leave()

    return answer


def _until_revoked(behaviour: _Answer, authority: Authority) -> _Answer:
    """Wraps a unary method that changes something, such as a long publish, so that it ends if its token is revoked."""

    def answer(message: Serialized, call: RpcCall) -> Response | Awaitable[Response]:
        done, caller = behaviour(message, call), call.caller
        return done if isinstance(done, RESPONSES) or caller is None else rest(done, caller)

    async def rest(done: Awaitable[Response], caller: Caller) -> Response:
        try:
            with authority.change(caller):
                return await done
        except TurnoutError as error:
            status = to_status(error)
        raise StatusError(status)

    return answer


def _streaming(
    behaviour: Callable[[Stream], Awaitable[None]],
    authority: Authority,
    identify: _Identify,
    check: _Check,
    *,
    counted: bool,
) -> Callable[[Stream], Awaitable[None]]:
    async def serve(stream: Stream) -> None:
        try:
            caller = stream.caller = authority.known(stream) or await identify(stream)
            if caller is None:
                return await behaviour(stream)
            check(stream, caller)
            quota = authority.enter(caller) if counted else None
            MODEL_SEEN.set(caller.knows)  # not `seen`, which would stay as it is when the policy changes
            try:
                with authority.stream(caller):
                    return await behaviour(stream)
            finally:
                if quota is not None:
                    quota.leave()
        except TurnoutError as error:
            status = to_status(error)
        raise StatusError(status)

    return serve


@dataclass(frozen=True, slots=True)
class MessageCheck:
    """Authorizes the messages of one method.

    Attributes:
        recorded: The part of a request that has the fields `actor` and `reason`: "" for the request itself, `change`
            for the field of that name, None if the request has no such fields.
    """

    path: str
    need: Need
    authority: Authority
    model_of_upload: ModelOfUpload
    recorded: str | None

    @classmethod
    def of(
        cls, path: str, method: MethodDescriptor, authority: Authority | None, model_of_upload: ModelOfUpload
    ) -> "MessageCheck | None":
        """Returns the check for a method; None if `[auth]` is not enabled."""
        if authority is None:
            return None
        fields: Mapping[str, Any] = method.input_type.fields_by_name
        recorded = "" if "actor" in fields else "change" if "change" in fields else None
        return cls(path, need_of(METHODS, path), authority, model_of_upload, recorded)

    def request(self, call: RpcCall, request: Any) -> Callable[[], None]:
        """Checks that the caller may do this with the model that the request names. Logs it if it changes something.

        Returns a check of the same again, for the later messages of a stream: the policy may have changed. It holds
        nothing of the request but names.

        Raises:
            UnauthenticatedError, PermissionDeniedError: As for `Authority.check`.
        """
        caller = call.caller
        check = self._check_of(call, request)
        check()
        if self.need.audited:
            named = getattr(request, self.need.field)
            model = self.model_of_upload(named) or "" if self.need.kind is ResourceKind.UPLOAD else _model(named)
            self.authority.permitted(caller, model, self.path, call)
        if self.recorded is not None and caller is not None:
            _record(getattr(request, self.recorded) if self.recorded else request, caller)
        return check

    def _check_of(self, call: RpcCall, request: Any) -> Callable[[], None]:
        need, authority, path, caller = self.need, self.authority, self.path, call.caller
        if need.kind is ResourceKind.MODEL:
            return partial(authority.check, caller, need.roles, _model(getattr(request, need.field)), path, call)
        if need.kind is ResourceKind.UPLOAD:
            also = need.also is not None and bool(getattr(request, need.also[0]))
            return partial(self._check_upload, call, getattr(request, need.field), also=also)
        if need.kind is ResourceKind.LISTED and (model := getattr(request, need.field, "")):
            return partial(authority.check, caller, need.roles, model, path, call)
        if need.kind is ResourceKind.SETTING and need.also is not None:
            model, changes = getattr(request, need.field, ""), bool(getattr(request, need.also[0]))
            return partial(authority.check_setting, caller, need, model, path, call, changes=changes)
        if need.kind is ResourceKind.HEALTH and request.service.startswith(_HEALTH_MODEL):
            model = _model(request.service[len(_HEALTH_MODEL) :])
            return partial(authority.check, caller, need.roles, model, path, call)
        return lambda: None  # whoever was let in may go on

    def _check_upload(self, call: RpcCall, upload_id: str, *, also: bool) -> None:
        need, found, caller = self.need, self.model_of_upload(upload_id), call.caller
        if found is None:
            self.authority.check_any(caller, need.roles, self.path, call)  # the method answers that there is no upload
            return
        self.authority.check(caller, need.roles, found, self.path, call)
        if also and need.also is not None:
            self.authority.check(caller, (need.also[1],), found, self.path, call)

    def response(self, call: RpcCall, response: Message) -> None:
        """Removes models that the caller may not see from a response."""
        caller = call.caller
        if not self.need.paths or caller is None or caller.may(AccessRole.READ, SERVER):
            return
        for path in self.need.paths:
            _leave_out(response, path.split("."), caller)


def _model(named: str) -> str:
    """Returns the model of `MODEL` or `MODEL@SELECTOR`."""
    return named.partition("@")[0]


def _record(message: Any, caller: Caller) -> None:
    actor, claimed_actor = caller.identity.actor, message.actor
    message.actor = actor
    message.reason = with_remark(message.reason, claimed_actor, actor)


def _leave_out(message: Any, path: Sequence[str], caller: Caller) -> None:
    items = getattr(message, path[0])
    if len(path) > 2:
        for item in items:
            _leave_out(item, path[1:], caller)
        return
    for index in range(len(items) - 1, -1, -1):
        if not caller.sees(getattr(items[index], path[1])):
            del items[index]
