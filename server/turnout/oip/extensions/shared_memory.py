"""Regions of POSIX shared memory that callers registered, and the tensors in them.

Nothing is mapped: a client may truncate a segment at any time, and a mapping of it would then kill the process
(SIGBUS). Tensors are read and written by pread and pwrite, which return an error instead. An input is copied once,
before anything is checked, so that later writes of the client change nothing.

A region belongs to the caller who registered it, and nobody else sees it. A request that uses it keeps its file open;
if it is unregistered meanwhile, the file is closed when the request ends. Used on the event loop, except for
`TensorWindow` and `CallerMemory`, which the conversion thread uses, too.
"""

import contextlib
import json
import os
import stat
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout.auth.caller import Caller
from turnout.config import Oip, is_loopback
from turnout.errors import (
    AlreadyExistsError,
    Exhausted,
    InvalidRequest,
    InvalidTensor,
    NotFoundError,
    PermissionDeniedError,
    TurnoutError,
    Unsupported,
)
from turnout.oip.extensions.regions import check_available, check_extent, check_within, file_name
from turnout.oip.parameters import REGION, Place
from turnout.workers.peers import Peers

DIRECTORY = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_MOST_REGIONS = 256
"""Regions of all callers together: each holds a descriptor, of the 512 that are not for connections."""

_NAME_BYTES = 1024

_TOPIC = "regions"

OFF = "system shared memory is off (oip.system_shared_memory): tensors travel in the request"

MARK, _ESCAPE = REGION.encode(), b"\\u"
"""Every request with a tensor in shared memory contains one of these: JSON has several ways to write a name."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Region:
    """A region; its file stays open as long as this object lives.

    Attributes:
        name: What tensors call it.
        key: As the client wrote it.
        offset: Of the region in the segment, in bytes.
        size: Bytes of the region.
        file: Descriptor of the segment.
    """

    name: str
    key: str
    offset: int
    size: int
    file: int


@dataclass(frozen=True, slots=True)
class TensorWindow:
    """A part of a region, for one tensor.

    Attributes:
        region: The region that it is part of.
        offset: Of the part in the region, in bytes.
        size: Bytes that the tensor takes, or may take.
        field: The field of the request that errors name.
    """

    region: Region
    offset: int
    size: int
    field: str

    def read(self) -> bytes:
        """Returns a copy of what is there now.

        Raises:
            InvalidTensor: The segment is shorter than it was.
        """
        parts: list[bytes] = []
        at, left = self.region.offset + self.offset, self.size
        with contextlib.suppress(OSError):
            while left and (part := os.pread(self.region.file, left, at)):
                parts.append(part)
                at += len(part)
                left -= len(part)
        if left:
            raise self._shorter()
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Puts an output there.

        Raises:
            InvalidTensor: It is larger than its place, or the segment is shorter than it was or takes no more.
        """
        if len(data) > self.size:
            raise InvalidTensor.at(self.field, f"expected room for {len(data)} bytes in shared memory, got {self.size}")
        at = self.region.offset + self.offset
        if os.fstat(self.region.file).st_size < at + len(data):
            raise self._shorter()
        rest = memoryview(data)
        try:
            while rest:
                written = os.pwrite(self.region.file, rest, at)
                at += written
                rest = rest[written:]
        except OSError as error:
            raise InvalidTensor.at(
                self.field, f"the shared memory takes no more: {os.strerror(error.errno or 0)}"
            ) from None

    def _shorter(self) -> InvalidTensor:
        return InvalidTensor.at(
            self.field, f"the memory behind region {self.region.name[:64]!r} is shorter than when it was registered"
        )


