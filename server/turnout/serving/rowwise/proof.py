"""Follows the batch dimension through a graph, node by node, and decides whether requests may share a run. Pure.

The proof states: if the rows of several requests are concatenated along the batch axes of the inputs, then every output
of the run either is the concatenation, along one axis, of the outputs that the requests would have got alone, or equals
each of them. An operator without a rule proves nothing, and neither does anything computed from it.
"""

import itertools
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from turnout.registry.manifest.signature import Signature, TensorSpec
from turnout.registry.onnx.graph import CLASSICAL_DOMAIN, STANDARD_DOMAIN, Graph, ModelGraph, Node, TensorType
from turnout.serving.rowwise.call import NodeCall
from turnout.serving.rowwise.rules import RULES
from turnout.serving.rowwise.shared import evaluate
from turnout.serving.rowwise.sizes import ONE_ROW, Size, symbol
from turnout.serving.rowwise.states import Mixed, NotRowWise, Rows, RunFails, Shared, State, constant, unknown

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

_MOST_CASES = 16
"""Maximum number of combinations of cases in which one node is examined."""


@dataclass(frozen=True, slots=True)
class Cases:
    """One of several states, the same for every row: the result of an `If` whose condition is not known in advance."""

    states: tuple[Shared | Rows, ...]


Known = State | Cases
Scope = MutableMapping[str, Known]
"""What is known about each tensor, by name."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of the analysis of a graph.

    Attributes:
        output_axes: Batch axis of each output that has one; every other output is the same for all requests.
        obstacle: Why nothing is proved, naming the node; "" if the proof succeeded.
    """

    output_axes: Mapping[str, int] = field(default_factory=dict)
    obstacle: str = ""


def prove_rows(model: ModelGraph, signature: Signature, input_axes: Mapping[str, int]) -> Proof:
    """Follows the batch dimension from the inputs, batched along `input_axes`, to every output.

    Dimensions with the same symbol, except batch axes, are assumed to be equal if their inputs are required. The proof
    holds for requests that satisfy this. Inputs without a batch axis are the same for all requests.
    """
    axes: dict[str, int] = {}
    for name, state in follow(model, signature, input_axes).items():
        match state:
            case Mixed(reason):
                return Proof(obstacle=reason)
            case Cases():
                return Proof(obstacle=f"output {name} has its rows along an axis that is not known before a run")
            case Rows(_, axis) if state.plain:
                axes[name] = axis
            case Rows():
                return Proof(obstacle=f"output {name} does not have one slice for each row: its batch axis is folded")
            case Shared() if state.counts_rows:
                return Proof(obstacle=f"output {name} depends on the number of rows")
    if not axes:
        return Proof(obstacle="no output depends on the rows")
    return Proof(axes)


def follow(model: ModelGraph, signature: Signature, input_axes: Mapping[str, int]) -> dict[str, Known]:
    """Returns what is known about each output."""
    outputs = _GraphWalk(model.opset).through(model.graph, _inputs(signature, input_axes), "")
    return dict(zip(model.graph.outputs, outputs, strict=True))


def follow_everywhere(
    model: ModelGraph, signature: Signature, input_axes: Mapping[str, int]
) -> Mapping[Node, Sequence[Known]]:
    """Returns what is known about the outputs of each node, those of subgraphs included.

    It proves nothing, since the tensors of a loop are followed through its first round only. A node in a branch may
    have several states for each output.
    """
    walk = _GraphWalk(model.opset, seen={})
    walk.through(model.graph, _inputs(signature, input_axes), "")
    return walk.seen or {}


def _inputs(signature: Signature, input_axes: Mapping[str, int]) -> Scope:
    return {spec.name: _input(spec, input_axes.get(spec.name)) for spec in signature.inputs}


def _input(spec: TensorSpec, axis: int | None) -> State:
    sizes = tuple(_size(spec, at) for at in range(len(spec.shape)))
    if axis is None:
        return unknown(sizes)
    if axis >= len(sizes):
        return Mixed(f"input {spec.name} has no axis {axis}")
    return Rows((*sizes[:axis], ONE_ROW, *sizes[axis + 1 :]), axis)


