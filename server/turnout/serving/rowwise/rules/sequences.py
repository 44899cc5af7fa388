"""Rules for operators that process each row as a sequence: recurrent networks, attention, embeddings. Pure."""

from collections.abc import Mapping, Sequence

from turnout.registry.onnx.graph import MICROSOFT_DOMAIN, STANDARD_DOMAIN
from turnout.serving.rowwise.call import NodeCall, Rule
from turnout.serving.rowwise.sizes import ONE, Size
from turnout.serving.rowwise.states import NotRowWise, Rows, RunFails, Shared, State


def _recurrent(states: Sequence[int], peepholes: int | None) -> Rule:
    """Returns the rule for RNN, GRU or LSTM: `states` are the inputs with the initial states of each row."""

    def rule(call: NodeCall) -> Sequence[State]:
        rows = call.rows(0)
        call.shared(1, 2, 3, *([] if peepholes is None else [peepholes]))
        first = bool(call.integer("layout", 0))  # whether the batch axis comes first
        if rows.rank != 3:
            raise RunFails(f"it takes 3 dimensions, not {rows.rank}")
        weights = call.given(1).shape
        if weights is not None and len(weights) == 3 and _differ(weights[2], rows.shape[2]):
            raise RunFails(f"it takes {weights[2]} features, not {rows.shape[2]}")
        if rows.axis != (0 if first else 1):
            raise NotRowWise("the batch axis is not the axis that it takes for the batch")
        if call.has(4):
            lengths = call.rows(4)
            if lengths.rank != 1 or lengths.layout != rows.layout:
                raise NotRowWise("its lengths are not those of its rows")
        for index in states:
            if call.has(index):
                begin = call.rows(index)
                if begin.rank != 3:
                    raise RunFails(f"its initial state must have 3 dimensions, not {begin.rank}")
                if begin.axis != (0 if first else 1) or begin.layout != rows.layout:
                    raise NotRowWise("its initial state is not that of its rows")
        time, batch = (rows.shape[1], rows.shape[0]) if first else (rows.shape[0], rows.shape[1])
        directions = Size(2 if call.text("direction", "forward") == "bidirectional" else 1)
        hidden = Size(call.integer("hidden_size", 0))
        if first:
            every = rows.with_shape((batch, time, directions, hidden), 0)
            last = rows.with_shape((batch, directions, hidden), 0)
        else:
            every = rows.with_shape((time, directions, batch, hidden), 2)
            last = rows.with_shape((directions, batch, hidden), 1)
        return [every, last, last][: len(call.node.outputs)]

    return rule


def _differ(one: Size, other: Size) -> bool:
    return None not in (one.constant, other.constant) and one != other


def _batch_first(call: NodeCall, index: int) -> Rows:
    rows = call.rows(index)
    if rows.axis or not rows.plain:
        raise NotRowWise(f"the batch axis is not the first of input {index}")
    return rows


def _bias(call: NodeCall, index: int, *, full: bool = False) -> None:
    """Checks a tensor that is added to scores (rows, heads, queries, keys): of that rank, or shared by all rows.

    With `full`, a shared tensor must have all four dimensions too.
    """
    if not call.has(index):
        return
    state = call.given(index)
    if isinstance(state, Rows):
        if _batch_first(call, index).rank != 4:
            raise NotRowWise("its mask is in a form that is not analysed")
        return
    call.shared(index)
    if state.shape is None or len(state.shape) > 4 or (full and len(state.shape) < 4):
        raise NotRowWise("its mask is in a form that is not analysed")
    if len(state.shape) == 4 and state.shape[0] != ONE:
        raise NotRowWise("its mask may differ from row to row")


