"""From measurements to figures: a plot, its caption and a legend that names every colour, shape and line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iresnet_export.reporting.collection import Collection, Measured
from iresnet_export.reporting.plots.accuracy import Point, accuracy_plot
from iresnet_export.reporting.plots.batches import Line, batch_plot
from iresnet_export.reporting.plots.canvas import Plot
from iresnet_export.reporting.plots.confusion import MOST_CLASSES, RIGHT, WRONG, confusion_plot
from iresnet_export.reporting.plots.latency import distribution_plot
from iresnet_export.reporting.plots.marks import LegendItem, Mark, distinct, legend_item
from iresnet_export.reporting.plots.mixed import TimedStep, mixed_plot
from iresnet_export.reporting.plots.parity import Manifest, parity_plot
from iresnet_export.reporting.plots.reliability import MARK, reliability_plot
from iresnet_export.reporting.plots.roofline import Reached, Roof, roofline_plot
from iresnet_export.reporting.plots.serving import cold_plot, server_plot
from iresnet_export.reporting.plots.speedups import speedup_plot
from iresnet_export.reporting.plots.training import Run, run_mark, training_plot
from iresnet_export.reporting.schemas import BenchResult, Evaluated, VerifyCandidate
from iresnet_export.reporting.summary import baseline_name
from iresnet_export.reporting.tables import evaluated_name
from iresnet_export.reporting.words import backend_name, network_name, share, step_name


@dataclass(frozen=True)
class Figure:
    identifier: str
    title: str
    plot: Plot
    legend: tuple[LegendItem, ...] = ()


def speedup_figure(identifier: str, title: str, collection: Collection, group: Sequence[Measured]) -> Figure:
    baselines = {baseline_name(one, collection) for one in group}
    baseline = baselines.pop() if len(baselines) == 1 else "the baseline"
    return Figure(identifier, title, speedup_plot(identifier, title, group, _labels(collection, group), baseline))


def distribution_figure(identifier: str, title: str, collection: Collection, group: Sequence[Measured]) -> Figure:
    return Figure(identifier, title, distribution_plot(identifier, title, group, _labels(collection, group)))


def batch_figure(identifier: str, title: str, collection: Collection, group: Sequence[Measured]) -> Figure | None:
    """None unless a candidate was measured at two batch sizes."""
    by_candidate: dict[tuple[str, ...], dict[int, Measured]] = defaultdict(dict)
    for one in group:
        if one.result.latency_ms is not None:
            by_candidate[one.identity].setdefault(one.result.batch, one)
    several = [found for found in by_candidate.values() if len(found) > 1]
    if not several:
        return None
    firsts = [next(iter(found.values())) for found in several]
    lines = []
    for found, first, look in zip(several, firsts, _marks(firsts), strict=True):
        points = tuple((batch, *_speed(found[batch].result)) for batch in sorted(found))
        hollow = frozenset(batch for batch, one in found.items() if one.result.status == "unstable")
        lines.append(Line(collection.label(first), look, points, hollow))
    return Figure(
        identifier, title, batch_plot(identifier, title, lines), _legend([(line.name, line.mark) for line in lines], lines=True)
    )


def roofline_figure(identifier: str, title: str, collection: Collection) -> Figure | None:
    """None without measured limits, or without a network whose operations and bytes are known."""
    roofs: dict[str, Roof] = {}
    for _, report in collection.benchmarks:
        for limit in report.limits or ():
            known = roofs.get(limit.precision)
            if known is None or known.gflops < limit.gflops:
                roofs[limit.precision] = Roof(limit.precision, limit.gflops, limit.bandwidth_gb_s)
    measured = [one for mode in ("latency", "throughput") for one in collection.in_mode(mode) if one.result.status == "ok"]
    placed = []
    for one, look in zip(measured, _marks(measured), strict=True):
        intensity, gflops = one.result.arithmetic_intensity, one.result.gflops
        if intensity is not None and gflops:
            name = f"{collection.label(one)}, batch {one.result.batch}"
            placed.append((one, Reached(name, look, intensity, gflops, one.result.peak_fraction)))
    if not roofs or not placed:
        return None
    named = {collection.label(one): reached.mark for one, reached in placed}
    drawn = roofline_plot(identifier, title, list(roofs.values()), [reached for _, reached in placed])
    return Figure(identifier, title, drawn, _legend(list(named.items())))


def accuracy_figure(identifier: str, title: str, collection: Collection) -> Figure | None:
    """Of the smallest batch size measured; None with fewer than two candidates of known accuracy."""
    usable = [one for one in collection.in_mode("latency") if one.accuracy is not None and one.result.latency_ms is not None]
    smallest = min((one.result.batch for one in usable), default=1)
    threads = max((one.result.threads for one in usable), default=1)
    chosen = [one for one in usable if one.result.batch == smallest and one.result.threads == threads and one.result.status == "ok"]
    if len(chosen) < 2:
        return None
    points = [
        Point(collection.label(one), look, one.result.latency_ms.p50 / one.result.batch, one.accuracy.top1, one.accuracy.ci95)
        for one, look in zip(chosen, _marks(chosen), strict=True)
        if one.result.latency_ms is not None and one.accuracy is not None
    ]
    title = f"{title}, batch {smallest}, {threads} threads" if threads > 1 else f"{title}, batch {smallest}, one thread"
    return Figure(
        identifier, title, accuracy_plot(identifier, title, points), _legend([(point.name, point.mark) for point in points])
    )


def mixed_figure(number: int, one: VerifyCandidate) -> Figure | None:
    """None with fewer than two steps whose time was measured."""
    steps = [TimedStep(step_name(step.place), step.milliseconds, step.sqnr_db) for step in one.steps if step.milliseconds]
    identifier, title = f"mixed-{number}", f"{one.artifact}: what places in float32 give and cost"
    return Figure(identifier, title, mixed_plot(identifier, title, steps)) if len(steps) > 1 else None


def confusion_figure(number: int, one: Evaluated) -> Figure | None:
    """None for more classes than can be told apart, and for one alone."""
    if one.confusions is None or not 2 <= len(one.classes or ()) <= MOST_CLASSES:
        return None
    identifier, title = f"confusion-{number}", f"{evaluated_name(one)}: confusion matrix"
    legend = _legend([("right", Mark(RIGHT, "s")), ("taken for another class", Mark(WRONG, "s"))])
    return Figure(identifier, title, confusion_plot(identifier, title, one), legend)


def reliability_figure(number: int, one: Evaluated) -> Figure | None:
    if one.calibration is None:
        return None
    identifier, title = f"reliability-{number}", f"{evaluated_name(one)}: calibration error {share(one.calibration.ece)}"
    legend = _legend([("share that is right, with its 95 % interval", MARK)])
    return Figure(identifier, title, reliability_plot(identifier, title, one.calibration), legend)


def server_figure(identifier: str, title: str, collection: Collection, group: Sequence[Measured]) -> Figure | None:
    pairs = [
        (one, one.result.server) for one in group if one.result.server is not None and one.result.server.response_ms.p50 is not None
    ]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[1].response_ms.p50 or 0)
    rates = len({found.rate_per_s for _, found in pairs}) > 1
    names = [collection.label(one) + (f", {found.rate_per_s:g}/s" if rates else "") for one, found in pairs]
    shown = title if rates else f"{title}, {pairs[0][1].rate_per_s:g} requests a second"
    return Figure(identifier, shown, server_plot(identifier, shown, pairs, names))


def cold_figure(identifier: str, title: str, collection: Collection, group: Sequence[Measured]) -> Figure | None:
    pairs = [(one, one.result.cold) for one in group if one.result.cold is not None]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: (pair[1].load_ms.p50 or 0) + (pair[1].first_inference_ms.p50 or 0))
    return Figure(identifier, title, cold_plot(identifier, title, pairs, [collection.label(one) for one, _ in pairs]))


def parity_figure(collection: Collection) -> Iterator[Figure]:
    """One for each network whose blocks were compared."""
    networks: dict[str, list[tuple[str, str, str, Manifest]]] = defaultdict(list)
    for candidate in collection.candidates:
        if candidate.localisation and any(place.sqnr_db is not None for place in candidate.localisation):
            name = f"{candidate.artifact} by {backend_name(candidate.backend)}"
            manifest = Manifest(name, Mark("other", "o"), candidate.localisation, candidate.first_divergence)
            networks[candidate.reference or ""].append((candidate.precision, candidate.backend, candidate.artifact, manifest))
    for number, (_, found) in enumerate(networks.items()):
        marks = distinct([(precision, backend) for precision, backend, _, _ in found])
        lines = [Manifest(one.name, look, one.places, one.first) for (_, _, _, one), look in zip(found, marks, strict=True)]
        title = f"{network_name(None, None, found[0][2])}, block by block"
        identifier = f"parity-{number}"
        yield Figure(
            identifier, title, parity_plot(identifier, title, lines), _legend([(one.name, one.mark) for one in lines], lines=True)
        )


def training_figure(identifier: str, title: str, collection: Collection) -> Figure | None:
    trained = [(file, report) for file, report in collection.trainings if report.epochs]
    runs = []
    for file, report in trained:
        name = network_name(report.network.arch, report.network.depth, file.name)
        runs.append(Run(f"{name}, {file.name}" if len(trained) > 1 else name, report.epochs))
    if not runs:
        return None
    legend = _legend([(run.name, run_mark(index)) for index, run in enumerate(runs)], lines=True)
    return Figure(identifier, title, training_plot(identifier, title, runs), legend)


def _labels(collection: Collection, group: Sequence[Measured]) -> list[str]:
    return [collection.label(one) for one in group]


def _marks(group: Sequence[Measured]) -> list[Mark]:
    """The same candidate looks the same however often it is measured."""
    identities = {one.identity: (one.result.precision, one.result.backend) for one in group}
    found = dict(zip(identities, distinct(list(identities.values())), strict=True))
    return [found[one.identity] for one in group]


def _speed(result: BenchResult) -> tuple[float, float]:
    """Median in milliseconds, images a second."""
    p50 = result.latency_ms.p50 if result.latency_ms is not None else float("nan")
    return p50, result.throughput or 1e3 * result.batch / p50


def _legend(named: Sequence[tuple[str, Mark]], lines: bool = False) -> tuple[LegendItem, ...]:
    return tuple(legend_item(name, look, lines) for name, look in named)
