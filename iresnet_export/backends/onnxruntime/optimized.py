"""What ONNX Runtime makes of a graph: the one that it really computes, with its precisions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iresnet_export.errors import ExportError
from iresnet_export.graph.precision import NAMES
from iresnet_export.quantization.codes import Quantization
from iresnet_export.quantization.kept import is_kept
from iresnet_export.system.machine import products_of_codes_overflow
from iresnet_models.temporary import temporary_folder

if TYPE_CHECKING:
    import onnx

_INTEGER = {"QLinearConv": "int8", "ConvInteger": "int8", "QGemm": "int8", "QLinearMatMul": "int8", "MatMulIntegerToFloat": "int8"}
_FLOATING = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
Made = TypeVar("Made")
EXACT_PRODUCTS = "session.x64quantprecision"
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_OF_PLACES = (*_FLOATING, "Add", "Mul", "Relu", "MaxPool", "GlobalAveragePool", "Flatten")
"""What a network's places are made of, in float."""
_GIVING = ("DequantizeLinear", "Mul", "Add")
"""What gives a value of the inside besides, in float32."""
_WARNINGS, _ERRORS = 2, 3
"""Severities of ONNX Runtime's logger; the first is its default."""
_CARRYING = (*_CONVERSIONS, "Transpose", "ReorderInput", "ReorderOutput")
"""What changes no value but by rounding it to codes."""


def keep_operations(options: Any, fuse: bool) -> None:
    """Without `fuse` a session keeps to each operation as it stands.

    ONNX Runtime 1.31 takes fp8's pairs for int8's: it leaves out ReLUs before them, and makes integer convolutions of them that it
    then refuses.
    """
    import onnxruntime as ort

    if not fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


def with_exact_codes(make: Callable[[], Made], options: Any) -> tuple[Made, str | None]:
    """A session that adds up products of codes where they do not overflow, and what is to be said of that, if anything is.

    On x86 without VNNI ONNX Runtime else adds up two products of uint8 and int8 in 16 bits, and cuts off what exceeds them: the
    signal to noise of an untrained iResNet-18 was 14 dB in place of 21. Its other way is slower, and ONNX Runtime 1.31 has it for
    no graph whose layers share a zero point of their weights.
    """
    overflow = products_of_codes_overflow()
    if overflow is False:
        return make(), None
    here = "this processor has no VNNI" if overflow else "whether this processor has VNNI is not known"
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    try:
        return make(), (
            f"{here}: without it ONNX Runtime cuts off sums of int8 products, and {EXACT_PRODUCTS}=1 is set; set it in "
            "production too, on such processors"
        )
    except Exception:  # of whatever kind: without it the file loads, or says why not
        with _unremarked():
            options.add_session_config_entry(EXACT_PRODUCTS, "0")
        return make(), f"{here}: without it ONNX Runtime cuts off sums of int8 products of this file"


@contextmanager
def _unremarked() -> Iterator[None]:
    """ONNX Runtime remarks on the terminal that an entry is there already, and has no way to take one back."""
    import onnxruntime as ort

    ort.set_default_logger_severity(_ERRORS)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


