"""TorchScript: traced, frozen, and free of the paths that tracing leaves in it."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, ExportJob, Session, require_trusted
from iresnet_export.backends.eager import torch_threads
from iresnet_export.errors import ArtifactError, ExportError
from iresnet_export.layers import Kind, Layer, array_of, conv_attributes, float32
from iresnet_export.observing import ATEN_KINDS, Observer, Operation, Wiring, pool_attributes
from iresnet_export.precision import precision_of, widest
from iresnet_models.deployed import Precision

METADATA_FILE = "iresnet-export.json"


class TorchScript(Backend):
    name: ClassVar[str] = "torchscript"
    format: ClassVar[Format] = "torchscript"
    native: ClassVar[bool] = True
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")

    def export(self, job: ExportJob) -> dict[str, Any]:
        size = job.network.spec.image_size
        example = torch.zeros(2, 3, size, size)
        if job.options.with_preprocessing:
            example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        with _deprecation_expected():
            job.progress("Tracing", 0.0)
            try:
                traced = torch.jit.trace(job.network.eval(), example)  # type: ignore[no-untyped-call]
            except Exception as error:
                raise ExportError(f"torch.jit.trace refused the network: {error}") from error
            job.progress("Freezing", 0.5)
            # Only the weights become constants. Numeric rewrites would round them: they stay the checkpoint's, bit by bit.
            frozen = torch.jit.freeze(traced, optimize_numerics=False)
            job.progress("Writing", 0.8)
            # Torch's own writer of files ends the process where a disk is full, so it writes to memory.
            whole = io.BytesIO()
            torch.jit.save(frozen, whole, _extra_files={METADATA_FILE: json.dumps(job.identity)})
        job.path.write_bytes(_without_debug_records(whole).getbuffer())
        job.progress("Writing", 1.0)
        return {}

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> ScriptSession:
        require_trusted(artifact, trust)
        return ScriptSession(artifact, device, threads)

    def observer(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> ScriptObserver:
        require_trusted(artifact, trust)
        return ScriptObserver(artifact, device)


class ScriptObserver(Observer):
    """A script's graph, run as a function that gives further values."""

    def __init__(self, artifact: Artifact, device: torch.device) -> None:
        from iresnet_export.identity import normalises

        self._module = _frozen(load_script(artifact.path, device))
        self._graph = self._module.graph
        self.operations = _operations(self._graph)
        self.with_preprocessing = normalises(artifact)

    @property
    def layers(self) -> list[Layer]:
        return layers_of_script(self._module)

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        graph = self._graph.copy()
        nodes = [node for node in graph.nodes() if node.kind().removeprefix("aten::") in ATEN_KINDS]
        values = [nodes[index].output() for index in wanted]
        both = graph.create("prim::TupleConstruct", values, 1)
        both.output().setType(torch._C.TupleType([value.type() for value in values]))
        graph.appendNode(both)
        for _ in list(graph.outputs()):
            graph.eraseOutput(0)
        graph.registerOutput(both.output())
        function = torch._C._create_function_from_graph("observed", graph)
        with torch.inference_mode():
            return [value.float() for value in function(self._module._c, batch)]


class ScriptSession(Session):
    def __init__(self, artifact: Artifact, device: torch.device, threads: int | None) -> None:
        self.device = device
        from iresnet_export.identity import normalises

        self._module, self._threads = load_script(artifact.path, device), threads
        self.with_preprocessing = normalises(artifact)
        weights = [layer.tensors["weight"] for layer in layers_of_script(self._module) if "weight" in layer.tensors]
        self.computed_precision = widest([precision_of(values.dtype) for values in weights if values.ndim > 1])

    def run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch_threads(self._threads):
            found: Tensor | tuple[Tensor, Tensor] = self._module(batch)
        return found if isinstance(found, Tensor) else found[0]


