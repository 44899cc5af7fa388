"""Parses requests once that differ only in their elements. Pure.

A client sends the same bytes again and again: its model, version, names, types and shapes; only the id, the elements
and the time of sending change. So a parsed and checked request is kept under those bytes, and of a request with the
same bytes only the elements have to be read. That saves a third of the time that a small request takes here, and a
large one two copies of its elements.

One client's request decides how another's is read. What may differ is therefore found by walking through the message as
a parser does, and a message in which one of these fields is not where it is there once is not remembered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from turnout.serving.sessions.tensor import Array
from turnout.wire_format import LENGTH_DELIMITED, WireFormatError, read_varint

_MOST = 4096
"""Most requests to remember."""

_MOST_BYTES = 1024
"""Of a request without what may differ, to be remembered: four megabytes of them all."""

_MOST_TENSORS = 64

_MOST_LAYOUTS = 4
"""Of one length."""

_TRIES, _RETRY = 16, 64
"""So many requests of one length are remembered without one of them coming again; then one in so many is. A client that
puts something of its own into each request costs no more than that."""

_MOST_NUMBER = 2**64 - 1

_FIXED = {1: 8, 5: 4}
"""Bytes of a field by wire type."""


class Fields(NamedTuple):
    """Numbers of the fields of a message that may differ from request to request.

    Attributes:
        request: Of the message that holds all the others; 0 if that is the whole.
        id: Of the request's name.
        tensor: Of the messages that hold the elements; 0 if these are in the request itself.
        elements: Of the elements of a tensor.
        sent: Of the time of sending, a number beside the request; 0 for none.
    """

    request: int
    id: int
    tensor: int
    elements: int
    sent: int


class TensorTemplate(NamedTuple):
    """A tensor of numbers in a message: its name, its array's shape and dtype, and where its elements are."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    at: slice


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What all requests of one kind share; all of it has been checked.

    Attributes:
        model, selector: As the client writes them.
        outputs: Names of the outputs wanted; none means all.
        classes: For each output that is to be classified, how many of its highest values are wanted.
        timeout: The request's timeout in seconds; None if it has none.
        routing_key: Of the request itself; "" for none.
        id: Where the request's name is; None if there is none.
        sent: Where the time of sending is; None if there is none.
        tensors: In order.
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
"""A request that is like one before: what it has in common with it, its own id, its tensors by name, and when it was
sent, None if it does not say."""


class Outline(NamedTuple):
    """Where the parts of a message are that may differ.

    Attributes:
        size: Of the message.
        id, sent: As of `Template`.
        elements: Of its tensors, in order.
        common: What is outside of all these.
        key: Returns that of any message of this layout.
    """

    size: int
    id: slice | None
    sent: slice | None
    elements: tuple[slice, ...]
    common: object
    key: Callable[[bytes], object]


@dataclass(slots=True, eq=False)
class _Layout:
    """Messages that may differ in the same places."""

    places: tuple[object, ...]
    key: Callable[[bytes], object]
    known: dict[object, Template] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Size:
    """Messages of one length.

    Attributes:
        layouts: The latest first.
        tries: Requests that were remembered since one came again.
        missed: Requests that were not known.
    """

    layouts: list[_Layout] = field(default_factory=list)
    tries: int = 0
    missed: int = 0


class Templates:
    """The requests of one method that are remembered. Used by the event loop and the conversion thread."""

    def __init__(self, fields: Fields) -> None:
        """Prepares; `fields` are the protocol's."""
        self._fields = fields
        self._sizes: dict[int, _Size] = {}
        self._count = 0

    def find(self, data: bytes) -> Found | None:
        """Returns a message's request by the template that it matches; None if it matches none."""
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
                sent = _number(data, template.sent)
        except (UnicodeDecodeError, WireFormatError):
            return None
        size.tries = 0
        inputs = {}
        for name, shape, dtype, at in template.tensors:
            inputs[name] = np.ndarray(shape, dtype, data[at])
        return template, request_id, inputs, sent

    def outline(self, data: bytes) -> Outline | None:
        """Returns the places where an unknown message may differ; None if it is not to be remembered."""
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
        """Keeps a checked request, unless its elements have to be checked each time.

        Args:
            outlined: Its places.
            model: As of `Template`.
            selector: As of `Template`.
            inputs: By name, in the order of the message.
            outputs: As of `Template`.
            classes: As of `Template`.
            timeout: As of `Template`.
            routing_key: As of `Template`.
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
    """Returns the places where a message may differ; None if it is not to be remembered."""
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


def _number(data: bytes, at: slice) -> int:
    """Returns the number that takes up a place. Raises Malformed if it is shorter."""
    value, stop = read_varint(data, at.start, at.stop)
    if stop != at.stop:
        raise WireFormatError
    return value & _MOST_NUMBER


class _MessageWalk:
    """Looks for what may differ in a message. Raises Malformed if one of these fields is there twice."""

    def __init__(self, data: bytes, fields: Fields) -> None:
        self._data = data
        self._fields = fields
        self.id: slice | None = None
        self.sent: slice | None = None
        self.elements: list[slice] = []

    def envelope(self, start: int, stop: int) -> None:
        """Walks through a message that holds the request."""
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
        """Walks through the request."""
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
                self._tensor(at.start, at.stop)
                if len(self.elements) != before + 1:
                    raise WireFormatError
            elif not fields.tensor:
                self._note_elements(number, wire, at)

    def _tensor(self, start: int, stop: int) -> None:
        for number, wire, at in self._walk(start, stop):
            self._note_elements(number, wire, at)

    def _note_elements(self, number: int, wire: int, at: slice) -> None:
        if number == self._fields.elements:
            if wire != LENGTH_DELIMITED or len(self.elements) > _MOST_TENSORS:
                raise WireFormatError
            self.elements.append(at)

    def _walk(self, start: int, stop: int) -> list[tuple[int, int, slice]]:
        """Returns number, wire type and place of the value of each field; not many, or they are not remembered."""
        data, at = self._data, start
        found: list[tuple[int, int, slice]] = []
        while at < stop:
            tag, at = read_varint(data, at, stop)
            wire = tag & 7
            if wire == LENGTH_DELIMITED:
                size, at = read_varint(data, at, stop)
                end = at + size
            elif wire == 0:
                end = read_varint(data, at, stop)[1]
            elif wire in _FIXED:
                end = at + _FIXED[wire]
            else:
                raise WireFormatError
            if end > stop or len(found) > _MOST_BYTES:
                raise WireFormatError
            found.append((tag >> 3, wire, slice(at, end)))
            at = end
        return found
