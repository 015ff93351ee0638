"""Weights that others published, by their names, as checkpoints of ours: with their preprocessing, their classes and their origin.

`official:iresnet50`, `torchvision:resnet50.IMAGENET1K_V2`, `timm:resnet50.a1_in1k`. Each is fetched into the cache of the library
that publishes it, and written once to `cache_folder`. From there on it is a checkpoint like any other. The file `.sha256` beside it
holds its hash: a file that differs from that is written again.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from iresnet_models.cache import CACHE_VARIABLE, cache_folder
from iresnet_models.checkpoint import load_checkpoint, save_checkpoint
from iresnet_models.errors import CheckpointError, InputError, UnavailableError, named_line
from iresnet_models.files import replacing, sha256_of, write_text
from iresnet_models.network import Network, network_from_spec
from iresnet_models.official import download_official, published_id
from iresnet_models.preprocessing import preprocessing_of
from iresnet_models.spec import OFFICIAL_WEIGHTS, ModelSpec, Preprocessing
from iresnet_models.typed import shortly

_MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""What torchvision and timm call the networks that are a family of ours."""
_IMAGENET_CLASSES = 1000
_ALIKE = 1e-3
"""Relative: far more than float32 rounds, and far less than another network differs."""


def pretrained_checkpoint(name: str) -> Path:
    """The file of the weights of that name, fetched if it is not here yet. A name without a tag is the library's own default.

    Raises InputError for a name that there is not, which lists those that there are; UnavailableError without the library or a
    connection; CheckpointError for what is not the weights that were published.
    """
    publisher, which, file = _published(name)
    if _is_kept(file):
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):  # of torchrun's processes one fetches
            if not _is_kept(file):
                network, details = _PUBLISHERS[publisher][1](which)
                save_checkpoint(file, network, origin=f"{publisher}:{which}", **details)
                write_text(_hash_beside(file), _hashed(file))
    except OSError as error:
        raise InputError(
            f"The weights {name} cannot be kept in {file.parent} ({named_line(error)}).",
            f"Change the folder's permissions, free some space, or name another folder in {CACHE_VARIABLE}.",
        ) from error
    return file


def weights_file(named: str | Path, *, fetch: bool = True) -> Path:
    """The file that is named, or that of published weights of this name; without `fetch` its place, where it need not be."""
    if str(named).partition(":")[0] not in _PUBLISHERS or Path(named).exists():
        return Path(named)
    return pretrained_checkpoint(str(named)) if fetch else _published(str(named))[2]


def _published(name: str) -> tuple[str, str, Path]:
    """Who published weights, their whole name there, and their place in the cache; InputError for a name that there is not."""
    publisher, _, which = name.partition(":")
    if publisher not in _PUBLISHERS or not which:
        raise InputError(
            f"There are no weights called {shortly(name)}:",
            "name them as in official:iresnet50, torchvision:resnet50.IMAGENET1K_V2 or timm:resnet50.a1_in1k.",
        )
    which = _PUBLISHERS[publisher][0](which)
    return publisher, which, cache_folder() / f"{publisher}-{which}.pt"


def imagenet_labels() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, as torchvision has them."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def _is_kept(file: Path) -> bool:
    try:
        return _hash_beside(file).read_text(encoding="utf-8") == _hashed(file)
    except (OSError, ValueError):
        return False


def _hash_beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _hashed(file: Path) -> str:
    """As `sha256sum` writes and checks it."""
    return f"{sha256_of(file)}  {file.name}\n"


def _official_name(which: str) -> str:
    found = re.fullmatch(r"([a-z]{1,80})([0-9]{1,4})", which)
    if found is None:
        raise _unknown("official", which, [f"{arch}{depth}" for arch, depth in OFFICIAL_WEIGHTS])
    spec = ModelSpec(found[1], int(found[2]))
    published_id(spec)
    return spec.name


def _official(which: str) -> tuple[Network, dict[str, Any]]:
    arch, depth = next((arch, depth) for arch, depth in OFFICIAL_WEIGHTS if f"{arch}{depth}" == which)
    found = load_checkpoint(download_official(arch, depth), arch=arch, depth=depth)
    return _as(found.model, replace(found.spec, labels=imagenet_labels())), {"origin_sha256": found.sha256}


def _torchvision_name(which: str) -> str:
    model, _, tag = which.partition(".")
    known = {name: _torchvision_weights(name) for name in _MODELS}
    if model not in known or (tag and tag not in known[model].__members__):
        raise _unknown("torchvision", which, [f"{name}.{tag}" for name, weights in known.items() for tag in weights.__members__])
    return f"{model}.{known[model][tag or 'DEFAULT'].name}"


