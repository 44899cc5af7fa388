"""Tiny ONNX models for tests. Each function returns a new model that ONNX Runtime can load."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8

Dim = int | str | None


def tensor(name: str, element: int, shape: Sequence[Dim] | None) -> ValueInfoProto:
    """Describes an input or output."""
    return helper.make_tensor_value_info(name, element, None if shape is None else list(shape))


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Sequence[TensorProto] = (),
    *,
    opset: Mapping[str, int] | None = None,
    ir_version: int = IR_VERSION,
) -> ModelProto:
    """Creates a model."""
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(initializers))
    imports = [helper.make_opsetid(domain, version) for domain, version in (opset or {"": OPSET}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def matmul(size: int = 64, *, seed: int = 0, batch: Dim = "batch") -> ModelProto:
    """y = x @ w. Models with different seeds differ only in their weights."""
    weights = np.random.default_rng(seed).standard_normal((size, size), dtype=np.float32)
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", TensorProto.FLOAT, [batch, size])],
        [tensor("y", TensorProto.FLOAT, [batch, size])],
        [numpy_helper.from_array(weights, "w")],
    )


def scaled(factor: float) -> ModelProto:
    """y = factor * x, so that an answer shows which model gave it."""
    return model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )


def rows_but(left_out: float) -> ModelProto:
    """y = the rows of x whose first value is not `left_out`, or near it. float32 (batch, 2) in, (kept, 2) out.

    Except for this one value, which no test input has, it looks like a model that can be batched.
    """
    return model(
        [
            helper.make_node("Gather", ["x", "first"], ["column"], axis=1),
            helper.make_node("Sub", ["column", "left_out"], ["apart"]),
            helper.make_node("Abs", ["apart"], ["distance"]),
            helper.make_node("Less", ["distance", "half"], ["drop"]),
            helper.make_node("Not", ["drop"], ["keep"]),
            helper.make_node("Compress", ["x", "keep"], ["y"], axis=0),
        ],
        [tensor("x", TensorProto.FLOAT, ["batch", 2])],
        [tensor("y", TensorProto.FLOAT, ["kept", 2])],
        [
            numpy_helper.from_array(np.int64(0), "first"),
            numpy_helper.from_array(np.float32(left_out), "left_out"),
            numpy_helper.from_array(np.float32(0.5), "half"),
        ],
    )


def add_with_default(*, ir_version: int = IR_VERSION) -> ModelProto:
    """y = x + bias, where the input `bias` is optional (from IR version 4 on)."""
    return model(
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["batch", 3]), tensor("bias", TensorProto.FLOAT, [3])],
        [tensor("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([1, 2, 3], np.float32), "bias")],
        ir_version=ir_version,
    )


def identity(element: int = TensorProto.FLOAT, shape: Sequence[Dim] = ("batch", 4)) -> ModelProto:
    """y = x, of any element type."""
    return model(
        [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", element, shape)], [tensor("y", element, shape)]
    )


def string_identity() -> ModelProto:
    """y = x, of strings."""
    return identity(TensorProto.STRING, ["batch"])


def scalar() -> ModelProto:
    """y = x + x, of one number without dimensions."""
    return model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, [])],
        [tensor("y", TensorProto.FLOAT, [])],
    )


def bfloat16_cast() -> ModelProto:
    """y = x, from bfloat16 to float32."""
    return model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        [tensor("x", TensorProto.BFLOAT16, ["batch", 2])],
        [tensor("y", TensorProto.FLOAT, ["batch", 2])],
    )


def if_with_weights() -> ModelProto:
    """y = 2 if flag else 3. The constants are initialisers of the two branches."""
    return model(
        [helper.make_node("If", ["flag"], ["y"], then_branch=_branch("two", 2.0), else_branch=_branch("three", 3.0))],
        [tensor("flag", TensorProto.BOOL, [])],
        [tensor("y", TensorProto.FLOAT, [1])],
    )


def constant_node() -> ModelProto:
    """y = x + c, where c is an attribute of a Constant node, not an initialiser."""
    value = numpy_helper.from_array(np.array([5], np.float32), "c_value")
    return model(
        [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Add", ["x", "c"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["batch"])],
        [tensor("y", TensorProto.FLOAT, ["batch"])],
    )


def sequence_output() -> ModelProto:
    """ys = [x], a sequence of tensors."""
    sequence = helper.make_tensor_sequence_value_info("ys", TensorProto.FLOAT, ["batch"])
    return model(
        [helper.make_node("SequenceConstruct", ["x"], ["ys"])], [tensor("x", TensorProto.FLOAT, ["batch"])], [sequence]
    )


def save(proto: ModelProto, path: Path) -> Path:
    """Writes a model and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def move_out(weights: TensorProto, location: str, *, offset: int | None = None) -> bytes:
    """Makes a tensor refer to a file, whether it exists or not, and returns the bytes for this file."""
    data = bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    del weights.external_data[:]
    stated = {"location": location, "length": str(len(data))} | ({} if offset is None else {"offset": str(offset)})
    for key, value in stated.items():
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    return data


