"""Rules for operators of `ai.onnx.ml`, which process one row of features after another. Pure."""

from collections.abc import Mapping, Sequence

from turnout.registry.onnx.graph import CLASSICAL_DOMAIN
from turnout.serving.rowwise.call import NodeCall, Rule
from turnout.serving.rowwise.sizes import ONE, Size
from turnout.serving.rowwise.states import NotRowWise, Rows, State


def _table(call: NodeCall) -> Rows:
    """Returns the state of an input (rows, features). These operators take a one-dimensional input for a single row."""
    rows = call.rows(0)
    if rows.rank != 2 or rows.axis:
        raise NotRowWise("its input is not a table with its rows along the first axis")
    return rows


def _classifier(call: NodeCall) -> Sequence[State]:
    """Classifiers: labels of shape (rows), scores of shape (rows, classes)."""
    rows = _table(call)
    if call.text("post_transform", "NONE") == "PROBIT":
        raise NotRowWise("of two classes, ONNX Runtime writes one score for each row, all of them one after the other")
    scores = rows.with_dimension(1, call.fresh(1, 1)) if len(call.node.outputs) > 1 else rows
    return [rows.with_shape(rows.shape[:1], 0), scores][: len(call.node.outputs)]


def _regressor(call: NodeCall) -> Sequence[State]:
    rows = _table(call)
    name = "n_targets" if call.attribute("n_targets") is not None else "targets"
    return [rows.with_dimension(1, Size(call.integer(name, 1)))]


def _kept(call: NodeCall) -> Sequence[State]:
    return [_table(call)]


def _one_per_row(call: NodeCall) -> Sequence[State]:
    return [_table(call).with_dimension(1, ONE)]


def _looked_up(call: NodeCall) -> Sequence[State]:
    """Each element is looked up separately, whatever the shape."""
    return [call.rows(0)]


RULES: Mapping[tuple[str, str], Rule] = {
    (CLASSICAL_DOMAIN, "CategoryMapper"): _looked_up,
    (CLASSICAL_DOMAIN, "Imputer"): _kept,
    (CLASSICAL_DOMAIN, "LabelEncoder"): _looked_up,
    (CLASSICAL_DOMAIN, "LinearClassifier"): _classifier,
    (CLASSICAL_DOMAIN, "LinearRegressor"): _regressor,
    (CLASSICAL_DOMAIN, "Normalizer"): _kept,
    (CLASSICAL_DOMAIN, "SVMClassifier"): _classifier,
    (CLASSICAL_DOMAIN, "SVMRegressor"): _one_per_row,
    (CLASSICAL_DOMAIN, "Scaler"): _kept,
    (CLASSICAL_DOMAIN, "TreeEnsemble"): _regressor,
    (CLASSICAL_DOMAIN, "TreeEnsembleClassifier"): _classifier,
    (CLASSICAL_DOMAIN, "TreeEnsembleRegressor"): _regressor,
}
