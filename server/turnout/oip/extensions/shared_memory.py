"""POSIX shared memory regions that callers have registered, and access to the tensors in them.

Segments are not memory-mapped, because a client may truncate a segment at any time, and accessing the mapping would
then kill the process (SIGBUS). Tensors are read and written with pread and pwrite, which return an error instead. An
input is copied once, before it is checked, so that later writes by the client have no effect.

A region belongs to the caller who registered it, and is invisible to all other callers. A request that uses a region
keeps its file open: if the region is unregistered in the meantime, the file is closed when the request ends. The
objects are used on the event loop only, except for `TensorWindow` and `CallerMemory`, which the conversion thread uses
as well.
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
from turnout.oip.parameters import REGION, Place
from turnout.workers.peers import Peers

DIRECTORY = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_MOST_REGIONS = 256
"""Maximum number of regions of all callers. Each uses one of the 512 file descriptors not reserved for connections."""

_NAME_BYTES = 1024
_MOST_KEY_BYTES = 255

_SEMAPHORE = "sem."
"""File name prefix of POSIX semaphores, which are in the same directory as shared memory."""

_TOPIC = "regions"

OFF = "system shared memory is off (oip.system_shared_memory): tensors travel in the request"

MARK, _ESCAPE = REGION.encode(), b"\\u"
"""Every request with a tensor in shared memory contains one of these. The escape is needed because JSON allows several
spellings of the parameter's name."""

STORED_INPUT = "inputs[{}] (shared memory)"
"""How errors name an input in shared memory."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Region:
    """A registered region. Its file stays open as long as this object exists.

    Attributes:
        name: Name by which tensors refer to the region.
        key: Key of the segment as the client wrote it.
        offset: Offset of the region in the segment, in bytes.
        size: Size of the region in bytes.
    """

    name: str
    key: str
    offset: int
    size: int
    file: int


@dataclass(frozen=True, slots=True)
class TensorWindow:
    """A part of a region that contains, or will contain, one tensor.

    Attributes:
        offset: Offset of the part in the region, in bytes.
        size: Size of an input, or maximum size of an output, in bytes.
        field: Path of the tensor in error messages.
    """

    region: Region
    offset: int
    size: int
    field: str

    def read(self) -> bytes:
        """Returns a copy of the current contents. Raises InvalidTensor if the segment has been truncated."""
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
        """Writes an output.

        Raises:
            InvalidTensor: The output is larger than the window, the segment has been truncated, or writing failed.
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
    """The shared memory regions that a request may use, which are those of its caller."""

    def __init__(self, regions: Mapping[str, Region] | None = None, most_bytes: int = 0) -> None:
        """Initializes the object for one request, with the caller's regions by name; None if shared memory is off.

        The request's inputs in shared memory, which are copied, may have `most_bytes` in total.
        """
        self._regions = regions
        self._most = self._left = most_bytes

    def read(self, place: Place, field: str) -> bytes:
        """Returns a copy of an input.

        Raises:
            InvalidRequest: The inputs exceed the maximum total size.
            InvalidTensor, NotFoundError, Unsupported: As for `find` and `TensorWindow.read`.
        """
        window = self.find(place, field)
        self._left -= place.size
        if self._left < 0:
            expected = f"expected at most {self._most} bytes of inputs in shared memory (limits.max_message_bytes)"
            raise InvalidRequest.at(f"{field}.parameters", f"{expected}, got more")
        return window.read()

    def check(self, field: str) -> Mapping[str, Region]:
        """Returns the regions. Raises Unsupported if shared memory is off; the error names `field`."""
        if self._regions is None:
            raise Unsupported(f"{field}.parameters: {OFF}")
        return self._regions

    def find(self, place: Place, field: str) -> TensorWindow:
        """Returns the window of a tensor. Errors name `field`.

        Raises:
            NotFoundError: The caller has no such region.
            InvalidRequest: The tensor is not within the region.
            Unsupported: Shared memory is off.
        """
        region = self.check(field).get(place.region)
        if region is None:
            raise _unknown(place.region)
        if place.offset + place.size > region.size:
            expected = f"expected a place within the {region.size} bytes of region {place.region[:64]!r}"
            raise InvalidRequest.at(f"{field}.parameters", f"{expected}, got {place.offset} + {place.size}")
        return TensorWindow(region, place.offset, place.size, field)


