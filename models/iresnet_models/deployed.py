"""A network as an artifact holds it: folded, in the artifact's precision, behind the artifact's inputs and outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iresnet_models.errors import InputError
from iresnet_models.folded import FoldedNetwork, Reading
from iresnet_models.folding import fold_by_plan
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.network import Network
from iresnet_models.outputs import LOGITS, OF_ANY_NETWORK, PROBABILITIES, OutputName, default_outputs, stage_of

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class DeployedNetwork(nn.Module):
    """A network of any floating-point type that takes and gives float32; or, with a `mean`, takes pixels (n, h, w, 3), uint8.

    It gives the outputs of these `names`, the logits first, as a tuple if there are several: what the network that was trained
    gives there, whatever a fold makes of it inside. `mean` (1, 3, 1, 1) is in units of pixels and stays a subtraction, since the
    padding of the first convolution lies in normalised space; the scale is in its weights.
    """

    mean: Tensor | None

    def __init__(
        self, network: Network | FoldedNetwork, mean: Tensor | None = None, names: Sequence[OutputName] = (LOGITS,)
    ) -> None:
        super().__init__()
        self.spec = network.spec
        self.network = network
        self.register_buffer("mean", mean)
        self.dtype, self.names = network.conv1.weight.dtype, tuple(names)
        readings = network.readings if isinstance(network, FoldedNetwork) else {}
        self.outputs = nn.ModuleDict()
        for name in names:
            if name not in OF_ANY_NETWORK:
                self.outputs[name] = InnerOutput(name, readings.get(name), self.dtype)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.mean is not None:
            x = x.to(torch.float32).permute(0, 3, 1, 2) - self.mean  # TensorRT moves no uint8
        if self.dtype is not torch.float32:
            x = x.to(self.dtype)
        values = self.network.values(x)
        logits = values[LOGITS]
        if self.dtype is not torch.float32:
            logits = logits.to(torch.float32)
        if self.names == (LOGITS,):
            return logits
        given: dict[str, Tensor] = {LOGITS: logits}
        if PROBABILITIES in self.names:
            given[PROBABILITIES] = torch.softmax(logits, 1)
        given |= {name: output(values[name]) for name, output in self.outputs.items()}
        return tuple(given[name] for name in self.names)


class InnerOutput(nn.Module):
    """A value inside a network as an artifact gives it: in float32, read by a fold's `reading` if there is one."""

    gain: Tensor | None
    offset: Tensor | None

    def __init__(self, name: OutputName, reading: Reading | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        shape = (1, -1) if stage_of(name) is None else (1, -1, 1, 1)
        is_scaled = reading is not None and bool((reading.gain != 1).any())
        is_shifted = reading is not None and bool(reading.offset.any())
        self.register_buffer("gain", reading.gain.float().view(shape) if reading is not None and is_scaled else None)
        self.register_buffer("offset", reading.offset.float().view(shape) if reading is not None and is_shifted else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.dtype is not torch.float32:
            x = x.to(torch.float32)
        if self.gain is not None:
            x = x * self.gain
        return x if self.offset is None else x + self.offset


Deployable = Network | FoldedNetwork | DeployedNetwork
"""What is exported."""


def deployed(
    network: Network,
    plan: FoldPlan | None,
    dtype: torch.dtype = torch.float32,
    *,
    with_preprocessing: bool = False,
    outputs: Sequence[OutputName] = (),
) -> Deployable:
    """`network`, folded by `plan` if there is one, with weights of type `dtype`, each rounded once from float64.

    `outputs`: none for the default ones. Raises InputError where a weight is beyond `dtype`.
    """
    outputs = tuple(outputs) or default_outputs(with_preprocessing=with_preprocessing)
    if not with_preprocessing and dtype is torch.float32 and outputs == (LOGITS,):
        return network if plan is None else fold_by_plan(network, plan)
    inner: Network | FoldedNetwork = copy.deepcopy(network).double() if plan is None else fold_by_plan(network, plan, torch.float64)
    mean = None
    if with_preprocessing:
        spec = network.spec
        mean = torch.tensor([255 * value for value in spec.mean]).view(1, 3, 1, 1)
        scale = torch.tensor([1 / (255 * value) for value in spec.std], dtype=torch.float64).view(1, 3, 1, 1)
        inner.conv1.weight.data *= scale.to(inner.conv1.weight.device)
    return DeployedNetwork(_cast(inner, dtype), mean, outputs)


def with_probabilities(network: nn.Module) -> nn.Module:
    """A copy of any classifier that gives logits and probabilities; its modules and weights keep their names."""
    made = copy.deepcopy(network)
    made.register_forward_hook(lambda _module, _inputs, logits: (logits, torch.softmax(logits, 1)))
    return made


def values_of(network: nn.Module, batch: Tensor, names: Sequence[OutputName]) -> tuple[Tensor, ...]:
    """What a network gives for inputs under the names of outputs, in its own type; of those that a DeployedNetwork was made to."""
    if isinstance(network, Network):
        values: dict[str, Tensor] = network.values(batch)
    else:
        given = network.names if isinstance(network, DeployedNetwork) else OF_ANY_NETWORK
        found = network(batch)
        values = dict(zip(given, (found,) if isinstance(found, Tensor) else found, strict=False))
    if PROBABILITIES in names and PROBABILITIES not in values:
        values = {**values, PROBABILITIES: torch.softmax(values[LOGITS], 1)}
    return tuple(values[name] for name in names)


def _cast(network: Network | FoldedNetwork, dtype: torch.dtype) -> Network | FoldedNetwork:
    network.to(dtype)
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{key} of {network.spec.name} holds values beyond the range of {str(dtype).removeprefix('torch.')};",
                "export it in a wider precision, such as bf16 or fp32.",
            )
    return network
