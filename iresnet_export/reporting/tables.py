"""Tables of reports as cells of text, for the terminal, HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from iresnet_export.reporting.schemas import (
    DoctorReport,
    Environment,
    Evaluated,
    ImagePrediction,
    Limit,
    Parity,
    VerifyCandidate,
    Weights,
)
from iresnet_export.reporting.words import (
    STATUS,
    backend_name,
    figures,
    interval,
    megabytes,
    milliseconds,
    one_line,
    parity_figure,
    percent,
    printable,
    probability,
    share,
    step_name,
    times,
)

if TYPE_CHECKING:
    from iresnet_export.reporting.collection import Collection, Measured
    from iresnet_export.reporting.comparison import Comparison

Tone = Literal["good", "bad", "warn", "quiet"]
TONES: dict[str, Tone] = {
    "pass": "good", "ok": "good", "yes": "good", "faster": "good", "fail": "bad", "failed_parity": "bad", "no": "bad",
    "slower": "bad", "within noise": "quiet", "not compared": "warn", "unstable": "warn", "oom": "warn", "skipped": "warn",
    "unreadable": "warn", "untried": "warn",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """`right`: figures, which line up at the right."""

    name: str
    right: bool = False


@dataclass(frozen=True)
class Cell:
    """`tone` gives it a sign beside its text, or a colour; `strong` makes it stand out; `picture`: a small JPEG for the page."""

    text: str
    tone: Tone | None = None
    strong: bool = False
    picture: str | None = None


@dataclass(frozen=True)
class Table:
    """The first `keys` columns say what a row is of."""

    identifier: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: int = 1


Row = Sequence[Cell | str]


def table(identifier: str, caption: str, columns: Sequence[str | None], rows: Iterable[Row], keys: int = 1) -> Table:
    """Columns whose name begins with `>` are aligned right; those named None, and those that hold nothing at all, are left out.

    Cells hold nothing that acts on a terminal, and what a row is of is one line.
    """
    cells = [[_cell(cell, index < keys) for index, cell in enumerate(row)] for row in rows]
    kept = [
        index for index, name in enumerate(columns) if name is not None and (not cells or any(row[index].text for row in cells))
    ]
    names = [str(columns[index]) for index in kept]
    return Table(
        identifier,
        one_line(caption),
        tuple(Column(name.removeprefix(">"), name.startswith(">")) for name in names),
        tuple(tuple(row[index] for index in kept) for row in cells),
        sum(index < keys for index in kept),
    )


def _cell(cell: Cell | str, key: bool) -> Cell:
    plain = cell if isinstance(cell, Cell) else Cell(cell)
    shown = one_line(plain.text) if key else printable(plain.text)
    return plain if shown == plain.text else replace(plain, text=shown)


def status_cell(status: str) -> Cell:
    return Cell(STATUS.get(status, status), TONES.get(status))


def _ended(status: str) -> Cell:
    """A status that says nothing against what was measured has no sign."""
    return Cell(STATUS[status]) if status == "ok" else status_cell(status)


def measurement_tables(measured: Sequence[Measured]) -> list[Table]:
    """One for latency and throughput, one for the server, one for cold starts; those that have something to show."""
    made = []
    for modes, make in ((("latency", "throughput"), bench_table), (("server",), server_table), (("cold",), cold_table)):
        if group := [one for one in measured if one.result.mode in modes]:
            made.append(make(group))
    return made


def bench_table(measured: Sequence[Measured]) -> Table:
    """What was measured in mode latency or throughput. What all share is said above."""
    columns: list[str | None] = [
        "artifact", "by", "precision", "mode", "device", ">batch", ">threads", "parity", ">median ms", ">95 % interval",
        ">speed-up", ">95 % of it", "status", ">p90", ">p99", ">device ms", ">copies ms", ">images/s", ">GFLOP/s", ">of the limit",
        ">memory", ">size", "file",
    ]  # fmt: skip
    shared = []
    for key, words in (("mode", "{}"), ("device", "on {}"), ("threads", "with {} threads")):
        found = {getattr(one.result, key) for one in measured}
        if len(found) == 1:
            shared.append(words.format(found.pop()))
            columns[columns.index(f">{key}" if key == "threads" else key)] = None
    rows = map(_measured, sorted(measured, key=_order))
    return table("measurements", ", ".join(["Every measurement", *shared]), columns, rows, keys=7)


def _order(one: Measured) -> tuple[str, int, int, bool, float]:
    """By setting; then the fastest first, and what was not measured last."""
    result, latency = one.result, one.result.latency_ms
    return result.mode, result.threads, result.batch, not result.measured, latency.p50 if latency else 0.0


def _measured(one: Measured) -> Row:
    result, latency, speedup = one.result, one.result.latency_ms, one.result.speedup
    tie = " (tie)" if speedup is not None and speedup.is_tie else ""
    verdict = "baseline" if result.is_baseline else "no verdict" if latency and result.status == "ok" and not result.peer else ""
    return [
        Cell(result.artifact + (" (peer)" if result.peer else "")),
        backend_name(result.backend),
        result.precision, result.mode, result.device, str(result.batch), str(result.threads),
        _parity(one.parity, result.is_baseline),
        Cell(figures(latency.p50 if latency else None), strong=True),
        interval(latency.interval) if latency else "",
        verdict if speedup is None else Cell(times(speedup.p50) + tie, strong=True),
        interval(speedup.ci95) if speedup else "",
        _ended(result.status),
        figures(latency.p90 if latency else None), figures(latency.p99 if latency else None),
        figures(result.device_ms), figures(result.copy_ms), figures(result.throughput), figures(result.gflops),
        share(result.peak_fraction), _memory(result.memory_mb), megabytes(result.size_bytes), one.file,
    ]  # fmt: skip


def _parity(parity: Parity | None, is_baseline: bool) -> Cell:
    if parity is None:
        return Cell("reference") if is_baseline else Cell("not verified", "warn")
    return status_cell(parity.status)


def _memory(megabytes: float | None) -> str:
    return "" if megabytes is None else f"{megabytes:,.0f} MB"


def server_table(group: Sequence[Measured]) -> Table:
    columns = [
        "artifact", "by", "precision", ">threads", ">arrivals/s", ">offered", ">completed", ">busy", ">p50 ms", ">p90", ">p99",
        ">p99.9", ">limit of p99", ">highest rate within it", "status",
    ]  # fmt: skip
    rows = list[Row]()
    for one in group:
        named = [one.result.artifact, backend_name(one.result.backend), one.result.precision, str(one.result.threads)]
        if (server := one.result.server) is None:
            rows.append([*named, *[""] * 10, _ended(one.result.status)])
            continue
        found = server.response_ms
        counts = ["" if number is None else f"{number:,}" for number in (server.offered, server.completed)]
        percentiles = [figures(value) for value in (found.p50, found.p90, found.p99, found.p999)]
        limit = "" if server.p99_limit_ms is None else f"{figures(server.p99_limit_ms)} ms"
        highest = "" if server.highest_rate_per_s is None else f"{figures(server.highest_rate_per_s)}/s"
        cells = [figures(server.rate_per_s), *counts, share(server.utilisation), *percentiles, limit]
        rows.append([*named, *cells, Cell(highest, strong=True), _ended(one.result.status)])
    return table("server-table", "Response times under load, from arrival to logits", columns, rows, keys=3)


def cold_table(group: Sequence[Measured]) -> Table:
    columns = [
        "artifact",
        "by",
        "precision",
        ">threads",
        ">loading ms",
        ">first inference ms",
        ">memory",
        ">fresh processes",
        "status",
    ]
    rows = list[Row]()
    for one in group:
        named = [one.result.artifact, backend_name(one.result.backend), one.result.precision, str(one.result.threads)]
        cold = one.result.cold
        medians = [Cell(figures(part.p50), strong=True) for part in (cold.load_ms, cold.first_inference_ms)] if cold else ["", ""]
        starts = str(len(cold.load_ms.samples) or "") if cold else ""
        rows.append([*named, *medians, _memory(one.result.memory_mb), starts, _ended(one.result.status)])
    return table("cold-table", "Cold starts in fresh processes: medians", columns, rows, keys=3)


def verify_table(candidates: Sequence[VerifyCandidate]) -> Table:
    columns = [
        "artifact", "by", "precision", "verdict", "compared", ">weights", ">error", ">largest error", ">top-1 agrees", ">flips",
        "batch", "departs at",
    ]  # fmt: skip
    rows: list[Row] = [
        [
            one.artifact,
            backend_name(one.backend),
            one.precision,
            status_cell(one.status),
            one.coverage or "",
            _weights(one.weights, one.status),
            Cell(parity_figure(one.noise_ratio, one.sqnr_db), strong=True),
            figures(one.max_abs),
            share(one.top1_agreement),
            "" if one.decisions is None or one.decisions.flips is None else str(one.decisions.flips.total),
            ", ".join(map(str, one.batch_sizes)),
            one.first_divergence or "",
        ]
        for one in candidates
    ]
    return table("parity-table", "Parity of every candidate with the float64 network", columns, rows, keys=2)


def _weights(weights: Weights | None, status: str) -> str:
    """What was found of a candidate's weights."""
    if weights is None:
        return "not read"
    if not weights.compared:
        return "fused" if status == "pass" else "differ"
    return "differ" if weights.first_difference else f"{weights.compared:,} equal"


