"""Training starts from a checkpoint of any of the networks, whose family and depth need not be said."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from iresnet_data import evaluation_set
from iresnet_models import ModelSpec, load_checkpoint, network_from_spec, save_checkpoint
from iresnet_models.errors import CheckpointError, InputError
from iresnet_models.pretrained import imagenet_labels
from iresnet_train import config_for
from iresnet_train.initial import _same_classes, initial_network


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "resnet34.pth"
    torch.save(torchvision.models.resnet34(num_classes=5).state_dict(), path)
    return path


def test_family_and_depth_follow_from_the_file(theirs: Path) -> None:
    config = config_for("digits", pretrained=theirs)
    assert (config.arch, config.depth) == ("resnet", 34)
    assert config.folder == Path("runs/resnet34")
    for said, option in (({"depth": 18}, "--depth 18"), ({"arch": "iresnet"}, "--arch iresnet")):
        with pytest.raises(CheckpointError, match=f"holds resnet34.*{option}"):
            config_for("digits", pretrained=theirs, **said)


def test_where_the_file_leaves_two_networks_the_option_is_named(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "tv18.pth")
    with pytest.raises(CheckpointError, match=r"resnet18 or resstage18.*--arch"):
        config_for("digits", pretrained=tmp_path / "tv18.pth")
    assert config_for("digits", pretrained=tmp_path / "tv18.pth", arch="resnet").depth == 18


@pytest.mark.parametrize(
    ("classes", "said"),
    [(5, "its classifier too"), (10, r"a new classifier for 10 classes in place of its own for 5 classes")],
)
def test_what_was_loaded_is_said(classes: int, said: str, theirs: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_for("digits", pretrained=theirs)
    with caplog.at_level(logging.INFO, "iresnet_train"):
        initial_network(config, ModelSpec("resnet", 34, num_classes=classes, image_size=32, resize=32))
    assert f"Weights of resnet34 from resnet34.pth, {'with ' if classes == 10 else ''}{said}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "iresnet_train"):
        initial_network(config, ModelSpec("resnet", 34, num_classes=classes, image_size=32, resize=32), tell=False)
    assert not caplog.records, "of several processes one tells"


def test_a_run_that_goes_on_needs_the_file_no_more(tmp_path: Path) -> None:
    assert config_for("digits", pretrained=tmp_path / "gone.pth", resume="auto").arch == "iresnet"
    with pytest.raises(InputError, match="does not exist"):
        config_for("digits", pretrained=tmp_path / "gone.pth")


def test_how_its_images_were_prepared_is_kept_or_told(
    theirs: Path, tmp_path: Path, small_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = ModelSpec("iresnet", 18, num_classes=5, mean=(0.5, 0.5, 0.5))
    save_checkpoint(tmp_path / "own.pt", network_from_spec(own))
    usual = load_checkpoint(small_checkpoint).spec.mean
    for file, said, mean in (
        (theirs, "resnet34.pth does not say how its images were prepared; in this run they are: resize 32, crop 32", usual),
        (tmp_path / "own.pt", "", own.mean),
        (small_checkpoint, "", usual),
    ):
        caplog.clear()
        config = config_for("digits", pretrained=file)
        made = initial_network(config, ModelSpec(config.arch, config.depth, num_classes=5, image_size=32, resize=32))
        assert made.spec.mean == mean
        assert [entry.getMessage().startswith(said) for entry in caplog.records] == ([True] if said else [])


def test_folders_of_imagenet_by_wordnets_numbers_are_the_classes_of_published_weights(tmp_path: Path) -> None:
    """Which call them otherwise: evaluation takes them in their order, and training keeps the classifier."""
    numbers = [f"n{number:08}" for number in range(1000)]
    for number in numbers:
        (tmp_path / "val" / number).mkdir(parents=True)
    for number in (3, 999):
        Image.new("RGB", (40, 40)).save(tmp_path / "val" / numbers[number] / "a.png")
    published = ModelSpec("resnet", 18, image_size=32, resize=32, labels=imagenet_labels())
    found = evaluation_set(str(tmp_path), published)
    assert list(found.labels) == [3, 999]
    own = ModelSpec("resnet", 18, labels=tuple(numbers))
    assert _same_classes(published, own)
    assert not _same_classes(replace(published, labels=tuple(f"c{place}" for place in range(1000))), own)
    assert not _same_classes(published, replace(own, labels=tuple(reversed(imagenet_labels()))))
    for labels in (tuple(f"c{place}" for place in range(1000)), tuple(reversed(numbers))):
        with pytest.raises(InputError, match="folders that are no classes of the network") if labels[0] == "c0" else nullcontext():
            assert list(evaluation_set(str(tmp_path), replace(published, labels=labels)).labels) == [996, 0]
    (tmp_path / "val" / numbers[0]).rmdir()
    with pytest.raises(InputError, match="folders that are no classes of the network"):
        evaluation_set(str(tmp_path), published)
