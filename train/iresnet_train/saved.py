"""What a saved state holds, read so that a damaged or a made-up one is told before anything of it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iresnet_models.errors import InputError
from iresnet_models.network import Network
from iresnet_models.spec import ModelSpec
from iresnet_models.typed import typed
from iresnet_train.config import TrainConfig
from iresnet_train.learner import MOMENTS
from iresnet_train.records import EpochRecord, Position
from iresnet_train.tuning import freeze

FILES = ("best.pt", "last.pt", "log.csv", "train.json")
"""Files of a run that a state may say are not as they should be."""

_LONGEST = 10_000
"""Characters of a text in a state."""


@dataclass(frozen=True)
class SavedState:
    """A state that fits together: `learner` is of the network of `spec`, position and records are of one run of `settings`.

    `settings`: what the run's configuration was as plain values, `config` the same as one. `unreadable`, `computation` and
    `unsaved` are what UnreadableImages, `computation` and RunFolder know.
    """

    settings: dict[str, Any]
    config: TrainConfig
    spec: ModelSpec
    position: Position
    records: list[EpochRecord]
    learner: dict[str, Any]
    unreadable: list[str]
    computation: dict[str, str | int]
    unsaved: dict[str, str]

    @property
    def epochs_begun(self) -> int:
        """Of which at least a step was taken."""
        return self.position.epoch + (self.position.step > 0)


def checked(state: Mapping[str, Any]) -> SavedState:
    """The state that was saved; InputError says what is wrong with it."""
    wanted = {"config", "spec", "position", "records", "learner", "unreadable", "computation", "unsaved"}
    if state.keys() - {"format"} != wanted:
        raise InputError(f"it lacks, or has besides, {', '.join(sorted(map(str, (state.keys() - {'format'}) ^ wanted))):.200}")
    settings, spec = _plain(state["config"], "config"), ModelSpec.from_json(state["spec"])
    data = settings.get("data")
    config = TrainConfig.from_json(settings, data=data if isinstance(data, str) else "")
    if (spec.arch, spec.depth) != (config.arch, config.depth):
        raise InputError(f"its network is {spec.name}, and its settings ask for {config.arch}{config.depth}")
    position = _position(state["position"], config)
    records = _records(state["records"], position)
    try:
        shapes = _shapes(spec, config)
    except (RuntimeError, OverflowError) as error:  # sizes beyond what a tensor can have
        raise InputError("its network cannot be made") from error
    return SavedState(
        settings=settings,
        config=config,
        spec=spec,
        position=position,
        records=records,
        learner=_learner(state["learner"], shapes, config),
        unreadable=_texts(state["unreadable"], config.max_corrupt, "unreadable"),
        computation=typed(dict[str, str | int], state["computation"], "its computation"),
        unsaved=_unsaved(state["unsaved"]),
    )


def _plain(values: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = typed(dict[str, str | int | float | bool | list[int] | list[str] | None], values, f"its {name}")
    if any(isinstance(value, str) and len(value) > _LONGEST for value in found.values()):
        raise InputError(f"its {name} holds a text of more than {_LONGEST} characters")
    return found


def _position(values: Any, config: TrainConfig) -> Position:
    from iresnet_train.metrics import Evaluation

    values = typed(dict[str, Any], values, "its position")
    try:
        counted = Evaluation(**typed(dict[str, Any], values.get("counted"), "its position"))
        made = Position(**(values | {"counted": counted}))
        for name in ("epoch", "step", "skipped"):
            typed(int, getattr(made, name), f"its {name}")
    except TypeError as error:
        raise InputError(f"its position is damaged ({error})") from error
    numbers = [made.seconds, made.data_seconds, counted.loss_sum, counted.images, counted.top1_correct, counted.top5_correct]
    if not all(_is_number(number) and number >= 0 for number in numbers):
        raise InputError("its position holds counts that are no finite numbers")
    whole = (counted.images, counted.top1_correct, counted.top5_correct)
    fits = 0 <= made.epoch <= config.epochs and made.step >= 0 and made.skipped >= 0
    if not fits or not all(isinstance(number, int) for number in whole) or (made.step > 0) != (made.seconds > 0):
        raise InputError("its position is none of this run")
    return made


def _records(rows: Any, position: Position) -> list[EpochRecord]:
    records = []
    for number, row in enumerate(typed(list[dict[str, Any]], rows, "its records"), 1):
        try:
            record = EpochRecord(**row)
        except TypeError as error:
            raise InputError(f"its records are damaged ({error})") from error
        optional = {"data_wait_share", "ema_val_acc1", "ema_val_acc5"}
        if record.epoch != number or not all(_is_number(row[name]) or (name in optional and row[name] is None) for name in row):
            raise InputError(f"its record of epoch {number} holds something else than finite numbers")
        records.append(record)
    if len(records) != position.epoch:
        raise InputError(f"it has records of {len(records)} epochs after {position.epoch}")
    return records


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(values: Any, most: int, name: str) -> list[str]:
    texts: list[str] = typed(list[str], values, f"its {name}")
    if any(len(text) > _LONGEST for text in texts):
        raise InputError(f"its {name} holds a text of more than {_LONGEST} characters")
    return texts[:most] if len(texts) > most else texts


def _unsaved(values: Any) -> dict[str, str]:
    found: dict[str, str] = typed(dict[str, str], values, "its unsaved")
    if not set(found) <= set(FILES) or any(len(text) > _LONGEST for text in found.values()):
        raise InputError("it tells of files that no run leaves")
    return found


@dataclass(frozen=True)
class _Shapes:
    """What tensors a network has: shape and type of each entry of its state dict, and which of them are trained."""

    entries: dict[str, tuple[torch.Size, torch.dtype]]
    parameters: set[str]


def _shapes(spec: ModelSpec, config: TrainConfig) -> _Shapes:
    with torch.device("meta"):
        network = Network(spec)
    freeze(network, config)
    entries = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    return _Shapes(entries, {name for name, value in network.named_parameters() if value.requires_grad})


def _learner(values: Any, shapes: _Shapes, config: TrainConfig) -> dict[str, Any]:
    """What Learner.restore takes."""
    if not isinstance(values, dict) or values.keys() != {"model", "moments", "scaler", "average"}:
        raise InputError("it holds no network, moments, scaler and average")
    _weights(values["model"], shapes, "network")
    if (values["average"] is None) != (config.ema_decay is None):
        raise InputError("its average of the weights is not what its settings say")
    if values["average"] is not None:
        _weights(values["average"], shapes, "average")
    _moments(values["moments"], shapes, config)
    return {name: values[name] for name in ("model", "moments", "average")} | {"scaler": _scaler(values["scaler"])}


def _moments(values: Any, shapes: _Shapes, config: TrainConfig) -> None:
    if not isinstance(values, dict) or values.keys() != set(MOMENTS[config.optimizer]):
        raise InputError("its moments are of another optimizer")
    for kind, moments in values.items():
        if not isinstance(moments, dict) or (moments and moments.keys() != shapes.parameters):
            raise InputError(f"its {kind} is of other weights")
        for key, value in moments.items():
            shape, dtype = (torch.Size(), torch.float32) if kind == "step" else shapes.entries[key]
            _tensor(value, shape, dtype, f"{kind} of {key}")
            if kind in ("exp_avg_sq", "step") and bool((value < 0).any()):
                raise InputError(f"its {kind} of {key} is negative")


def _weights(values: Any, shapes: _Shapes, name: str) -> None:
    if not isinstance(values, dict) or values.keys() != shapes.entries.keys():
        raise InputError(f"its {name} has other entries than its settings say")
    for key, (shape, dtype) in shapes.entries.items():
        _tensor(values[key], shape, dtype, f"{name}'s {key}")
        if key.endswith("running_var") and bool((values[key] < 0).any()):
            raise InputError(f"its {name}'s {key} holds a negative variance")


def _tensor(value: Any, shape: torch.Size, dtype: torch.dtype, name: str) -> None:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta or value.is_quantized:
        raise InputError(f"its {name} is no tensor of numbers")
    if value.shape != shape or value.dtype != dtype:  # before anything is computed of it: a view may stand for any size
        raise InputError(f"its {name} is {value.dtype} of shape {tuple(value.shape)}, and not {dtype} of {tuple(shape)}")
    if dtype.is_floating_point and not bool(value.isfinite().all()):
        raise InputError(f"its {name} holds values that are not finite")


def _scaler(values: Any) -> dict[str, float]:
    """The scale of fp16, and the steps since it was changed; empty in other precisions."""
    if values == {}:
        return {}
    values = typed(dict[str, int | float], values, "its scaler")
    found = {name: values.get(name) for name in ("scale", "_growth_tracker")}
    if not all(_is_number(value) and 0 <= value < 1e38 for value in found.values()) or not found["scale"]:
        raise InputError("its scaler is damaged")
    return found
