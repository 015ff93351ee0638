"""What a fold did, to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from iresnet_models.folding_plan import Bounds, Channels, FoldPlan
from iresnet_models.spec import ModelSpec

REASONS = {
    "off": "cut out: their ReLU never lets them through",
    "linear": "shift clamped to the bound: their ReLU always lets them through, and the rest is in the next bias",
    "signed": "multiplied by -1 in front of their ReLU: their scale is negative",
    "kept": "scale and shift kept: their ReLU always lets them through into a padded 3x3 convolution, which takes no constant, or "
    "the proof asked for it",
}
_SHOWN = 8


@dataclass(frozen=True)
class FoldReport:
    """A fold in words and as JSON. `batch_norms`: how many there were."""

    spec: ModelSpec
    plan: FoldPlan
    batch_norms: int

    @property
    def into_convolutions(self) -> int:
        """BatchNorms that followed a convolution."""
        return self.batch_norms - len(self.plan.norms)

    @property
    def is_exact_everywhere(self) -> bool:
        """Whether the fold is exact for every input, since no channel is folded by a bound."""
        return not any(norm.bounds for norm in self.plan.norms.values())

    @property
    def exactness(self) -> str:
        """For which inputs the fold is exact."""
        if self.is_exact_everywhere:
            return "Exact for every input."
        n, _, height, width = self.plan.sample
        return (
            "Exact for inputs that take no channel below beyond its bound: "
            f"{self.plan.tau:g} times its largest |r| over the sample of {n} image{'s' if n > 1 else ''} of {height}x{width}, and "
            "at least a quarter of a typical channel's."
        )

    def to_json(self) -> dict[str, Any]:
        """Counts, channels, bounds and reasons as plain JSON values."""
        return {
            "network": self.spec.name,
            "folded_into_convolutions": self.into_convolutions,
            "folded_into_stream": len(self.plan.norms),
            "exact_everywhere": self.is_exact_everywhere,
            "exactness": self.exactness,
            "tau": self.plan.tau,
            "exceptions": [
                {"norm": name, "kind": kind, "reason": REASONS[kind], "channels": list(channels)}
                | ({"bounds": list(channels.values())} if isinstance(channels, Mapping) else {})
                for name, kind, channels in self._exceptions()
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.spec.name}: {self.into_convolutions} BatchNorms folded into the convolutions in front of them, "
            f"{len(self.plan.norms)} into the scale and shift of the stream.",
            self.exactness,
        ]
        return "\n".join(lines + [f"{name}: {_listed(channels)} {REASONS[kind]}" for name, kind, channels in self._exceptions()])

    def _exceptions(self) -> Iterator[tuple[str, str, Bounds | Channels]]:
        for name, norm in self.plan.norms.items():
            for kind in REASONS:
                if getattr(norm, kind):
                    yield name, kind, getattr(norm, kind)


def _listed(channels: Bounds | Channels) -> str:
    shown, more = list(channels)[:_SHOWN], f", ... ({len(channels)} in all)" if len(channels) > _SHOWN else ""
    bounds = f" (|r| up to {min(channels.values()):.3g})" if isinstance(channels, Mapping) else ""
    return f"channel{'s' if len(channels) > 1 else ''} {', '.join(map(str, shown))}{more}{bounds}"
