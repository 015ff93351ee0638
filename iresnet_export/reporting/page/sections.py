"""The sections of a page, each of which appears only when its data are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from iresnet_export.reporting.collection import Collection, Measured
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.page.figures import (
    Figure,
    accuracy_figure,
    batch_figure,
    cold_figure,
    confusion_figure,
    distribution_figure,
    mixed_figure,
    parity_figure,
    reliability_figure,
    roofline_figure,
    server_figure,
    speedup_figure,
    training_figure,
)
from iresnet_export.reporting.plots.confusion import MOST_CLASSES
from iresnet_export.reporting.remarks import evaluation_remarks, references_in_words
from iresnet_export.reporting.tables import (
    Table,
    bench_table,
    changes_table,
    classes_table,
    cold_table,
    comparison_table,
    confusions_table,
    eval_table,
    further_tables,
    limits_table,
    mistakes_table,
    server_table,
    sizes_tables,
    steps_table,
    verify_table,
)
from iresnet_export.reporting.words import count

_MOST_ROWS = 20
"""Of tables that show the worst of many."""

_LEADS = {
    "comparison": "Medians of both runs and the ratio between them. Its 95 % interval comes from resampling whole turns of both; "
    "where it holds 0, the change is within noise. All other sections are of the new run.",
    "measurements": "From images in host memory to logits in host memory. Candidates took turns in random order, so that drift "
    "of the machine hit all alike. Percentiles are given only where there are enough samples.",
    "speedups": "Paired turn by turn with the baseline; bars are 95 % intervals. An interval that holds 1 is a tie, drawn hollow.",
    "latency": "Each hill is the spread of all samples; the tall tick is the median, on the bar of its 95 % interval, and the "
    "short ticks are the 90th and 99th percentiles.",
    "batches": "What a larger batch costs each image's wait, and what it gains in throughput.",
    "accuracy": "What speed costs in accuracy. No candidate on the dashed line is beaten by another in both; lines through points "
    "are 95 % intervals.",
    "classes": "Recall is the share of the images of a class that are recognised, precision that of what was taken for a class and "
    "is of it; both with 95 % intervals (Wilson). A cell of the matrix is stronger the more images of its class it holds. Classes "
    "of two files are compared over the same images by McNemar's exact test, corrected for their number (Holm).",
    "calibration": "A network that says 80 % should be right in 80 % of such cases: on the dashed line. The expected calibration "
    "error is the distance from it, averaged over all images, in 15 bins of equal width. Few images make it larger than it is.",
    "mixed": "Each point keeps one place more of the network in float32: what that gives in signal to noise, and what it costs, as "
    "the export measured both. No step on the dashed line is beaten in both.",
    "mistakes": "Images that are taken for another class, the most confident first: wrong labels are often among them.",
    "roofline": "The lines are this machine's own measured limits: memory on the slope, arithmetic on the level. A point's "
    "distance below its line is what is left.",
    "server": "Requests arrive at random (Poisson) and wait for one another. The mark is the median response, ticks are higher "
    "percentiles, the dashed line the limit that was asked for.",
    "cold": "A fresh process each time: how long until the artifact is loaded, and how long the first inference then takes.",
    "parity": "Outputs are compared with the float64 network, in units of the network's own rounding error (noise floors), or in "
    "dB for int8 and fp8.",
    "parity by block": " Along the blocks, the dotted line is what the reference's rounding gives at the same place.",
    "training": "Held-out figures are drawn through, those of the training images dashed, averaged weights (EMA) dotted.",
}
"""How to read each section."""


@dataclass(frozen=True)
class Section:
    """`lead` says how to read what follows. `more`, `more_tables`: what is folded away; `notes`: remarks at the end;
    `warnings`: what stands before everything else.
    """

    identifier: str
    title: str
    lead: str
    figures: tuple[Figure, ...] = ()
    more: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    more_tables: tuple[Table, ...] = ()

    @property
    def folded(self) -> list[str]:
        """What is folded away, by name."""
        return [figure.title for figure in self.more] + [table.caption for table in self.more_tables]

    @property
    def pictures(self) -> bool:
        """Whether a table shows any."""
        return any(cell.picture for table in (*self.tables, *self.more_tables) for row in table.rows for cell in row)


def sections(collection: Collection, comparison: Comparison | None) -> Iterator[Section]:
    """In the order of a reader's questions: what changed, how fast, how good, how exact, how trained."""
    if comparison is not None:
        yield _comparison(comparison)
    for make in (
        _measurements, _speedups, _latency, _batches, _accuracy, _mixed, _classes, _calibration, _mistakes, _roofline, _server,
        _cold, _parity, _training,
    ):  # fmt: skip
        made = make(collection)
        if made is not None:
            yield made


