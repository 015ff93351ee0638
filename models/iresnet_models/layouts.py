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
_COMPILED = "_orig_mod"
"""What torch.compile puts before the names of a module."""
_KINDS = "(?:model)?(?:ema|swa|polyak|avg|average|averaged|averaging|shadow)(?:model)?"
_AVERAGE = re.compile(rf"(?<![a-z]){_KINDS}(?![a-z])")
_NO_AVERAGE = re.compile(rf"(?<![a-z])(?:no|non|not|without|wo|exp|grad|square)[^a-z]+{_KINDS}(?![a-z])")
"""Names of raw weights, and of what optimizers average."""
_OF_A_SCORE = re.compile(
    r"(?:avg|averaged?)_(?:val_|test_|top_?\d_)?(?:acc(?:uracy)?|precision|recall|f1|auroc|iou|loss|error|score|meter)(?![a-z])|(?:macro|micro|weighted)_(?:avg|average)"
)
"""What is averaged there are figures: `best_avg_acc` holds the weights of the best one."""
_LOSS = re.compile(r"(?<![a-z])(?:criterion|criteria|loss|losses|metrics?)(?![a-z])")
_SCORE = re.compile(r"(?<![a-z])(?:acc|accuracy|auroc|f1|precision|recall)(?![a-z])")
"""Of what is beside a network and is no part of it: its name says what it is for. A layer may be called f1 too."""
_OPTIMIZER = re.compile(r"optim|sched|scaler|(?<![a-z])opt(?![a-z])")
_PROGRESS = re.compile(r"(?<![a-z])(?:callbacks?|loops?|metrics?|history|logs?)(?![a-z])")
"""Of entries that hold the state of a training."""
WRAPPINGS = ("state_dict", "model", "model_state_dict", "net", "weights")
_TOOLS = (
    ("PyTorch Lightning", {"state_dict", "pytorch-lightning_version"}),
    ("timm", {"state_dict", "arch", "version"}),
    ("torchvision's training script", {"model", "lr_scheduler", "args"}),
    ("PyTorch's ImageNet example or the official code", {"state_dict", "arch", "best_acc1"}),
)
"""By the entries that only their files have."""
_PLAIN = {int, float, str, bool, bytes, type(None)}
_MOST_NETWORKS, _SHOWN, _LONGEST = 100, 6, 200


