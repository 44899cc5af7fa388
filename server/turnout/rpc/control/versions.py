"""Methods of the control service that load, unload, release, yank and tag versions."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from turnout.errors import ModelNotFound, UnavailableError
from turnout.registry.manifest.names import parse_version
from turnout.releases.release import ReleaseStateWriter
from turnout.rollout.engine.operators.releases import Releases
from turnout.rpc.catalog import RELEASE_STATUSES, version_message
from turnout.rpc.control.calls import check_record
from turnout.rpc.control.messages import answers_message
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.serving.versions.follow import follow_recorded
from turnout.serving.versions.manager import Manager
from turnout.state.release_status import ReleaseStatus
from turnout.workers.peers import Peers
from turnout_proto.v1 import control_pb2 as pb
from turnout_proto.v1 import traffic_pb2

T = TypeVar("T")
_Declaration = pb.YankVersionRequest | pb.UnyankVersionRequest | pb.SetTagRequest | pb.DeleteTagRequest


class VersionMethods:
    """Changes which versions are loaded, their release status and their tags."""

    def __init__(
        self,
        loads: Manager | Peers,
        refresh: Callable[[], Awaitable[None]],
        catalog: Catalog,
        release_writer: ReleaseStateWriter,
        releases: Releases,
    ) -> None:
        self._loads = loads
        self._refresh = refresh
        self._catalog = catalog
        self._release_writer = release_writer
        self._releases = releases

    async def LoadVersion(self, request: pb.LoadVersionRequest) -> pb.LoadVersionResponse:
        """Loads a version and waits until it is ready."""
        entry = await self._loads.load(request.model, parse_version(request.version))
        message = version_message(entry, self._catalog.snapshot.model(request.model))
        return pb.LoadVersionResponse(version=message)

    async def UnloadVersion(self, request: pb.UnloadVersionRequest) -> pb.UnloadVersionResponse:
        """Unloads a version and waits until its memory is freed."""
        entry = await self._loads.unload(request.model, parse_version(request.version))
        model = self._catalog.snapshot.models.get(request.model)  # it is gone if these were its last files
        message = version_message(entry, model or ModelEntry(request.model, {}))
        return pb.UnloadVersionResponse(version=message)

    async def ReleaseVersion(self, request: pb.ReleaseVersionRequest) -> pb.ReleaseVersionResponse:
        """Releases a version for general traffic. The change is in force when the call returns."""
        check_record(request.actor, request.reason)
        done = await self._releases.release(
            request.model,
            parse_version(request.version),
            request.actor,
            request.reason,
            traffic=not request.no_traffic,
            supersede=request.supersede,
        )
        answers = self._answers_of(request.model)
        return pb.ReleaseVersionResponse(changed=done.changed, sentence=done.sentence, answers=answers)

    async def WithdrawVersion(self, request: pb.WithdrawVersionRequest) -> pb.WithdrawVersionResponse:
        """Withdraws a release. The change is in force when the call returns."""
        check_record(request.actor, request.reason)
        version = parse_version(request.version)
        done = await self._releases.withdraw(request.model, version, request.actor, request.reason)
        answers = self._answers_of(request.model)
        return pb.WithdrawVersionResponse(changed=done.changed, sentence=done.sentence, answers=answers)

    async def YankVersion(self, request: pb.YankVersionRequest) -> pb.YankVersionResponse:
        """Yanks a version. The change is in force when the call returns."""
        version = parse_version(request.version)
        before = await self._declare(self._release_writer.yank, request, version)
        warning = ""
        with suppress(OSError, UnavailableError):  # the yank has succeeded even if the warning cannot be computed
            back = await self._release_writer.in_thread(self._release_writer.rollback_target, request.model)
            warning = back.yank_warning(request.model, version)
        return pb.YankVersionResponse(
            changed=before is not ReleaseStatus.YANKED,
            answers=self._answers_of(request.model),
            warnings=[warning] if warning else [],
            previous_standing=RELEASE_STATUSES[before],
        )

    async def UnyankVersion(self, request: pb.UnyankVersionRequest) -> pb.UnyankVersionResponse:
        """Undoes a yank. The change is in force when the call returns."""
        changed = await self._declare(
            self._release_writer.unyank, request, parse_version(request.version), i_know_why=request.i_know_why
        )
        return pb.UnyankVersionResponse(changed=changed, answers=self._answers_of(request.model))

    async def SetTag(self, request: pb.SetTagRequest) -> pb.SetTagResponse:
        """Points a tag at a version. The change is in force when the call returns, as `_declare` says."""
        version = parse_version(request.version)
        previous = await self._declare(
            self._release_writer.set_tag, request, request.tag, version, expect=_expected(request)
        )
        before = "" if previous is None else str(previous)
        return pb.SetTagResponse(previous_version=before, answers=self._answers_of(request.model))

    async def DeleteTag(self, request: pb.DeleteTagRequest) -> pb.DeleteTagResponse:
        """Removes a tag. The change is in force when the call returns, as `_declare` says."""
        previous = await self._declare(self._release_writer.delete_tag, request, request.tag, expect=_expected(request))
        return pb.DeleteTagResponse(previous_version=str(previous), answers=self._answers_of(request.model))

    async def _declare(self, change: Callable[..., T], request: _Declaration, *arguments: Any, **named: Any) -> T:
        """Records a change in a thread, then applies it in this server.

        If the state store fails in between, it is applied within seconds.
        """
        check_record(request.actor, request.reason)
        result = await self._release_writer.in_thread(
            change, request.model, *arguments, actor=request.actor, reason=request.reason, **named
        )
        await follow_recorded(self._refresh)
        return result

    def _answers_of(self, model: str) -> traffic_pb2.Answers:
        try:
            return answers_message(self._releases.answers(model))
        except ModelNotFound:  # a tag may outlive the last version on disk
            return traffic_pb2.Answers()


def _expected(request: pb.SetTagRequest | pb.DeleteTagRequest) -> str | None:
    """Returns the version that the tag is expected to point at: None if not given, "" if the tag should not exist."""
    if not request.HasField("expected_version"):
        return None
    return str(parse_version(request.expected_version)) if request.expected_version else ""
