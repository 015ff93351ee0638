"""torch.export: a program of ATen operators, saved free of the paths that tracing leaves in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram as Program

from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, ExportJob, ExportOptions, Session, require_trusted
from iresnet_export.backends.eager import torch_threads
from iresnet_export.backends.torchscript import METADATA_FILE
from iresnet_export.errors import ArtifactError, ExportError
from iresnet_export.layers import Kind, Layer, array_of, conv_attributes, float32
from iresnet_export.observing import ATEN_KINDS, Observer, Operation, Wiring, pool_attributes, values_of_nodes
from iresnet_export.precision import precision_of, widest
from iresnet_models.deployed import Precision

_CONSTANT_KINDS: dict[str, Kind] = {"mul": "mul", "add": "add", "sub": "sub"}


class Exported(Backend):
    name: ClassVar[str] = "exported"
    format: ClassVar[Format] = "pt2"
    # torch.export.load unpickles what a file asks it to, evaluates its symbolic shapes as Python, looks its operators up
    # anywhere in torch, and loads shared libraries that lie in it: a file can run whatever it likes.
    native: ClassVar[bool] = True
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        return None if options.dynamic_batch else (options.batch, options.batch)

    def export(self, job: ExportJob) -> dict[str, Any]:
        # An extent of 1 in the example would be taken for a constant: a dynamic batch is traced with two images.
        batch, size = 2 if job.options.dynamic_batch else job.options.batch, job.network.spec.image_size
        example = torch.zeros(batch, 3, size, size)
        if job.options.with_preprocessing:
            example = torch.zeros(batch, size, size, 3, dtype=torch.uint8)
        shapes = ({0: torch.export.Dim("batch")},) if job.options.dynamic_batch else None
        job.progress("Tracing", 0.0)
        try:
            program = torch.export.export(job.network.eval(), (example,), dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise ExportError(f"torch.export refused the network: {error}") from error
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # source lines with this machine's paths, which nothing needs
        job.progress("Writing", 0.8)
        # Torch's own writer of files ends the process where a disk is full, and writes their names into them.
        whole = io.BytesIO()
        torch.export.save(program, whole, extra_files={METADATA_FILE: json.dumps(job.identity)})
        job.path.write_bytes(whole.getbuffer())
        job.progress("Writing", 1.0)
        return {}

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> ProgramSession:
        require_trusted(artifact, trust)
        return ProgramSession(load_program(artifact.path), device, threads)

    def observer(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> ProgramObserver:
        require_trusted(artifact, trust)
        return ProgramObserver(load_program(artifact.path), device)


class ProgramObserver(Observer):
    """A program's graph, run node by node."""

    def __init__(self, program: Program, device: torch.device) -> None:
        self._program, self._module, self._device = program, module_on(program, device), device
        self._nodes: list[fx.Node] = []
        self.operations, wiring = [], Wiring[fx.Node]()
        for node in self._module.graph.nodes:
            if node.op != "call_function":
                continue
            kind = ATEN_KINDS.get(_kind(node)) if isinstance(node.target, torch._ops.OpOverload) else None
            sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
            if kind is not None:
                self._nodes.append(node)
                self.operations.append(Operation(kind, "", wiring.operation(sources, node), _pooling(node, kind)))
            elif sources:
                wiring.carry(sources[0], node)
        image = next(node.meta["val"] for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
        self.with_preprocessing = image.dtype is torch.uint8

    @property
    def layers(self) -> list[Layer]:
        return layers_of_program(self._program)

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        found = values_of_nodes(self._module, batch.to(self._device), [self._nodes[number] for number in wanted])
        return [value.float() for value in found]


def _pooling(node: fx.Node, kind: str) -> tuple[Any, ...]:
    if kind != "max_pool":
        return ()
    found = _arguments(node)
    kernel, padding = _pair(found["kernel_size"]), _pair(found["padding"])
    return pool_attributes(kernel, _pair(found["stride"] or kernel), (*padding, *padding), found["ceil_mode"])


class ProgramSession(Session):
    def __init__(self, program: Program, device: torch.device, threads: int | None) -> None:
        self.device, self._threads = device, threads
        name = program.graph_signature.user_inputs[0]
        example = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
        size = example.shape[0]
        self.batch = (size, size) if isinstance(size, int) else None
        self.with_preprocessing = example.dtype is torch.uint8
        self.computed_precision = widest(layer_precisions(program))
        self._module = module_on(program, device)

    def run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch_threads(self._threads):
            found: Tensor | tuple[Tensor, Tensor] = self._module(batch)
        return found if isinstance(found, Tensor) else found[0]


def module_on(program: Program, device: torch.device) -> fx.GraphModule:
    """A program's module on a device; constants that its graph makes follow too."""
    from torch.export.passes import move_to_device_pass

    module: fx.GraphModule = (program if device.type == "cpu" else move_to_device_pass(program, device)).module()
    return module


def load_program(path: Path) -> Program:
    """A torch.export program; ArtifactError if it is not one."""
    try:
        with quiet("torch.export"), path.open("rb") as file:
            return torch.export.load(file)
    except Exception as error:  # torch raises what comes: RuntimeError, KeyError, AssertionError, errors of JSON and of zip
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"{path} is not a whole torch.export program, or of another version of torch than {torch.__version__} ({first}). "
            "Export or copy it again."
        ) from error


