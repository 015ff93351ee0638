"""The network of all families: ResNet, ResStage, iResNet and their grouped forms (arXiv 2004.04989).

State-dict keys, their order and their shapes are those of the official code, so that official checkpoints
load strictly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from iresnet_models.layout import BlockLayout, LastNorm, widths
from iresnet_models.spec import ModelSpec


def _conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the stride is on the first."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, groups: int, layout: BlockLayout, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.layout = layout
        self.bn0 = nn.BatchNorm2d(inputs) if layout.has_bn0 else None
        self.conv1 = _conv3x3(inputs, width, stride, groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, outputs, groups=groups)
        self.bn2 = nn.BatchNorm2d(outputs) if layout.last_norm is not LastNorm.NONE else None
        self.downsample = downsample

    @property
    def last_bn(self) -> nn.BatchNorm2d | None:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        if self.layout.rectifies_stream:
            x = relu(x)
        shortcut = x if self.downsample is None else self.downsample(x)
        out = x if self.bn0 is None else relu(self.bn0(x))
        out = relu(self.bn1(self.conv1(out)))
        out = self.conv2(out)
        if self.bn2 is not None and self.layout.last_norm is LastNorm.IN_BRANCH:
            out = self.bn2(out)
        out = out + shortcut
        if self.bn2 is not None and self.layout.last_norm is LastNorm.AFTER_ADDITION:
            out = self.bn2(out)
        return relu(out) if self.layout.final_relu else out


class Bottleneck(nn.Module):
    """1x1, 3x3 (perhaps grouped; the stride is here) and 1x1 convolutions, and a shortcut."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, groups: int, layout: BlockLayout, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.layout = layout
        self.bn0 = nn.BatchNorm2d(inputs) if layout.has_bn0 else None
        self.conv1 = _conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs) if layout.last_norm is not LastNorm.NONE else None
        self.downsample = downsample

    @property
    def last_bn(self) -> nn.BatchNorm2d | None:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        if self.layout.rectifies_stream:
            x = relu(x)
        shortcut = x if self.downsample is None else self.downsample(x)
        out = x if self.bn0 is None else relu(self.bn0(x))
        out = relu(self.bn1(self.conv1(out)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.conv3(out)
        if self.bn3 is not None and self.layout.last_norm is LastNorm.IN_BRANCH:
            out = self.bn3(out)
        out = out + shortcut
        if self.bn3 is not None and self.layout.last_norm is LastNorm.AFTER_ADDITION:
            out = self.bn3(out)
        return relu(out) if self.layout.final_relu else out


Block = BasicBlock | Bottleneck


class Network(nn.Module):
    """One of the official networks: a stem, four stages of blocks, average pooling and a classifier.

    `forward` takes images (batch, 3, height, width), normalised as the spec says, and returns logits
    (batch, num_classes).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        # Where the shortcut pools, stage 1 has the stride that the stem's pooling has elsewhere.
        pooled_shortcut = spec.family.shortcut == "pool"
        self.maxpool = None if pooled_shortcut else nn.MaxPool2d(3, stride=2, padding=1)
        outputs = [widths(spec, stage)[1] for stage in range(4)]
        self.layer1 = _stage(spec, 0, 64, stride=2 if pooled_shortcut else 1)
        self.layer2 = _stage(spec, 1, outputs[0], stride=2)
        self.layer3 = _stage(spec, 2, outputs[1], stride=2)
        self.layer4 = _stage(spec, 3, outputs[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout) if spec.dropout else None
        self.fc = nn.Linear(outputs[3], spec.num_classes)

    @property
    def stages(self) -> list[list[Block]]:
        """The blocks of each of the four stages."""
        return [list(stage) for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]  # type: ignore[arg-type]

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules of the stem, of each stage and of the head, from the image on."""
        return {
            "stem": [self.conv1, self.bn1],
            "layer1": [self.layer1],
            "layer2": [self.layer2],
            "layer3": [self.layer3],
            "layer4": [self.layer4],
            "head": [self.fc],
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)["logits"]

    def values(self, x: Tensor) -> dict[str, Tensor]:
        """What comes out at the ends of the stages (batch, channels, height, width), the `embedding` (batch, features) and the
        logits."""
        x = relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        found = {}
        for name, stage in (("layer1", self.layer1), ("layer2", self.layer2), ("layer3", self.layer3), ("layer4", self.layer4)):
            x = stage(x)
            found[name] = x
        x = torch.flatten(self.avgpool(x), 1)
        found["embedding"] = x
        if self.dropout is not None:
            x = self.dropout(x)
        return {**found, "logits": self.fc(x)}


def _stage(spec: ModelSpec, stage: int, inputs: int, stride: int) -> nn.Sequential:
    width, outputs = widths(spec, stage)
    make = Bottleneck if spec.bottleneck else BasicBlock
    count, groups = spec.blocks[stage], spec.stage_groups[stage]
    blocks = nn.Sequential()
    for index in range(count):
        layout = BlockLayout.of(index, count, resstage=spec.family.resstage)
        downsample = _downsample(spec, inputs, outputs, stride) if index == 0 else None
        blocks.append(make(inputs, width, outputs, stride if index == 0 else 1, groups, layout, downsample))
        inputs = outputs
    return blocks


def _downsample(spec: ModelSpec, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The shortcut of a stage's first block (paper, section 3.2, figure 2)."""
    projected = inputs != outputs
    if spec.family.shortcut == "conv":
        if not projected and stride == 1:
            return None
        return nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(pool, _conv1x1(inputs, outputs), nn.BatchNorm2d(outputs)) if projected else pool


def network_from_spec(spec: ModelSpec, *, zero_init_residual: bool = False) -> Network:
    """The network, freshly initialised as the official code does it.

    `zero_init_residual` starts every last BatchNorm *inside* a residual branch at zero, so that the block begins
    as its shortcut (arXiv 1706.02677, section 5.1). A BatchNorm after the addition is left alone: zeroed, it would
    erase the stream.
    """
    network = Network(spec)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if zero_init_residual:
        for blocks in network.stages:
            for block in blocks:
                if block.last_bn is not None and block.layout.last_norm is LastNorm.IN_BRANCH:
                    nn.init.zeros_(block.last_bn.weight)
    return network


def build_model(
    arch: str,
    depth: int,
    *,
    num_classes: int = 1000,
    groups: int | None = None,
    dropout: float = 0.0,
    zero_init_residual: bool = False,
) -> Network:
    """One of the official networks, in training mode, freshly initialised.

    Raises InputError for a network that there is not; `list_models` says which there are.
    """
    spec = ModelSpec(arch, depth, num_classes=num_classes, groups=groups, dropout=dropout)
    return network_from_spec(spec, zero_init_residual=zero_init_residual)
