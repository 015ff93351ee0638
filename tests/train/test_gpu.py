"""What only a GPU can show."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iresnet_models.errors import PreemptedError
from iresnet_train import Progress, TrainConfig, train

pytestmark = pytest.mark.gpu

MakeConfig = Callable[..., TrainConfig]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_with_fixed_algorithms_resumption_is_exact(precision: str, tiny_config: MakeConfig, tmp_path: Path) -> None:
    values = {"device": "cuda", "precision": precision, "deterministic": True, "dropout": 0.3, "mixup": 0.4, "ema_decay": 0.9}
    whole = train(tiny_config(result_path=tmp_path / "whole", **values))

    def stop(now: Progress) -> None:
        if (now.epoch, now.step) == (2, 1):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(PreemptedError):
        train(tiny_config(result_path=tmp_path / "stopped", **values), stop)
    resumed = train(tiny_config(result_path=tmp_path / "stopped", resume="yes", **values))
    first, second = (torch.load(result.last, weights_only=True)["state_dict"] for result in (whole, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_memory_is_told(tiny_config: MakeConfig) -> None:
    told: list[Progress] = []
    train(tiny_config(device="cuda", epochs=1, lr_steps=()), told.append)
    assert all(now.gpu_memory_gb is not None and now.gpu_memory_gb > 0 for now in told)