def layer_precisions(program: Program) -> list[str]:
    """Of every convolution and linear layer, as its weights are stored."""
    weighted = (layer for layer in layers_of_program(program) if layer.kind in ("conv", "linear"))
    return [precision_of(layer.tensors["weight"].dtype) for layer in weighted]


def layers_of_program(program: Program) -> list[Layer]:
    """Every convolution, BatchNorm and linear layer of a program, in execution order, with its constant inputs."""
    stored = {**program.constants, **program.state_dict}
    constants = {spec.arg.name: stored[spec.target] for spec in program.graph_signature.input_specs if spec.target in stored}
    layers = []
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        kind = _kind(node)
        if node.all_input_nodes and all(source.name in constants for source in node.all_input_nodes):
            constants[node.name] = node.target(*_values(node.args, constants), **_values(node.kwargs, constants))
        elif kind in ("conv2d", "convolution"):
            layers.append(_conv(node, constants))
        elif "batch_norm" in kind:
            layers.append(_batch_norm(node, constants))
        elif kind in ("linear", "addmm"):
            layers.append(_linear(node, constants))
        elif kind in _CONSTANT_KINDS:
            layers += _with_constant(node, constants)
    return layers


def _kind(node: fx.Node) -> str:
    """A call's operator, whichever of its overloads."""
    name: str = node.target._schema.name  # type: ignore[union-attr]
    return name.removeprefix("aten::")


def _values(arguments: Any, constants: dict[str, Tensor]) -> Any:
    return fx.map_arg(arguments, lambda node: constants[node.name])


def _arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by their names, with the operator's own defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {**defaults, **given, **node.kwargs}


def _tensors(found: dict[str, Any], constants: dict[str, Tensor], **names: str) -> dict[str, Any]:
    sources = {name: found[argument] for name, argument in names.items()}
    return {
        name: array_of(constants[source.name])
        for name, source in sources.items()
        if isinstance(source, fx.Node) and source.name in constants
    }


def _conv(node: fx.Node, constants: dict[str, Tensor]) -> Layer:
    found = _arguments(node)
    stride, padding, dilation = (_pair(found[name]) for name in ("stride", "padding", "dilation"))
    attributes = conv_attributes(stride, padding, dilation, found["groups"])
    attributes |= {"transposed": 1} if found.get("transposed") else {}
    return Layer(node.name, "conv", _tensors(found, constants, weight="weight", bias="bias"), attributes)


def _pair(value: Any) -> Any:
    return value if isinstance(value, list | tuple | str) else (value, value)


def _batch_norm(node: fx.Node, constants: dict[str, Tensor]) -> Layer:
    found = _arguments(node)
    attributes = {"eps": float32(found["eps"])} | ({"training_mode": 1} if found.get("training") else {})
    names = ("weight", "bias", "running_mean", "running_var")
    return Layer(node.name, "batch_norm", _tensors(found, constants, **{name: name for name in names}), attributes)


def _linear(node: fx.Node, constants: dict[str, Tensor]) -> Layer:
    found = _arguments(node)
    if "mat2" not in found:
        return Layer(node.name, "linear", _tensors(found, constants, weight="weight", bias="bias"), {})
    tensors = _tensors(found, constants, weight="mat2", bias="self")
    return Layer(node.name, "linear", {name: values.T for name, values in tensors.items()}, {})


def _with_constant(node: fx.Node, constants: dict[str, Tensor]) -> list[Layer]:
    """The multiplication or addition of a constant, if that is what it is, and not of two streams."""
    found = _arguments(node)
    tensors = [values for name in ("self", "other") for values in _tensors(found, constants, constant=name).values()]
    attributes = {} if found.get("alpha", 1) == 1 else {"alpha": found["alpha"]}
    return [Layer(node.name, _CONSTANT_KINDS[_kind(node)], {"constant": values}, attributes) for values in tensors]


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keeps loggers of torch from writing to stderr what an error tells as well, or what a user cannot act on."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