class CallerMemory:
    """The regions of shared memory that one request may use: those of its caller."""

    def __init__(self, regions: Mapping[str, Region] | None = None, most_bytes: int = 0) -> None:
        """Prepares.

        Args:
            regions: Of the caller, by name; None if shared memory is off.
            most_bytes: Most bytes that all inputs of the request may have in shared memory, since they are copied.
        """
        self._regions = regions
        self._most = self._left = most_bytes

    def read(self, place: Place, field: str) -> bytes:
        """Returns a copy of an input.

        Raises:
            InvalidRequest: The inputs are too large together. Else as `find` and `TensorWindow.read`.
        """
        window = self.find(place, field)
        self._left -= place.size
        if self._left < 0:
            expected = f"expected at most {self._most} bytes of inputs in shared memory (limits.max_message_bytes)"
            raise InvalidRequest.at(f"{field}.parameters", f"{expected}, got more")
        return window.read()

    def check(self, field: str) -> None:
        """Raises Unsupported, naming `field`, if shared memory is off."""
        self._known(field)

    def find(self, place: Place, field: str) -> TensorWindow:
        """Returns the window of a tensor; errors name `field`.

        Raises:
            NotFoundError: The caller has no such region.
            InvalidRequest: The tensor is not within it.
            Unsupported: Shared memory is off.
        """
        region = self._known(field).get(place.region)
        if region is None:
            raise _unknown(place.region)
        check_within(place, region.size, field)
        return TensorWindow(region, place.offset, place.size, field)

    def _known(self, field: str) -> Mapping[str, Region]:
        if self._regions is None:
            raise Unsupported(f"{field}.parameters: {OFF}")
        return self._regions


