"""Two runs of the benchmark: what became faster or slower, beyond noise.

The ratio of two medians gets an interval by resampling whole turns in both runs, since samples of one turn go together. The
runs are not paired: what made a whole machine slower between them shows in the baseline too, and is said.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iresnet_export.benchmark.statistics import RESAMPLES, interval
from iresnet_export.errors import InputError
from iresnet_export.reporting.collection import without_hash
from iresnet_export.reporting.report_files import ReportFile
from iresnet_export.reporting.schemas import BenchReport, BenchResult, Environment, Server
from iresnet_export.reporting.words import backend_name, count, figures, network_name, percent

Values = NDArray[np.float64]
Change = Literal["faster", "slower", "within noise", "not compared"]
Key = tuple[str | int | float | None, ...]

_BLOCKS = 20
"""Samples without turns (those of a server) are resampled in so many runs of neighbours, which depend on each other."""
_FEWEST_TURNS = 4
_ORDER: tuple[Change, ...] = ("slower", "not compared", "faster", "within noise")
_AT_ONCE = 2_000_000
"""Samples in memory at a time."""


@dataclass(frozen=True)
class Compared:
    """One candidate in both runs. `ratio`: new time over old, with its 95 % interval; above 1 is slower; None for a `reason`."""

    name: str
    old: BenchResult
    new: BenchResult
    change: Change
    old_ms: float | None = None
    new_ms: float | None = None
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    reason: str | None = None

    @property
    def lost(self) -> bool:
        """Whether it was measured in the old run, and could not be in the new one."""
        return self.old.measured and not self.new.measured

    def slower_than(self, limit: float) -> bool:
        """Whether it is shown to be slower, and the figure itself is slower by more than `limit` (0.05 for 5 %)."""
        return self.change == "slower" and self.ratio is not None and self.ratio > 1 + limit

    def in_words(self) -> str:
        if self.ratio is None or self.ci95 is None:
            return f"{self.name}: {self.reason}"
        low, high = (100 * (bound - 1) for bound in self.ci95)
        change = f"{100 * (self.ratio - 1):+.1f} % ({low:+.1f} to {high:+.1f}), {self.change}"
        return f"{self.name}: {figures(self.old_ms)} → {figures(self.new_ms)} ms, {change}"


@dataclass(frozen=True)
class Comparison:
    """`only_old` and `only_new` name candidates that the other run does not hold; `differences` says how the machines differ."""

    old: ReportFile
    new: ReportFile
    candidates: tuple[Compared, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    differences: tuple[str, ...]

    def of(self, change: Change) -> list[Compared]:
        return [one for one in self.candidates if one.change == change]

    @property
    def in_order(self) -> list[Compared]:
        """What became slower first, and most of all."""
        return sorted(self.candidates, key=lambda one: (_ORDER.index(one.change), -(one.ratio or 0)))

    @property
    def gaps(self) -> list[str]:
        """What only one of the runs holds, in a sentence each."""
        pairs = ((self.only_old, "old"), (self.only_new, "new"))
        return [f"Only in the {when} run: {'; '.join(names)}." for names, when in pairs if names]


def comparable(files: Sequence[ReportFile]) -> bool:
    """Whether these are two benchmarks with a candidate in common, apart from the baseline."""
    found = [file.report for file in files if isinstance(file.report, BenchReport)]
    if len(found) != 2:
        return False
    old, new = ({key for key, one in _keyed(report).items() if not one.is_baseline} for report in found)
    return bool(old & new)


def compare(files: Sequence[ReportFile]) -> Comparison:
    """The first benchmark against the second; InputError unless there are two."""
    found = [(file, file.report) for file in files if isinstance(file.report, BenchReport)]
    if len(found) != 2:
        raise InputError(
            f"Two reports of `bench` are compared, the old one and the new one in this order; {len(found)} were named.",
            "Name both, such as: iresnet-export report old.json new.json --compare",
        )
    (old_file, old_report), (new_file, new_report) = found
    old, new = _keyed(old_report), _keyed(new_report)
    names = _names([*old.values(), *new.values()])
    partners = {key: partner for key in old if (partner := _partner(key, new)) is not None}
    compared = tuple(_compared(names[_name_key(old[key])], old[key], new[partner]) for key, partner in partners.items())
    return Comparison(
        old_file,
        new_file,
        compared,
        tuple(names[_name_key(one)] for key, one in old.items() if key not in partners),
        tuple(names[_name_key(one)] for key, one in new.items() if key not in partners.values()),
        (*machine_differences(old_report.environment, new_report.environment), *_drift(compared)),
    )


def machine_differences(old: Environment, new: Environment) -> Iterator[str]:
    """What differs between the machines, one sentence each: differences of speed may be theirs."""
    pairs: list[tuple[str, Any, Any]] = [
        ("CPU", old.hardware.cpu, new.hardware.cpu),
        ("number of usable cores", old.hardware.cores, new.hardware.cores),
        ("system", old.hardware.system, new.hardware.system),
        ("GPU", _gpus(old), _gpus(new)),
        *(
            (f"CPU's {key.replace('_', ' ')}", (old.cpu or {}).get(key), (new.cpu or {}).get(key))
            for key in ("governor", "affinity")
        ),
        *(
            (f"GPU's {key.replace('_', ' ')}", (old.gpu or {}).get(key), (new.gpu or {}).get(key))
            for key in ("driver", "power_limit_w")
        ),
    ]
    for what, before, after in pairs:
        if before != after and before is not None and after is not None:
            yield f"The {what} differs: {before}, then {after}."
    for package in sorted(old.versions.keys() & new.versions.keys()):
        if old.versions[package] != new.versions[package]:
            yield f"The version of {package} differs: {old.versions[package]}, then {new.versions[package]}."
    for environment, when in ((old, "old"), (new, "new")):
        yield from (f"In the {when} run: {text}" for text in environment.warnings)


def ratio_of_medians(old: Sequence[Values], new: Sequence[Values], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Median of the new samples over that of the old ones, and its 95 % interval; each array is one turn."""
    generator = np.random.default_rng(seed)
    middle = float(np.median(np.concatenate(new)) / np.median(np.concatenate(old)))
    logarithms = np.log(_resampled_medians(new, generator)) - np.log(_resampled_medians(old, generator))
    ends = [(float(np.log(np.concatenate(turns).min())), float(np.log(np.concatenate(turns).max()))) for turns in (old, new)]
    possible = np.array([ends[1][0] - ends[0][1], ends[1][1] - ends[0][0]])
    low, high = interval(logarithms, math.log(middle), min(len(old), len(new)), possible)
    return middle, (math.exp(low), math.exp(high))


