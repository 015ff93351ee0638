"""What is to be said beside the tables of a report, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iresnet_export.benchmark.recommendation import unsteady_baseline
from iresnet_export.reporting.schemas import (
    BenchReport,
    ClassChange,
    Decisions,
    Evaluated,
    Limit,
    Reference,
    VerifyCandidate,
    VerifyReport,
)
from iresnet_export.reporting.words import backend_name, count, probability


def references_in_words(report: VerifyReport) -> Iterator[str]:
    """What outputs were compared with, and the unit of their errors."""
    limit = report.settings.get("noise_limit")
    passes = f"; up to {limit:g} passes" if isinstance(limit, int | float) else ""
    sizes = {reference.image_size for reference in report.references}
    for reference in report.references:
        yield _reference_in_words(reference, passes, of_sizes=len(sizes) > 1)


def _reference_in_words(reference: Reference, passes: str, *, of_sizes: bool) -> str:
    """With `of_sizes` they differ in the images' size, and say it."""
    name = reference.id if reference.arch is None else f"{reference.arch}{reference.depth}"
    words = f"{name} in float64 over {reference.image_source or 'images'}"
    if of_sizes and (size := reference.image_size) is not None:
        words += f" at {size if isinstance(size, int) else f'{size[0]} x {size[1]}'} pixels"
    words += f"; {reference.weights or 'its'} weights"
    words += f" {reference.weights_sha256[:16]}" if reference.weights_sha256 else ""
    floor = reference.noise_floor.get("fp32")
    words += "" if floor is None else f"; its float32 rounding error is {floor:.3g} (1 noise floor{passes})"
    return words + (", computed before" if reference.cached else "")


def verify_remarks(candidates: Sequence[VerifyCandidate]) -> list[str]:
    """What is wrong with candidates or differs, and how they ran."""
    return [f"{one.artifact} by {one.backend}: {line}" for one in candidates for line in _candidate_remarks(one)]


def _candidate_remarks(candidate: VerifyCandidate) -> list[str]:
    reason = [] if candidate.reason is None else [f"{candidate.status}: {candidate.reason}"]
    return [*reason, *candidate.notices, *decision_lines(candidate)]


def decision_lines(candidate: VerifyCandidate) -> list[str]:
    """What there is to say of a candidate's decisions: those that flip, and the accuracy where there are labels."""
    if candidate.decisions is None:
        return []
    flips, accuracy = flips_in_words(candidate.decisions), candidate.decisions.accuracy
    lines = [] if flips is None else [flips]
    if accuracy is not None:
        figures = f"accuracy {accuracy.candidate.percent:.2f} %, in float64 {accuracy.reference.percent:.2f} %"
        verdict = accuracy.verdict or ""
        lines.append(figures if verdict in (candidate.reason or "") else f"{figures}: {verdict}")
    return lines


def flips_in_words(decisions: Decisions) -> str | None:
    """Flips in one line; None where there are none."""
    flips = decisions.flips
    if flips is None or not flips.total:
        return None
    differ = "decision differs" if flips.total == 1 else "decisions differ"
    if not flips.unexplained:
        why = f"rounding explains {({1: 'it', 2: 'both'}).get(flips.total, 'all')}"
    else:
        which = "it" if flips.total == 1 else "any" if not flips.explained else f"{flips.unexplained:,}"
        why = f"rounding does not explain {which}"
    margins = "" if flips.largest_margin is None else f" (margin{'' if flips.total == 1 else 's up to'} {flips.largest_margin:.2g})"
    return f"{flips.total:,} of {decisions.images:,} {differ}; {why}{margins}"


_MOST_CLASSES = 10
"""Classes that are named one by one."""


def changes_in_words(one: Evaluated) -> list[str]:
    """What a file does to classes, where it is more than chance, or that it is not; nothing where it was not compared."""
    if (changes := one.changes) is None:
        return []
    told = [each for each in changes.listed if each.told]
    if not told:
        among = f"with {count(changes.classes, 'class', 'classes')},"
        if changes.largest_class < changes.least_images:
            return [f"too few images of a class to show any change ({among} it takes a loss of {changes.least_images} in one)"]
        return [f"no class changes more than chance would ({among} a loss of {changes.least_images} images in one would show)"]
    lines = [_change_in_words(one, each, changes.classes) for each in told[:_MOST_CLASSES]]
    return lines + ([f"{len(told) - _MOST_CLASSES:,} more classes change"] if len(told) > _MOST_CLASSES else [])


def beside_in_words(one: Evaluated) -> str:
    """What a file's classes are compared with; nothing where they are not."""
    return "" if one.changes is None else f"beside {one.changes.artifact} by {backend_name(one.changes.backend)}"


def _change_in_words(one: Evaluated, change: ClassChange, classes: int) -> str:
    does, p = "hurts" if change.candidate < change.reference else "helps", probability(change.p_holm)
    # The word before the figures keeps their order after a name that is read from right to left.
    recall, of = f"recall {change.reference:.1f} → {change.candidate:.1f} %", count(classes, "class", "classes")
    return f"{does} class {one.label(change.number)}: {recall} (p {p if ' ' in p else f'= {p}'} of {of})"


def evaluation_remarks(results: Sequence[Evaluated]) -> list[str]:
    """Why something was skipped, outputs that are no numbers, and the classes that a precision hurts."""
    lines = []
    for one in results:
        name = f"{one.artifact} by {backend_name(one.backend)}"
        if one.reason is not None:
            lines.append(f"{name}: {one.status}: {one.reason}")
        if one.without_class:
            lines.append(f"{name}: outputs for {count(one.without_class, 'image')} are not numbers (NaN), and count as wrong")
        lines += [f"{name} {beside_in_words(one)}: {line}" for line in changes_in_words(one)]
    return lines


def bench_remarks(report: BenchReport) -> list[str]:
    """Warnings, why results have no verdict, and what is to be said of how they ran, each once."""
    lines = [f"Warning: {warning}" for warning in report.environment.warnings]
    for result in report.results:
        if result.reason is not None:
            batch = f" at batch {result.batch}" if result.status in ("oom", "unstable") else ""
            lines.append(f"{result.artifact} by {result.backend}{batch}: {result.status}: {result.reason}")
        elif unsteady := unsteady_baseline(result):
            lines.append(f"Batch {result.batch}: {unsteady}")
        lines += [f"{result.artifact} by {result.backend}: {notice}" for notice in result.notices]
    return list(dict.fromkeys(lines))


def limits_in_words(limits: Sequence[Limit]) -> list[str]:
    """What the machine can do, a line for each number of threads."""
    lines = []
    for threads in dict.fromkeys(limit.threads for limit in limits):
        own = [limit for limit in limits if limit.threads == threads]
        peaks = ", ".join(f"{limit.precision} {limit.gflops:,.0f}" for limit in own)
        memory = own[0].bandwidth_gb_s
        lines.append(
            f"The machine's limit with {count(threads, 'thread')}, in 10⁹ operations a second: {peaks}"
            + ("" if memory is None else f"; memory {memory:.0f} GB/s")
        )
    return lines