class SharedMemory:
    """The regions of all callers."""

    def __init__(self, settings: Oip, max_input_bytes: int, peers: Peers | None = None) -> None:
        """Prepares.

        Args:
            settings: Whether shared memory is on, and its bounds.
            max_input_bytes: Most bytes that the inputs of one request may have in shared memory.
            peers: The other workers, which register each region, too; None if this server is alone.
        """
        self.enabled = settings.system_shared_memory
        self._most = settings.max_shared_memory_regions
        self._most_bytes = int(settings.max_shared_memory_bytes)
        self._most_inputs = max_input_bytes
        self._owners: dict[str, dict[str, Region]] = {}
        self._peers = peers
        if peers is not None:
            peers.answers(_TOPIC, self._on_message)

    def mentioned_in(self, data: bytes) -> bool:
        """Tells whether a request may have a tensor in shared memory that somebody has registered."""
        return bool(self._owners) and (MARK in data or _ESCAPE in data)

    def of(self, caller: Caller | None) -> CallerMemory:
        """Returns what a caller has registered."""
        return CallerMemory(self._owners.get(_owner(caller), {}), self._most_inputs) if self.enabled else CallerMemory()

    def status(self, caller: Caller | None, name: str = "") -> Sequence[Region]:
        """Returns a caller's region of that name, or all of them.

        Raises:
            NotFoundError: The caller has no region of that name.
            Unsupported: Shared memory is off.
        """
        self._check_on()
        regions = self._owners.get(_owner(caller), {})
        if not name:
            return list(regions.values())
        if name not in regions:
            raise _unknown(name)
        return [regions[name]]

    async def register(self, caller: Caller | None, host: str, name: str, key: str, offset: int, size: int) -> None:
        """Registers a region under a name, in every worker.

        Args:
            caller: Its owner; None if `[auth]` is not enabled.
            host: The caller's IP address.
            name: What tensors will call it.
            key: The segment's name, as for shm_open.
            offset: Of the region in the segment, in bytes.
            size: Bytes of the region.

        Raises:
            InvalidRequest: A name is not valid, or the region does not lie within the segment.
            NotFoundError: The segment does not exist, or this server's user does not own it; the error hides which.
            AlreadyExistsError: The caller has a region of that name.
            Exhausted: The caller, or all together, have as many as they may.
            PermissionDeniedError: The caller is not on this machine.
            Unsupported: Shared memory is off.
            UnavailableError: Another worker could not register it; then no worker has the region.
        """
        self._check_on()
        if not is_loopback(host):
            raise PermissionDeniedError("shared memory is for callers on this machine, who come over loopback")
        owner = _owner(caller)
        self._put(owner, name, key, offset, size)
        if self._peers is not None:
            try:
                await self._peers.broadcast(_TOPIC, json.dumps(["put", owner, name, key, offset, size]).encode())
            except TurnoutError:
                await self.unregister(caller, name)
                raise

    async def unregister(self, caller: Caller | None, name: str = "") -> None:
        """Unregisters a region of a caller, or all of them. A region that is not registered is not an error.

        Raises:
            Unsupported: Shared memory is off.
        """
        self._check_on()
        owner = _owner(caller)
        self._drop(owner, name)
        if self._peers is not None:
            await self._peers.ask(_TOPIC, json.dumps(["drop", owner, name]).encode())

    async def catch_up(self) -> None:
        """Copies the regions of the other workers, which were started earlier."""
        if self._peers is None or not self.enabled:
            return
        for reply in (await self._peers.ask(_TOPIC, b'["list"]')).values():
            for one in json.loads(reply):
                try:
                    self._put(*one)
                except TurnoutError:
                    continue  # it is registered here already, or its segment was deleted since

    def close(self) -> None:
        """Drops all regions."""
        self._owners.clear()

    async def _on_message(self, body: bytes) -> bytes:
        action, *rest = json.loads(body)
        if action == "put":
            self._put(*rest)
        elif action == "drop":
            self._drop(*rest)
        else:
            regions = [(owner, one) for owner, named in self._owners.items() for one in named.values()]
            return json.dumps([[owner, one.name, one.key, one.offset, one.size] for owner, one in regions]).encode()
        return b""

    def _check_on(self) -> None:
        if not self.enabled:
            raise Unsupported(OFF)

    def _put(self, owner: str, name: str, key: str, offset: int, size: int) -> None:
        if not name or len(name.encode(errors="surrogatepass")) > _NAME_BYTES:
            raise InvalidRequest.at("name", f"expected 1 to {_NAME_BYTES} bytes")
        file = file_name(key)
        check_extent(offset, size)
        mine = self._owners.get(owner, {})
        if name in mine:
            raise AlreadyExistsError(f"a region is named {name[:64]!r} already: unregister it first")
        if len(mine) >= self._most or sum(map(len, self._owners.values())) >= _MOST_REGIONS:
            raise Exhausted(f"no more regions can be registered; {self._most} may (oip.max_shared_memory_regions)")
        if (held := sum(one.size for one in mine.values())) + size > self._most_bytes:
            bound = f"{self._most_bytes} may be (oip.max_shared_memory_bytes)"
            raise Exhausted(f"{held} bytes are registered, and {size} more would be too many; {bound}")
        region = Region(name, key, offset, size, _opened(file, offset, size))
        weakref.finalize(region, os.close, region.file)
        self._owners.setdefault(owner, {})[name] = region

    def _drop(self, owner: str, name: str) -> None:
        regions = self._owners.get(owner)
        if regions is None:
            return
        if name:
            regions.pop(name, None)
        else:
            regions.clear()
        if not regions:
            del self._owners[owner]


def _opened(name: str, offset: int, size: int) -> int:
    """Returns the descriptor of a segment. Raises as `SharedMemory.register`."""
    file = None
    try:
        directory = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            file = os.open(name, _FLAGS, dir_fd=directory)
        finally:
            os.close(directory)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError
        check_available(offset, size, found.st_size)
    except OSError:
        if file is not None:
            os.close(file)
        raise NotFoundError("there is no shared memory of that key that belongs to this server's user") from None
    except TurnoutError:
        assert file is not None, "it was looked at"
        os.close(file)
        raise
    return file


def _owner(caller: Caller | None) -> str:
    return "" if caller is None else caller.identity.name


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"no region of shared memory is named {name[:64]!r}")


def no_cuda() -> Unsupported:
    """Returns the error for registering a region of CUDA memory."""
    return Unsupported("CUDA shared memory is not supported: tensors travel in the request, or in system shared memory")


def no_cuda_region(name: str) -> NotFoundError:
    """Returns the error for asking about a region of CUDA memory: none is ever registered."""
    return NotFoundError(f"no region of CUDA shared memory is named {name[:64]!r}")
