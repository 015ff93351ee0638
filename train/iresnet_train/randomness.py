"""Every random number of a run follows from what it is for, and not from what was drawn before.

The order of an epoch follows from (seed, epoch), an image's augmentation from (seed, epoch, its index), dropout and mixing from
(seed, step, rank). So there are no generators' states to save: a run that is resumed at a step draws what it would have drawn,
with any number of workers.
"""

from __future__ import annotations

import torch

_ORDER, _IMAGE, _STEP = range(3)


def order_generator(seed: int, epoch: int) -> torch.Generator:
    """For the order of an epoch."""
    return torch.Generator().manual_seed(_mixed(_ORDER, seed, epoch))


def seed_image(seed: int, epoch: int, index: int) -> None:
    """Sets the generator of the CPU, from which torchvision's transforms draw, for one image."""
    # torch.manual_seed would do the same for every other device, and costs a hundred times as much.
    torch.default_generator.manual_seed(_mixed(_IMAGE, seed, epoch, index))


def seed_step(seed: int, step: int, part: int, rank: int, device: torch.device) -> None:
    """Sets the generators of the CPU and of `device` for a part of a step."""
    key = _mixed(_STEP, seed, step, part, rank)
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)


def _mixed(*parts: int) -> int:
    """Spreads small numbers over 32 bits, all that PyTorch's generator of the CPU makes use of (splitmix64, Steele et al. 2014)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 32


_MASK = (1 << 64) - 1
