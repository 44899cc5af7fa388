"""`grpc.reflection`, v1 and v1alpha: describes the services of a listener under the names that clients call.

The two versions differ only in their package name, so one servicer answers both with messages of v1alpha. If clients
call a service under a different package name than the package of our messages, the service is described under the
clients' name.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, cast

import grpc
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as pb

Write = Callable[[pb.ServerReflectionResponse], Awaitable[None]]

ALPHA: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["ServerReflection"]
V1 = "grpc.reflection.v1.ServerReflection"

_NOT_FOUND: int = grpc.StatusCode.NOT_FOUND.value[0]
_INVALID: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class ReflectionServicer:
    """Describes services."""

    def __init__(self, services: Mapping[str, ServiceDescriptor]) -> None:
        """Describes services by the name that clients call. Reflection itself is added."""
        self._described = {**services, ALPHA.full_name: ALPHA, V1: ALPHA}

    @cached_property
    def _pool(self) -> Any:
        """The described files. They take 10 ms to build, and most servers are never asked for them."""
        pool = DescriptorPool()
        for name, service in self._described.items():
            for file in _with_imports(service.file):
                pool.AddSerializedFile(_renamed(file, service.file.package, name.rpartition(".")[0]))
        return pool

    async def ServerReflectionInfo(self, requests: AsyncIterator[pb.ServerReflectionRequest], write: Write) -> None:
        """Answers each request in turn."""
        async for request in requests:
            await write(self._answer(request))

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                services = response.list_services_response.service
                services.extend(pb.ServiceResponse(name=name) for name in sorted(self._described))
            elif kind == "all_extension_numbers_of_type":
                extended = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                numbers = response.all_extension_numbers_response
                numbers.base_type_name = extended.full_name
                numbers.extension_number.extend(sorted(one.number for one in self._pool.FindAllExtensions(extended)))
            elif kind is None:
                response.error_response.error_code = _INVALID
                response.error_response.error_message = "expected a question"
            else:
                files = [each.serialized_pb for each in _with_imports(self._file(kind, getattr(request, kind)))]
                response.file_descriptor_response.file_descriptor_proto.extend(reversed(files))
        except KeyError:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = "nothing here goes by that name"
        return response

    def _file(self, kind: str, asked: Any) -> FileDescriptor:
        """Returns the file that a question asks for. Raises KeyError if there is none."""
        pool = self._pool
        if kind == "file_by_filename":
            found = pool.FindFileByName(asked)
        elif kind == "file_containing_extension":
            extended = pool.FindMessageTypeByName(asked.containing_type)
            found = pool.FindExtensionByNumber(extended, asked.extension_number).file
        else:
            try:
                found = pool.FindFileContainingSymbol(asked)
            except KeyError:  # it finds everything but methods
                found = pool.FindMethodByName(asked).containing_service.file
        return cast(FileDescriptor, found)


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """Yields the files that a file imports, directly or indirectly, each after those that it imports; then the file."""
    found: dict[str, FileDescriptor] = {}
    for dependency in file.dependencies:
        found |= {each.name: each for each in _with_imports(dependency)}
    yield from found.values()
    yield file


def _renamed(file: FileDescriptor, ours: str, theirs: str) -> bytes:
    """Returns a serialized file in which the package `ours` has the name that clients call, `theirs`."""
    proto = FileDescriptorProto.FromString(file.serialized_pb)
    if ours == theirs:
        return file.serialized_pb

    def path(name: str) -> str:
        return "/".join((*theirs.split("."), name.rpartition("/")[2]))

    def type_name(name: str) -> str:
        inside = name.removeprefix(f".{ours}.")
        return name if inside == name else f".{theirs}.{inside}"

    proto.dependency[:] = [path(each.name) if each.package == ours else each.name for each in file.dependencies]
    if proto.package == ours:
        proto.package, proto.name = theirs, path(proto.name)
    messages = list(proto.message_type)
    for message in messages:
        messages += message.nested_type
        for field in message.field:
            if field.type_name:
                field.type_name = type_name(field.type_name)
    for method in (method for service in proto.service for method in service.method):
        method.input_type, method.output_type = type_name(method.input_type), type_name(method.output_type)
    return proto.SerializeToString()