def further_tables(candidates: Sequence[VerifyCandidate]) -> list[Table]:
    """A row for each output beside the logits; no table where there is none."""
    rows = list[Row]()
    for one in candidates:
        for output in one.further_outputs:
            expected = "" if output.expected_sqnr_db is None else parity_figure(None, output.expected_sqnr_db)
            figure = Cell(parity_figure(output.noise_ratio, output.sqnr_db), strong=True)
            verdict = status_cell("fail" if output.reason else "pass")
            rows.append([one.artifact, backend_name(one.backend), output.name, verdict, figure, expected, figures(output.max_abs)])
    columns = ["artifact", "by", "output", "verdict", ">error", ">of its own graph", ">largest error"]
    made = table("further-outputs", "Outputs beside the logits, each in units of its own place", columns, rows, keys=3)
    return [made] if rows else []


def sizes_tables(candidates: Sequence[VerifyCandidate]) -> list[Table]:
    """A row for each size of images beside the usual one; no table where sizes are not free."""
    rows: list[Row] = [
        [
            one.artifact,
            backend_name(one.backend),
            " x ".join(map(str, size.image_size)),
            status_cell("fail" if size.reason else "pass"),
            Cell(parity_figure(size.noise_ratio, size.sqnr_db), strong=True),
            figures(size.max_abs),
            share(size.top1_agreement),
        ]
        for one in candidates
        for size in one.other_sizes
    ]
    columns = ["artifact", "by", "height x width", "verdict", ">error", ">largest error", ">top-1 agrees"]
    made = table("other-sizes", "Images of other sizes, each against the float64 network at that size", columns, rows, keys=3)
    return [made] if rows else []


