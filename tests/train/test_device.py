"""The device that training takes, with a GPU pretended."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from iresnet_models import ModelSpec
from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.network import Network
from iresnet_train import TrainConfig
from iresnet_train.distributed import World, joined_world
from iresnet_train.learner import Learner


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two GPUs, of which the second is the current one; the indices that are set, checked by PyTorch's own set_device."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    return chosen


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_one_process_takes_the_current_gpu_by_its_index(asked: str, pretended: list[int]) -> None:
    with joined_world(asked) as world:  # type: ignore[arg-type]
        assert world.device == torch.device("cuda", 1)
    assert pretended == [1]


def test_a_gpu_that_cannot_be_used_is_said_to_be(pretended: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> int:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore lines")

    monkeypatch.setattr(torch.cuda, "current_device", busy)
    with pytest.raises(UnavailableError, match=r"busy or unavailable.*--device cpu") as caught, joined_world("auto"):
        pass
    assert "\n" not in str(caught.value)


def test_every_tensor_of_a_step_lies_on_the_gpu(pretended: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With tensors that have a device and no memory: one on another device than its operands raises."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # FakeTensorMode would start it
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: None)
    config = TrainConfig("d", depth=18, batch_size=8, accumulate=2, label_smoothing=0.1, ema_decay=0.9)
    spec = ModelSpec("iresnet", 18, num_classes=4, image_size=32, resize=32)

    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda", 0):
            network = Network(spec)
        monkeypatch.setattr(network, "to", lambda *arguments, **options: network)  # fake weights cannot be moved
        learner = Learner(config, network, World(0, 1, torch.device("cuda", 0)))
        totals = torch.zeros(5, dtype=torch.float64, device=learner.device)
        loss = learner._loss(torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64), totals)
        assert loss.device.type == "cuda"
        assert learner.average is not None
        learner.average.update(learner.model)
        for weight in learner.model.parameters():  # as a step leaves them, whose kernel asks for a device
            learner._optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight, requires_grad=False)
        assert learner.predict(torch.zeros(4, 3, 32, 32)).device.type == "cuda"
        assert learner.predict_by_average(torch.zeros(4, 3, 32, 32)).device.type == "cuda"
        learner.restore(learner.state())
        assert {value.device.type for value in learner.state()["moments"]["momentum_buffer"].values()} == {"cuda"}


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "two"), ("RANK", "-1"), ("WORLD_SIZE", "0"), ("LOCAL_RANK", "9" * 30)])
def test_torchruns_variables_that_are_no_numbers(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} is .*Unset it"), joined_world("cpu"):
        pass


def test_processes_that_cannot_join(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnavailableError, match=r"cannot join.*torchrun"), joined_world("cpu"):
        pass