def turns_of(result: BenchResult) -> list[Values]:
    """A result's samples as turns that do not depend on each other."""
    samples = result.samples or ()
    if samples and isinstance(samples[0], tuple):
        return [np.array(turn, dtype=np.float64) for turn in samples if turn]
    values = np.array(samples, dtype=np.float64)
    if result.mode == "cold":
        return [values[index : index + 1] for index in range(len(values))]
    return [part for part in np.array_split(values, min(_BLOCKS, len(values) or 1)) if len(part)]


def _resampled_medians(turns: Sequence[Values], generator: np.random.Generator) -> Values:
    chosen = generator.integers(0, len(turns), (RESAMPLES, len(turns)))
    if len({len(turn) for turn in turns}) > 1:
        return np.array([np.median(np.concatenate([turns[index] for index in row])) for row in chosen])
    stacked = np.stack(turns)
    parts = np.array_split(chosen, max(1, chosen.size * stacked.shape[1] // _AT_ONCE))
    return np.concatenate([np.median(stacked[part].reshape(len(part), -1), axis=1) for part in parts])


def _compared(name: str, old: BenchResult, new: BenchResult) -> Compared:
    for result, when in ((old, "old"), (new, "new")):
        if not result.measured:
            reason = f"not measured in the {when} run" + (f" ({result.reason})" if result.reason else "")
            return Compared(name, old, new, "not compared", reason=reason)
    if old.server is not None and new.server is not None and old.server.rate_per_s != new.server.rate_per_s:
        return Compared(name, old, new, "not compared", reason=_highest_rates(old.server, new.server))
    if "unstable" in (old.status, new.status):
        return Compared(name, old, new, "not compared", reason="one of the runs did not settle (unstable)")
    found = turns_of(old), turns_of(new)
    if min(map(len, found)) < _FEWEST_TURNS or min(float(turn.min()) for turns in found for turn in turns) <= 0:
        return Compared(
            name, old, new, "not compared", reason=f"one of the reports holds fewer than {_FEWEST_TURNS} turns of samples"
        )
    ratio, ci95 = ratio_of_medians(*found)
    change: Change = "slower" if ci95[0] > 1 else "faster" if ci95[1] < 1 else "within noise"
    old_ms, new_ms = (float(np.median(np.concatenate(turns))) for turns in found)
    return Compared(name, old, new, change, old_ms, new_ms, ratio, ci95)


def _drift(compared: Sequence[Compared]) -> Iterator[str]:
    """The baseline is the same program in both runs: what it changes is the machine's or its libraries'."""
    for one in compared:
        if one.new.is_baseline and one.ratio is not None and one.change in ("slower", "faster"):
            amount = percent(100 * abs(one.ratio - 1))
            yield (
                f"The baseline itself ({one.name}) is {amount} {one.change} in the new run: "
                "part of what the others changed by may be the machine's."
            )


def _keyed(report: BenchReport) -> dict[Key, BenchResult]:
    """Results by what makes them the same measurement. A baseline goes by its network, unless two share it."""
    baselines = Counter((without_hash(one.artifact), *_setting(one)) for one in report.results if one.is_baseline)
    keyed: dict[Key, BenchResult] = {}
    for one in report.results:
        name = without_hash(one.artifact)
        alone = one.is_baseline and baselines[(name, *_setting(one))] == 1
        keyed[(name if alone else one.artifact, *_setting(one))] = one
    return keyed


def _setting(one: BenchResult) -> Key:
    return one.backend, one.precision, one.device, one.mode, one.batch, one.threads, _load(one)


def _load(one: BenchResult) -> str:
    """What a server was asked for; nothing for other modes, and for a server that could not be measured."""
    if one.server is None:
        return ""
    if one.server.p99_limit_ms is not None:
        return f"highest rate with p99 within {one.server.p99_limit_ms:g} ms"
    return f"{one.server.rate_per_s:g} requests a second"


def _partner(key: Key, new: dict[Key, BenchResult]) -> Key | None:
    """The same measurement in the other run: of a server that could not be measured any more, whatever it was asked for."""
    unmeasured = (*key[:-1], "")
    return key if key in new else unmeasured if unmeasured in new else None


def _highest_rates(old: Server, new: Server) -> str:
    before, now = (found.highest_rate_per_s or 0.0 for found in (old, new))
    return f"response times belong to their rates, and the highest ones are {figures(before)} and now {figures(now)} a second"


def _name_key(one: BenchResult) -> Key:
    return (without_hash(one.artifact) if one.is_baseline else one.artifact, *_setting(one))


def _names(results: Sequence[BenchResult]) -> dict[Key, str]:
    """Names that tell apart what differs in this comparison, and say no more."""
    several = {field: len({getattr(one, field) for one in results}) > 1 for field in ("mode", "threads", "device")}
    names: dict[Key, str] = {}
    for one in results:
        what = network_name(one.arch, one.depth, one.artifact) if one.is_baseline else one.artifact
        parts = [f"{what} by {backend_name(one.backend)}", f"batch {one.batch}"]
        parts += [one.mode] if several["mode"] else []
        parts += [load] if (load := _load(one)) else []
        parts += [count(one.threads, "thread")] if several["threads"] else []
        parts += [one.device] if several["device"] else []
        names[_name_key(one)] = ", ".join(parts)
    return names


def _gpus(environment: Environment) -> str | None:
    names = [str(gpu.get("name")) for gpu in environment.hardware.gpus]
    return ", ".join(names) or None
