"""TensorRT engines from ONNX. Everything that TensorRT reports by None, -1 or silence becomes an error here."""

from __future__ import annotations

from typing import Any

from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx_graph import INPUT, OUTPUT, PROBABILITIES
from iresnet_export.backends.tensorrt_flavours import Flavour
from iresnet_export.errors import ExportError, InputError
from iresnet_export.precision import widest
from iresnet_export.progress import Progress


def engine_from_onnx(flavour: Flavour, onnx: bytes, options: ExportOptions, progress: Progress) -> tuple[bytes, dict[str, Any]]:
    """A serialized engine (a raw plan, as trtexec reads it) and what the descent should say of it."""
    trt = flavour.module
    flavour.messages.clear()
    progress("Parsing ONNX", 0.0)
    builder = trt.Builder(flavour.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, flavour.logger)
    if not parser.parse(onnx):
        errors = "; ".join(_described(parser.get_error(index)) for index in range(parser.num_errors))
        raise ExportError(f"{flavour.name} {flavour.version} cannot read the ONNX file: {errors or flavour.complaints()}.")
    _require_parsed(flavour, network, options)
    precisions = _require_precision(flavour, network, options.precision)
    config = builder.create_builder_config()
    # TF32 is on by default; it would round every product of a float32 network to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    _set_profile(flavour, builder, network, config, options)
    gpus = _set_targets(flavour, config, options)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.cancelled is not None:
        raise monitor.cancelled
    if plan is None:
        raise ExportError(f"{flavour.name} {flavour.version} built no engine: {flavour.complaints()}.")
    progress("Building engine", 1.0)
    details = {"flavour": flavour.name, "builder_version": flavour.version, "gpus": gpus, "layers": network.num_layers}
    return bytes(plan), {**details, "layer_precisions": precisions}


def _described(error: Any) -> str:
    node = f"{error.node_operator()} at {error.node_name()}: " if error.node_name() else ""
    return f"{node}{error.desc()}"


def _require_parsed(flavour: Flavour, network: Any, options: ExportOptions) -> None:
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    wanted = [OUTPUT, PROBABILITIES] if options.takes_pixels else [OUTPUT]
    if network.num_layers == 0 or inputs != [INPUT] or outputs != wanted:
        raise ExportError(
            f"{flavour.name} {flavour.version} read the ONNX file as {network.num_layers} layers from {inputs} to {outputs}, "
            f"and not as a network from {INPUT} to {', '.join(wanted)}: {flavour.complaints()}."
        )


def _require_precision(flavour: Flavour, network: Any, precision: str) -> list[str]:
    """The precision of every convolution and linear layer of a strongly typed network, which is what it is computed in.

    Raises ExportError if one of them is not in the precision that was asked for: TensorRT says nothing of that by itself.
    """
    trt = flavour.module
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    names = {trt.float32: "fp32", trt.float16: "fp16", trt.bfloat16: "bf16", trt.int8: "int8", trt.fp8: "fp8"}

    def read_as(tensor: Any) -> str:
        producer = producers.get(tensor.name)
        if producer is not None and producer.type == trt.LayerType.DEQUANTIZE:
            tensor = producer.get_input(0)
        return names.get(tensor.dtype, str(tensor.dtype))

    found = []
    for layer in layers:
        if layer.type in (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY):
            inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
            found.append(widest([read_as(tensor) for tensor in inputs if tensor is not None and len(tensor.shape) > 1]))
            if found[-1] != precision:
                raise ExportError(
                    f"{flavour.name} {flavour.version} read {layer.name} of the ONNX file in {found[-1]}, "
                    f"and {precision} was asked for."
                )
    return found


def _set_profile(flavour: Flavour, builder: Any, network: Any, config: Any, options: ExportOptions) -> None:
    if not options.dynamic_batch:
        return
    image = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, (1, *image), (options.batch, *image), (options.max_batch, *image))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"{flavour.name} refused batches of 1 to {options.max_batch}: {flavour.complaints()}.")


def _set_targets(flavour: Flavour, config: Any, options: ExportOptions) -> str:
    """Sets the GPUs that the engine is for; returns them in words."""
    if not flavour.builds_without_gpu:
        if options.compute_capabilities:
            raise InputError(
                "--compute-capability is for TensorRT-RTX; TensorRT builds for the GPU at hand. Leave it out, or add "
                "--flavour tensorrt_rtx."
            )
        import torch

        return f"{torch.cuda.get_device_name()} and GPUs of the same kind"
    if not options.compute_capabilities:
        return "NVIDIA RTX GPUs from Ampere on"
    members = flavour.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(options.compute_capabilities)
    for index, capability in enumerate(options.compute_capabilities):
        member = members.get(f"SM{capability.replace('.', '')}")
        if member is None or not config.set_compute_capability(member, index):
            known = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in members if name.startswith("SM"))
            raise InputError(f"TensorRT-RTX cannot build for compute capability {capability}; it can for {known}.")
    return f"GPUs of compute capability {', '.join(options.compute_capabilities)}"


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes TensorRT's outermost phases on; what the progress callback raises cancels the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = max(steps, 1)
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return self.cancelled is None

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self._steps.get(phase, 1))

        def _tell(self, phase: str, step: int) -> None:
            try:
                progress(phase, step / self._steps.get(phase, 1))
            except BaseException as error:  # an exception must not pass through TensorRT's own frames
                self.cancelled = error

    return Monitor()