@dataclass(frozen=True)
class Layout:
    """How a file holds the weights that were taken.

    `place`: the entries that lead to them, such as `model_ema`; `prefix`: what stood before their names, such as `module.`.
    `which`: None for the only weights, of which nothing says whether they are an average. `updates`: how many an average counts.
    `other`: the place of those of the other kind. `left_out`: the places of other tensors, apart from the state of training.
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
class _Entry:
    """A mapping or a sequence in a file, and under which key of which other it is.

    `is_average`, `is_progress`: whether the keys that lead to it call it an average, or the state of training.
    """

    held: Mapping[Any, Any] | list[Any] | tuple[Any, ...]
    key: Any = None
    up: _Entry | None = None
    is_average: bool = False
    is_progress: bool = False

    @property
    def place(self) -> tuple[str, ...]:
        keys, entry = [], self
        while entry.up is not None:
            keys.append(_name(entry.key))
            entry = entry.up
        return tuple(reversed(keys))

    @property
    def items(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.held.items() if isinstance(self.held, Mapping) else enumerate(self.held))

    def below(self, key: Any, held: Any) -> _Entry:
        if not isinstance(key, str):
            return _Entry(held, key, self, self.is_average, self.is_progress)
        snake = _snake(key)
        is_optimizer = _OPTIMIZER.search(snake) is not None
        is_progress = self.is_progress or is_optimizer or _PROGRESS.search(snake) is not None
        is_average = (self.is_average or _is_called_average(key)) and not is_optimizer
        if self.up is None and key in ("state_dict", "current_model_state") and _is_lightning_average(self.held):
            is_average = key == "state_dict"
        return _Entry(held, key, self, is_average, is_progress)


@dataclass(frozen=True)
class _Found:
    """A network's weights in a file. `beside`: what is in the same mapping and is no network's."""

    place: tuple[str, ...]
    prefix: str
    state: dict[str, Any]
    beside: dict[str, Any]
    is_average: bool
    is_compiled: bool
    updates: int | None

    @property
    def where(self) -> str:
        return printable(".".join((*self.place, self.prefix)).rstrip(".")[:_LONGEST]) or "the file itself"


def weights_in(content: Mapping[Any, Any], path: Path, which: Which | None) -> tuple[dict[str, Tensor], Layout]:
    """The state dict of the network in a file, under the network's own names, and how the file holds it.

    `which`: None for the average where there is one. CheckpointError where there is none, where none is of that kind, where there
    are several, or where what is beside it may be part of it.
    """
    found: list[_Found] = []
    rest: list[_Entry] = []
    for entry in _entries(content):
        networks = _networks(entry, content, path)
        found += networks
        rest += [] if networks else [entry]
    tool = _OURS if content.get("format") == FORMAT else next((n for n, keys in _TOOLS if keys <= content.keys()), "")
    if not found:
        return _usable(_likeliest(content), path), Layout(tool)
    unread = _unread_average(rest)
    taken, other = _chosen(found, unread, which, path)
    _require_whole(taken, path)
    is_one_of_two = other is not None or unread is not None
    layout = Layout(
        tool or ("a bare AveragedModel of PyTorch" if taken.updates is not None and not taken.place else ""),
        ".".join(taken.place),
        taken.prefix,
        taken.is_compiled,
        "average" if taken.is_average else "raw" if is_one_of_two or _told(content) == "raw" else None,
        taken.updates,
        None if other is None else other.where,
        (*taken.beside, *_elsewhere(rest, with_averages=taken.is_average)),
    )
    return _usable(taken.state, path), layout


def _entries(content: Mapping[Any, Any]) -> Iterator[_Entry]:
    """What holds tensors in a file, each once; what is called an average in one place and not in another, once as either."""
    waiting = deque([_Entry(content)])
    seen: set[tuple[int, bool]] = {(id(content), False)}
    plain: set[int] = set()
    while waiting:
        entry = waiting.popleft()
        has_tensors = False
        for key, value in entry.items:
            if type(value) in _PLAIN or id(value) in plain:
                continue
            has_tensors = has_tensors or isinstance(value, Tensor)
            if not isinstance(value, list | tuple | Mapping):
                continue
            if _PLAIN.issuperset(map(type, value.values() if isinstance(value, Mapping) else value)):
                plain.add(id(value))
                continue
            below = entry.below(key, value)
            if (id(value), below.is_average) not in seen:
                seen.add((id(value), below.is_average))
                waiting.append(below)
        if has_tensors:
            yield entry


def _networks(entry: _Entry, content: Mapping[Any, Any], path: Path) -> list[_Found]:
    """The networks whose names are in an entry of a file."""
    named = {key: value for key, value in entry.items if isinstance(key, str)}
    plain = {_without_compiled(key): value for key, value in named.items()}
    roots = _roots(plain)
    if not roots:
        return []
    if len(roots) > _MOST_NETWORKS:
        raise CheckpointError(f"{path} holds {len(roots):,} networks.", "Save the state_dict of one with torch.save.")
    if len(plain) != len(named):
        raise CheckpointError(f"{path} holds names twice, with and without {_COMPILED}.", "Save model.state_dict() alone.")
    states: dict[str, dict[str, Any]] = {root: {} for root in roots}
    counts = {key for key in plain if key == "n_averaged" or key.endswith(".n_averaged")}
    beside = {_name(key): value for key, value in entry.items if not isinstance(key, str)}
    for key, value in plain.items():
        root = next((root for root in roots if key.startswith(root)), None)
        if key not in counts and root is not None:
            states[root][key.removeprefix(root)] = value
        elif key not in counts:
            beside[key] = value
    found, place, around = [], entry.place, _around(entry)
    is_compiled = any(_COMPILED in key.split(".") for key in named)
    for root in roots:
        counter = next((key for key in counts if f"{root}.".startswith(f"{key.removesuffix('n_averaged')}module.")), "n_averaged")
        is_own = (*place, root) == ("state_dict", "") and _told(content) == "average"
        is_average = counter in counts or entry.is_average or is_own or _is_called_average(root)
        updates = _count(plain.get(counter, around.get("n_averaged"))) if is_average else None
        found.append(_Found(place, root, states[root], beside, is_average, is_compiled, updates))
    return found


def _around(entry: _Entry) -> Mapping[Any, Any]:
    """What lies around an entry, or what Lightning has elsewhere beside an average."""
    if entry.up is None or not isinstance(entry.up.held, Mapping):
        return {}
    is_lightning = entry.place == ("state_dict",) and _is_lightning_average(entry.up.held)
    around: Mapping[Any, Any] = entry.up.held["averaging_state"] if is_lightning else entry.up.held
    return around


def _is_lightning_average(content: Any) -> bool:
    """Whether Lightning's callback put the average in the place of the weights."""
    state = content.get("averaging_state") if isinstance(content, Mapping) else None
    return isinstance(state, Mapping) and _count(state.get("n_averaged")) is not None