def _size(spec: TensorSpec, axis: int) -> Size:
    match spec.shape[axis]:
        case int(size):
            return Size(size)
        case str(name) if not spec.has_default:  # the default of an input that is not sent may have other sizes
            return symbol(repr(name))  # quoted, so that it cannot equal the name of another symbol
        case _:
            return symbol(f"{spec.name!r}[{axis}]")


class _GraphWalk:
    """Follows states through nested graphs.

    Attributes:
        seen: States of the outputs of each node; None if they are not kept, and loops not followed.
    """

    def __init__(self, opset: Mapping[str, int], seen: dict[Node, list[Known]] | None = None) -> None:
        self._opset = opset
        self.seen = seen

    def through(self, graph: Graph, scope: Scope, place: str) -> list[Known]:
        """Follows one graph and returns the states of its outputs.

        `scope` has the states known so far, those of a subgraph's inputs included, and is extended. `place` is the path
        of the graph among nested graphs.
        """
        for name, tensor in graph.initializers.items():
            if name in graph.inputs and name in scope:
                continue  # callers may override it
            known = constant(tensor.values) if tensor.values is not None else Shared(tuple(map(Size, tensor.shape)))
            _define(scope, name, known)
        for node in graph.nodes:
            states = self._states(node, graph, scope, place)
            if self.seen is not None:
                self.seen.setdefault(node, []).extend(states)
                self._first_round(node, scope, place)
            for index, name in enumerate(node.outputs):
                if name:
                    _define(scope, name, states[index] if index < len(states) else Mixed(f"{node} has fewer outputs"))
        return [scope.get(name, Mixed(f"output {name} is never computed")) for name in graph.outputs]

    def _states(self, node: Node, graph: Graph, scope: Scope, place: str) -> Sequence[Known]:
        inputs: list[tuple[Shared | Rows | None, ...]] = []
        obstacles: list[Mixed] = []
        for name in node.inputs:
            state = scope.get(name) if name else None
            if name and state is None:
                state = Mixed(f"{node} takes {name}, which is not computed before it")
            if isinstance(state, Mixed):
                obstacles.append(state)
            else:
                inputs.append(state.states if isinstance(state, Cases) else (state,))
        if obstacles:  # an input that no run ever computes takes precedence: its outputs cannot be wrong
            return [next((o for o in obstacles if o.fails), obstacles[0])] * len(node.outputs)
        types = tuple(graph.types.get(name, TensorType()) for name in node.outputs)
        cases = list(itertools.islice(itertools.product(*inputs), _MOST_CASES + 1))
        if len(cases) > _MOST_CASES:
            return [Mixed(f"{node}: its inputs depend on too many conditions")] * len(node.outputs)
        results = [
            self._case(NodeCall(node, case, self._opset.get(node.domain, 0), place, types), scope) for case in cases
        ]
        return [
            _joined([states[output] for states in results], f"{place}{node.outputs[output]}")
            for output in range(min(map(len, results)))
        ]

    def _case(self, call: NodeCall, scope: Scope) -> Sequence[Known]:
        node = call.node
        try:
            states = self._apply(call, scope)
        except NotRowWise as found:
            return [Mixed(f"{node}: {found}", fails=isinstance(found, RunFails))] * len(node.outputs)
        except Exception as error:  # noqa: BLE001 - the node violates the standard, so nothing is known
            return [Mixed(f"{node}: it does not conform to its operator's description ({error!r})")] * len(node.outputs)
        if node.subgraphs:
            return states
        return [Mixed(f"{node}: {state.reason}") if isinstance(state, Mixed) else state for state in states]

    def _apply(self, call: NodeCall, scope: Scope) -> Sequence[Known]:
        node = call.node
        if not node.domain and node.op_type == "If":
            return self._if(call, scope)
        _check_deterministic(node)
        for graph in node.inner_graphs():
            for inner in graph.all_nodes():
                _check_deterministic(inner)
        captured = [scope[name] for graph in node.inner_graphs() for name in graph.names_read() if name in scope]
        if any(not isinstance(state, Shared) or state.counts_rows for state in captured):
            raise NotRowWise("a graph inside it uses the rows")
        if not any(isinstance(state, Rows) for state in call.inputs):
            if node.op_type == "Dropout" and call.has(2) and call.constants(2) != [0]:
                raise NotRowWise("it may draw random numbers")
            return evaluate(call)
        rule = RULES.get((node.domain, node.op_type))
        if rule is None:
            raise NotRowWise("it is not known to compute its output row by row")
        return rule(call)

    def _first_round(self, node: Node, scope: Scope, place: str) -> None:
        """Follows the body of a `Loop` or `Scan`, whose inputs are those of the node, except that some are sliced."""
        if node.op_type not in ("Loop", "Scan"):
            return
        count = node.attributes.get("num_scan_inputs")
        for body in node.inner_graphs():
            inside: Scope = ChainMap({}, scope)
            whole = len(body.inputs) - (count if isinstance(count, int) else 0)
            for index, (name, given) in enumerate(zip(body.inputs, node.inputs, strict=False)):
                kept = index < whole and not (node.op_type == "Loop" and index == 0)
                inside[name] = scope.get(given, Mixed(f"{name} is unknown")) if kept else Mixed(f"{name} is a slice")
            self.through(body, inside, f"{place}{node.op_type}/{node.outputs[0]}/")

    def _if(self, call: NodeCall, scope: Scope) -> Sequence[Known]:
        condition = call.given(0)
        call.shared(0)
        assert isinstance(condition, Shared)
        known = condition.constants()
        names = ["then_branch", "else_branch"]
        if known is not None and len(known) == 1:
            names = names[:1] if known[0] else names[1:]
        results = []
        for name in names:
            (branch,) = call.node.subgraphs[name]
            place = f"{call.place}{call.node.outputs[0]}.{name}/"
            results.append(self.through(branch, ChainMap({}, scope), place))
        if len(results) == 1:
            return results[0]
        return [
            _joined(states, f"{call.place}{call.node.outputs[output]}")
            for output, states in enumerate(zip(*results, strict=True))
        ]


