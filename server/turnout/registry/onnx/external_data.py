"""Finds the files with the weights of an ONNX model that are stored outside its own file."""

from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from onnx import ModelProto, NodeProto, TensorProto

from turnout.errors import InvalidModel
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.manifest import MANIFEST_FILE, MODEL_FILE, is_plain_path
from turnout.registry.manifest.names import differing_in_case
from turnout.registry.onnx.messages import graph_tensors, model_nodes, model_tensors, text_of
from turnout.registry.storage.golden import GOLDEN_DIRECTORY

MAX_EXTERNAL_FILES = 4096

# ONNX Runtime interprets the offset of a tensor with this location as an address in its own memory.
_MEMORY_ADDRESS = "_ORT_MEM_ADDR_"


@dataclass(frozen=True, slots=True)
class ExternalFile(JsonForm):
    """A file with weights beside the ONNX file.

    Attributes:
        path: Path relative to the ONNX file's directory, in its plain form. It does not leave the directory.
        min_size: Minimum size of the file in bytes for all tensors to be inside it.
    """

    path: str
    min_size: int


def external_files(model: ModelProto) -> tuple[ExternalFile, ...]:
    """Returns the files with weights of `model`, sorted by path. Does not check that they exist.

    Raises:
        InvalidModel: A file is outside the model's directory, or the description of its data is invalid.
    """
    if any(map(_is_beside, model_nodes(model))):
        raise InvalidModel("an EPContext node keeps its compiled graph in a file of its own; embed it (embed_mode=1)")
    training = [graph for info in model.training_info for graph in (info.initialization, info.algorithm)]
    sizes: dict[str, int] = {}
    for tensor in chain(model_tensors(model), *map(graph_tensors, training)):
        if tensor.data_location == TensorProto.EXTERNAL:
            file = _external_file(tensor)
            sizes[file.path] = max(file.min_size, sizes.get(file.path, 0))
    if len(sizes) > MAX_EXTERNAL_FILES:
        raise InvalidModel(f"the weights are in {len(sizes)} files, at most {MAX_EXTERNAL_FILES} are allowed")
    if alike := differing_in_case(sizes):
        one, other = next(iter(alike.items()))
        raise InvalidModel(f"{one!r} and {other!r} differ in case only, and are one file on many file systems")
    return tuple(ExternalFile(path, size) for path, size in sorted(sizes.items()))


def _is_beside(node: NodeProto) -> bool:
    return node.op_type == "EPContext" and any(a.name == "embed_mode" and a.i == 0 for a in node.attribute)


def _external_file(tensor: TensorProto) -> ExternalFile:
    what = f"tensor {text_of(tensor.name, 'the name of a tensor')!r}"
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        key = text_of(entry.key, f"a key of the external data of {what}")
        if key in entries:
            # Readers differ in which of the two they use, so a check could use one and a load the other.
            raise InvalidModel(f"{what} states the {key} of its external data twice")
        entries[key] = text_of(entry.value, f"the {key} of the external data of {what}")
    if not entries.get("location"):
        raise InvalidModel(f"{what} does not say where its external data is")
    offset, length = (_size(entries.get(key, "0"), key, what) for key in ("offset", "length"))
    return ExternalFile(_inside(entries["location"], what), offset + length)


def _inside(location: str, what: str) -> str:
    path = PurePosixPath(location)
    plain = str(path)
    if path.is_absolute() or ".." in path.parts or location.endswith("/") or _MEMORY_ADDRESS in location:
        raise InvalidModel(
            f"{what} keeps its data in {location[:256]!r}, expected a relative path that does not leave the model's"
            " directory"
        )
    if not is_plain_path(plain):
        raise InvalidModel(f"{what} keeps its data in {location[:256]!r}, which is not a plain relative path")
    if not plain.isprintable():
        raise InvalidModel(f"{what} keeps its data in {location[:256]!r}, which is not printable")
    if path.parts[0].lower() in (MODEL_FILE, MANIFEST_FILE, GOLDEN_DIRECTORY):
        raise InvalidModel(f"{what} keeps its data in {location[:256]!r}, a name that the registry needs for itself")
    return plain


def _size(text: str, key: str, what: str) -> int:
    # int() alone would also accept "-1", " 7" and "1_000", which other readers of the file do not.
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModel(f"{what} has {text[:32]!r} for the {key} of its external data, expected a number of bytes")
    return int(text)
