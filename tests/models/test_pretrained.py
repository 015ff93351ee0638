"""Published weights by their names, from a hub that lies in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

import iresnet_export as ie
from iresnet_models import pretrained
from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.errors import CheckpointError, InputError, UnavailableError
from iresnet_models.files import sha256_of
from iresnet_models.network import network_from_spec
from iresnet_models.pretrained import imagenet_labels, pretrained_checkpoint, weights_file
from iresnet_models.spec import OFFICIAL_WEIGHTS, ModelSpec
from iresnet_train import config_for

V1 = "torchvision:resnet18.IMAGENET1K_V1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """torch.hub's cache, with a file of random weights whose name holds its hash."""
    home = tmp_path_factory.mktemp("torch")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), folder / "made.pth")
    file = (folder / "made.pth").rename(folder / f"resnet18-{sha256_of(folder / 'made.pth')[:8]}.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        patch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", f"https://hub.invalid/{file.name}")
        yield file


def test_torchvisions_weights_bring_their_preprocessing_and_their_classes(hub: Path) -> None:
    file = pretrained_checkpoint("torchvision:resnet18")
    assert file == pretrained_checkpoint("torchvision:resnet18.DEFAULT") == pretrained_checkpoint(V1)
    found = load_checkpoint(file)
    assert found.says_preprocessing
    assert found.spec.name == "resnet18"
    assert (found.spec.resize, found.spec.image_size, found.spec.interpolation) == (256, 224, "bilinear")
    assert found.spec.labels is not None
    assert found.spec.labels[:2] == ("tench", "goldfish")
    assert (found.details["origin"], found.details["origin_sha256"]) == (V1, sha256_of(hub))
    theirs = resnet18().eval()
    theirs.load_state_dict(torch.load(hub, weights_only=True))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(found.model(images), theirs(images))
    before = sha256_of(file)
    file.write_bytes(b"damaged")
    assert sha256_of(pretrained_checkpoint(V1)) == before, "what is damaged is written again, the same"
    assert ie.pretrained(V1, resize=232).spec.resize == 232


def test_a_cache_that_cannot_be_written_is_told_of_and_one_that_holds_them_need_not_be(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = pretrained_checkpoint(V1)
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "FileLock", None)
        assert pretrained_checkpoint(V1) == kept
    (tmp_path / "file").touch()
    monkeypatch.setenv("IRESNET_EXPORT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"cannot be kept in .*name another folder in IRESNET_EXPORT_CACHE"):
        pretrained_checkpoint(V1)


def test_training_starts_from_them_too(hub: Path) -> None:
    config = config_for("photos", "finetune", pretrained=Path(V1))
    assert (config.pretrained, config.arch, config.depth) == (pretrained_checkpoint(V1), "resnet", 18)
    assert (config.val_resize, config.val_crop_size) == (256, 224)
    assert config_for("digits", pretrained=hub, arch="resnet", depth=18).pretrained == hub
    assert weights_file("torchvision:resnet18", fetch=False) == pretrained_checkpoint(V1)
    assert not weights_file("torchvision:resnet101", fetch=False).exists(), "a run that goes on fetches nothing"


def test_the_second_version_wants_another_resize(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet50_Weights

    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "transforms", ResNet50_Weights.IMAGENET1K_V2.transforms)
    assert load_checkpoint(pretrained_checkpoint(V1)).spec.resize == 232


def test_a_file_of_the_hub_that_is_not_what_its_name_says(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "hub" / "checkpoints" / hub.name
    place.parent.mkdir(parents=True)
    place.write_bytes(hub.read_bytes() + b"x")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="damaged or exchanged"):
        pretrained_checkpoint(V1)


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(UnavailableError, match="resnet101") as caught:
        pretrained_checkpoint("torchvision:resnet101.IMAGENET1K_V2")
    assert str(tmp_path) in caught.value.remedy
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:resnet50.V3", "resnet50.IMAGENET1K_V2"),
        ("torchvision:vgg16", "resnet152.IMAGENET1K_V2"),
        ("torchvision:../x", "there are"),
        ("official:iresnet18", "50, 101"),
        ("official:iresnet", "iresnet404"),
        ("hub:resnet50", "timm:resnet50"),
        ("resnet50", "timm:resnet50"),
        ("timm:", "timm:resnet50"),
    ],
)
def test_names_that_there_are_not(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        pretrained_checkpoint(name)


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnavailableError, match=r"iresnet-export\[timm\]"):
        pretrained_checkpoint("timm:resnet50.a1_in1k")


class Theirs(nn.Module):
    """A network as timm gives it."""

    num_classes = 1000
    pretrained_cfg: dict[str, str]

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.network = network_from_spec(ModelSpec("resnet", 18))
        self.factor = factor
        self.pretrained_cfg = {"hf_hub_id": "timm/resnet18.a1_in1k"}

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return self.network.state_dict(*arguments, **options)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.factor * self.network(images)
        return logits


def pretended_timm(monkeypatch: pytest.MonkeyPatch, factor: float = 1.0, **config: Any) -> None:
    told = {"input_size": (3, 64, 64), "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
    told |= {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)} | config
    timm = ModuleType("timm")
    timm.list_pretrained = lambda _filter: ["resnet18.a1_in1k", "resnet18d.ra_in1k"]  # type: ignore[attr-defined]
    timm.get_pretrained_cfg = lambda _name: SimpleNamespace(num_classes=1000, tag="a1_in1k")  # type: ignore[attr-defined]
    timm.create_model = lambda _name, pretrained: Theirs(factor)  # type: ignore[attr-defined]
    timm.data = SimpleNamespace(resolve_model_data_config=lambda _model: told)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)


def test_timms_weights_bring_their_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended_timm(monkeypatch)
    file = pretrained_checkpoint("timm:resnet18")
    spec = load_checkpoint(file).spec
    assert (spec.image_size, spec.resize, spec.interpolation, spec.mean) == (64, 67, "bicubic", (0.5, 0.5, 0.5))
    assert spec.labels == imagenet_labels()
    monkeypatch.setitem(sys.modules, "timm", None)
    assert pretrained_checkpoint("timm:resnet18.a1_in1k") == file, "once it is here, timm is not needed"
    pretended_timm(monkeypatch)
    with pytest.raises(InputError, match=r"there are: resnet18.a1_in1k\.$"):
        pretrained_checkpoint("timm:resnet18d.ra_in1k")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"factor": 1.1}, "computes something else"),
        ({"crop_mode": "squash"}, "otherwise"),
        ({"input_size": (3, 64, 80)}, "otherwise"),
    ],
)
def test_what_timm_computes_or_prepares_otherwise_is_refused(
    wrong: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended_timm(monkeypatch, **wrong)
    with pytest.raises(CheckpointError, match=said):
        pretrained_checkpoint("timm:resnet18.a1_in1k")


def test_the_authors_weights_know_the_names_of_their_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(OFFICIAL_WEIGHTS, ("iresnet", 18), "id")  # it was not published, and is small
    network = network_from_spec(ModelSpec("iresnet", 18))
    torch.save(network.state_dict(), tmp_path / "published.pth")
    monkeypatch.setattr("iresnet_models.pretrained.download_official", lambda *_: tmp_path / "published.pth")
    found = load_checkpoint(pretrained_checkpoint("official:iresnet18"))
    assert found.spec == ModelSpec("iresnet", 18, labels=imagenet_labels())
    assert torch.equal(found.model.fc.weight, network.fc.weight)
