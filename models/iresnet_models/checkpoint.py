"""Checkpoints: read safely, recognised from their keys and shapes, and written so that they rebuild their model."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from iresnet_models.archives import LFS_POINTER, WEB_PAGE, is_archive, opened, what_it_is
from iresnet_models.errors import ArtifactError, CheckpointError, InputError, named_line
from iresnet_models.files import replacing, require_file, sha256_of
from iresnet_models.network import Network
from iresnet_models.pickles import Passed, RefusedPickleError, globals_of, is_harmless, read_past
from iresnet_models.spec import BLOCKS, FAMILIES, ModelSpec
from iresnet_models.typed import shortly

FORMAT = "iresnet-export/checkpoint/1"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: its network (float32, evaluation mode, CPU) and where it came from.

    `details` holds what else the file says, such as the epoch and the accuracy. `says_preprocessing`: whether it says how images
    are prepared, as ours do; else the spec has the usual way for ImageNet.
    """

    model: Network
    spec: ModelSpec
    path: Path
    sha256: str
    details: dict[str, Any] = field(default_factory=dict)
    says_preprocessing: bool = True


def save_checkpoint(path: Path, model: Network, **details: Any) -> None:
    """Writes weights, spec and `details` (plain values and tensors), whole or not at all."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    buffer = io.BytesIO()  # torch's own writer of files may end the process where a disk is full
    torch.save({"format": FORMAT, "spec": model.spec.to_json(), "state_dict": state, **details}, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(
    path: str | Path, *, arch: str | None = None, depth: int | None = None, num_classes: int | None = None
) -> Checkpoint:
    """Reads any checkpoint of an official network and rebuilds its model.

    Takes our own files, bare state dicts (the official ones, torchvision's ResNets) and training checkpoints of the
    official code, with or without `module.` prefixes. Nothing in the file is run. `arch`, `depth` and
    `num_classes` say what is expected; None leaves it to the file. Raises CheckpointError for a file that is
    damaged, foreign, ambiguous, not finite, or not what was expected.
    """
    path = require_file(Path(path), "The checkpoint")
    content = read_saved(path)
    own = content.get("format") == FORMAT
    state = _state_dict(content, path)
    if own:
        try:
            spec = ModelSpec.from_json(content.get("spec"))
        except InputError as error:
            raise CheckpointError(f"{path} carries a damaged description of its network. {error.reason}.", error.remedy) from error
        _require_expected(path, spec, arch, depth, num_classes)
    else:
        try:
            spec = _recognise(path, state, arch, depth, num_classes)
        except CheckpointError:
            raise
        except InputError as error:
            raise CheckpointError(f"{path} is no official network. {error}") from error
    model = _network_with(spec, state, path)
    known = {"format", "spec", "state_dict", "model"}
    details = (
        {key: value for key, value in content.items() if key not in known and _is_detail(value)} if "state_dict" in content else {}
    )
    return Checkpoint(model, spec, path, sha256_of(path), details, says_preprocessing=own)


def shapes_of(spec: ModelSpec) -> Shapes:
    """Key and shape of every entry of the state dict, in order."""
    return {key: tuple(value.shape) for key, value in _skeleton(spec).state_dict().items()}


def _skeleton(spec: ModelSpec) -> Network:
    with torch.device("meta"):
        return Network(spec)


def read_saved(path: Path) -> Mapping[str, Any]:
    """What torch.save wrote, with tensors that still lie in the file. Only weights, and plain values beside them, are made.

    Nothing in the file is run, and it takes no more memory than it has bytes, whatever it asks for; CheckpointError says why not.
    """
    zipped = is_archive(path)
    names: set[str] = set()
    try:
        if zipped:
            names = _globals_of_archive(path)
        else:
            with path.open("rb") as file:
                names = globals_of(file, pickles=_LEGACY_PICKLES)
        with warnings.catch_warnings(), read_past(names):
            warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read raises
            # A record that is mapped is no longer than the file, whatever the pickle says of it.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except ArtifactError as error:
        raise CheckpointError(f"{error.reason}.", error.remedy) from error
    except RefusedPickleError as error:
        raise CheckpointError(f"{path} was refused: {error}, and a file of weights has no need to.", f"{_SAVE_WEIGHTS}") from error
    except pickle.UnpicklingError as error:
        raise _unpickled(path, names, error) from error
    except Exception as error:
        if _strange(names):
            raise _unpickled(path, names, error) from error
        raise _unreadable(path, zipped, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict.", "Save model.state_dict().")
    return content


_LEGACY_PICKLES = 5
"""Before its zip archives torch wrote a magic number, a version, the system, the content and the storages' keys, each a pickle."""

_SAVE_WEIGHTS = "If you trust its source, save its state_dict alone with torch.save and use that file."


def _globals_of_archive(path: Path) -> set[str]:
    """What the pickle in an archive of torch's asks for. Raises ArtifactError for one that is damaged, foreign, or a bomb."""
    foreign = what_it_is(path)
    if foreign is not None:
        raise _foreign(path, foreign)
    with opened(path) as archive:
        if any("/code/" in f"/{name}" for name in archive.names):
            raise CheckpointError(
                f"{path} is a TorchScript archive, not a checkpoint.",
                "Commands that take artifacts read it; exports start from the checkpoint that it was made of.",
            )
        content = next((name for name in archive.names if name.endswith("data.pkl")), None)
        if content is None:
            raise _foreign(path, "a zip archive without weights")
        if archive.is_compressed:
            raise CheckpointError(
                f"{path} holds compressed records, as torch never writes them: another program packed it.",
                "Unpack it and save the state_dict with torch.save.",
            )
        pickled = archive.read(content)
    return globals_of(io.BytesIO(pickled))


def _foreign(path: Path, what: str) -> CheckpointError:
    if what in (WEB_PAGE, LFS_POINTER):
        return CheckpointError(f"{path} is no checkpoint but {what}.", "Download the file itself.")
    return CheckpointError(
        f"{path} is no checkpoint of PyTorch but {what}. It is whole as far as can be seen, so getting it again will not help:",
        "name a file that torch.save wrote, such as one with model.state_dict() in it.",
    )


def _unpickled(path: Path, names: set[str], error: Exception) -> CheckpointError:
    """What torch's reader refused, by its full name."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    strange = _strange(names)
    wanted = found[1] if found is not None else next(iter(strange), None)
    if wanted is not None:
        full = next((name for name in sorted(names) if name == wanted or name.endswith(f".{wanted}")), wanted)
        if any(name.startswith("torch.nn.modules.") for name in names):
            return CheckpointError(
                f"{path} was refused: it is a whole network as a pickle, which wants to run code ({full:.200}) when it is opened.",
                "If you trust its source, load it where its classes are, and save model.state_dict() with torch.save.",
            )
        return CheckpointError(
            f"{path} was refused: it is a pickle that wants to run code ({full:.200}) when it is opened, which a file of "
            f"weights has no need to.",
            f"{_SAVE_WEIGHTS}",
        )
    if "Unsupported operand" in str(error) and "torch._utils._rebuild_tensor_v2" in names:
        return CheckpointError(
            f"{path} was refused: it is a pickle of another protocol than torch's reader of weights takes.",
            "Save it again with torch.save, without pickle_protocol.",
        )
    reason = re.search(r"Unsupported[^\n]*|Can only[^\n]*|Trying[^\n]*", str(error))
    return CheckpointError(
        f"{path} was refused: it is damaged, or a pickle of something other than weights "
        f"({reason[0] if reason else 'unreadable':.200}).",
        "Get it again, or save the model's state_dict with torch.save and use that file.",
    )


def _strange(names: set[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(("torch.", "collections.", "_codecs.")) and not is_harmless(name))


def _unreadable(path: Path, zipped: bool, error: Exception) -> CheckpointError:
    foreign = None if zipped else what_it_is(path) or ("a plain pickle" if "Invalid magic number" in str(error) else None)
    if foreign is not None:
        return _foreign(path, foreign)
    with path.open("rb") as file:
        head = file.read(2)
    if not zipped and head[:1] != b"\x80":
        return CheckpointError(
            f"{path} cannot be read as a checkpoint: it is not a PyTorch file, which begins with PK or a pickle, and not with "
            f"{head.hex(' ')}.",
            "Name a file that torch.save wrote; if this one should be that, get it again.",
        )
    return CheckpointError(
        f"{path} cannot be read as a checkpoint: it is truncated or damaged ({named_line(error):.200}).",
        "Copy or download it again.",
    )


def _state_dict(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in whichever wrapping, without the prefixes of DataParallel and torch.compile."""
    for wrapping in ("state_dict", "model"):
        if isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
            break
    state = dict(content)
    strange = next((key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)), None)
    if not state or strange is not None:
        found = "nothing" if not state else f"{shortly(strange)}: {type(state[strange]).__name__}"  # type: ignore[index]
        raise CheckpointError(f"{path} holds no state dict (a mapping of names to tensors); found {found}.")
    for key, value in state.items():
        kind = _unusable(value)
        if kind is not None:
            raise CheckpointError(
                f"{path}: {key:.200} holds {kind} and not plain floating-point numbers;",
                "use the unquantized, dense weights as model.state_dict() gives them.",
            )
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


_USABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _unusable(value: Tensor) -> str | None:
    """What keeps a tensor from being weights; asked before anything else, since some kinds do not even tell their shape."""
    for found, kind in (
        (value.is_nested, "a nested tensor"),
        (value.is_meta, "a tensor without its numbers (device meta)"),
        (value.is_quantized, "a quantized tensor"),
        (value.layout is not torch.strided, f"a sparse tensor ({value.layout})"),
        (is_lazy(value), "a tensor without its numbers"),
        (type(value) not in (Tensor, nn.Parameter), f"a {type(value).__name__}"),
        (value.is_complex() or str(value.dtype).startswith(("torch.float8", "torch.float4")), str(value.dtype)),
    ):
        if found:
            return kind
    return None


def _is_detail(value: Any) -> bool:
    """Whether it is a plain value that can be shown, or something that only who asks for it reads."""
    return not isinstance(value, Passed) and not (isinstance(value, int) and value.bit_length() > 64)


def _recognise(path: Path, state: dict[str, Tensor], arch: str | None, depth: int | None, num_classes: int | None) -> ModelSpec:
    """The spec whose keys and shapes are exactly these."""
    shapes: Shapes = {key: tuple(value.shape) for key, value in state.items()}
    if any("prelu" in key for key in shapes):
        raise CheckpointError(
            f"{path} is another network that is also called IResNet: InsightFace's face recognition backbone, with PReLU. "
            "This project is about Improved Residual Networks (arXiv 2004.04989)."
        )
    classifier = shapes.get("fc.weight", ())
    counts = _blocks_per_stage(shapes)
    if len(classifier) != 2 or counts is None:
        sample = ", ".join(f"{key:.80}" for key in list(shapes)[:4])
        raise CheckpointError(
            f"{path} is not a network of these families: its keys ({len(shapes)}: {sample}, ...) lack conv1, layer1 to layer4 or "
            "fc.",
            "`iresnet-export models` lists what there is.",
        )
    bottleneck = "layer1.0.conv3.weight" in shapes
    specs = [
        ModelSpec(name, deep, num_classes=classifier[0], groups=_groups(name, shapes))
        for name, family in FAMILIES.items()
        for deep in family.depths
        if BLOCKS[deep] == counts and (deep >= 50) == bottleneck
    ]
    if not specs:
        raise CheckpointError(
            f"{path} has {', '.join(map(str, counts))} {'bottlenecks' if bottleneck else 'basic blocks'} in its four stages, "
            "which no official network has.",
            "`iresnet-export models` lists them.",
        )
    differences = {spec: _differences(shapes_of(spec), shapes) for spec in specs}
    matching = [spec for spec, difference in differences.items() if not difference]
    if not matching:
        asked = [spec for spec in specs if spec.arch == arch]
        spec = min(asked or specs, key=lambda candidate: len(differences[candidate]))
        found = differences[spec]
        raise CheckpointError(
            f"{path} is no official network. It comes nearest to {spec.name}, with {len(found)} "
            f"difference{'s' if len(found) != 1 else ''}: {'; '.join(found[:3])}{'; ...' if len(found) > 3 else ''}."
        )
    chosen = [spec for spec in matching if arch is None or spec.arch == arch]
    if len(chosen) > 1:
        names = " or ".join(spec.name for spec in chosen)
        raise CheckpointError(
            f"{path} could be {names}: their weights have the same names and shapes, but they compute different outputs.",
            f"Say which with --arch ({' or '.join(spec.arch for spec in chosen)}).",
        )
    spec = chosen[0] if chosen else matching[0]
    _require_expected(path, spec, arch, depth, num_classes)
    return spec