def localisation_table(candidate: VerifyCandidate) -> Table:
    rows = list[Row]()
    for entry in candidate.localisation or ():
        tone: Tone | None = "bad" if entry.place == candidate.first_divergence else None
        decibels = ["" if value is None else f"{value:.1f} dB" for value in (entry.sqnr_db, entry.floor_db)]
        rows.append([Cell(entry.place, tone), *decibels, Cell("" if entry.ratio is None else f"{entry.ratio:.2f}", tone)])
    columns = ("place", ">signal to noise", ">of the reference's rounding", ">times its error")
    return table("places", f"{candidate.artifact} by {backend_name(candidate.backend)}, block by block", columns, rows)


def eval_table(results: Sequence[Evaluated]) -> Table:
    columns = ["file", "by", ">images", ">top-1", ">95 % interval", ">top-5", ">loss", ">ECE", "status"]
    rows: list[Row] = [
        [
            one.artifact,
            backend_name(one.backend),
            "" if one.images is None else f"{one.images:,}",
            Cell(percent(one.top1), strong=True),
            interval(one.top1_ci95),
            percent(one.top5),
            figures(one.loss),
            "" if one.calibration is None else share(one.calibration.ece),
            "" if one.status == "ok" else status_cell(one.status),
        ]
        for one in results
    ]
    return table("accuracies", "Accuracy over the held-out images", columns, rows, keys=2)