def _attention(call: NodeCall) -> Sequence[State]:
    """ONNX's own, since opset 23: queries, keys and values (rows, length, hidden) or (rows, heads, length, width)."""
    query, _, values = (_batch_first(call, index) for index in range(3))
    if any(map(call.has, range(4, len(call.inputs)))) or any(call.node.outputs[1:]):
        raise NotRowWise("its cache is not analysed")
    _bias(call, 3)
    if query.rank != values.rank or query.rank not in (3, 4):
        raise NotRowWise("its inputs are in a form that is not analysed")
    last = values.shape[-1]
    if query.rank == 3:
        heads, groups = call.integer("q_num_heads", 1), call.integer("kv_num_heads", 1)
        width = last / Size(groups)
        last = Size(heads) * width if width is not None else call.fresh(2)
    return [query.with_dimension(query.rank - 1, last)]


def _fused_attention(call: NodeCall) -> Sequence[State]:
    """`com.microsoft.Attention` of (rows, length, hidden)."""
    rows = _batch_first(call, 0)
    call.shared(1, 2)
    if rows.rank != 3 or any(map(call.has, (4, 6))) or any(call.node.outputs[1:]):
        raise NotRowWise("its cache is not analysed")
    if call.has(3):
        _masked(call, 3)
    _bias(call, 5, full=True)
    sizes = call.integers("qkv_hidden_sizes")
    weights = call.given(1)
    third = None if weights.shape is None else weights.shape[-1] / Size(3)
    last = Size(sizes[2]) if sizes else third
    return [rows.with_dimension(2, last if last is not None else call.fresh(2))]


def _masked(call: NodeCall, index: int) -> None:
    """Checks a mask with one axis for rows and others for positions. Vectors of lengths depend on a row's position."""
    state = call.given(index)
    if isinstance(state, Shared) or _batch_first(call, index).rank < 2:
        raise NotRowWise("its mask is in a form that is not analysed")


def _multi_head_attention(call: NodeCall) -> Sequence[State]:
    """`com.microsoft.MultiHeadAttention`: queries, keys and values, each (rows, length, hidden)."""
    rows = _batch_first(call, 0)
    if (
        not (call.has(1) and call.has(2))
        or any(map(call.has, range(6, len(call.inputs))))
        or any(call.node.outputs[1:])
    ):
        raise NotRowWise("its packed inputs and its cache are not analysed")
    values = _batch_first(call, 2)
    if not rows.rank == _batch_first(call, 1).rank == values.rank == 3:
        raise NotRowWise("its inputs are in a form that is not analysed")
    call.shared(3)
    if call.has(4):
        _masked(call, 4)
    _bias(call, 5, full=True)
    return [rows.with_dimension(2, values.shape[2])]


def _embed(call: NodeCall) -> Sequence[State]:
    """`com.microsoft.EmbedLayerNormalization`: token ids and segment ids (rows, length), their mask, tables."""
    ids = _batch_first(call, 0)
    call.shared(2, 3, 4, 5, 6, 8)
    for index in (1, 7):
        if call.has(index) and _batch_first(call, index).rank != 2:
            raise NotRowWise("its inputs are in a form that is not analysed")
    table = call.given(2)
    places = call.given(8).shape if call.has(8) else (ONE,)
    if ids.rank != 2 or not places or places[0] != ONE or table.shape is None or len(table.shape) != 2:
        raise NotRowWise("its inputs are in a form that is not analysed")
    made = Rows((*ids.shape, table.shape[1]), 0)
    return [made, Rows(ids.shape[:1], 0), made][: len(call.node.outputs)]


RULES: Mapping[tuple[str, str], Rule] = {
    (STANDARD_DOMAIN, "Attention"): _attention,
    (STANDARD_DOMAIN, "GRU"): _recurrent((5,), None),
    (STANDARD_DOMAIN, "LSTM"): _recurrent((5, 6), 7),
    (STANDARD_DOMAIN, "RNN"): _recurrent((5,), None),
    (MICROSOFT_DOMAIN, "Attention"): _fused_attention,
    (MICROSOFT_DOMAIN, "EmbedLayerNormalization"): _embed,
    (MICROSOFT_DOMAIN, "MultiHeadAttention"): _multi_head_attention,
}