def _torchvision(which: str) -> tuple[Network, dict[str, Any]]:
    model, _, tag = which.partition(".")
    weights = _torchvision_weights(model)[tag]
    file = _from_hub(weights.url)
    labels = tuple(weights.meta["categories"])
    found = load_checkpoint(file, arch="resnet", depth=_depth(model), num_classes=len(labels))
    spec = replace(found.spec, **asdict(preprocessing_of(weights.transforms())), labels=labels)
    return _as(found.model, spec), {"origin_url": weights.url, "origin_sha256": found.sha256}


def _torchvision_weights(model: str) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(model)


def _from_hub(url: str) -> Path:
    """A file in torch.hub's cache, where torchvision keeps it too, with the hash that its name holds."""
    name = url.rpartition("/")[2]
    file, wanted = Path(torch.hub.get_dir()) / "checkpoints" / name, re.search(r"-([0-9a-f]{8,64})\.", name)
    if wanted is None:
        raise RuntimeError(f"the name of {url} holds no hash")
    if not file.exists():
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        with replacing(file) as temporary, _fetching(url, f"open it in a browser and save the file as {file}"):
            torch.hub.download_url_to_file(url, str(temporary), wanted[1], progress=on_terminal)
    if not sha256_of(file).startswith(wanted[1]):
        raise CheckpointError(
            f"{file} is not the file that torchvision published: its SHA-256 does not begin with {wanted[1]}, as its name does. It "
            "was damaged or exchanged.",
            "Delete it, and the next run downloads it again.",
        )
    return file


def _timm_name(which: str) -> str:
    if re.fullmatch(r"\w+\.\w+", which) and (cache_folder() / f"timm-{which}.pt").exists():
        return which  # without timm
    timm = _timm_package()
    known = [name for name in timm.list_pretrained("resnet*") if name.partition(".")[0] in _MODELS]
    known = [name for name in known if timm.get_pretrained_cfg(name).num_classes]
    model, _, tag = which.partition(".")
    name = which if tag or model not in _MODELS else f"{model}.{timm.get_pretrained_cfg(model).tag}"
    if name not in known:
        raise _unknown("timm", which, known)
    return name


def _timm(which: str) -> tuple[Network, dict[str, Any]]:
    timm = _timm_package()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what it tries again ends in one error
    with _fetching(f"timm's {which}", "bring Hugging Face's cache folder (HF_HOME) from a machine that has it"):
        theirs = timm.create_model(which, pretrained=True).eval()
    told = timm.data.resolve_model_data_config(theirs)
    size = told["input_size"][-1]
    if told["input_size"] != (3, size, size) or told["crop_mode"] != "center":
        raise CheckpointError(f"timm prepares the images of {which} otherwise than by a resize and a crop of the middle: {told}.")
    way = Preprocessing(
        image_size=size,
        resize=math.floor(size / told["crop_pct"]),  # as timm's create_transform rounds
        mean=tuple(told["mean"]),
        std=tuple(told["std"]),
        interpolation=told["interpolation"],
    )
    labels = imagenet_labels() if which.endswith("in1k") and theirs.num_classes == _IMAGENET_CLASSES else None
    spec = ModelSpec("resnet", _depth(which.partition(".")[0]), num_classes=theirs.num_classes, **asdict(way), labels=labels)
    network = network_from_spec(spec).eval()
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        network.load_state_dict(theirs.state_dict())
        with torch.inference_mode():
            ours, wanted = network(images), theirs(images)
    except RuntimeError as error:
        raise CheckpointError(f"timm's {which} is no {spec.name} as this project knows it: {named_line(error)}.") from error
    if not float((ours - wanted).abs().max()) <= _ALIKE * float(wanted.abs().max()):
        raise CheckpointError(f"timm's {which} has the weights of a {spec.name}, and computes something else.")
    return network, {"origin_url": f"https://huggingface.co/{theirs.pretrained_cfg['hf_hub_id']}"}


def _timm_package() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UnavailableError(
            f"Weights of timm need the package timm, which cannot be imported here ({error}).",
            "Run: pip install 'iresnet-export[timm]'",
        ) from error
    return timm


_PUBLISHERS = {
    "official": (_official_name, _official),
    "torchvision": (_torchvision_name, _torchvision),
    "timm": (_timm_name, _timm),
}
"""The full name of weights, from one without a tag; and the network of a full name, with what its checkpoint says of its origin."""


def _depth(model: str) -> int:
    return int(model.removeprefix("resnet"))


def _as(network: Network, spec: ModelSpec) -> Network:
    network.spec = spec
    return network


def _unknown(publisher: str, which: str, known: list[str]) -> InputError:
    return InputError(f"There are no weights {publisher}:{which:.80}; there are: {', '.join(known)}.")


@contextmanager
def _fetching(what: str, otherwise: str) -> Iterator[None]:
    """Whatever a library raises where it gets nothing, as one paragraph."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{what} could not be downloaded ({named_line(error):.300})."
        raise UnavailableError(reason, f"Check the connection and run it again, or {otherwise}.") from error
