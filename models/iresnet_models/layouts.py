"""Where in a file its weights are: the layouts in which training tools save networks, and which of the weights are taken.

A network is found by its names, wherever it is and whatever stands before them. Nothing is left out unsaid.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn, strided
from torch.nn.parameter import is_lazy

from iresnet_models.errors import CheckpointError
from iresnet_models.image_files import printable
from iresnet_models.spec import Which
from iresnet_models.typed import shortly

FORMAT = "iresnet-export/checkpoint/1"

_OURS = "iresnet-export"
_DEEPEST = 4
"""Mappings in mappings that are looked into: Lightning has callbacks, StochasticWeightAveraging, average_model_state."""
_COMPILED = "_orig_mod"
"""What torch.compile puts before the names of a module."""
_AVERAGE = re.compile(r"(?:^|[^a-z])(?:ema|swa|polyak|avg|average|averaged|averaging|shadow)(?:[^a-z]|$)")
_TRAINING = re.compile(
    r"(?:^|[^a-z])(?:criterion|criteria|loss|losses|metrics?|acc|accuracy|auroc|f1|precision|recall)(?:[^a-z]|$)"
)
"""Of what is beside a network and is no part of it: its name says what it is for."""
WRAPPINGS = ("state_dict", "model", "model_state_dict", "net", "weights")
_TOOLS = (
    ("PyTorch Lightning", {"state_dict", "pytorch-lightning_version"}),
    ("timm", {"state_dict", "arch", "version"}),
    ("torchvision's training script", {"model", "lr_scheduler", "args"}),
    ("PyTorch's ImageNet example or the official code", {"state_dict", "arch", "best_acc1"}),
)
"""By the entries that only their files have."""
_MOST_NETWORKS, _SHOWN, _LONGEST = 100, 6, 200


@dataclass(frozen=True)
class Layout:
    """How a file holds the weights that were taken.

    `place`: the entries that lead to them, such as `model_ema`; `prefix`: what stood before their names, such as `module.`.
    `which`: None where nothing says whether they are an average. `updates`: how many an average counts. `other`: the place of
    those of the other kind. `left_out`: names beside the network.
    """

    tool: str = ""
    place: str = ""
    prefix: str = ""
    is_compiled: bool = False
    which: Which | None = None
    updates: int | None = None
    other: str | None = None
    left_out: tuple[str, ...] = ()

    @property
    def in_words(self) -> dict[str, str]:
        """Everything that is to be said, by what it is about."""
        removed = [self.prefix] if self.prefix else []
        removed += [f"{_COMPILED}."] if self.is_compiled else []
        where = f"the weights are in {printable(self.place[:_LONGEST])}" if self.place and self.tool != _OURS else ""
        without = f"without {printable(' and '.join(removed)[:_LONGEST])} in their names" if removed else ""
        count = f" of {self.updates:,} updates" if self.updates is not None else ""
        which = {None: "", "average": f"the average{count}", "raw": "the raw ones"}[self.which]
        if self.other is not None:
            choice = "raw" if self.which == "average" else "average"
            which += f"; --which {choice} takes the {'un' if choice == 'raw' else ''}averaged ones, in {self.other}"
        left_out = ", ".join(printable(name[:_LONGEST]) for name in self.left_out[:_SHOWN]) + (
            ", ..." if len(self.left_out) > _SHOWN else ""
        )
        words = {
            "layout": ", ".join(part for part in (self.tool or "a bare state dict", where, without) if part),
            "which weights": which,
            "left out": f"{left_out} (beside the network)" if left_out else "",
        }
        return {name: said for name, said in words.items() if said}


@dataclass(frozen=True)
class _Found:
    """A network's weights in a file. `beside`: names in the same mapping that are no network's."""

    place: tuple[str, ...]
    prefix: str
    state: dict[str, Any]
    beside: list[str]
    is_average: bool
    updates: int | None

    @property
    def where(self) -> str:
        return printable(".".join((*self.place, self.prefix)).rstrip(".")[:_LONGEST]) or "the file itself"


def weights_in(content: Mapping[Any, Any], path: Path, which: Which | None) -> tuple[dict[str, Tensor], Layout]:
    """The state dict of the network in a file, under the network's own names, and how the file holds it.

    `which`: None for the average where there is one. CheckpointError where there is none, where none is of that kind, where there
    are several, or where what is beside it may be part of it.
    """
    found = _networks(content, path)
    tool = _OURS if content.get("format") == FORMAT else next((n for n, keys in _TOOLS if keys <= content.keys()), "")
    if not found:
        return _usable(_likeliest(content), path), Layout(tool)
    taken, other = _chosen(found, content, which, path)
    _require_whole(taken, path)
    is_one_of_two = other is not None or _unread_average(content) is not None
    layout = Layout(
        tool or ("a bare AveragedModel of PyTorch" if taken.updates is not None and not taken.place else ""),
        ".".join(taken.place),
        taken.prefix,
        any(_COMPILED in key.split(".") for key in _at(content, taken.place)),
        "average" if taken.is_average else "raw" if is_one_of_two or _told(content) == "raw" else None,
        taken.updates,
        None if other is None else other.where,
        tuple(taken.beside),
    )
    return _usable(taken.state, path), layout


def _networks(content: Mapping[Any, Any], path: Path) -> list[_Found]:
    found: list[_Found] = []
    for place, mapping in _mappings(content):
        named = {key: value for key, value in mapping.items() if isinstance(key, str)}
        plain = {_without_compiled(key): value for key, value in named.items()}
        roots = _roots(plain)
        if len(roots) > _MOST_NETWORKS:
            raise CheckpointError(f"{path} holds {len(roots):,} networks.", "Save the state_dict of one with torch.save.")
        if roots and len(plain) != len(named):
            raise CheckpointError(f"{path} holds names twice, with and without {_COMPILED}.", "Save model.state_dict() alone.")
        states: dict[str, dict[str, Any]] = {root: {} for root in roots}
        counts = {key for key in plain if key == "n_averaged" or key.endswith(".n_averaged")} if roots else set()
        beside = []
        for key, value in plain.items() if roots else ():
            root = next((root for root in roots if key.startswith(root)), None)
            if key not in counts and root is not None:
                states[root][key.removeprefix(root)] = value
            elif key not in counts:
                beside.append(key)
        for root in roots:
            counter = next(
                (key for key in counts if f"{root}.".startswith(f"{key.removesuffix('n_averaged')}module.")), "n_averaged"
            )
            counted = plain.get(counter, _beside_in(content, place).get("n_averaged"))
            is_average = counter in counts or _is_average(content, (*place, root))
            found.append(_Found(place, root, states[root], beside, is_average, _count(counted) if is_average else None))
    return found


def _mappings(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping in a file, each once, with the keys that lead to it."""
    waiting: deque[tuple[tuple[str, ...], Mapping[Any, Any]]] = deque([((), content)])
    seen = {id(content)}
    while waiting:
        place, mapping = waiting.popleft()
        yield place, mapping
        for key, value in mapping.items() if len(place) < _DEEPEST else ():
            if isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(((*place, key), value))


