"""Caches parsed requests, so that requests that differ only in their elements are parsed once. Pure.

A client sends mostly the same bytes in every request: model, version, names, types and shapes. Only the id, the
elements and the send time change. A parsed and checked request is therefore cached as a template, with the constant
bytes as the key, and only the elements of a request with the same constant bytes have to be read. This saves a third of
the processing time of a small request, and two copies of the elements of a large one.

A request of one client decides how requests of other clients are read. The variable fields are therefore located by
walking through the message as a parser does, and a message in which one of these fields is repeated or has an
unexpected wire type is not cached.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from turnout.chunks import Serialized
from turnout.serving.sessions.tensor import Array
from turnout.wire_format import LENGTH_DELIMITED, WireFormatError, read_field, read_varint

_MOST = 4096
"""Maximum number of cached templates."""

_MOST_BYTES = 1024
"""Maximum size of the constant bytes of a cached request; the whole cache holds at most 4 MiB of them."""

_MOST_TENSORS = 64

_MOST_LAYOUTS = 4
"""Maximum number of layouts for one message length."""

_TRIES, _RETRY = 16, 64
"""Number of requests of one length that are cached without a cache hit. After that, only one in `_RETRY` is cached,
which limits the cost of a client whose requests all differ."""

_MOST_NUMBER = 2**64 - 1


class Fields(NamedTuple):
    """Field numbers of the variable fields: the fields in which requests of one template may differ.

    Attributes:
        request: Field of the outer message that contains the request; 0 if the request is the outer message.
        id: Field of the request that contains its id.
        tensor: Field of the request that contains the tensors; 0 if the request contains the elements directly.
        elements: Field of a tensor, or of the request, that contains the elements.
        sent: Field of the outer message that contains the send time, a varint; 0 if there is none.
    """

    request: int
    id: int
    tensor: int
    elements: int
    sent: int


class TensorTemplate(NamedTuple):
    """A numeric tensor in a message.

    Attributes:
        name: Name of the tensor.
        shape: Shape of its array.
        dtype: Dtype of its array.
        at: Position of the elements in the message.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    at: slice


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The constant parts of requests that differ only in the variable fields. They have all been checked.

    Attributes:
        model: Model name as the client writes it.
        selector: Version selector as the client writes it.
        outputs: Names of the requested outputs; empty for all.
        classes: For each output to classify, the number of highest values to return.
        timeout: The request's timeout in seconds; None if it has none.
        routing_key: The request's routing key; "" if it has none.
        id: Position of the request's id in the message; None if it has none.
        sent: Position of the send time in the message; None if it has none.
        tensors: The inputs, in order.
    """

    model: str
    selector: str
    outputs: Sequence[str]
    classes: Mapping[str, int]
    timeout: float | None
    routing_key: str
    id: slice | None
    sent: slice | None
    tensors: tuple[TensorTemplate, ...]


Found = tuple[Template, str, dict[str, Array], int | None]
"""A request that matches a template: the template, the request's id, its tensors by name, and its send time in
milliseconds (None if it has none)."""


class Outline(NamedTuple):
    """The positions of the variable fields in a message.

    Attributes:
        size: Size of the message in bytes.
        id: As for `Template`.
        sent: As for `Template`.
        elements: Positions of the elements of each tensor, in order.
        common: The message's constant bytes.
        key: Returns the constant bytes of any message with this layout.
    """

    size: int
    id: slice | None
    sent: slice | None
    elements: tuple[slice, ...]
    common: object
    key: Callable[[Serialized], object]


@dataclass(slots=True, eq=False)
class _Layout:
    """Messages of one length with the variable fields at the same positions."""

    places: tuple[object, ...]
    key: Callable[[Serialized], object]
    known: dict[object, Template] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Size:
    """Messages of one length."""

    layouts: list[_Layout] = field(default_factory=list)  # the most recent first
    tries: int = 0  # requests cached since the last cache hit
    missed: int = 0  # cache misses


class Templates:
    """The cached requests of one method. Used by the event loop and the conversion thread."""

    def __init__(self, fields: Fields) -> None:
        """Creates an empty cache for messages whose variable fields are `fields`."""
        self._fields = fields
        self._sizes: dict[int, _Size] = {}
        self._count = 0

    def find(self, data: Serialized) -> Found | None:
        """Reads a message with the template that it matches; returns None if it matches none."""
        size = self._sizes.get(len(data))
        if size is None:
            return None
        for layout in size.layouts:
            template = layout.known.get(layout.key(data))
            if template is not None:
                break
        else:
            size.missed += 1
            return None
        request_id, sent = "", None
        try:
            if template.id is not None:
                request_id = data[template.id].decode()
            if template.sent is not None:
                sent = _number(data[template.sent])
        except (UnicodeDecodeError, WireFormatError):
            return None
        size.tries = 0
        inputs = {}
        for name, shape, dtype, at in template.tensors:
            inputs[name] = np.ndarray(shape, dtype, data[at])
        return template, request_id, inputs, sent

    def outline(self, data: bytes) -> Outline | None:
        """Locates the variable fields of an unknown message; returns None if it should not be cached."""
        size = self._sizes.get(len(data))
        if size is not None and size.tries >= _TRIES and size.missed % _RETRY:
            return None
        return outline(data, self._fields)

    def remember(
        self,
        outlined: Outline,
        model: str,
        selector: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        classes: Mapping[str, int],
        timeout: float | None,
        routing_key: str,
    ) -> None:
        """Caches a checked request, unless its elements must be checked each time.

        `outlined` has the positions of the variable fields, `inputs` the arrays by name, in the order of the message.
        The other arguments are attributes of `Template`.
        """
        if len(inputs) != len(outlined.elements) or any(array.dtype.kind in "Ob" for array in inputs.values()):
            return
        if self._count >= _MOST or len(self._sizes) >= _MOST:
            self._sizes.clear()
            self._count = 0
        size = self._sizes.setdefault(outlined.size, _Size())
        places = outlined.id, outlined.sent, outlined.elements
        layout = next((known for known in size.layouts if known.places == places), None)
        if layout is None:
            layout = _Layout(places, outlined.key)
            size.layouts = [layout, *size.layouts[: _MOST_LAYOUTS - 1]]
        tensors = (
            TensorTemplate(name, array.shape, array.dtype, at)
            for (name, array), at in zip(inputs.items(), outlined.elements, strict=True)
        )
        layout.known[outlined.common] = Template(
            model, selector, outputs, classes, timeout, routing_key, outlined.id, outlined.sent, tuple(tensors)
        )
        size.tries += 1
        self._count += 1


def outline(data: bytes, fields: Fields) -> Outline | None:
    """Locates the variable fields of a message; returns None if it cannot be cached."""
    try:
        found = _MessageWalk(data, fields)
        if fields.request:
            found.envelope(0, len(data))
        else:
            found.request(0, len(data))
    except (WireFormatError, IndexError):
        return None
    elements = tuple(found.elements)
    if not 0 < len(elements) <= _MOST_TENSORS:
        return None
    holes = sorted((at for at in (found.id, found.sent, *elements) if at is not None), key=lambda at: at.start)
    kept, start = [], 0
    for hole in holes:
        kept.append(slice(start, hole.start))
        start = hole.stop
    if start < len(data):
        kept.append(slice(start, len(data)))
    if sum(at.stop - at.start for at in kept) > _MOST_BYTES:
        return None
    key = itemgetter(*kept)
    return Outline(len(data), found.id, found.sent, elements, key(data), key)


def _number(data: bytes) -> int:
    """Returns the varint that `data` consists of. Raises WireFormatError if the varint is shorter than that."""
    value, stop = read_varint(data, 0, len(data))
    if stop != len(data):
        raise WireFormatError
    return value & _MOST_NUMBER


class _MessageWalk:
    """Locates the variable fields of a message. Raises WireFormatError if one is repeated or has an unexpected type."""

    def __init__(self, data: bytes, fields: Fields) -> None:
        self._data = data
        self._fields = fields
        self.id: slice | None = None
        self.sent: slice | None = None
        self.elements: list[slice] = []

    def envelope(self, start: int, stop: int) -> None:
        fields, seen = self._fields, False
        for number, wire, at in self._walk(start, stop):
            if number == fields.request:
                if wire != LENGTH_DELIMITED or seen:
                    raise WireFormatError
                seen = True
                self.request(at.start, at.stop)
            elif number == fields.sent:
                if wire or self.sent is not None:
                    raise WireFormatError
                self.sent = at

    def request(self, start: int, stop: int) -> None:
        fields = self._fields
        for number, wire, at in self._walk(start, stop):
            if number == fields.id:
                if wire != LENGTH_DELIMITED or self.id is not None:
                    raise WireFormatError
                self.id = at
            elif fields.tensor and number == fields.tensor:
                if wire != LENGTH_DELIMITED:
                    raise WireFormatError
                before = len(self.elements)
                for inner in self._walk(at.start, at.stop):
                    self._note_elements(*inner)
                if len(self.elements) != before + 1:
                    raise WireFormatError
            elif not fields.tensor:
                self._note_elements(number, wire, at)

    def _note_elements(self, number: int, wire: int, at: slice) -> None:
        if number == self._fields.elements:
            if wire != LENGTH_DELIMITED or len(self.elements) > _MOST_TENSORS:
                raise WireFormatError
            self.elements.append(at)

    def _walk(self, start: int, stop: int) -> list[tuple[int, int, slice]]:
        """Returns the number, the wire type and the position of the value of each field.

        Raises:
            WireFormatError: The message is malformed, or has more fields than a cached request may have.
        """
        at, found = start, list[tuple[int, int, slice]]()
        while at < stop:
            number, wire, at, end = read_field(self._data, at, stop)
            if len(found) > _MOST_BYTES:
                raise WireFormatError
            found.append((number, wire, slice(at, end)))
            at = end
        return found