NO_MEMORY = CallerMemory()
"""Refuses every region, since shared memory is off."""


class SharedMemory:
    """The registered regions of all callers."""

    def __init__(self, settings: Oip, max_input_bytes: int, peers: Peers | None = None) -> None:
        """Initializes the registry. The inputs of a request in shared memory may have `max_input_bytes` in total."""
        self.enabled = settings.system_shared_memory
        self._most = settings.max_shared_memory_regions
        self._most_bytes = int(settings.max_shared_memory_bytes)
        self._most_inputs = max_input_bytes
        self._owners: dict[str, dict[str, Region]] = {}
        self._peers = peers
        if peers is not None:
            peers.answers(_TOPIC, self._on_message)

    def mentioned_in(self, data: bytes) -> bool:
        """Returns whether a serialized request may contain a tensor in a registered region."""
        return bool(self._owners) and (MARK in data or _ESCAPE in data)

    def of(self, caller: Caller | None) -> CallerMemory:
        """Returns the regions of a caller, for one request."""
        return CallerMemory(self._owners.get(_owner(caller), {}), self._most_inputs) if self.enabled else CallerMemory()

    def status(self, caller: Caller | None, name: str = "") -> Sequence[Region]:
        """Returns the caller's region with the given name, or all of the caller's regions.

        Raises:
            NotFoundError: The caller has no such region.
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
        """Registers a region in every worker.

        `key` names the segment as for shm_open, and `name` is the one by which tensors will refer to the region. Offset
        and size are in bytes.

        Raises:
            InvalidRequest: A name is invalid, or the region is not within the segment.
            NotFoundError: The segment does not exist, or this server's user does not own it; the error hides which.
            AlreadyExistsError: The caller already has a region with that name.
            Exhausted: The caller's regions, or the regions of all callers, have reached their limit.
            PermissionDeniedError: The caller is not on this machine.
            Unsupported: Shared memory is off.
            UnavailableError: Another worker could not register the region. No worker has registered it then.
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
        """Unregisters a region of a caller, or all of the caller's regions. Ignores a region that does not exist.

        Raises:
            Unsupported: Shared memory is off.
        """
        self._check_on()
        owner = _owner(caller)
        self._drop(owner, name)
        if self._peers is not None:
            await self._peers.ask(_TOPIC, json.dumps(["drop", owner, name]).encode())

    async def catch_up(self) -> None:
        """Copies the regions from workers that were started earlier."""
        if self._peers is None or not self.enabled:
            return
        for reply in (await self._peers.ask(_TOPIC, b'["list"]')).values():
            for one in json.loads(reply):
                try:
                    self._put(*one)
                except TurnoutError:
                    continue  # already registered here, or the segment has been deleted since

    def close(self) -> None:
        """Unregisters all regions."""
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
        if size < 1:
            raise InvalidRequest.at("byte_size", f"expected 1 or more, got {size}")
        if offset < 0 or offset + size >= 2**63:
            raise InvalidRequest.at("offset", f"expected a place in a file, got {offset} + {size}")
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


def file_name(key: str) -> str:
    """Returns the file name of a POSIX shared memory segment. The result never contains a slash.

    The leading slash of the key, as for shm_open, is optional.

    Raises:
        InvalidRequest: The name is invalid.
    """
    name = key.removeprefix("/")
    size = len(name.encode(errors="surrogatepass"))
    if not 0 < size <= _MOST_KEY_BYTES or "/" in name or "\0" in name or name in (".", "..") or not name.isprintable():
        raise InvalidRequest.at("key", "expected a name as of shm_open: / and 1 to 255 bytes without another slash")
    if name.startswith(_SEMAPHORE):
        raise InvalidRequest.at("key", "expected the name of shared memory, got that of a semaphore")
    return name


def _opened(name: str, offset: int, size: int) -> int:
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
        if offset + size > found.st_size:
            expected = f"expected a region within the {found.st_size} bytes of that memory"
            raise InvalidRequest.at("byte_size", f"{expected}, got {offset} + {size}")
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
    """Returns the error for an attempt to register a CUDA shared memory region."""
    return Unsupported("CUDA shared memory is not supported: tensors travel in the request, or in system shared memory")


def no_cuda_region(name: str) -> NotFoundError:
    """Returns the error for the status of a CUDA shared memory region, which is never registered."""
    return NotFoundError(f"no region of CUDA shared memory is named {name[:64]!r}")
