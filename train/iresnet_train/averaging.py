"""The moving average of a network's weights (Polyak and Juditsky 1992), often more accurate than the last of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """`values`: the average of every entry of the state dict, statistics of BatchNorms too; counters are the last ones."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.values: dict[str, Tensor] = {key: value.detach().clone() for key, value in model.state_dict().items()}
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, *, restart: bool = False) -> None:
        """Moves towards the weights of now, or, to `restart`, all the way."""
        now = model.state_dict()
        floating = [key for key, value in self.values.items() if value.is_floating_point()]
        share = 1.0 if restart else 1 - self._decay
        torch._foreach_lerp_([self.values[key] for key in floating], [now[key] for key in floating], share)
        for key in self.values.keys() - set(floating):
            self.values[key].copy_(now[key])
