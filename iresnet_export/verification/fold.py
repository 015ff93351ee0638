"""The proof that a folded network is the unfolded one, made at every export, in units of the network's own rounding error."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iresnet_export.artifact import Descent
from iresnet_export.backends.base import Progress
from iresnet_export.errors import ArtifactError, ExportError
from iresnet_export.layers import Array, Deployable
from iresnet_export.source import Source
from iresnet_export.verification.reference import in_batches, rms
from iresnet_models.folded import FoldedBlock, FoldedNetwork
from iresnet_models.folding import fold, fold_by_plan
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.spec import ModelSpec
from iresnet_train.data import training_images

FOLD_LIMIT = 2.0
"""A fold that is exact errs about as much as the unfolded network does; twice as much is another network."""

_BATCH = 8


@dataclass(frozen=True)
class FoldProof:
    """`error_ratio`: the folded network's float32 error over the unfolded one's, both against float64, over all logits."""

    images: int
    image_source: str
    error_ratio: float


def fold_sample(spec: ModelSpec, data: str | None, seed: int = 0) -> tuple[Tensor, str]:
    """Images that say how far the network's stream reaches: training images, or seeded noise where there are none."""
    data = data or spec.data
    if data is None:
        count = 4 if spec.image_size > 64 else 64
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, spec.image_size, spec.image_size, generator=generator), f"{count} images of seeded noise"
    images, _ = training_images(data, spec, 32 if spec.image_size > 64 else 64, seed)
    return images, f"{len(images)} training images of {data if data == 'digits' else Path(data).name}"


def proved_fold(source: Source, sample: Tensor, image_source: str, progress: Progress) -> tuple[FoldedNetwork, FoldProof]:
    """The exact fold of a network, proved over the sample.

    Raises ExportError, which names the first block that differs, if it errs more than FOLD_LIMIT times as much as the network.
    """
    progress("Folding BatchNorms", 0.0)
    size = min(_BATCH, len(sample))
    folded = fold(source.network, sample=sample)
    progress("Proving the fold", 0.5)
    exact = in_batches(copy.deepcopy(source.network).double(), sample.double(), size).numpy()
    own = in_batches(source.network, sample, size).numpy()
    ratio = _error_ratio(in_batches(folded, sample, size).numpy(), own, exact)
    progress("Proving the fold", 1.0)
    if not ratio <= FOLD_LIMIT:
        where = _first_departure(source, folded, sample[:size])
        raise ExportError(
            f"The fold of {source.spec.name} was refused: over {image_source} its error is {ratio:.3g} times the unfolded "
            "network's "
            f"own, and up to {FOLD_LIMIT:g} is rounding; it departs in {where}. Export with --no-fold."
        )
    return folded, FoldProof(len(sample), image_source, ratio)


def fold_details(folded: FoldedNetwork, proof: FoldProof) -> dict[str, Any]:
    """What the descent says of a fold: everything that is needed to compute it again, and its proof."""
    return {
        "plan": folded.plan.to_json(),
        "exact_everywhere": folded.report.is_exact_everywhere,
        "exactness": folded.report.exactness,
        "proof": dataclasses.asdict(proof),
    }


def deployed_network(source: Source, descent: Descent | None) -> Deployable:
    """The network whose weights an artifact should hold: the source's, or its fold by the recorded plan."""
    if descent is None or not descent.fold:
        return source.network
    details = descent.details.get("fold")
    if not isinstance(details, dict) or "plan" not in details:
        raise ArtifactError(f"The descent of {descent.file} tells of a fold but holds no plan of it. Export the artifact again.")
    return fold_by_plan(source.network, FoldPlan.from_json(details["plan"]))


def _error_ratio(found: Array, own: Array, exact: Array) -> float:
    return rms(found - exact) / max(rms(own - exact), 2.0**-24 * rms(exact))


def _first_departure(source: Source, folded: FoldedNetwork, images: Tensor) -> str:
    """The first block whose output, in the original's terms, errs more than the limit."""
    exact = _block_outputs(copy.deepcopy(source.network).double(), images.double())
    own, found = _block_outputs(source.network, images), _block_outputs(folded, images)
    for stage, blocks in enumerate(source.network.stages, start=1):
        for index, block in enumerate(blocks):
            name = f"layer{stage}.{index}"
            if not _error_ratio(found[name], own[name], exact[name]) <= FOLD_LIMIT:
                return f"stage {stage} block {index} ({block.layout.role})"
    return "the classifier"


def _block_outputs(network: Deployable, images: Tensor) -> dict[str, Array]:
    outputs: dict[str, Array] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def record(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
            values = output.double()
            outputs[name] = (module.original_output(values) if isinstance(module, FoldedBlock) else values).numpy()

        return record

    blocks = [(name, module) for name, module in network.named_modules() if name.startswith("layer") and name.count(".") == 1]
    handles = [block.register_forward_hook(recorder(name)) for name, block in blocks]
    with torch.inference_mode():
        network(images)
    for handle in handles:
        handle.remove()
    return outputs
