"""What an artifact can give of a network, by name: logits, probabilities, the pooled features, and the ends of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from iresnet_models.errors import InputError
from iresnet_models.layout import widths
from iresnet_models.spec import ModelSpec, NetworkSpec
from iresnet_models.typed import shortly

OutputName = Literal["logits", "probabilities", "embedding", "layer1", "layer2", "layer3", "layer4"]
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
LOGITS: OutputName = "logits"
PROBABILITIES: OutputName = "probabilities"
EMBEDDING: OutputName = "embedding"
OF_ANY_NETWORK: tuple[OutputName, ...] = (LOGITS, PROBABILITIES)
"""Those that follow from a classifier's logits, whatever is inside it."""
_OF_OUTPUTS = "outputs"
"""What the names of those modules and operations begin with."""


def named_outputs(names: Sequence[str]) -> tuple[OutputName, ...]:
    """The outputs of those names, the logits first, which are always there; InputError for a name that none has, or given twice."""
    found: list[OutputName] = []
    for name in names:
        known = next((output for output in OUTPUTS if output == name), None)
        if known is None:
            raise InputError(f"There is no output {shortly(name)};", f"there are {', '.join(OUTPUTS)}.")
        if known in found:
            raise InputError(f"The output {name} is named more than once;", "name each once.")
        found.append(known)
    return (LOGITS, *(name for name in found if name != LOGITS))


def default_outputs(*, with_preprocessing: bool) -> tuple[OutputName, ...]:
    """What an artifact gives where nothing was said."""
    return OF_ANY_NETWORK if with_preprocessing else (LOGITS,)


def is_of_output(name: str) -> bool:
    """Whether an operation of an artifact only gives a value that is inside the network, and is no part of the network itself."""
    return name.startswith(f"{_OF_OUTPUTS}.")


def require_had(names: Sequence[OutputName], spec: NetworkSpec) -> None:
    """InputError where a network has no such places: only this project's own have stages and a pooling that are known."""
    lacking = [] if isinstance(spec, ModelSpec) else [name for name in names if name not in OF_ANY_NETWORK]
    if lacking:
        raise InputError(
            f"{spec.name} is of no family of this project, and where its {' and '.join(lacking)} would be is not known;",
            f"ask for {' and '.join(OF_ANY_NETWORK)} alone.",
        )


def stage_of(name: OutputName) -> int | None:
    """The stage, from 1, at whose end an output is; None for one that is behind all of them."""
    return int(name.removeprefix("layer")) if name.startswith("layer") else None


def output_shape(name: OutputName, spec: NetworkSpec, height: int, width: int) -> tuple[int, ...]:
    """Of one image's output where images have these sides: classes, features, or channels, height and width."""
    if name in OF_ANY_NETWORK:
        return (spec.num_classes,)
    assert isinstance(spec, ModelSpec)
    stage = stage_of(name)
    if stage is None:
        return (widths(spec, 3)[1],)
    # The stem halves both, its pooling or the first stage does, and each later stage: odd sides are rounded up.
    halved = 1 << (stage + 1)
    return (widths(spec, stage - 1)[1], -(-height // halved), -(-width // halved))