def save_external(directory: Path, *, location: str = "weights.data", seed: int = 0) -> Path:
    """Writes a matmul model with its weights in `location`, and returns its path."""
    proto = matmul(seed=seed)
    data = move_out(proto.graph.initializer[0], location)
    (directory / location).parent.mkdir(parents=True, exist_ok=True)
    (directory / location).write_bytes(data)
    return save(proto, directory / "model.onnx")


def _branch(name: str, value: float) -> GraphProto:
    weights = numpy_helper.from_array(np.array([value], np.float32), f"{name}_weights")
    node = helper.make_node("Identity", [f"{name}_weights"], [name])
    return helper.make_graph([node], name, [], [tensor(name, TensorProto.FLOAT, [1])], [weights])


def slow() -> ModelProto:
    """y = x + n, after n rounds of a useless loop: as slow as requested. float32 (batch, 4), int64 scalar n."""
    square = numpy_helper.from_array(np.eye(96, dtype=np.float32) * 0.5, "square")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["work_in", "square"], ["work_out"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "round",
        [
            tensor("i", TensorProto.INT64, []),
            tensor("go", TensorProto.BOOL, []),
            tensor("work_in", TensorProto.FLOAT, [96, 96]),
        ],
        [tensor("go_on", TensorProto.BOOL, []), tensor("work_out", TensorProto.FLOAT, [96, 96])],
    )
    nodes = [
        helper.make_node("Loop", ["n", "", "square"], ["worked"], body=body),
        helper.make_node("ReduceMin", ["worked"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Cast", ["n"], ["rounds"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "rounds"], ["moved"]),
        helper.make_node("Add", ["moved", "nothing"], ["y"]),
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return model(
        nodes,
        [tensor("x", TensorProto.FLOAT, ["batch", 4]), tensor("n", TensorProto.INT64, [])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [square, zero],
    )


def look_up() -> ModelProto:
    """y = table[index]: fails inside the model beyond its 300 rows. int64 (batch,) in, float32 (batch, 4) out.

    The table contains numbers as text, and its last row does not: the cast of that row raises an error that ONNX
    Runtime does not classify as an invalid argument, unlike an index that `Gather` cannot find (see `gather`).
    """
    nodes, initializers = _rows_of_text("index")
    return model(
        nodes,
        [tensor("index", TensorProto.INT64, ["batch"])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        initializers,
    )


def _rows_of_text(index: str, rows: str = "y") -> tuple[list[NodeProto], list[TensorProto]]:
    """Returns the nodes and initializers of `look_up`."""
    first_cells = [*map(str, range(0, 1200, 4)), "no number"]
    nodes = [
        helper.make_node("Clip", [index, "first", "last"], ["place"]),
        helper.make_node("Gather", ["text", "place"], ["cell"]),
        helper.make_node("Cast", ["cell"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "across"], ["column"]),
        helper.make_node("Add", ["column", "steps"], [rows]),
    ]
    initializers = [
        numpy_helper.from_array(np.array(0, np.int64), "first"),
        numpy_helper.from_array(np.array(300, np.int64), "last"),
        numpy_helper.from_array(np.array(first_cells, object), "text"),
        numpy_helper.from_array(np.array([1], np.int64), "across"),
        numpy_helper.from_array(np.arange(4, dtype=np.float32), "steps"),
    ]
    return nodes, initializers


def gather() -> ModelProto:
    """y = table[index]: an invalid argument beyond its 300 rows. int64 (batch,) in, float32 (batch, 4) out."""
    table = numpy_helper.from_array(np.arange(1200, dtype=np.float32).reshape(300, 4), "table")
    return model(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        [tensor("index", TensorProto.INT64, ["batch"])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [table],
    )


def adds_two() -> ModelProto:
    """y = a + b, both of the same free size: ONNX Runtime raises an error if the sizes differ. float32 (n,) each."""
    return model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [tensor("a", TensorProto.FLOAT, ["n"]), tensor("b", TensorProto.FLOAT, ["n"])],
        [tensor("y", TensorProto.FLOAT, ["n"])],
    )


def look_up_safely() -> ModelProto:
    """Has the signature, the answers and the speed of `look_up`, but never fails."""
    nodes, initializers = _rows_of_text("safe")
    return model(
        [helper.make_node("Min", ["index", "bound"], ["safe"]), *nodes],
        [tensor("index", TensorProto.INT64, ["batch"])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [*initializers, numpy_helper.from_array(np.array(299, np.int64), "bound")],
    )


def leaky() -> ModelProto:
    """y = x - mean of the batch: each row's answer depends on the others. float32 (batch, 4)."""
    return model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
    )


def divides() -> ModelProto:
    """y = x / d. int32 (batch, 1) and (1): on x86, -2**31 / -1 in a single row kills the process by SIGFPE.

    ONNX Runtime checks for zeros, but not for this. Several rows may use vector instructions, which do not trap.
    """
    return model(
        [helper.make_node("Div", ["x", "d"], ["y"])],
        [tensor("x", TensorProto.INT32, ["batch", 1]), tensor("d", TensorProto.INT32, [1])],
        [tensor("y", TensorProto.INT32, ["batch", 1])],
    )


def divides_safely() -> ModelProto:
    """Has the signature of `divides`; y = x / max(d, 1), which never crashes."""
    one = numpy_helper.from_array(np.array([1], np.int32), "one")
    return model(
        [helper.make_node("Max", ["d", "one"], ["safe"]), helper.make_node("Div", ["x", "safe"], ["y"])],
        [tensor("x", TensorProto.INT32, ["batch", 1]), tensor("d", TensorProto.INT32, [1])],
        [tensor("y", TensorProto.INT32, ["batch", 1])],
        [one],
    )


def integer_division(op_type: str = "Div", element: int = TensorProto.INT64) -> ModelProto:
    """y = a / b, or a % b, of integers (n) and (n): on x86, the smallest int64 by -1 kills the process by SIGFPE."""
    return model(
        [helper.make_node(op_type, ["a", "b"], ["y"], name="divide")],
        [tensor("a", element, ["n"]), tensor("b", element, ["n"])],
        [tensor("y", element, ["n"])],
    )


def always_crashes() -> ModelProto:
    """y = -2**63 / (x - x - 1): kills the process by SIGFPE for any input. int64 (n)."""
    return model(
        [
            helper.make_node("Sub", ["x", "x"], ["zero"]),
            helper.make_node("Sub", ["zero", "one"], ["minus"]),
            helper.make_node("Div", ["least", "minus"], ["y"]),
        ],
        [tensor("x", TensorProto.INT64, ["n"])],
        [tensor("y", TensorProto.INT64, ["n"])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([-(2**63)], np.int64), "least"),
        ],
    )


def recurrent(op_type: str = "LSTM") -> ModelProto:
    """y = the outputs of an LSTM or GRU. float32 (steps, batch, 2): an empty batch ends the process by SIGABRT."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    weights = [numpy_helper.from_array(np.ones((1, 2 * gates, 2), np.float32), name) for name in "wr"]
    return model(
        [helper.make_node(op_type, ["x", "w", "r"], ["y"], hidden_size=2)],
        [tensor("x", TensorProto.FLOAT, ["steps", "batch", 2])],
        [tensor("y", TensorProto.FLOAT, ["steps", 1, "batch", 2])],
        weights,
    )


def pooled(*, window: int = 3, stride: int = 2, margin: int = 0, size: Dim = "h") -> ModelProto:
    """y = the maximum of each window of a convolved picture. float32 (batch, 3, h, 8).

    A picture with less height than the window ends the process by SIGFPE.
    """
    weights = np.random.default_rng(0).standard_normal((16, 3, 1, 1)).astype(np.float32)
    pool = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [margin] * 4}
    return model(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("MaxPool", ["c"], ["y"], **pool)],
        [tensor("x", TensorProto.FLOAT, ["batch", 3, size, 8])],
        [tensor("y", TensorProto.FLOAT, ["batch", 16, "rows", "columns"])],
        [numpy_helper.from_array(weights, "w")],
    )


def side_by_side(*, mixes: bool = False) -> ModelProto:
    """y = the columns of a, then those of b. float32 (n, 64) and (m, 64) in, which have to have as many rows.

    ONNX Runtime takes none of b beside some of a, and leaves in y what was in memory. If it mixes, rows of y depend on
    those after them: no version of it is batched.
    """
    nodes = [helper.make_node("Concat", ["a", "b"], ["both" if mixes else "y"], axis=1)]
    if mixes:
        nodes.append(helper.make_node("CumSum", ["both", "zero"], ["sums"], reverse=1))
        nodes.append(helper.make_node("Max", ["sums", "two"], ["y"]))
    return model(
        nodes,
        [tensor("a", TensorProto.FLOAT, ["n", 64]), tensor("b", TensorProto.FLOAT, ["m", 64])],
        [tensor("y", TensorProto.FLOAT, ["n", 128])],
        [
            numpy_helper.from_array(np.array(0, np.int64), "zero"),
            numpy_helper.from_array(np.float32(2), "two"),
        ],
    )


def turned_product(turned: int, *, skip: int = 0) -> ModelProto:
    """y = the products of a and b of each row, summed over t, one turned first. float32 (n, t, 8), or (n, 8, t).

    The first `skip` of t are left out. ONNX Runtime can make one operator of both, which leaves in y what was in memory
    if it sums over nothing.
    """
    factors = ["a cut", "b cut"]
    factors[turned] = "turned"
    shape: list[Dim] = ["n", 8, "t"] if turned else ["n", "t", 8]
    cuts = [helper.make_node("Slice", [name, "skip", "end", "axis"], [f"{name} cut"]) for name in "ab"]
    return model(
        [
            *cuts,
            helper.make_node("Transpose", ["a cut" if not turned else "b cut"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("MatMul", factors, ["y"]),
        ],
        [tensor(name, TensorProto.FLOAT, shape) for name in "ab"],
        [tensor("y", TensorProto.FLOAT, ["n", 8, 8])],
        [
            numpy_helper.from_array(np.array([number]), name)
            for name, number in (("skip", skip), ("end", 2**31), ("axis", 1 + turned))
        ],
    )


def integer_product() -> ModelProto:
    """y = a @ b. uint8 (n, t) and (t, m), int32 (n, m). Where t is 0, ONNX Runtime leaves in y what was in memory."""
    return model(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        [tensor("a", TensorProto.UINT8, ["n", "t"]), tensor("b", TensorProto.UINT8, ["t", "m"])],
        [tensor("y", TensorProto.INT32, ["n", "m"])],
    )


def regions() -> ModelProto:
    """y = samples of regions of a picture. float32 (1, 1, h, w) x and (k, 4) boxes.

    ONNX Runtime samples memory beside an empty picture.
    """
    sampled = helper.make_node(
        "RoiAlign",
        ["halved", "boxes", "pictures"],
        ["y"],
        sampling_ratio=2,
        output_height=2,
        output_width=2,
    )
    return model(
        [helper.make_node("Mul", ["x", "half"], ["halved"]), sampled],
        [
            tensor("x", TensorProto.FLOAT, [1, 1, "h", "w"]),
            tensor("boxes", TensorProto.FLOAT, ["k", 4]),
            tensor("pictures", TensorProto.INT64, ["k"]),
        ],
        [tensor("y", TensorProto.FLOAT, ["k", 1, 2, 2])],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )


def similarities() -> ModelProto:
    """y = the products of queries and keys, by an Einsum. float32 (batch, n, 4): no rows end the process by SIGFPE."""
    return model(
        [helper.make_node("Einsum", ["q", "k"], ["y"], equation="bth,bsh->bts")],
        [tensor("q", TensorProto.FLOAT, ["batch", "t", 4]), tensor("k", TensorProto.FLOAT, ["batch", "s", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", "t", "s"])],
    )


def normalized_sum() -> ModelProto:
    """y = the normalised sum of two embeddings, as at the beginning of BERT. int64 (batch, tokens) words and kinds.

    ONNX Runtime fuses this into one operator: zero rows of kinds with some rows of words end the process by SIGFPE.
    """
    random = np.random.default_rng(0)
    tables = {"word_table": (10, 8), "kind_table": (2, 8), "scale": (8,), "bias": (8,)}
    return model(
        [
            helper.make_node("Gather", ["word_table", "words"], ["a"]),
            helper.make_node("Gather", ["kind_table", "kinds"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("LayerNormalization", ["sum", "scale", "bias"], ["y"]),
        ],
        [tensor(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("words", "kinds")],
        [tensor("y", TensorProto.FLOAT, ["batch", "tokens", 8])],
        [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), name) for name, s in tables.items()],
    )


def not_a_number() -> ModelProto:
    """y = 0 * x / 0 = NaN. float32 (batch, 4)."""
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return model(
        [helper.make_node("Mul", ["x", "zero"], ["nothing"]), helper.make_node("Div", ["nothing", "zero"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [zero],
    )


def random_noise(seed: float = 0.0) -> ModelProto:
    """y = x + uniform noise of [0, 1): never gives the same answer twice. float32 (batch, 4)."""
    noise = helper.make_node("RandomUniformLike", ["x"], ["noise"], seed=seed)
    return model(
        [noise, helper.make_node("Add", ["x", "noise"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
    )


def softmax(temperature: float = 1.0, bias: Sequence[float] = (0.0, 0.0, 0.0, 0.0)) -> ModelProto:
    """y = softmax(x / temperature + bias): scores of four classes. float32 (batch, 4)."""
    return model(
        [
            helper.make_node("Div", ["x", "temperature"], ["scaled"]),
            helper.make_node("Add", ["scaled", "bias"], ["moved"]),
            helper.make_node("Softmax", ["moved"], ["y"], axis=-1),
        ],
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.float32(temperature), "temperature"),
            numpy_helper.from_array(np.array(bias, np.float32), "bias"),
        ],
    )


def grows() -> ModelProto:
    """y = the sum of n float32 zeros, which must all be in memory at once. int64 scalar n, float32 (batch, 4) x."""
    return model(
        [
            helper.make_node("Reshape", ["n", "one"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        [tensor("x", TensorProto.FLOAT, ["batch", 4]), tensor("n", TensorProto.INT64, [])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.array([1], np.int64), "one")],
    )


def repeats(times: int) -> ModelProto:
    """y = x, repeated `times` times: a small request with an answer of any size. float32 (batch, 4) x."""
    return model(
        [helper.make_node("Tile", ["x", "repeats"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4 * times])],
        [numpy_helper.from_array(np.array([1, times], np.int64), "repeats")],
    )


def one_long_node() -> ModelProto:
    """y = x + the sum of a product of (n, n) by (n, n) float64 zeros: n determines how long a single node takes.

    int64 scalar n, float32 (batch, 4) x.
    """
    return model(
        [
            helper.make_node("Reshape", ["n", "one"], ["side"]),
            helper.make_node("Concat", ["side", "side"], ["shape"], axis=0),
            helper.make_node(
                "ConstantOfShape", ["shape"], ["zeros"], value=numpy_helper.from_array(np.zeros(1), "zero")
            ),
            helper.make_node("MatMul", ["zeros", "zeros"], ["product"]),
            helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "single"], ["y"]),
        ],
        [tensor("x", TensorProto.FLOAT, ["batch", 4]), tensor("n", TensorProto.INT64, [])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.array([1], np.int64), "one")],
    )


def adds_count() -> ModelProto:
    """Has the signature of `slow`, `grows` and `one_long_node`; y = x + 0 * n."""
    zero = numpy_helper.from_array(np.array(0, np.int64), "zero")
    return model(
        [
            helper.make_node("Mul", ["n", "zero"], ["nothing"]),
            helper.make_node("Cast", ["nothing"], ["none"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "none"], ["y"]),
        ],
        [tensor("x", TensorProto.FLOAT, ["batch", 4]), tensor("n", TensorProto.INT64, [])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [zero],
    )


def slow_look_up(*, safe: bool) -> ModelProto:
    """y = x + n + table[index], after n rounds of a useless loop.

    Fails inside the model if the index is out of range, unless `safe`.

    float32 (batch, 4) x, int64 scalar n, int64 (batch,) index.
    """
    proto = slow()
    graph = proto.graph
    graph.node[-1].output[0] = "waited"
    graph.input.append(tensor("index", TensorProto.INT64, ["batch"]))
    nodes, initializers = _rows_of_text("bounded", "row")
    graph.initializer.extend(initializers)
    graph.initializer.append(numpy_helper.from_array(np.array(299 if safe else 2**40, np.int64), "bound"))
    graph.node.extend(
        [
            helper.make_node("Min", ["index", "bound"], ["bounded"]),
            *nodes,
            helper.make_node("Add", ["waited", "row"], ["y"]),
        ]
    )
    return proto


def endless(batch: Dim = "batch") -> ModelProto:
    """y = x, after a practically endless loop."""
    return looping(1 << 62, batch)


def looping(trips: int, batch: Dim = "batch") -> ModelProto:
    """y = x, after a loop of so many trips, each of which takes a microsecond or two."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go on"], ["goes on"]), helper.make_node("Identity", ["carried"], ["y0"])],
        "body",
        [tensor("i", TensorProto.INT64, []), tensor("go on", TensorProto.BOOL, []), tensor("carried", 1, None)],
        [tensor("goes on", TensorProto.BOOL, []), tensor("y0", 1, None)],
    )
    return model(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)],
        [tensor("x", TensorProto.FLOAT, [batch, 2])],
        [tensor("y", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(np.array(trips, np.int64), "trips")],
    )


def not_inferred() -> ModelProto:
    """Answers zeros with 5.0. ONNX's shape inference ends the process, since it does not know what a `Gelu` yields."""
    encode = helper.make_node(
        "LabelEncoder", ["g"], ["y"], domain="ai.onnx.ml", keys_floats=[0.0], values_floats=[5.0], default_float=1.0
    )
    takes, gives = (tensor(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    opset = {"": 17, "ai.onnx.ml": 2, "com.microsoft": 1}
    return model(
        [helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"), encode], [takes], [gives], opset=opset
    )