def load_script(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """A TorchScript file on a device; ArtifactError if it is not one."""
    try:
        with _deprecation_expected():
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
            return module
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ArtifactError(
            f"torch {torch.__version__} cannot load {path} as TorchScript ({first}). It is damaged, or was made by another version "
            "or by torch.jit.optimize_for_inference, whose weights torch does not save. Export or copy it again."
        ) from error


def layers_of_script(module: torch.jit.ScriptModule) -> list[Layer]:
    """Every convolution, BatchNorm and linear layer of a graph, in execution order, with its constant inputs."""
    layers = []
    for node in _frozen(module).graph.nodes():
        if node.kind() in ("aten::_convolution", "aten::conv2d"):
            layers.append(_conv(node))
        elif node.kind() == "aten::batch_norm":
            layers.append(_batch_norm(node))
        elif node.kind() in ("aten::linear", "aten::addmm"):
            layers.append(_linear(node))
        elif node.kind() in ("aten::mul", "aten::add", "aten::sub"):
            layers += _with_constant(node)
    return layers


def _frozen(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A module whose weights are constants of its graph."""
    if not any(True for _ in module.parameters()):
        return module
    with _deprecation_expected():
        frozen: torch.jit.ScriptModule = torch.jit.freeze(module.eval(), optimize_numerics=False)
        return frozen


def _operations(graph: Any) -> list[Operation]:
    """The operations of a graph, in its order; what only carries a value along has it as its first input."""
    found, wiring = list[Operation](), Wiring[str]()
    for node in graph.nodes():
        kind = ATEN_KINDS.get(node.kind().removeprefix("aten::"))
        sources = [value.debugName() for value in node.inputs() if value.node().kind() != "prim::Constant"]
        if kind is not None:
            tensors = [value for value in node.inputs() if value.type().isSubtypeOf(torch._C.TensorType.get())]
            read = [value.debugName() for value in tensors if value.node().kind() != "prim::Constant"]
            found.append(Operation(kind, "", wiring.operation(read, node.output().debugName()), _pooling(node)))
        elif sources and node.outputsSize() == 1:
            wiring.carry(sources[0], node.output().debugName())
    return found


def _pooling(node: Any) -> tuple[Any, ...]:
    if node.kind() != "aten::max_pool2d":
        return ()
    _, kernel, stride, padding, _dilation, ceil = node.inputs()
    pads = _integers(padding)
    return pool_attributes(_integers(kernel), _integers(stride), (*pads, *pads), ceil.toIValue())


def _constants(node: Any, **positions: int) -> dict[str, Any]:
    inputs = list(node.inputs())
    values = {name: inputs[position].toIValue() for name, position in positions.items()}
    return {name: array_of(value) for name, value in values.items() if isinstance(value, Tensor)}


def _integers(value: Any) -> tuple[int, ...]:
    found = value.toIValue() if value.node().kind() == "prim::Constant" else [item.toIValue() for item in value.node().inputs()]
    return tuple(found)


def _conv(node: Any) -> Layer:
    inputs = list(node.inputs())
    groups = inputs[8 if node.kind() == "aten::_convolution" else 6].toIValue()
    attributes = conv_attributes(_integers(inputs[3]), _integers(inputs[4]), _integers(inputs[5]), groups)
    return Layer(node.output().debugName(), "conv", _constants(node, weight=1, bias=2), attributes)


def _batch_norm(node: Any) -> Layer:
    inputs = list(node.inputs())
    attributes = {"eps": float32(inputs[7].toIValue())} | ({"training_mode": 1} if inputs[5].toIValue() else {})
    tensors = _constants(node, weight=1, bias=2, running_mean=3, running_var=4)
    return Layer(node.output().debugName(), "batch_norm", tensors, attributes)


def _linear(node: Any) -> Layer:
    if node.kind() == "aten::addmm":
        tensors = _constants(node, bias=0, weight=2)
        return Layer(node.output().debugName(), "linear", {**tensors, "weight": tensors["weight"].T}, {})
    return Layer(node.output().debugName(), "linear", _constants(node, weight=1, bias=2), {})


def _with_constant(node: Any) -> list[Layer]:
    """The multiplication or addition of a constant, if that is what it is, and not of two streams."""
    constants = [value.toIValue() for value in list(node.inputs())[:2] if value.node().kind() == "prim::Constant"]
    kinds: dict[str, Kind] = {"aten::mul": "mul", "aten::add": "add", "aten::sub": "sub"}
    return [Layer(node.output().debugName(), kinds[node.kind()], {"constant": array_of(value)}, {}) for value in constants]


def _without_debug_records(whole: io.BytesIO) -> io.BytesIO:
    """The archive anew without its debug records: source lines with this machine's paths, which nothing needs."""
    whole.seek(0)
    reader, slim = torch._C.PyTorchFileReader(whole), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(slim)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", "byteorder", ".data/serialization_id"):
            data = reader.get_record(name)
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return slim


@contextmanager
def _deprecation_expected() -> Iterator[None]:
    """torch says at every use that TorchScript is deprecated; a user who asks for it knows or is told by the documentation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        yield
