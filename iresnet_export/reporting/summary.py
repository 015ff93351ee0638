"""What a page says first: the result in one sentence, its key figures, a verdict for each candidate, and what was not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iresnet_export.reporting.collection import Collection, Measured
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.remarks import beside_in_words, changes_in_words
from iresnet_export.reporting.schemas import BenchResult, Coverage, VerifyCandidate
from iresnet_export.reporting.tables import TONES, Tone, evaluated_name
from iresnet_export.reporting.words import (
    STATUS,
    backend_name,
    count,
    figures,
    interval,
    listed,
    milliseconds,
    network_name,
    parity_figure,
    percent,
    share,
    times,
)
from iresnet_export.system.machine import under_load

_COMPARED: dict[Coverage, str] = {
    "whole file": "the whole file, bit by bit",
    "parent": "the whole file that it was compiled from, and its outputs",
    "graph": "its graph, weights and outputs",
    "outputs": "its outputs alone",
}


@dataclass(frozen=True)
class Figure:
    """A key figure. `note` says what it is of."""

    label: str
    value: str
    note: str
    tone: Tone = "quiet"


@dataclass(frozen=True)
class Verdict:
    """`status` is one word or two; `text` says why."""

    tone: Tone
    status: str
    subject: str
    text: str


def best(collection: Collection) -> Measured | None:
    """The one that was recommended, else the fastest, over its baseline, of those that no check has failed; passed ones first."""
    usable = [one for one in collection.measurements if _usable(one.result) and (one.parity is None or one.parity.status == "pass")]
    for wanted in collection.recommendations:
        for one in usable:
            result = one.result
            if (result.artifact, result.backend, result.batch, result.threads) == (
                wanted.artifact, wanted.backend, wanted.batch, wanted.threads,
            ):  # fmt: skip
                return one
    checked = [one for one in usable if one.parity is not None] or usable
    smallest = min((one.result.batch for one in checked), default=1)
    first = [one for one in checked if one.result.batch == smallest]
    return max(first, key=lambda one: one.result.speedup.p50 if one.result.speedup else 0.0, default=None)


def headline(collection: Collection, comparison: Comparison | None) -> str:
    """The result in one sentence."""
    failed = [one for one in collection.candidates if one.status == "fail"]
    failed_parity = {(one.artifact, one.backend) for one in failed} | {
        (one.result.artifact, one.result.backend)
        for one in collection.measurements
        if one.result.status == "failed_parity" or (one.parity is not None and one.parity.status == "fail")
    }
    if comparison is not None:
        return _comparison_headline(comparison)
    if failed_parity:
        names = listed([f"{artifact} by {backend_name(backend)}" for artifact, backend in sorted(failed_parity)][:2])
        more = f" and {len(failed_parity) - 2} more" if len(failed_parity) > 2 else ""
        return f"Parity failed: {names}{more} {'is' if len(failed_parity) == 1 else 'are'} not what was trained"
    found = best(collection)
    if found is not None:
        return _speed_headline(found, collection)
    if not collection.candidates and (baseline := _unsteady_baseline(collection)) is not None:
        return f"No verdict on speed: {baseline} was not steady while it was measured"
    passed = sum(one.status == "pass" for one in collection.candidates)
    if collection.candidates:
        if not passed:
            return "Nothing could be verified on this machine"
        ran = f"All {passed} candidates that ran here compute" if passed > 1 else "The candidate that ran here computes"
        return f"{ran} what was trained: parity passed"
    if collection.trainings:
        return " ".join(_training_sentence(collection))
    top = max((one for one in collection.evaluations if one.top1 is not None), key=lambda one: one.top1 or 0, default=None)
    if top is not None:
        return f"{top.artifact} by {backend_name(top.backend)}: {percent(top.top1)} of the images are recognised"
    return "Nothing was measured on this machine"


def in_doubt(collection: Collection, comparison: Comparison | None) -> bool:
    """Whether the headline tells of a speed that was measured on a loaded machine: not to be shouted."""
    return comparison is None and best(collection) is not None and under_load(collection.warnings())


def baseline_name(measured: Measured, collection: Collection) -> str:
    """What a speed-up is over."""
    wanted = measured.result.baseline
    for one in collection.measurements:
        if wanted is not None and one.result.artifact == wanted and one.result.speedup is None:
            return backend_name(one.result.backend)
    return "eager PyTorch"


def key_figures(collection: Collection, comparison: Comparison | None) -> list[Figure]:
    """At most four."""
    found: list[Figure] = []
    if comparison is not None:
        slower, faster, none = (len(comparison.of(change)) for change in ("slower", "faster", "not compared"))
        return [
            Figure("Slower", str(slower), "beyond noise", "bad" if slower else "quiet"),
            Figure("Faster", str(faster), "beyond noise", "good" if faster else "quiet"),
            Figure("Within noise", str(len(comparison.of("within noise"))), "no change is shown"),
            Figure("Not compared", str(none), "see the table for reasons" if none else "none", "warn" if none else "quiet"),
        ]
    fastest = best(collection)
    if fastest is not None and fastest.result.latency_ms is not None:
        doubt = "; the machine was loaded" if in_doubt(collection, comparison) else ""
        note = f"{fastest.name}, batch {fastest.result.batch}{doubt}"
        found.append(Figure("Median latency", milliseconds(fastest.result.latency_ms.p50), note, "warn" if doubt else "quiet"))
        if (speedup := fastest.result.speedup) is not None:
            over = baseline_name(fastest, collection)
            note = f"over {over}; 95 % interval {interval(speedup.ci95)}{doubt}"
            found.append(Figure("Speed-up", times(speedup.p50), note, "warn" if doubt else "good"))
    if collection.candidates:
        found.append(_parity_figure(collection.candidates))
    if fastest is not None and fastest.accuracy is not None:
        bounds = f"; 95 % interval {interval(fastest.accuracy.ci95)}" if fastest.accuracy.ci95 else ""
        found.append(Figure("Top-1 accuracy", percent(fastest.accuracy.top1), f"of {fastest.name}{bounds}"))
    elif collection.trainings:
        _, report = collection.trainings[0]
        if report.best is not None:
            found.append(Figure("Top-1 accuracy", percent(report.best.val_acc1), f"held out, in epoch {report.best.epoch}"))
    return found[:4]


def verdicts(collection: Collection) -> Iterator[Verdict]:
    """One for each candidate that was verified, then one for each measurement that did not go well, then recommendations."""
    tone: Tone = "warn" if under_load(collection.warnings()) else "good"
    for recommended in collection.recommendations:
        yield Verdict(tone, "recommended", f"{recommended.artifact} by {backend_name(recommended.backend)}", recommended.sentence)
    for candidate in sorted(collection.candidates, key=lambda one: ("fail", "pass", "skipped").index(one.status)):
        yield Verdict(TONES[candidate.status], STATUS[candidate.status], _subject(candidate), _reason(candidate, collection))
    for judged in collection.evaluations:
        if judged.changes is not None and any(each.told and each.candidate < each.reference for each in judged.changes.listed):
            text = f"{beside_in_words(judged)}: {'; '.join(changes_in_words(judged))}"
            yield Verdict("bad", "hurts classes", evaluated_name(judged), _sentence(text))
    known = {(one.artifact, one.backend, one.reason) for one in collection.candidates}
    failed = {(one.artifact, one.backend) for one in collection.candidates if one.status == "fail"}
    seen = set()
    for one in collection.measurements:
        result = one.result
        if result.status == "ok" or (result.artifact, result.backend, result.reason) in known:
            continue
        if result.status == "failed_parity" and (result.artifact, result.backend) in failed:
            continue
        text = _sentence(result.reason) if result.reason else _status_text(result)
        entry = Verdict(TONES[result.status], STATUS[result.status], f"{result.artifact} by {backend_name(result.backend)}", text)
        if entry not in seen:
            seen.add(entry)
            yield entry
    for sentence in _training_sentence(collection):
        yield Verdict("quiet", "trained", "", sentence)


def counted(candidates: Sequence[VerifyCandidate]) -> dict[str, int]:
    return {status: sum(one.status == status for one in candidates) for status in ("pass", "fail", "skipped")}


def _usable(result: BenchResult) -> bool:
    return (
        result.mode == "latency"
        and result.status == "ok"
        and result.latency_ms is not None
        and result.speedup is not None
        and not result.peer
    )


def _speed_headline(found: Measured, collection: Collection) -> str:
    speedup, over = found.result.speedup, baseline_name(found, collection)
    parity = "parity passed" if found.parity is not None and found.parity.status == "pass" else "parity not checked"
    if speedup is not None and under_load(collection.warnings()):
        ratio = f"{times(speedup.p50)} the speed of {over} (95 % interval {interval(speedup.ci95)})"
        return f"Measured on a loaded machine, so in doubt: {found.name} at {ratio}, {parity}"
    if speedup is None or speedup.is_tie:
        return f"{found.name}: as fast as {over} within noise, {parity}"
    if speedup.p50 < 1:
        return f"Nothing here is faster than {over}; {found.name} comes nearest at {times(speedup.p50)}, {parity}"
    return f"{found.name}: {figures(speedup.p50, 2 if speedup.p50 < 10 else 3)} times as fast as {over}, {parity}"


def _unsteady_baseline(collection: Collection) -> str | None:
    """The name of a baseline that no figure describes."""
    found = (one.result for one in collection.measurements if one.result.is_baseline and one.result.status == "unstable")
    return next((backend_name(result.backend) for result in found), None)


def _comparison_headline(comparison: Comparison) -> str:
    slower, faster = comparison.of("slower"), comparison.of("faster")
    total = len(comparison.candidates)
    if not total:
        return "The two runs have nothing in common"
    if not slower and not faster:
        within = len(comparison.of("within noise"))
        return "Nothing could be compared" if not within else "Nothing became faster or slower beyond noise"
    parts = []
    for name, found in (("slower", slower), ("faster", faster)):
        if found:
            most = max(abs((one.ratio or 1) - 1) for one in found)
            parts.append(f"{len(found)} became {name}, by up to {percent(100 * most)}")
    return f"Of {count(total, 'measurement')}, {'; '.join(parts)}"


def _parity_figure(candidates: Sequence[VerifyCandidate]) -> Figure:
    found = counted(candidates)
    rest = [f"{found[status]} {STATUS[status]}" for status in ("fail", "skipped") if found[status]]
    note = "passed" + (f"; {', '.join(rest)}" if rest else ", none failed or skipped")
    return Figure(
        "Parity", f"{found['pass']} of {len(candidates)}", note, "bad" if found["fail"] else "good" if found["pass"] else "warn"
    )


def _subject(candidate: VerifyCandidate) -> str:
    return f"{candidate.artifact} by {backend_name(candidate.backend)}"


def _reason(candidate: VerifyCandidate, collection: Collection) -> str:
    said = [_sentence(candidate.reason)] if candidate.reason else []
    if candidate.status == "pass":
        error = parity_figure(candidate.noise_ratio, candidate.sqnr_db)
        limit = next((report.settings.get("noise_limit") for _, report in collection.verifications), None)
        if candidate.noise_ratio is not None:
            bound = f"; up to {limit:g} is rounding" if isinstance(limit, int | float) else ""
            said.append(f"Its error is {figures(candidate.noise_ratio)} times the network's own rounding error{bound}")
        elif error:
            said.append(f"Signal to noise is {error}, as calibration predicted")
    if candidate.coverage is not None:
        said.append(f"Compared: {_COMPARED[candidate.coverage]}")
    if candidate.weights is not None and candidate.weights.first_difference is None and candidate.weights.compared:
        said.append(f"{candidate.weights.compared:,} weights are equal")
    if candidate.top1_agreement is not None:
        said.append(f"Top-1 agrees with float64 on {share(candidate.top1_agreement)} of the images")
    if candidate.first_divergence is not None:
        said.append(f"The first block that departs: {candidate.first_divergence}")
    accuracy = candidate.decisions.accuracy if candidate.decisions else None
    if accuracy is not None and accuracy.candidate.percent != accuracy.reference.percent:
        verdict = f": {accuracy.verdict}" if accuracy.verdict else ""
        said.append(f"Accuracy {percent(accuracy.candidate.percent)}, in float64 {percent(accuracy.reference.percent)}{verdict}")
    said += [_sentence(notice) for notice in candidate.notices]
    return " ".join(text if text.endswith(".") else f"{text}." for text in said)


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a file's name, and a full stop."""
    first = text.split(maxsplit=1)[0] if text.split() else text
    begun = text if "." in first.rstrip(".") else text[:1].upper() + text[1:]
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def _status_text(result: BenchResult) -> str:
    return {
        "unstable": "Its first and last half do not agree, so no verdict is given.",
        "oom": f"Memory ended at batch {result.batch}.",
        "failed_parity": "It is not what was trained; its speed means nothing.",
    }.get(result.status, "It was not measured.")


def _training_sentence(collection: Collection) -> list[str]:
    sentences = []
    for file, report in collection.trainings:
        name = network_name(report.network.arch, report.network.depth, file.name)
        epochs = count(len(report.epochs), "epoch")
        state = {"running": " so far", "preempted": ", then preempted", "failed": ", then failed", "done": ""}[report.status]
        reached = (
            f"{name} recognises {percent(report.best.val_acc1)} of the held-out images (epoch {report.best.epoch})"
            if report.best
            else f"{name} trained"
        )
        sentences.append(f"{reached} after {epochs}{state}.")
    return sentences