def _comparison(comparison: Comparison) -> Section:
    return Section(
        "comparison",
        "What changed",
        _LEADS["comparison"],
        tables=(comparison_table(comparison),),
        notes=tuple(comparison.gaps),
        warnings=comparison.differences,
    )


def _measurements(collection: Collection) -> Section | None:
    group = [one for one in collection.measurements if one.result.mode in ("latency", "throughput")]
    return Section("measurements", "Measurements", _LEADS["measurements"], tables=(bench_table(group),)) if group else None


def _speedups(collection: Collection) -> Section | None:
    figures = _of_groups(collection, collection.in_mode("latency"), speedup_figure, lambda one: one.result.speedup is not None)
    return Section("speedups", "Speed-ups", _LEADS["speedups"], figures[:1], figures[1:]) if figures else None


def _latency(collection: Collection) -> Section | None:
    figures = _of_groups(
        collection, collection.in_mode("latency"), distribution_figure, lambda one: one.result.latency_ms is not None
    )
    return Section("latency", "Latency", _LEADS["latency"], figures[:1], figures[1:]) if figures else None


def _batches(collection: Collection) -> Section | None:
    both = [*collection.in_mode("latency"), *collection.in_mode("throughput")]
    figures = []
    for threads, group in _by_threads(both):
        title = f"Latency and throughput against batch, {count(threads, 'thread')}"
        figure = batch_figure(f"batches-{threads}", title, collection, group)
        figures += [figure] if figure else []
    return Section("batches", "Batch sizes", _LEADS["batches"], tuple(figures)) if figures else None


def _accuracy(collection: Collection) -> Section | None:
    figure = accuracy_figure("accuracy", "Top-1 accuracy against latency", collection)
    tables = (eval_table(collection.evaluations),) if collection.evaluations else ()
    if figure is None:
        return Section("accuracy", "Accuracy", "Over all held-out images.", tables=tables) if tables else None
    return Section("accuracy", "Accuracy against latency", _LEADS["accuracy"], (figure,), tables=tables)


def _mixed(collection: Collection) -> Section | None:
    found = list({one.artifact: one for one in collection.candidates if one.steps}.values())
    if not found:
        return None
    figures = tuple(figure for number, one in enumerate(found) if (figure := mixed_figure(number, one)) is not None)
    tables = [steps_table(number, one) for number, one in enumerate(found)]
    shown = figures[:1], figures[1:], tuple(tables[:1])
    return Section("mixed", "Mixed precision", _LEADS["mixed"], *shown, more_tables=tuple(tables[1:]))


def _classes(collection: Collection) -> Section | None:
    """Matrix, or the most confused pairs of many classes, and recall and precision; of the first file, and of the others folded."""
    figures: list[Figure] = []
    tables: list[list[Table]] = []
    for number, one in enumerate(collection.evaluated_files):
        drawn = confusion_figure(number, one)
        figures += [drawn] if drawn else []
        pairs = one.confusions is not None and one.confusions.pairs and drawn is None
        own = [confusions_table(number, one, _MOST_ROWS)] if pairs else []
        own.append(classes_table(number, one, MOST_CLASSES, _MOST_ROWS))
        own += [changes_table(number, one, _MOST_ROWS)] if one.changes is not None and one.changes.listed else []
        tables.append(own)
    if not tables:
        return None
    notes = tuple(f"{line}." for line in evaluation_remarks(collection.evaluations))
    first, rest = tuple(tables[0]), tuple(one for own in tables[1:] for one in own)
    shown, folded = tuple(figures[:1]), tuple(figures[1:])
    return Section("classes", "Classes", _LEADS["classes"], shown, folded, first, notes, more_tables=rest)


