"""The network that a fold makes: convolutions with biases, ReLUs and one addition per block, and no BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from iresnet_models.folding_report import FoldReport
from iresnet_models.layout import BlockLayout


@dataclass(frozen=True)
class Reading:
    """How the original's values are read from the folded network's: `gain * z + offset`, per channel, float64."""

    gain: Tensor
    offset: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The original's values for `values` (batch, channels, height, width), of their type and on their device."""
        gain, offset = (term.to(values).view(-1, 1, 1) for term in (self.gain, self.offset))
        return values * gain + offset


class ChannelAffine(nn.Module):
    """What is left of a stream BatchNorm in front of its ReLU: signs, or `factor * x + shift` if it has kept channels."""

    factor: Tensor
    shift: Tensor | None

    def __init__(self, factor: Tensor, shift: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("factor", factor.view(1, -1, 1, 1))
        self.register_buffer("shift", None if shift is None else shift.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.factor
        return x if self.shift is None else x + self.shift


class FoldedBlock(nn.Module):
    """A block whose BatchNorms are folded; two or three convolutions, and the ReLUs where the original has them.

    Its addition gives `s = scale * r + shift` (`scale` > 0 and `shift` per channel, float64), where r is what the original's gives;
    `output` is how the original's block output is read from this one's. `affine0` and `affine` are what is left of the
    BatchNorm in front of the branch and of the one after the addition, mostly nothing.
    """

    def __init__(
        self,
        layout: BlockLayout,
        convs: Sequence[nn.Conv2d],
        downsample: nn.Module | None,
        affine0: ChannelAffine | None,
        affine: ChannelAffine | None,
        *,
        scale: Tensor,
        shift: Tensor,
        output: Reading,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.scale, self.shift, self.output = scale, shift, output
        self.affine0 = affine0
        self.conv1, self.conv2 = convs[:2]
        self.conv3 = convs[2] if len(convs) == 3 else None
        self.affine = affine
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        if self.layout.rectifies_stream:
            x = relu(x)
        shortcut = x if self.downsample is None else self.downsample(x)
        out = x if self.affine0 is None else self.affine0(x)
        if self.layout.has_bn0:
            out = relu(out)
        out = self.conv2(relu(self.conv1(out)))
        if self.conv3 is not None:
            out = self.conv3(relu(out))
        out = out + shortcut
        if self.affine is not None:
            out = self.affine(out)
        return relu(out) if self.layout.final_relu else out

    def original_sum(self, s: Tensor) -> Tensor:
        """The original's stream r after this block's addition, from this block's s (batch, channels, height, width)."""
        scale, shift = (term.to(s).view(-1, 1, 1) for term in (self.scale, self.shift))
        return (s - shift) / scale

    def original_output(self, out: Tensor) -> Tensor:
        """The output of the original's block, from this block's."""
        return self.output.of(out)


class FoldedNetwork(nn.Module):
    """A network after the fold, in evaluation form: images (batch, 3, height, width) to logits (batch, num_classes).

    Convolutions and the classifier have the original's names. `plan` and the original's weights give every weight again;
    `report` says what was folded, and where, why and for which inputs it is exact.
    """

    def __init__(
        self,
        report: FoldReport,
        *,
        conv1: nn.Conv2d,
        maxpool: nn.MaxPool2d | None,
        stages: Sequence[Sequence[FoldedBlock]],
        fc: nn.Linear,
    ) -> None:
        super().__init__()
        self.spec, self.plan, self.report = report.spec, report.plan, report
        self.conv1 = conv1
        self.maxpool = maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*blocks) for blocks in stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fc
        self.requires_grad_(False).eval()

    @property
    def stages(self) -> list[list[FoldedBlock]]:
        """The blocks of each of the four stages."""
        return [list(stage) for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)["logits"]

    def values(self, x: Tensor) -> dict[str, Tensor]:
        """The same as `Network.values`, in this network's own terms: `readings` says how the original's are read from them."""
        x = relu(self.conv1(x))
        if self.maxpool is not None:
            x = self.maxpool(x)
        found = {}
        for name, stage in (("layer1", self.layer1), ("layer2", self.layer2), ("layer3", self.layer3), ("layer4", self.layer4)):
            x = stage(x)
            found[name] = x
        x = torch.flatten(self.avgpool(x), 1)
        return {**found, "embedding": x, "logits": self.fc(x)}

    @property
    def readings(self) -> dict[str, Reading]:
        """How the original's value is read from this network's, at the ends of the stages and behind the pooling."""
        ends = {f"layer{stage}": blocks[-1].output for stage, blocks in enumerate(self.stages, start=1)}
        return {**ends, "embedding": ends["layer4"]}
