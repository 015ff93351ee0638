"""What networks of other families are called, by the names and shapes of their weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

Shapes = Mapping[str, tuple[int, ...]]

_RESNET_DEPTHS = {
    (False, (1, 1, 1, 1)): 10,
    (True, (1, 1, 1, 1)): 14,
    (False, (2, 2, 2, 2)): 18,
    (True, (2, 2, 2, 2)): 26,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
    (True, (3, 24, 36, 3)): 200,
    (True, (4, 29, 53, 4)): 269,
}
"""By whether blocks are bottlenecks, and their number in each stage."""

_ATTENTION = {"se.fc1": "se", "se_module.fc1": "legacy_se", "se.conv": "eca"}

_FAMILIES = (
    ("features.1.conv.0.0.weight", "MobileNetV2", "mobilenet_v2"),
    ("features.1.block.0.0.weight", "MobileNetV3", "mobilenet_v3"),
    ("features.1.0.block.0.0.weight", "an EfficientNet", "efficientnet"),
    ("features.denseblock1.denselayer1.norm1.weight", "a DenseNet", "densenet"),
    ("features.1.0.layer_scale", "a ConvNeXt", "convnext"),
    ("features.1.0.attn.relative_position_bias_table", "a Swin transformer", "swin"),
    ("features.3.squeeze.weight", "a SqueezeNet", "squeezenet"),
    ("features.10.weight", "a VGG or AlexNet", ("vgg", "alexnet")),
    ("inception3a.branch1.conv.weight", "GoogLeNet", "googlenet"),
    ("Mixed_5b.branch1x1.conv.weight", "Inception v3", "inception"),
    ("stage2.0.branch1.0.weight", "a ShuffleNet", "shufflenet"),
    ("layers.8.0.layers.0.weight", "a MNASNet", "mnasnet"),
    ("trunk_output.block1.block1-0.proj.0.weight", "a RegNet", ()),
    ("encoder.layers.encoder_layer_0.ln_1.weight", "a vision transformer (ViT)", "vit"),
    ("blocks.0.layers.0.layers.MBconv.layers.conv_a.0.weight", "a MaxViT", "maxvit"),
    ("blocks.0.attn.qkv.weight", "a vision transformer (ViT) of timm", ()),
    ("layers.0.blocks.0.attn.relative_position_bias_table", "a Swin transformer of timm", ()),
    ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt of timm", ()),
    ("s1.b1.conv1.conv.weight", "a RegNet of timm", ()),
    ("stages.0.blocks.0.norm1.weight", "a ResNetV2 of timm (its norms come before the convolutions)", ()),
    ("conv_stem.weight", "an EfficientNet or MobileNet of timm", ()),
)
"""A name that only their weights have, what they are called, and how the names of torchvision's begin."""


def other_network(shapes: Shapes) -> str | None:
    """What a network is called, such as `resnet50d` or `torchvision's vit_b_16`; None where nothing says so."""
    for name, called, torchvision_names in _FAMILIES:
        if name in shapes:
            return _of_torchvision(shapes, torchvision_names) or called
    return _resnet(shapes)


def _of_torchvision(shapes: Shapes, beginning: str | tuple[str, ...]) -> str | None:
    """The network of torchvision that has the same names and shapes, whatever its classes."""
    from torchvision import models

    body = _without_classifier(shapes)
    for name in models.list_models(module=models):
        if beginning and name.startswith(beginning):
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of how weights are initialised, which none are here
                made = models.get_model(name, weights=None)
            if _without_classifier({key: tuple(value.shape) for key, value in made.state_dict().items()}) == body:
                return f"torchvision's {name}"
    return None


def _without_classifier(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return dict(list(shapes.items())[:-2])


def _resnet(shapes: Shapes) -> str | None:
    """A ResNet by the names of torchvision and timm: of its stem, shortcuts, attention, groups and width."""
    blocks = tuple(len({name.split(".")[1] for name in shapes if name.startswith(f"layer{stage}.")}) for stage in range(1, 5))
    depth = _RESNET_DEPTHS.get(("layer1.0.conv3.weight" in shapes, blocks))  # type: ignore[arg-type]
    middle = shapes.get("layer1.0.conv2.weight", ())
    if depth is None or len(middle) != 4:
        return None
    width = middle[1]
    groups = middle[0] // width if width else 1
    attention = next((called for name, called in _ATTENTION.items() if f"layer1.0.{name}.weight" in shapes), "")
    stem = _stem(shapes)
    if groups > 1:
        return f"{attention}resnext{depth}{stem}_{groups}x{width}d"
    if width in (128, 256) and depth >= 50:
        return f"wide_resnet{depth}{stem}_{width // 64}"
    return f"{attention}resnet{depth}{stem}" if attention or stem else None


def _stem(shapes: Shapes) -> str:
    """The letter of a ResNet's stem of three convolutions, and of its shortcuts."""
    first, last = shapes.get("conv1.0.weight", ()), shapes.get("conv1.6.weight", ())
    if len(first) != 4 or len(last) != 4:
        return ""
    has_pools = len(shapes.get("layer2.0.downsample.1.weight", ())) == 4  # before the convolution, which is second then
    widths = first[0], last[1]
    return {(32, 32): "d" if has_pools else "c", (64, 64): "s", (24, 32): "t"}.get(widths, "d" if has_pools else "c")