def _calibration(collection: Collection) -> Section | None:
    made = [reliability_figure(number, one) for number, one in enumerate(collection.evaluated_files)]
    figures = tuple(figure for figure in made if figure is not None)
    return Section("calibration", "Calibration", _LEADS["calibration"], figures[:1], figures[1:]) if figures else None


def _mistakes(collection: Collection) -> Section | None:
    tables = [mistakes_table(number, one) for number, one in enumerate(collection.evaluated_files) if one.mistakes]
    if not tables:
        return None
    return Section("mistakes", "Mistakes", _LEADS["mistakes"], tables=tuple(tables[:1]), more_tables=tuple(tables[1:]))


def _roofline(collection: Collection) -> Section | None:
    figure = roofline_figure("roofline", "Roofline", collection)
    if figure is None:
        return None
    return Section("roofline", "The machine's limit", _LEADS["roofline"], (figure,), tables=(limits_table(collection.limits),))


def _server(collection: Collection) -> Section | None:
    group = [one for one in collection.measurements if one.result.mode == "server"]
    if not group:
        return None
    figure = server_figure("server", "Response times under load", collection, collection.in_mode("server"))
    return Section("server", "Under load", _LEADS["server"], (figure,) if figure else (), tables=(server_table(group),))


def _cold(collection: Collection) -> Section | None:
    group = [one for one in collection.measurements if one.result.mode == "cold"]
    if not group:
        return None
    figure = cold_figure("cold", "Cold start", collection, collection.in_mode("cold"))
    return Section("cold", "Cold start", _LEADS["cold"], (figure,) if figure else (), tables=(cold_table(group),))


def _parity(collection: Collection) -> Section | None:
    if not collection.candidates:
        return None
    figures = tuple(parity_figure(collection))
    notes = [f"Compared with {line}." for _, report in collection.verifications for line in references_in_words(report)]
    lead = _LEADS["parity"] + (_LEADS["parity by block"] if figures else "")
    found = collection.candidates
    tables = (verify_table(found), *further_tables(found), *sizes_tables(found))
    return Section("parity", "Parity", lead, figures, (), tables, tuple(dict.fromkeys(notes)))


def _training(collection: Collection) -> Section | None:
    figure = training_figure("training", "Training curves", collection)
    return Section("training", "Training", _LEADS["training"], (figure,)) if figure else None


Draw = Callable[[str, str, Collection, Sequence[Measured]], Figure]


def _of_groups(
    collection: Collection, measured: Sequence[Measured], draw: Draw, wanted: Callable[[Measured], bool]
) -> tuple[Figure, ...]:
    """A figure for every setting: what was measured with other batch sizes or threads is not comparable row by row."""

    def setting(one: Measured) -> tuple[int, int, str]:
        return one.result.batch, one.result.threads, one.result.device

    usable = sorted((one for one in measured if wanted(one)), key=setting)
    made: list[Figure] = []
    for (batch, threads, device), group in groupby(usable, key=setting):
        title = f"Batch {batch}, {count(threads, 'thread')}, {device}"
        made.append(draw(f"{draw.__name__.removesuffix('_figure')}-{batch}-{threads}-{len(made)}", title, collection, list(group)))
    return tuple(made)


def _by_threads(measured: Sequence[Measured]) -> Iterator[tuple[int, list[Measured]]]:
    for threads in sorted({one.result.threads for one in measured}):
        yield threads, [one for one in measured if one.result.threads == threads]