def _require_expected(path: Path, spec: ModelSpec, arch: str | None, depth: int | None, num_classes: int | None) -> None:
    for option, asked, found in (
        ("--arch", arch, spec.arch),
        ("--depth", depth, spec.depth),
        ("--num-classes", num_classes, spec.num_classes),
    ):
        if asked is not None and asked != found:
            raise CheckpointError(
                f"{path} holds {spec.name} with {spec.num_classes} classes, but {option} {asked} was asked for.",
                f"Leave out {option}, or name another checkpoint.",
            )


def _blocks_per_stage(shapes: Shapes) -> tuple[int, int, int, int] | None:
    last = dict.fromkeys(range(1, 5), -1)
    for key in shapes:
        if (match := re.match(r"layer([1-4])\.([0-9]{1,4})\.", key)) is not None:
            last[int(match[1])] = max(last[int(match[1])], int(match[2]))
    if "conv1.weight" not in shapes or min(last.values()) < 0:
        return None
    return last[1] + 1, last[2] + 1, last[3] + 1, last[4] + 1


def _groups(arch: str, shapes: Shapes) -> int | None:
    """Groups of the last stage, from its 3x3 convolution's shape (outputs, inputs / groups, 3, 3)."""
    if FAMILIES[arch].group_divisors is None:
        return None
    weight = shapes.get("layer4.0.conv2.weight", ())
    groups = 2048 // weight[1] if len(weight) == 4 and weight[1] else 0
    return groups if groups in (1, 2, 4, 8, 16, 32, 64, 128, 256) else None


def _differences(expected: Shapes, found: Shapes) -> list[str]:
    # Files from before PyTorch 0.4.1 do not count batches; nothing depends on that number.
    counted = any(key.endswith("num_batches_tracked") for key in found)
    wanted = {key: shape for key, shape in expected.items() if counted or not key.endswith("num_batches_tracked")}
    lacking = [f"{key} is missing" for key in wanted if key not in found]
    foreign = [f"{key:.80} does not belong" for key in found if key not in wanted]
    other = [
        f"{key} is {_shape(found[key])} and not {_shape(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    return other + lacking + foreign


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _network_with(spec: ModelSpec, state: dict[str, Tensor], path: Path) -> Network:
    differences = _differences(shapes_of(spec), {key: tuple(value.shape) for key, value in state.items()})
    if differences:
        raise CheckpointError(f"{path} says that it is {spec.name}, but {'; '.join(differences[:3])}.")
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
    network = _skeleton(spec)
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
