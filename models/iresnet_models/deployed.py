"""A network as an artifact holds it: folded, in the artifact's precision, behind the artifact's inputs and outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from iresnet_models.errors import InputError
from iresnet_models.folded import FoldedNetwork
from iresnet_models.folding import fold_by_plan
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.network import Network

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class DeployedNetwork(nn.Module):
    """A network of any floating-point type that takes and gives float32; or, with a `mean`, takes pixels.

    Pixels (n, h, w, 3), uint8, give two outputs, logits and probabilities (n, classes). `mean` (1, 3, 1, 1) is in units of pixels
    and stays a subtraction, since the padding of the first convolution lies in normalised space; the scale is in its weights.
    """

    mean: Tensor | None

    def __init__(self, network: Network | FoldedNetwork, mean: Tensor | None = None) -> None:
        super().__init__()
        self.spec = network.spec
        self.network = network
        self.register_buffer("mean", mean)
        self.dtype = network.conv1.weight.dtype
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.mean is not None:
            x = x.to(torch.float32).permute(0, 3, 1, 2) - self.mean  # TensorRT moves no uint8
        if self.dtype is not torch.float32:
            x = x.to(self.dtype)
        logits: Tensor = self.network(x)
        if self.dtype is not torch.float32:
            logits = logits.to(torch.float32)
        return logits if self.mean is None else (logits, torch.softmax(logits, 1))


Deployable = Network | FoldedNetwork | DeployedNetwork
"""What is exported."""


def deployed(
    network: Network, plan: FoldPlan | None, dtype: torch.dtype = torch.float32, *, with_preprocessing: bool = False
) -> Deployable:
    """`network`, folded by `plan` if there is one, with weights of type `dtype`, each rounded once from float64.

    Raises InputError where a weight is beyond `dtype`.
    """
    if not with_preprocessing and dtype is torch.float32:
        return network if plan is None else fold_by_plan(network, plan)
    inner: Network | FoldedNetwork = copy.deepcopy(network).double() if plan is None else fold_by_plan(network, plan, torch.float64)
    mean = None
    if with_preprocessing:
        spec = network.spec
        mean = torch.tensor([255 * value for value in spec.mean]).view(1, 3, 1, 1)
        scale = torch.tensor([1 / (255 * value) for value in spec.std], dtype=torch.float64).view(1, 3, 1, 1)
        inner.conv1.weight.data *= scale.to(inner.conv1.weight.device)
    return DeployedNetwork(_cast(inner, dtype), mean)


def _cast(network: Network | FoldedNetwork, dtype: torch.dtype) -> Network | FoldedNetwork:
    network.to(dtype)
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{key} of {network.spec.name} holds values beyond the range of {str(dtype).removeprefix('torch.')};",
                "export it in a wider precision, such as bf16 or fp32.",
            )
    return network