def classes_table(number: int, one: Evaluated, most: int, fewest: int) -> Table:
    """Recall and precision of every class; of more than `most` classes the `fewest` that are recognised worst."""
    found = list(one.classes or ())
    which = "every class"
    if len(found) > most:
        found = sorted((each for each in found if each.recall is not None), key=lambda each: (each.recall or 0, -each.images))
        found = found[:fewest]
        which = f"the {len(found)} classes of {len(one.classes or ()):,} that are recognised worst"
    columns = ["class", ">images", ">taken for it", ">recall", ">95 % interval", ">precision", ">95 % interval"]
    rows: list[Row] = [
        [
            each.label,
            f"{each.images:,}",
            f"{each.predicted:,}",
            Cell(percent(each.recall), strong=True),
            interval(each.recall_ci95),
            Cell(percent(each.precision), strong=True),
            interval(each.precision_ci95),
        ]
        for each in found
    ]
    return table(f"classes-{number}", f"{evaluated_name(one)}: {which}", columns, rows)


def confusions_table(number: int, one: Evaluated, most: int) -> Table:
    listed = one.confusions.listed[:most] if one.confusions else ()
    images = {each.number: each.images for each in one.classes or ()}
    rows: list[Row] = [
        [one.label(each.actual), one.label(each.predicted), f"{each.images:,}", _of(each.images, images.get(each.actual, 0))]
        for each in listed
    ]
    pairs = one.confusions.pairs if one.confusions else 0
    which = f", the {most} of {pairs:,} that are most frequent" if pairs > most else ""
    caption = f"{evaluated_name(one)}: what is taken for what{which}"
    return table(f"confusions-{number}", caption, ["class", "taken for", ">images", ">of the class"], rows, keys=2)


def _of(part: int, whole: int) -> str:
    return share(part / whole) if whole else ""


def mistakes_table(number: int, one: Evaluated) -> Table:
    rows: list[Row] = [
        [
            Cell(f"image {each.image}" if each.file is None else each.file, picture=each.thumbnail),
            one.label(each.actual),
            one.label(each.predicted),
            share(each.confidence),
        ]
        for each in one.mistakes or ()
    ]
    caption = f"{evaluated_name(one)}: the most confident mistakes"
    return table(f"mistakes-{number}", caption, ["image", "class", "taken for", ">confidence"], rows)


def changes_table(number: int, one: Evaluated, most: int) -> Table:
    rows = list[Row]()
    for each in (one.changes.listed if one.changes else ())[:most]:
        tone: Tone | None = None if not each.told else "bad" if each.candidate < each.reference else "good"
        only = (f"{each.only_reference_right:,}", f"{each.only_candidate_right:,}")
        p = (probability(each.p), Cell(probability(each.p_holm), tone))
        rows.append([one.label(each.number), f"{each.images:,}", percent(each.reference), percent(each.candidate), *only, *p])
    columns = ["class", ">images", ">recall before", ">now", ">only then right", ">only now", ">p", ">p, corrected"]
    return table(f"changes-{number}", f"{evaluated_name(one)}: classes that change from the reference", columns, rows)


def steps_table(number: int, one: VerifyCandidate) -> Table:
    rows: list[Row] = [
        [
            step_name(step.place),
            f"{step.sqnr_db:.1f} dB",
            "" if step.accuracy_drop is None else f"{step.accuracy_drop:.2f}",
            milliseconds(step.milliseconds),
        ]
        for step in one.steps
    ]
    columns = ["kept in float32", ">signal to noise", ">points lost at most", ">one image"]
    return table(f"steps-{number}", f"{one.artifact}: places kept in float32, step by step", columns, rows)


def evaluated_name(one: Evaluated) -> str:
    return f"{one.artifact} by {backend_name(one.backend)}"