def _name(key: Any) -> str:
    return key if isinstance(key, str) else shortly(key)


def _without_compiled(key: str) -> str:
    return ".".join(part for part in key.split(".") if part != _COMPILED) if _COMPILED in key else key


def _roots(names: Mapping[str, Any]) -> list[str]:
    """What stands before the names of each network with a stem, stages and statistics, the longest first."""
    stems = {name.removesuffix("conv1.weight") for name in names if name.endswith("conv1.weight")}
    stages = {name.partition("layer1.0.")[0] for name in names if "layer1.0." in name}
    able = [root for root in stems & stages if f"{root}bn1.running_mean" in names and (not root or root.endswith("."))]
    return sorted(able, key=len, reverse=True)


def _is_called_average(name: str) -> bool:
    return _AVERAGE.search(_NO_AVERAGE.sub("", _OF_A_SCORE.sub("", _snake(name)))) is not None


def _told(content: Mapping[Any, Any]) -> str | None:
    """Which weights one of our own files says that it holds."""
    told = content.get("which")
    return told if content.get("format") == FORMAT and isinstance(told, str) else None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name[:_LONGEST]).lower()


def _count(value: Any) -> int | None:
    if isinstance(value, Tensor):
        whole = value.numel() == 1 and not value.is_meta and not value.is_floating_point() and value.layout is strided
        return int(value) if whole else None
    return value if isinstance(value, int) and 0 <= value < 2**63 else None


def _chosen(found: list[_Found], unread: str | None, which: Which | None, path: Path) -> tuple[_Found, _Found | None]:
    """The weights to take, and those of the other kind where there are any. `unread`: where an average is that is no network."""
    averages, raws = ([one for one in found if one.is_average is kind] for kind in (True, False))
    places = ", ".join(one.where for one in found[:_SHOWN])
    if which == "average" and not averages:
        raise CheckpointError(
            f"{path} holds no weights that are known to be an average, but {places}.", "Leave out --which average."
        )
    if which == "raw" and not raws:
        raise CheckpointError(f"{path} holds averaged weights alone ({places}).", "Leave out --which raw.")
    if which is None and not averages and unread is not None:
        raise CheckpointError(
            f"{path} holds an average of the weights in {printable(unread[:_LONGEST])}, but not as the state dict of a network, "
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


def _unread_average(rest: list[_Entry]) -> str | None:
    """The place of tensors whose name says that they are averaged weights."""
    held = (entry for entry in rest if entry.is_average and any(_has_extent(value) for _, value in entry.items))
    return next((".".join(entry.place) for entry in held), None)


def _elsewhere(rest: list[_Entry], *, with_averages: bool) -> list[str]:
    """The places of floating-point tensors that are no network's, apart from the state of training."""
    places = []
    for entry in rest:
        if entry.is_progress or (entry.is_average and not with_averages):
            continue
        names = [_name(key) for key, value in entry.items if _may_be_weights(key, value)]
        places += names if entry.up is None else [".".join(entry.place)] if names else []
    return places


def _may_be_weights(key: Any, value: Any) -> bool:
    """Whether these are floating-point numbers, and no accuracy or loss."""
    if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
        return False
    snake = _snake(_name(key))
    return _has_extent(value) or not (_LOSS.search(snake) or _SCORE.search(snake))


def _has_extent(value: Any) -> bool:
    return isinstance(value, Tensor) and (is_lazy(value) or value.dim() > 0)


def _require_whole(taken: _Found, path: Path) -> None:
    """CheckpointError where what is beside the network may be part of what it computes."""
    layers = {name.partition(".")[0] for name, value in taken.beside.items() if _has_extent(value) and value.dim() > 1}

    def is_training(first: str) -> bool:
        snake = _snake(first)
        return _LOSS.search(snake) is not None or (_SCORE.search(snake) is not None and first not in layers)

    strange = [name for name in taken.beside if not is_training(name.partition(".")[0])]
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
