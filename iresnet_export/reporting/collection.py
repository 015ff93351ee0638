"""All reports of one page side by side: every measurement with its verdict and its accuracy, wherever those were found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from iresnet_export.benchmark.stability import without_contradictions
from iresnet_export.reporting.report_files import ReportFile
from iresnet_export.reporting.schemas import (
    BenchReport,
    BenchResult,
    Environment,
    EvalReport,
    Evaluated,
    Limit,
    Parity,
    Recommendation,
    TrainReport,
    VerifyCandidate,
    VerifyReport,
)
from iresnet_export.reporting.words import backend_name, flavour, network_name

_SEVERITY = {"fail": 2, "skipped": 1, "pass": 0}
_OWN_HASH = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in percent with its 95 % interval."""

    top1: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Measured:
    """One line of a benchmark. `file`: the report that it is from, where a page has several benchmarks; else empty."""

    result: BenchResult
    file: str = ""
    parity: Parity | None = None
    accuracy: Accuracy | None = None

    @property
    def network(self) -> str:
        return network_name(self.result.arch, self.result.depth, self.result.artifact)

    @property
    def name(self) -> str:
        """Such as `iResNet-50 int8 by ONNX Runtime`; peers and several reports are told apart."""
        extra = flavour(self.result.artifact) + (" (peer)" if self.result.peer else "") + (f", {self.file}" if self.file else "")
        return f"{self.network} {self.result.precision} by {backend_name(self.result.backend)}{extra}"

    @property
    def short(self) -> str:
        """The name for a plot: without the network's, where a page has one network only."""
        extra = flavour(self.result.artifact) + (" (peer)" if self.result.peer else "") + (f", {self.file}" if self.file else "")
        return f"{self.result.precision} · {backend_name(self.result.backend)}{extra}"

    @property
    def doubt(self) -> str:
        """What its figures must not be read without."""
        return {"failed_parity": "failed parity", "unstable": "unstable"}.get(self.result.status, "")

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What stays the same from batch to batch and from mode to mode."""
        return self.result.artifact, self.result.backend, self.result.precision, self.file


class Collection:
    """What all reports of a page say together."""

    def __init__(self, files: Sequence[ReportFile]) -> None:
        self.files = list(files)

    @property
    def verifications(self) -> list[tuple[ReportFile, VerifyReport]]:
        return [(file, file.report) for file in self.files if isinstance(file.report, VerifyReport)]

    @property
    def benchmarks(self) -> list[tuple[ReportFile, BenchReport]]:
        return [(file, file.report) for file in self.files if isinstance(file.report, BenchReport)]

    @property
    def trainings(self) -> list[tuple[ReportFile, TrainReport]]:
        return [(file, file.report) for file in self.files if isinstance(file.report, TrainReport)]

    @property
    def evaluations(self) -> list[Evaluated]:
        return [result for _, report in self.evaluation_reports for result in report.results]

    @property
    def evaluated_files(self) -> list[Evaluated]:
        """Those whose classes are shown: of each file the first backend that ran it."""
        return [result for _, report in self.evaluation_reports for result in report.first_of_each_file]

    @property
    def evaluation_reports(self) -> list[tuple[ReportFile, EvalReport]]:
        return [(file, file.report) for file in self.files if isinstance(file.report, EvalReport)]

    @property
    def candidates(self) -> list[VerifyCandidate]:
        return [candidate for _, report in self.verifications for candidate in report.candidates]

    @property
    def limits(self) -> list[Limit]:
        return [limit for _, report in self.benchmarks for limit in report.limits or ()]

    @property
    def environments(self) -> list[tuple[ReportFile, Environment]]:
        return [(file, file.report.environment) for file in self.files]

    @property
    def recommendations(self) -> list[Recommendation]:
        """None whose speed-up is over a baseline that contradicts itself."""
        return [
            found
            for _, report in self.benchmarks
            if (found := report.recommendation) is not None
            and not any(
                (one.artifact, one.backend, one.batch, one.threads) == (found.artifact, found.backend, found.batch, found.threads)
                and one.speedup is not None
                and kept.speedup is None
                for one, kept in zip(report.results, without_contradictions(report.results), strict=True)
            )
        ]

    @cached_property
    def measurements(self) -> list[Measured]:
        """Every line of every benchmark, in order."""
        several = len(self.benchmarks) > 1 and self._repeated()
        return [
            Measured(result, file.name if several else "", self._parity_of(result), self._accuracy_of(result))
            for file, report in self.benchmarks
            for result in without_contradictions(report.results)
        ]

    def in_mode(self, mode: str) -> list[Measured]:
        """What was measured in a mode."""
        return [one for one in self.measurements if one.result.mode == mode and one.result.measured]

    @cached_property
    def networks(self) -> list[str]:
        """Names of all networks that were measured or verified, in order."""
        named = [one.network for one in self.measurements]
        named += [network_name(None, None, candidate.artifact) for candidate in self.candidates]
        return list(dict.fromkeys(named))

    def label(self, measured: Measured) -> str:
        """The shortest name that tells measurements of this page apart."""
        alone = len({one.network for one in self.measurements if not one.result.peer}) == 1
        return measured.short if alone and not measured.result.peer else measured.name

    def warnings(self) -> Iterator[str]:
        """What the machine did to the figures, each sentence once."""
        yield from dict.fromkeys(text for _, environment in self.environments for text in environment.warnings)

    def _repeated(self) -> bool:
        """Whether two benchmarks hold the same candidate."""
        found = Counter(
            key for _, report in self.benchmarks for key in {(one.artifact, one.backend, one.precision) for one in report.results}
        )
        return max(found.values(), default=0) > 1

    def _parity_of(self, result: BenchResult) -> Parity | None:
        """The benchmark's own verdict, else the worst that a verification of the same artifact by the same backend gave."""
        if result.parity is not None:
            return result.parity
        if result.is_baseline or result.peer:
            return None
        found = [one for one in self.candidates if (one.artifact, one.backend) == (result.artifact, result.backend)]
        worst = max(found, key=lambda one: _SEVERITY[one.status], default=None)
        if worst is None:
            return None
        return Parity(worst.status, worst.noise_ratio, worst.sqnr_db, worst.reason)

    def _accuracy_of(self, result: BenchResult) -> Accuracy | None:
        """By `eval`; where nothing was evaluated, by the labelled images of `verify`. Never both: they count other images."""
        for one in self.evaluations:
            if one.top1 is not None and self._same(one, result):
                return Accuracy(one.top1, one.top1_ci95)
        for candidate in self.candidates if not self.evaluations else ():
            accuracy = candidate.decisions.accuracy if candidate.decisions else None
            if accuracy is not None and (candidate.artifact, candidate.backend) == (result.artifact, result.backend):
                return Accuracy(accuracy.candidate.percent, accuracy.candidate.ci95)
        return None

    def _same(self, evaluated: Evaluated, result: BenchResult) -> bool:
        """Whether an accuracy is that of a measurement. The baseline has no file: it is the one checkpoint that was evaluated."""
        if result.is_baseline:
            eager = [one for one in self.evaluations if one.backend == "eager"]
            baselines = {one.artifact for _, report in self.benchmarks for one in report.results if one.is_baseline}
            return evaluated.backend == "eager" and len(eager) == len(baselines) == 1
        return (evaluated.artifact, evaluated.backend) == (result.artifact, result.backend)


def without_hash(artifact: str) -> str:
    """A baseline's name without the hash of its weights: `iresnet50` of `iresnet50-1a2b3c4d`."""
    return _OWN_HASH.sub("", artifact)