def _at(content: Mapping[Any, Any], place: tuple[str, ...]) -> Mapping[str, Any]:
    for key in place:
        content = content[key]
    return content


def _beside_in(content: Mapping[Any, Any], place: tuple[str, ...]) -> Mapping[str, Any]:
    """What lies around the mapping at a place, or in Lightning's entry for what an average has beside its weights."""
    if place == ("state_dict",) and isinstance(content.get("averaging_state"), Mapping):
        return content["averaging_state"]  # type: ignore[no-any-return]
    return _at(content, place[:-1]) if place else {}


def _without_compiled(key: str) -> str:
    return ".".join(part for part in key.split(".") if part != _COMPILED) if _COMPILED in key else key


def _roots(names: Mapping[str, Any]) -> list[str]:
    """What stands before the names of each network with a stem, stages and statistics, the longest first."""
    stems = {name.removesuffix("conv1.weight") for name in names if name.endswith("conv1.weight")}
    stages = {name.partition("layer1.0.")[0] for name in names if "layer1.0." in name}
    able = [root for root in stems & stages if f"{root}bn1.running_mean" in names and (not root or root.endswith("."))]
    return sorted(able, key=len, reverse=True)


def _is_average(content: Mapping[Any, Any], place: tuple[str, ...]) -> bool:
    """Whether the names that lead to weights say so. Lightning's callback puts the average in the place of the weights."""
    if place[0] in ("state_dict", "current_model_state") and "averaging_state" in content:
        return place[0] == "state_dict"
    is_own = place == ("state_dict", "") and _told(content) == "average"
    return is_own or any(_AVERAGE.search(_snake(part)) for part in place)


def _told(content: Mapping[Any, Any]) -> str | None:
    """Which weights one of our own files says that it holds."""
    told = content.get("which")
    return told if content.get("format") == FORMAT and isinstance(told, str) else None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _count(value: Any) -> int | None:
    if isinstance(value, Tensor):
        whole = value.numel() == 1 and not value.is_meta and not value.is_floating_point() and value.layout is strided
        return int(value) if whole else None
    return value if isinstance(value, int) and 0 <= value < 2**63 else None