def optimised_graph(path: Path, providers: list[Any]) -> onnx.ModelProto:
    """The graph that a session of these providers computes, after all optimisation, with types where it gives them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    with writing_optimised(options) as optimised:
        with_exact_codes(lambda: ort.InferenceSession(str(path), options, providers=providers), options)
        return optimised()


@contextmanager
def writing_optimised(options: Any) -> Iterator[Callable[[], onnx.ModelProto]]:
    """Has the session that is made with these options write down its graph; what is yielded reads it."""
    with temporary_folder() as folder:
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        yield lambda: _read(options.optimized_model_filepath)


def _read(path: str) -> onnx.ModelProto:
    import onnx

    return onnx.load(path)


def computed_precisions(model: onnx.ModelProto) -> list[str]:
    """The precision of every convolution and linear layer of an optimised graph, by the type of its weights.

    ONNX Runtime makes convolutions of multiplications by a number for each channel, which are none of the network's layers.
    """
    import onnx

    factors = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 4 and set(tensor.dims[1:]) == {1}}
    types = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type).lower() for tensor in model.graph.initializer}
    names = {**NAMES, "float": "fp32"}
    found = []
    for node in model.graph.node:
        if node.op_type in _INTEGER:
            found.append(_INTEGER[node.op_type])
        elif node.op_type in _FLOATING and not factors.intersection(node.input):
            found.append(next((names.get(types[name], types[name]) for name in node.input if name in types), "fp32"))
    return found


def require_integers(model: onnx.ModelProto, quantization: Quantization) -> dict[str, int]:
    """The operators of an optimised int8 graph. Raises ExportError if anything between its first and last layer is not in integers.

    Every convolution must be a QLinearConv, every addition a QLinearAdd, every multiplication a QLinearMul, and no value may be
    converted to float and back. Where places are kept in float32, all of that holds but for them and what goes in and out of them.
    """
    nodes, kept = list(model.graph.node), quantization.kept
    layers = [index for index, node in enumerate(nodes) if node.op_type in (*_INTEGER, *_FLOATING)]
    inside = nodes[layers[0] : layers[-1] + 1]
    wiring = _Wiring(nodes, kept)
    operators = (*_FLOATING, *_CONVERSIONS, "Add", "Mul", "Relu", "MaxPool", "Cast")
    islands = [
        node
        for node in inside
        if node.op_type in operators and not (_pools_codes(node, model) or wiring.is_of_kept(node) or wiring.is_only_given(node))
    ]
    if islands:
        raise ExportError(
            f"ONNX Runtime {_version()} would compute {len(islands)} operations of this int8 graph in float, the first of them "
            f"{islands[0].op_type} at {islands[0].name or islands[0].output[0]}.",
            "Use another version of onnxruntime.",
        )
    count = sum(node.op_type in _FLOATING for node in inside)
    if count < len(quantization.floating):  # more there may be: it makes convolutions of multiplications
        raise ExportError(
            f"ONNX Runtime {_version()} would compute {count} layers of this graph in float, and {len(quantization.floating)} are "
            f"to be kept so ({', '.join(kept)}).",
            "Use another version of onnxruntime.",
        )
    return dict(Counter(node.op_type for node in nodes).most_common())


class _Wiring:
    """Which nodes of an optimised graph belong to places that are kept in float: by their names, or since they lead in or out."""

    def __init__(self, nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> None:
        self._kept = kept
        self._producers = {name: node for node in nodes for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self._consumers[name].append(node)

    def is_only_given(self, node: onnx.NodeProto) -> bool:
        """Whether a value leads to outputs alone, so that the network itself does not go on with it."""
        return node.op_type in _GIVING and all(
            self.is_only_given(reader) for name in node.output for reader in self._consumers[name]
        )

    def is_of_kept(self, node: onnx.NodeProto) -> bool:
        if not self._kept:
            return False
        if node.op_type not in _CONVERSIONS:
            return self._is_kept(node)
        return self._leads_in(node) or self._comes_out(node)

    def _is_kept(self, node: onnx.NodeProto) -> bool:
        return bool(node.name) and node.op_type in _OF_PLACES and is_kept(node.name, self._kept)

    def _leads_in(self, node: onnx.NodeProto) -> bool:
        """Whether everything that reads a value is kept."""
        readers = [reader for name in node.output for reader in self._consumers[name]]
        return bool(readers) and all(
            self._leads_in(reader) if reader.op_type in _CARRYING else self._is_kept(reader) for reader in readers
        )

    def _comes_out(self, node: onnx.NodeProto) -> bool:
        """Whether a value comes from what is kept."""
        producer = self._producers.get(node.input[0])
        if producer is None:
            return False
        return self._comes_out(producer) if producer.op_type in _CARRYING else self._is_kept(producer)


def _pools_codes(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether it is a max pool, which takes codes under the name that it has for floats too."""
    if node.op_type != "MaxPool":
        return False
    producer = next((other for other in model.graph.node if node.input[0] in other.output), None)
    return producer is not None and (
        producer.op_type.startswith("QLinear") or producer.op_type in ("Clip", "Transpose", "QuantizeLinear")
    )


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
