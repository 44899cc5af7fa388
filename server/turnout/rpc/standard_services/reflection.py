"""`grpc.reflection`, v1 and v1alpha: describes the services of a listener under the names that clients call.

The two versions differ only in their package name, so one servicer answers both with messages of v1alpha. If clients
call a service under a different package name than the package of our messages, the service is described under the
clients' name.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import grpc
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
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
        self._names = sorted(self._described)

    # The lookup tables take 10 ms to build, and most servers are never queried, so they are built on first use.

    @cached_property
    def _files(self) -> Mapping[str, FileDescriptorProto]:
        return dict(_files(self._described))

    @cached_property
    def _symbols(self) -> Mapping[str, str]:
        return {symbol: file.name for file in self._files.values() for symbol in _symbols(file)}

    @cached_property
    def _messages(self) -> Set[str]:
        return {symbol for file in self._files.values() for symbol, _ in _messages(file)}

    @cached_property
    def _extensions(self) -> Mapping[tuple[str, int], str]:
        return {
            (extension.extendee.removeprefix("."), extension.number): file.name
            for file in self._files.values()
            for extension in (*file.extension, *(e for _, message in _messages(file) for e in message.extension))
        }

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
                services.extend(pb.ServiceResponse(name=name) for name in self._names)
            elif kind == "file_by_filename":
                self._put(response, request.file_by_filename)
            elif kind == "file_containing_symbol":
                self._put(response, self._symbols[request.file_containing_symbol])
            elif kind == "file_containing_extension":
                asked = request.file_containing_extension
                self._put(response, self._extensions[asked.containing_type, asked.extension_number])
            elif kind == "all_extension_numbers_of_type":
                if (extended := request.all_extension_numbers_of_type) not in self._messages:
                    raise KeyError(extended)
                numbers = response.all_extension_numbers_response
                numbers.base_type_name = extended
                numbers.extension_number.extend(sorted(n for name, n in self._extensions if name == extended))
            else:
                response.error_response.error_code = _INVALID
                response.error_response.error_message = "expected a question"
        except KeyError:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = "nothing here goes by that name"
        return response

    def _put(self, response: pb.ServerReflectionResponse, file: str) -> None:
        """Adds a file and then all files that it imports, directly or indirectly, to a response.

        Raises:
            KeyError: The file does not exist.
        """
        files: dict[str, bytes] = {}
        waiting = [file]
        while waiting:
            if (name := waiting.pop()) not in files:
                files[name] = self._files[name].SerializeToString()
                waiting += self._files[name].dependency
        response.file_descriptor_response.file_descriptor_proto.extend(files.values())


def _messages(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    waiting = [(file.package, message) for message in file.message_type]
    while waiting:
        scope, message = waiting.pop()
        name = f"{scope}.{message.name}"
        yield name, message
        waiting += [(name, nested) for nested in message.nested_type]


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    enums: list[tuple[str, EnumDescriptorProto]] = [(file.package, enum) for enum in file.enum_type]
    for name, message in _messages(file):
        yield name
        enums += [(name, enum) for enum in message.enum_type]
        yield from (f"{name}.{field.name}" for field in (*message.field, *message.extension))
        yield from (f"{name}.{oneof.name}" for oneof in message.oneof_decl)
    for scope, enum in enums:
        yield f"{scope}.{enum.name}"
        yield from (f"{scope}.{value.name}" for value in enum.value)  # siblings of their enum, as in C++
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)
    yield from (f"{file.package}.{extension.name}" for extension in file.extension)


def _files(services: Mapping[str, ServiceDescriptor]) -> Iterator[tuple[str, FileDescriptorProto]]:
    """Yields the files that describe services, with their names. Each file follows the files that it imports."""
    for name, service in services.items():
        rename = _Rename(service.file.package, name.rpartition(".")[0])
        for file in _with_imports(service.file):
            proto = FileDescriptorProto()
            file.CopyToProto(proto)
            if rename.ours != rename.theirs:
                rename.apply(proto, {each.name: each.package for each in file.dependencies})
            yield proto.name, proto


def _with_imports(file: FileDescriptor) -> Sequence[FileDescriptor]:
    found: dict[str, FileDescriptor] = {}
    for dependency in file.dependencies:
        found |= {each.name: each for each in _with_imports(dependency)}
    return [*found.values(), file]


@dataclass(frozen=True, slots=True)
class _Rename:
    """Renames a package in file descriptors, from its name in our files to the one that clients call."""

    ours: str
    theirs: str

    def apply(self, file: FileDescriptorProto, packages: Mapping[str, str]) -> None:
        """Renames the package in a file's definitions and references, in place.

        `packages` are those of the files that it imports, by file name.
        """
        file.dependency[:] = [self._file(name) if packages[name] == self.ours else name for name in file.dependency]
        if file.package == self.ours:
            file.package, file.name = self.theirs, self._file(file.name)
        for _, message in _messages(file):
            for field in message.field:
                if field.type_name:
                    field.type_name = self._name(field.type_name)
        for method in (method for service in file.service for method in service.method):
            method.input_type, method.output_type = self._name(method.input_type), self._name(method.output_type)

    def _file(self, name: str) -> str:
        return "/".join((*self.theirs.split("."), name.rpartition("/")[2]))

    def _name(self, name: str) -> str:
        inside = name.removeprefix(f".{self.ours}.")
        return name if inside == name else f".{self.theirs}.{inside}"
