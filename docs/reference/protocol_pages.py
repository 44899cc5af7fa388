"""The page of the protocol, from the comments in the .proto files: every service, message and enumeration."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from markdown_text import page, prose, table

_INTRODUCTION = """\
Every gRPC service and message. [Architecture](../architecture.md#listeners) says which service is on which listener,
and [Clients](../clients.md) how to call them. The files are in [protos/](../../protos/). A field that is not set has
its type's zero; an `optional` field distinguishes the two. A `oneof` holds at most one of its fields.
"""

_ORDER = (
    "prediction",
    "catalog",
    "control",
    "traffic",
    "rollout",
    "activity",
    "servers",
    "registry",
    "inference",
    "model_config",
)
"""Files from what clients use to what operators use; the Open Inference Protocol last."""

_NOT_SPOKEN = ("triton",)
"""Folders of files that no message on the wire is made of."""

_MESSAGES, _ENUMS, _SERVICES, _FIELDS, _NESTED, _NESTED_ENUMS = 4, 5, 6, 2, 3, 4
"""Field numbers of descriptor.proto, which paths into a file are made of; `_FIELDS` of values and methods too."""

GENERATOR = Path(__file__).parents[2] / "protos/generate.py"

Comments = Mapping[tuple[int, ...], str]


def protocol_page() -> str:
    """Returns the page's text."""
    files = sorted(_described(), key=lambda file: _ORDER.index(Path(file.name).stem))
    blocks: list[str] = []
    for file in files:
        blocks += _file(file)
    return page("Protocol", "`protos/turnout_proto/**/*.proto`", _INTRODUCTION, *blocks)


def _described() -> list[FileDescriptorProto]:
    """Returns every .proto of ours, comments included."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        subprocess.run([sys.executable, GENERATOR, "--describe", image], check=True)  # noqa: S603 - fixed arguments
        files = FileDescriptorSet.FromString(image.read_bytes()).file
        return [file for file in files if Path(file.name).parent.name not in _NOT_SPOKEN]


def _file(file: FileDescriptorProto) -> Iterator[str]:
    comments = {tuple(at.path): at.leading_comments.strip() for at in file.source_code_info.location}
    # What stands before `syntax` is about the file.
    yield f"## {file.name.removeprefix('turnout_proto/')}\n\nPackage `{file.package}`. {prose(comments[12,])}"
    for index, service in enumerate(file.service):
        yield _service(service, file.package, comments, (_SERVICES, index))
    for index, message in enumerate(file.message_type):
        yield from _message(message, file.package, comments, (_MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        yield _enum(enum, file.package, comments, (_ENUMS, index))


def _heading(name: str, package: str) -> str:
    """Returns a heading with the full name as its anchor: short names stand in several packages.

    The anchor is HTML, which forges and the site read alike; `{ #name }` is read by the site only.
    """
    return f'### {name} <a id="{package}.{name}"></a>'


def _service(service: ServiceDescriptorProto, package: str, comments: Comments, at: tuple[int, ...]) -> str:
    rows = []
    for index, method in enumerate(service.method):
        wanted = _link(method.input_type, package, stream=method.client_streaming)
        given = _link(method.output_type, package, stream=method.server_streaming)
        rows.append((f"`{method.name}`", wanted, given, _comment(comments, (*at, _FIELDS, index))))
    head = _heading(service.name, package).replace("### ", "### Service ")
    return f"{head}\n\n{_comment(comments, at)}\n\n" + table(("method", "takes", "gives", ""), rows)


def _message(message: DescriptorProto, package: str, comments: Comments, at: tuple[int, ...]) -> Iterator[str]:
    entries = {f".{package}.{message.name}.{n.name}": n for n in message.nested_type if n.options.map_entry}
    rows = [
        (f"`{field.name}`", _type(field, message, entries, package), str(field.number),
         _comment(comments, (*at, _FIELDS, index)))
        for index, field in enumerate(message.field)
    ]  # fmt: skip
    text = f"{_heading(message.name, package)}\n\n{_comment(comments, at)}"
    yield text + ("\n\n" + table(("field", "type", "number", ""), rows) if rows else "")
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            inner = DescriptorProto()
            inner.CopyFrom(nested)
            inner.name = f"{message.name}.{nested.name}"
            yield from _message(inner, package, comments, (*at, _NESTED, index))
    for index, enum in enumerate(message.enum_type):
        inner_enum = EnumDescriptorProto()
        inner_enum.CopyFrom(enum)
        inner_enum.name = f"{message.name}.{enum.name}"
        yield _enum(inner_enum, package, comments, (*at, _NESTED_ENUMS, index))


def _enum(enum: EnumDescriptorProto, package: str, comments: Comments, at: tuple[int, ...]) -> str:
    rows = [
        (f"`{value.name}`", str(value.number), _comment(comments, (*at, _FIELDS, index)))
        for index, value in enumerate(enum.value)
    ]
    return f"{_heading(enum.name, package)}\n\n{_comment(comments, at)}\n\n" + table(("value", "number", ""), rows)


def _comment(comments: Comments, at: tuple[int, ...]) -> str:
    lines = [line for line in comments.get(at, "").splitlines() if not line.strip().startswith("buf:lint:")]
    return prose("\n".join(lines))


def _type(
    field: FieldDescriptorProto, message: DescriptorProto, entries: Mapping[str, DescriptorProto], package: str
) -> str:
    if entry := entries.get(field.type_name):
        key, value = (_type(part, entry, {}, package) for part in entry.field)
        return f"map of {key} to {value}"
    written = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = _link(field.type_name, package) if field.type_name else f"`{written}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, oneof `{message.oneof_decl[field.oneof_index].name}`"
    return name


def _link(full: str, package: str, *, stream: bool = False) -> str:
    name = full.removeprefix(".")
    displayed = name.removeprefix(f"{package}.")
    text = f"[`{displayed}`](#{name})" if name.startswith("turnout.") else f"`{displayed}`"
    return f"stream of {text}" if stream else text