def _chosen(found: list[_Found], content: Mapping[Any, Any], which: Which | None, path: Path) -> tuple[_Found, _Found | None]:
    """The weights to take, and those of the other kind where there are any."""
    averages, raws = ([one for one in found if one.is_average is kind] for kind in (True, False))
    places = ", ".join(one.where for one in found[:_SHOWN])
    if which == "average" and not averages:
        raise CheckpointError(
            f"{path} holds no weights that are known to be an average, but {places}.", "Leave out --which average."
        )
    if which == "raw" and not raws:
        raise CheckpointError(f"{path} holds averaged weights alone ({places}).", "Leave out --which raw.")
    if which is None and not averages and (hidden := _unread_average(content)) is not None:
        raise CheckpointError(
            f"{path} holds an average of the weights in {printable(hidden[:_LONGEST])}, but not as the state dict of a network, "
            "with all weights and statistics.",
            "Save the averaged network's state_dict, or take the unaveraged weights with --which raw.",
        )
    wanted, others = (averages, raws) if which != "raw" and averages else (raws, averages)
    if len(wanted) > 1:
        raise CheckpointError(
            f"{path} holds several networks: {', '.join(one.where for one in wanted[:_SHOWN])}.",
            "Save the state_dict of the one that you mean with torch.save, and use that file.",
        )
    if wanted is averages and _lacks_statistics(wanted[0], others):
        raise CheckpointError(
            f"{path} holds an average of the weights in {wanted[0].where} without BatchNorm statistics of its own, so it cannot "
            "be run.",
            f"Take those in {others[0].where} with --which raw; at the end of its training Lightning puts the average there.",
        )
    if which is None and wanted[0].updates == 0 and others:
        raise CheckpointError(
            f"{path} holds an average of the weights in {wanted[0].where} that counts no update: it may be as old as the "
            "training, or a copy of the last weights.",
            "Say which weights you mean with --which average or --which raw.",
        )
    return wanted[0], others[0] if others else None


def _lacks_statistics(average: _Found, raws: list[_Found]) -> bool:
    """Whether BatchNorms never saw an image with an average, as in that of Lightning's StochasticWeightAveraging."""
    name = "bn1.num_batches_tracked"
    return _count(average.state.get(name)) == 0 and any(_count(raw.state.get(name)) for raw in raws)


def _unread_average(content: Mapping[Any, Any]) -> str | None:
    """The place of tensors whose name says that they are averaged weights."""
    for place, mapping in _mappings(content):
        for key, value in mapping.items():
            held = [value] if isinstance(value, Tensor) else value if isinstance(value, list | tuple) else ()
            is_averaged = any(_AVERAGE.search(_snake(part)) for part in place)
            if is_averaged and any(isinstance(tensor, Tensor) and tensor.dim() > 0 for tensor in held):
                return ".".join((*place, str(key)[:80]) if isinstance(value, list | tuple) else place)
    return None


def _require_whole(taken: _Found, path: Path) -> None:
    """CheckpointError where what is beside the network may be part of what it computes."""
    strange = [name for name in taken.beside if not _TRAINING.search(_snake(name.partition(".")[0]))]
    if strange:
        raise CheckpointError(
            f"{path} holds a network in {taken.where}, and beside it {printable(strange[0][:_LONGEST])}"
            f"{f' and {len(strange) - 1:,} more' if len(strange) > 1 else ''}, which may be part of what it computes.",
            "Save the state_dict of the network alone with torch.save, and use that file.",
        )


def _likeliest(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The state dict of a file without a network of these families, without what stands before all names: to say what it is."""
    wrapped = (content[name] for name in WRAPPINGS if isinstance(content.get(name), Mapping))
    state = dict(next(wrapped, content))
    while len(state) > 1 and all(isinstance(key, str) and "." in key for key in state):
        if len({key.partition(".")[0] for key in state}) > 1:
            break
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _usable(state: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """The same, if all of it are names and plain numbers."""
    strange = next((key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)), None)
    if not state or strange is not None:
        found = "nothing" if not state else f"{shortly(strange)}: {type(state[strange]).__name__}"
        raise CheckpointError(f"{path} holds no state dict (a mapping of names to tensors); found {found}.")
    for key, value in state.items():
        kind = _unusable(value)
        if kind is not None:
            raise CheckpointError(
                f"{path}: {key:.200} holds {kind} and not plain floating-point numbers;",
                "use the unquantized, dense weights as model.state_dict() gives them.",
            )
    return state


def _unusable(value: Tensor) -> str | None:
    """What keeps a tensor from being weights; asked before anything else, since some kinds do not even tell their shape."""
    for found, kind in (
        (value.is_nested, "a nested tensor"),
        (value.is_meta, "a tensor without its numbers (device meta)"),
        (value.is_quantized, "a quantized tensor"),
        (value.layout is not strided, f"a sparse tensor ({value.layout})"),
        (is_lazy(value), "a tensor without its numbers"),
        (type(value) not in (Tensor, nn.Parameter), f"a {type(value).__name__}"),
        (value.is_complex() or str(value.dtype).startswith(("torch.float8", "torch.float4")), str(value.dtype)),
    ):
        if found:
            return kind
    return None
