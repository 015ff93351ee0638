"""What a page does not show because nobody measured it, and the command that would."""

from __future__ import annotations

from collections.abc import Iterator

from iresnet_export.reporting.collection import Collection


def not_measured(collection: Collection) -> Iterator[tuple[str, str]]:
    """Pairs of what is missing and what would give it."""
    measured = [one for one in collection.measurements if one.result.measured]
    modes = {one.result.mode for one in measured}
    if not collection.candidates and not any(one.parity for one in measured):
        yield "Parity", "iresnet-export verify ARTIFACT... --json verify.json"
    if not any(candidate.localisation for candidate in collection.candidates):
        yield "Parity by block", "iresnet-export verify ARTIFACT... --localise --json verify.json"
    if not collection.benchmarks:
        yield "Latency, speed-ups", "iresnet-export bench ARTIFACT... --json bench.json"
    else:
        if len({one.result.batch for one in measured}) < 2:
            yield "Latency against batch", "iresnet-export bench ARTIFACT... --batch 1,8,32 --json bench.json"
        if not any(report.limits for _, report in collection.benchmarks):
            yield "The machine's limit (roofline)", "iresnet-export bench ARTIFACT... --limits --json bench.json"
        if not any(one.result.memory_mb is not None for one in measured):
            yield "Peak memory", "iresnet-export bench ARTIFACT... --memory --json bench.json"
        for mode, what in (("server --rate 20", "Response times under load"), ("cold", "Cold starts")):
            if mode.split()[0] not in modes:
                yield what, f"iresnet-export bench ARTIFACT... --mode {mode} --json bench.json"
    if not any(one.accuracy for one in measured) and not collection.evaluations:
        yield "Accuracy", "iresnet-export eval ARTIFACT... --data FOLDER --json eval.json"
    if not collection.trainings:
        yield "Training curves", "the train.json that training leaves in its folder"
