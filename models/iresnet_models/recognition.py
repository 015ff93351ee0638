"""Which network of these families has such keys and shapes."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from iresnet_models.errors import CheckpointError
from iresnet_models.network import Network
from iresnet_models.other_networks import other_network
from iresnet_models.spec import BLOCKS, FAMILIES, ModelSpec

Shapes = dict[str, tuple[int, ...]]

_ELSEWHERE = "Load it where its code is, and export it in Python by iresnet_export.from_module (docs/other-networks.md)."


def shapes_of(spec: ModelSpec) -> Shapes:
    """Key and shape of every entry of the state dict, in order."""
    return {key: tuple(value.shape) for key, value in skeleton(spec).state_dict().items()}


def skeleton(spec: ModelSpec) -> Network:
    with torch.device("meta"):
        return Network(spec)


def recognised(
    path: Path, shapes: Shapes, arch: str | None, depth: int | None, num_classes: int | None, *, told: object = None
) -> ModelSpec:
    """The spec whose keys and shapes are exactly these; CheckpointError, which says what it is as far as that is known, if none.

    `told`: what the file calls its network, which decides between two that look alike.
    """
    if any("prelu" in key for key in shapes):
        raise CheckpointError(
            f"{path} is another network that is also called IResNet: InsightFace's face recognition backbone, with PReLU. "
            "This project is about Improved Residual Networks (arXiv 2004.04989)."
        )
    try:
        found = _matching(path, shapes, arch)
    except CheckpointError:
        called = other_network(shapes)
        if called is None:
            raise
        raise CheckpointError(
            f"{path} holds {called}, which is no network of these families.",
            _ELSEWHERE,
        ) from None
    chosen = [spec for spec in found if arch is None or spec.arch == arch]
    if isinstance(told, str) and re.match("resnet(aa|blur)[0-9]", told):
        raise CheckpointError(
            f"{path} says that it is {told:.80}, whose weights look like those of {found[0].name}, but which blurs in between.",
            _ELSEWHERE,
        )
    if len(chosen) > 1 and isinstance(told, str):
        chosen = [spec for spec in chosen if told in (spec.arch, spec.name)] or chosen
    if len(chosen) > 1:
        names = " or ".join(spec.name for spec in chosen)
        raise CheckpointError(
            f"{path} could be {names}: their weights have the same names and shapes, but they compute different outputs.",
            f"Say which with --arch ({' or '.join(spec.arch for spec in chosen)}).",
        )
    spec = chosen[0] if chosen else found[0]
    require_expected(path, spec, arch, depth, num_classes)
    return spec


def _matching(path: Path, shapes: Shapes, arch: str | None) -> list[ModelSpec]:
    """All specs with these keys and shapes, of which there is at least one."""
    classifier = shapes.get("fc.weight", ())
    counts = _blocks_per_stage(shapes)
    if counts is not None and "fc.weight" not in shapes:
        raise CheckpointError(f"{path} holds a network without its classifier (fc.weight).", "Save the whole network's state_dict.")
    if len(classifier) != 2 or counts is None:
        sample = ", ".join(f"{key:.80}" for key in list(shapes)[:4])
        raise CheckpointError(
            f"{path} is not a network of these families: its keys ({len(shapes)}: {sample}, ...) lack conv1, layer1 to layer4 or "
            "fc.",
            "`iresnet-export models` lists what there is.",
        )
    bottleneck = "layer1.0.conv3.weight" in shapes
    specs = [
        ModelSpec(name, deep, num_classes=classifier[0], groups=_groups(name, shapes))
        for name, family in FAMILIES.items()
        for deep in family.depths
        if BLOCKS[deep] == counts and (deep >= 50) == bottleneck
    ]
    if not specs:
        raise CheckpointError(
            f"{path} has {', '.join(map(str, counts))} {'bottlenecks' if bottleneck else 'basic blocks'} in its four stages, "
            "which no official network has.",
            "`iresnet-export models` lists them.",
        )
    unlike = {spec: differences(shapes_of(spec), shapes) for spec in specs}
    matching = [spec for spec, difference in unlike.items() if not difference]
    if not matching:
        asked = [spec for spec in specs if spec.arch == arch]
        spec = min(asked or specs, key=lambda candidate: len(unlike[candidate]))
        found = unlike[spec]
        raise CheckpointError(
            f"{path} is no official network. It comes nearest to {spec.name}, with {len(found)} "
            f"difference{'s' if len(found) != 1 else ''}: {'; '.join(found[:3])}{'; ...' if len(found) > 3 else ''}."
        )
    return matching


def require_expected(path: Path, spec: ModelSpec, arch: str | None, depth: int | None, num_classes: int | None) -> None:
    for option, asked, found in (
        ("--arch", arch, spec.arch),
        ("--depth", depth, spec.depth),
        ("--num-classes", num_classes, spec.num_classes),
    ):
        if asked is not None and asked != found:
            raise CheckpointError(
                f"{path} holds {spec.name} with {spec.num_classes} classes, but {option} {asked} was asked for.",
                f"Leave out {option}, or name another checkpoint.",
            )


def _blocks_per_stage(shapes: Shapes) -> tuple[int, int, int, int] | None:
    last = dict.fromkeys(range(1, 5), -1)
    for key in shapes:
        if (match := re.match(r"layer([1-4])\.([0-9]{1,4})\.", key)) is not None:
            last[int(match[1])] = max(last[int(match[1])], int(match[2]))
    if "conv1.weight" not in shapes or min(last.values()) < 0:
        return None
    return last[1] + 1, last[2] + 1, last[3] + 1, last[4] + 1


def _groups(arch: str, shapes: Shapes) -> int | None:
    """Groups of the last stage, from its 3x3 convolution's shape (outputs, inputs / groups, 3, 3)."""
    if FAMILIES[arch].group_divisors is None:
        return None
    weight = shapes.get("layer4.0.conv2.weight", ())
    groups = 2048 // weight[1] if len(weight) == 4 and weight[1] else 0
    return groups if groups in (1, 2, 4, 8, 16, 32, 64, 128, 256) else None


def differences(expected: Shapes, found: Shapes) -> list[str]:
    # Files from before PyTorch 0.4.1 do not count batches; nothing depends on that number.
    counted = any(key.endswith("num_batches_tracked") for key in found)
    wanted = {key: shape for key, shape in expected.items() if counted or not key.endswith("num_batches_tracked")}
    lacking = [f"{key} is missing" for key in wanted if key not in found]
    foreign = [f"{key:.80} does not belong" for key in found if key not in wanted]
    other = [
        f"{key} is {_shape(found[key])} and not {_shape(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    return other + lacking + foreign


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