def _define(scope: Scope, name: str, state: Known) -> None:
    """Adds a tensor to the scope. If the name is taken, the state becomes `Mixed`, since the name is ambiguous."""
    scope[name] = Mixed(f"two tensors are named {name}") if name in scope else state


def _check_deterministic(node: Node) -> None:
    if node.domain == STANDARD_DOMAIN and node.op_type in _RANDOM:
        raise NotRowWise("it draws random numbers")
    if node.domain not in (STANDARD_DOMAIN, CLASSICAL_DOMAIN) and (node.domain, node.op_type) not in RULES:
        raise NotRowWise("it is an operator that the server does not know")


def _joined(states: Sequence[Known], name: str) -> Known:
    """Returns the state of a tensor called `name` that is one of several, the same one for every row."""
    cases: list[Shared | Rows] = []
    for state in states:
        if isinstance(state, Mixed):
            if state.fails:
                continue
            return state
        for one in state.states if isinstance(state, Cases) else (state,):
            for index, other in enumerate(cases):
                both = _common(one, other, name)
                if both is not None:
                    cases[index] = both
                    break
            else:
                cases.append(one)
    if not cases:
        return states[0]
    return cases[0] if len(cases) == 1 else Cases(tuple(cases))


def _common(one: Shared | Rows, other: Shared | Rows, name: str) -> Shared | Rows | None:
    """Returns the common state of two that differ only in sizes and numbers; None if they differ otherwise."""
    if one is other:
        return one
    if isinstance(one, Rows) and isinstance(other, Rows):
        if (one.rank, one.axis, one.layout) != (other.rank, other.axis, other.layout):
            return None
        return one.with_shape(_sizes(one.shape, other.shape, name), one.axis)
    if isinstance(one, Shared) and isinstance(other, Shared) and not (one.counts_rows or other.counts_rows):
        if one.shape is None or other.shape is None:
            return Shared()
        return unknown(_sizes(one.shape, other.shape, name)) if len(one.shape) == len(other.shape) else None
    return None


def _sizes(one: tuple[Size, ...], other: tuple[Size, ...], name: str) -> tuple[Size, ...]:
    return tuple(a if a == b else symbol(f"{name}[{axis}]") for axis, (a, b) in enumerate(zip(one, other, strict=True)))
