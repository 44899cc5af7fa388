"""Reads the weights of a version by content, independent of their names and locations.

A weight is a tensor in the graph, in one of its subgraphs or in a function: an initialiser, or the value of a Constant
node. Its content consists of element type, shape and bytes. Tensors outside the ONNX file are read in blocks, so that
they do not add to the memory used for the file itself.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from turnout.registry.manifest.digest import BLOCK
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.onnx.messages import model_nodes, model_tensors
from turnout.registry.storage.files import open_inside


@dataclass(frozen=True, slots=True)
class Weight(JsonForm):
    """One tensor.

    Attributes:
        dtype: ONNX's number for the element type.
        size: Size in bytes.
        content: Digest of element type, shape and bytes.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    size: int
    content: str

    AS_LIST = True


@dataclass(frozen=True, slots=True)
class Weights(JsonForm):
    """All tensors and operators of a version.

    Attributes:
        tensors: Tensors in the order of the graph.
        operators: Number of occurrences in the graph, by digest of operator and attributes.
    """

    tensors: tuple[Weight, ...]
    operators: Mapping[str, int]

    @property
    def contents(self) -> Counter[str]:
        """Number of occurrences of each content, regardless of names and order."""
        return Counter(weight.content for weight in self.tensors)


def read_weights(directory: Path, file: str = MODEL_FILE) -> Weights:
    """Reads the weights of the model in `directory`.

    Raises:
        OSError: A file cannot be read.
        ValueError: The data of a tensor does not match its description.
    """
    model: ModelProto = onnx.load(directory / file, load_external_data=False)
    tensors = tuple(_weight(tensor, directory) for tensor in model_tensors(model))
    return Weights(tensors, Counter(map(_operator, model_nodes(model))))


def _operator(node: NodeProto) -> str:
    """Returns a digest of a node's operator and attributes, except tensors and graphs, which are visited separately."""
    hashed = hashlib.sha256(f"{node.domain}\0{node.op_type}\0{len(node.input)}".encode())
    for attribute in sorted(node.attribute, key=lambda a: str(a.name)):
        if not (attribute.HasField("t") or attribute.HasField("g") or attribute.graphs):
            hashed.update(attribute.SerializeToString(deterministic=True))
    return hashed.hexdigest()


def _weight(tensor: TensorProto, directory: Path) -> Weight:
    shape = tuple(tensor.dims)
    hashed = hashlib.sha256(f"{tensor.data_type}{shape}".encode())
    if tensor.data_location == TensorProto.EXTERNAL:
        size = _hash_outside(tensor, directory, hashed)
    elif tensor.data_type == TensorProto.STRING:
        size = sum(map(len, tensor.string_data))
        for text in tensor.string_data:
            hashed.update(len(text).to_bytes(8, "little") + text)
    elif tensor.raw_data:
        size = len(tensor.raw_data)
        hashed.update(tensor.raw_data)
    else:  # stored in the field of its element type; hashed in the form that raw_data would have
        data = numpy_helper.to_array(tensor).tobytes()
        size = len(data)
        hashed.update(data)
    return Weight(tensor.name, tensor.data_type, shape, size, hashed.hexdigest())


def _hash_outside(tensor: TensorProto, directory: Path, hashed: "hashlib._Hash") -> int:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset = int(entries.get("offset", "0"))
    with open_inside(directory, str(PurePosixPath(entries["location"]))) as file:
        file.seek(0, 2)
        left = size = int(entries["length"]) if "length" in entries else file.tell() - offset
        file.seek(offset)
        while left > 0:
            block = file.read(min(left, BLOCK))
            if not block:
                raise ValueError(f"{entries['location']} ends before a tensor does")
            hashed.update(block)
            left -= len(block)
    return size
