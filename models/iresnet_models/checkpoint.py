"""Checkpoints: read safely, recognised from their keys and shapes, and written so that they rebuild their model."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iresnet_models.archives import is_safetensors
from iresnet_models.errors import CheckpointError, InputError
from iresnet_models.files import replacing, require_file, sha256_of
from iresnet_models.layouts import FORMAT, WRAPPINGS, Layout, weights_in
from iresnet_models.network import Network
from iresnet_models.pickles import Passed
from iresnet_models.recognition import differences, recognised, require_expected, shapes_of, skeleton
from iresnet_models.safetensors_files import SUFFIX, metadata_of, read_safetensors, write_safetensors
from iresnet_models.saved_files import read_saved
from iresnet_models.spec import ModelSpec, Which


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: its network (float32, evaluation mode, CPU) and where it came from.

    `details` holds what else the file says, such as the epoch and the accuracy; `layout` how it held the weights, and which of
    them these are. `says_preprocessing`: whether it says how images are prepared, as ours do; else the spec has the usual way for
    ImageNet.
    """

    model: Network
    spec: ModelSpec
    path: Path
    sha256: str
    details: dict[str, Any] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    says_preprocessing: bool = True


def save_again(path: Path, checkpoint: Checkpoint, /, **details: Any) -> None:
    """Writes a checkpoint that was read, with which of its weights these are, and whether it says how images are prepared."""
    which = {} if checkpoint.layout.which is None else {"which": checkpoint.layout.which}
    says = {} if checkpoint.says_preprocessing else {_SAYS_PREPROCESSING: False}
    save_checkpoint(path, checkpoint.model, **details | which | says | {"made_from_sha256": checkpoint.sha256})


def save_checkpoint(path: Path, model: Network, /, **details: Any) -> None:
    """Writes weights, spec and `details` (plain values and tensors, by any name but those of the former), whole or not at all.

    A name that ends in .safetensors makes a file of safetensors, whose `details` are values of JSON.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    about = {**details, "format": FORMAT, "spec": model.spec.to_json()}
    if Path(path).suffix.lower() == SUFFIX:
        write_safetensors(Path(path), state, about)
        return
    buffer = io.BytesIO()  # torch's own writer of files may end the process where a disk is full
    torch.save({**about, "state_dict": state}, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(
    path: str | Path,
    *,
    arch: str | None = None,
    depth: int | None = None,
    num_classes: int | None = None,
    which: Which | None = None,
) -> Checkpoint:
    """Reads any checkpoint of an official network and rebuilds its model.

    Takes our own files, bare state dicts (the official ones, torchvision's and timm's ResNets) and what training tools save,
    from torch.save or in safetensors, whatever stands before the names. Nothing in the file is run. `arch`, `depth` and
    `num_classes` say what is expected; None leaves it to the file. `which` of the weights, "average" or "raw": None for the
    average where there is one. Raises CheckpointError for a file that is damaged, foreign, ambiguous, not finite, or not what was
    expected.
    """
    path = require_file(Path(path), "The checkpoint")
    is_plain = is_safetensors(path)
    content = read_safetensors(path) if is_plain else read_saved(path)
    state, layout = weights_in(content, path, which)
    own = content.get("format") == FORMAT
    if own:
        try:
            spec = ModelSpec.from_json(content.get("spec"))
        except InputError as error:
            raise CheckpointError(f"{path} carries a damaged description of its network. {error.reason}.", error.remedy) from error
        require_expected(path, spec, arch, depth, num_classes)
    else:
        try:
            shapes = {key: tuple(value.shape) for key, value in state.items()}
            spec = recognised(path, shapes, arch, depth, num_classes, told=content.get("arch"))
        except CheckpointError:
            raise
        except InputError as error:
            raise CheckpointError(f"{path} is no official network. {error}") from error
    model = _network_with(spec, state, path)
    said = {**(metadata_of(path) if is_plain else {}), **(content if layout.place else {})}
    says = own and content.get(_SAYS_PREPROCESSING) is not False
    return Checkpoint(model, spec, path, sha256_of(path), _details(said), layout, says_preprocessing=says)


_SAYS_PREPROCESSING = "says_preprocessing"
"""False in a file of ours that was saved from one that does not say it."""
_RESERVED = {"format", "spec", "which", _SAYS_PREPROCESSING, *WRAPPINGS}


def _details(said: Mapping[Any, Any]) -> dict[str, Any]:
    """Of what a file says beside its weights what can be shown, or is read by who asks for it."""

    def is_shown(value: Any) -> bool:
        return not isinstance(value, Passed) and not (isinstance(value, int) and value.bit_length() > 64)

    return {key: value for key, value in said.items() if isinstance(key, str) and key not in _RESERVED and is_shown(value)}


_USABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _network_with(spec: ModelSpec, state: dict[str, Tensor], path: Path) -> Network:
    unlike = differences(shapes_of(spec), {key: tuple(value.shape) for key, value in state.items()})
    if unlike:
        raise CheckpointError(f"{path} says that it is {spec.name}, but {'; '.join(unlike[:3])}.")
    size = path.stat().st_size
    if sum(value.numel() * value.element_size() for value in state.values()) > size:
        raise CheckpointError(
            f"{path} has {size:,} bytes, and its tensors say that they hold more: it is damaged, or they repeat few numbers "
            "(torch.expand).",
            "Get it again, or save them with .contiguous().",
        )
    weights: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            weights[key] = value.detach().to(torch.int64, copy=True)
            continue
        if value.dtype not in _USABLE:
            raise CheckpointError(
                f"{path}: {key} holds {value.dtype} and not floating-point numbers;", "use the unquantized weights."
            )
        weights[key] = value.detach().to(torch.float32, copy=True).contiguous()  # a copy: the value still lies in the file
        if not bool(torch.isfinite(weights[key]).all()):
            raise _not_finite(path, key, int((~torch.isfinite(value)).sum()))
        if key.endswith("running_var") and bool((value < 0).any()):
            raise CheckpointError(f"{path}: {key} holds a negative variance; the file is damaged.", "Get it again.")
    network = skeleton(spec)
    for key in network.state_dict():
        weights.setdefault(key, torch.zeros((), dtype=torch.int64))
    network.load_state_dict(weights, strict=True, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    _require_no_meta(network)
    return network.eval()


def _not_finite(path: Path, key: str, bad: int) -> CheckpointError:
    """Of a tensor with so many values that are no numbers; with none it holds numbers beyond float32."""
    if not bad:
        return CheckpointError(f"{path}: {key} holds values beyond float32; this network cannot be run in float32.")
    return CheckpointError(
        f"{path}: {key} holds {bad} value{'s' if bad > 1 else ''} that {'are' if bad > 1 else 'is'} NaN or infinite; the "
        "training diverged or the file is damaged.",
        "Use an earlier checkpoint.",
    )


def _require_no_meta(network: nn.Module) -> None:
    left = [name for name, value in network.state_dict().items() if value.is_meta]
    if left:
        raise RuntimeError(f"weights were not loaded: {left[:3]}")