def predict_table(results: Iterable[ImagePrediction]) -> Table:
    """A row for each image, a line in it for each class."""
    rows = list[Row]()
    for image in results:
        labels = Cell("\n".join(one_line(entry.label) for entry in image.top)) if image.top else status_cell(image.status)
        rows.append([image.file, labels, "\n".join(f"{entry.probability:.2%}" for entry in image.top)])
    return table("predictions", "", ["image", "class", ">probability"], rows)


def doctor_tables(report: DoctorReport) -> Iterator[Table]:
    """What can be done, the parts of the stack, and the engines of a folder where one was named."""
    rows, said = list[Row](), set[str | None]()
    for one in report.findings:
        remedy = "as above" if one.remedy in said else one.remedy or ""
        rows.append([one.backend, one.direction, one.device, status_cell(one.answer), one.reason or "", remedy])
        said |= {one.remedy} if one.remedy else set()
    yield table("findings", "", ("backend", "direction", "device", "here", "why not", "remedy"), rows, keys=3)
    absent = Cell("not here", "bad")
    parts: list[Row] = [[one.name, absent if one.version is None else one.version, one.note or ""] for one in report.components]
    yield table("components", "", ("part", "version", ""), parts)
    if report.engines:
        engines: list[Row] = [[one.file, status_cell(one.answer), one.says] for one in report.engines]
        yield table("engines", "", ("engine", "runs here", ""), engines)


def comparison_table(comparison: Comparison) -> Table:
    columns = ["measurement", "verdict", ">before, ms", ">now, ms", ">change of time", ">95 % interval", "remark"]
    rows = list[Row]()
    for one in comparison.in_order:
        change = "" if one.ratio is None else f"{100 * (one.ratio - 1):+.1f} %"
        bounds = "" if one.ci95 is None else " to ".join(f"{100 * (bound - 1):+.1f}" for bound in one.ci95)
        both, changed = (figures(one.old_ms), figures(one.new_ms)), Cell(change, strong=True)
        rows.append([one.name, status_cell(one.change), *both, changed, bounds, one.reason or ""])
    return table("comparison-table", f"{comparison.new.name} against {comparison.old.name}", columns, rows)


def limits_table(limits: Sequence[Limit]) -> Table:
    columns = ["precision", ">threads", ">GFLOP/s", ">bandwidth GB/s", "measured by"]
    rows = [[one.precision, str(one.threads), figures(one.gflops), figures(one.bandwidth_gb_s), one.kernel or ""] for one in limits]
    return table("limits-table", "What this machine reaches at most, measured", columns, rows)


def environment_rows(collection: Collection) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What every file was made on; files of the same machine share one entry."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    commands: dict[str, str] = {}
    for file, environment in collection.environments:
        found.setdefault(tuple(_environment(environment)), []).append(file.name)
        commands[file.name] = environment.command or ""
    for rows, names in found.items():
        said = [("Command" + (f" of {name}" if len(names) > 1 else ""), commands[name]) for name in names if commands[name]]
        yield ", ".join(names), [*rows, *said]


def _environment(environment: Environment) -> Iterator[tuple[str, str]]:
    hardware = environment.hardware
    plain = {
        "Processor": hardware.cpu,
        "Usable cores": hardware.cores,
        "Memory": None if hardware.memory_bytes is None else f"{hardware.memory_bytes / 2**30:.1f} GiB",
        "System": hardware.system,
        "GPUs": ", ".join(str(gpu.get("name", gpu)) for gpu in hardware.gpus) or "none",
    }
    yield from ((key, str(value)) for key, value in plain.items() if value is not None)
    for what, found in (("CPU", environment.cpu), ("GPU", environment.gpu)):
        for key, value in (found or {}).items():
            if value is not None and key != "model":
                yield f"{what}: {key.replace('_', ' ')}", _plain(value)
    if environment.versions:
        yield "Versions", ", ".join(f"{package} {version}" for package, version in environment.versions.items())
    if environment.commit:
        changed = " with changes" if environment.commit.endswith("+") else ""
        yield "Commit", environment.commit.rstrip("+")[:12] + changed


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return figures(value) if isinstance(value, float) else str(value)
