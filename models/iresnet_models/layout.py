"""How the blocks of a network are laid out, and how wide they are. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from iresnet_models.spec import ModelSpec


class LastNorm(Enum):
    """Where a block's last BatchNorm stands."""

    IN_BRANCH = "before the addition"
    AFTER_ADDITION = "after the addition"
    NONE = "nowhere"


@dataclass(frozen=True)
class BlockLayout:
    """Which of the optional parts a block has, and where (paper, section 3.1, figure 1).

    `role` is the paper's name for it. `rectifies_stream`: the block's input goes through a ReLU *before* the
    shortcut branches off. `has_bn0`: BatchNorm and ReLU in front of the branch alone. `final_relu`: a ReLU closes the block.
    """

    role: str
    rectifies_stream: bool
    has_bn0: bool
    last_norm: LastNorm
    final_relu: bool

    @classmethod
    def of(cls, index: int, blocks: int, *, resstage: bool) -> BlockLayout:
        """The layout of block `index` of a stage of `blocks`."""
        if not resstage:
            return cls("block", False, False, LastNorm.IN_BRANCH, True)
        if index == 0:
            return cls("start", False, False, LastNorm.IN_BRANCH, False)
        end = index == blocks - 1
        # Block 1 has no bn0, since the start block ends in a BatchNorm. The official code rectifies its input in
        # place while the shortcut is the same tensor, so that the shortcut is rectified too; the published
        # networks were trained like that.
        return cls(
            role="end" if end else "middle",
            rectifies_stream=index == 1,
            has_bn0=index > 1,
            last_norm=LastNorm.AFTER_ADDITION if end else LastNorm.NONE,
            final_relu=end,
        )


def widths(spec: ModelSpec, stage: int) -> tuple[int, int]:
    """Inner and outer channels of a stage's blocks."""
    if spec.family.group_divisors is not None:
        return 256 << stage, 128 << stage
    planes = 64 << stage
    return planes, planes * (4 if spec.bottleneck else 1)
