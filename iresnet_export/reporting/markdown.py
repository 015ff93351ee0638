"""The summary of `verify` for a pull request, in GitHub's Markdown."""

from __future__ import annotations

from iresnet_export.reporting.markdown_text import bullets, table, text
from iresnet_export.reporting.tables import decision_lines, noise, weights_in_words
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_export.verification.reference import Reference
from iresnet_export.verification.verify import Candidate, Verification, VerifyOptions

_COLUMNS = ("artifact", "backend", "verdict", "precision", "weights", "noise ratio", "top-1 agrees")


def verify_markdown(verification: Verification, options: VerifyOptions) -> str:
    """A table of the candidates, what is wrong with them or differs, and what they were compared with."""
    verdict = "passed" if verification.passed else "did not pass"
    parts = [
        f"### Verification {verdict}",
        table([(name, False) for name in _COLUMNS], (_row(candidate) for candidate in verification.candidates)),
        bullets(line for candidate in verification.candidates for line in _remarks(candidate, options)),
        "Compared with:" if verification.references else "",
        bullets(_compared_with(reference) for reference in verification.references),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(candidate: Candidate) -> list[str]:
    outputs = candidate.outputs
    verdict = candidate.status if candidate.status == "pass" else f"**{candidate.status}**"
    agrees = "" if outputs is None or outputs.decisions is None else f"{outputs.decisions.top1.share:.1%}"
    return [
        text(candidate.artifact.name),
        candidate.backend,
        verdict,
        text(candidate.precision),
        weights_in_words(candidate),
        "" if outputs is None else noise(outputs),
        agrees,
    ]


def _remarks(candidate: Candidate, options: VerifyOptions) -> list[str]:
    said = [] if candidate.reason is None else [f"**{candidate.status}**: {text(candidate.reason)}"]
    said += [text(line) for line in decision_lines(candidate, options.max_accuracy_drop)]
    return [f"{text(candidate.artifact.name)} by {candidate.backend}: {line}" for line in said]


def _compared_with(reference: Reference) -> str:
    weights = reference.source.weights
    return (
        f"{text(reference.source.spec.name)} in float64 over {text(reference.image_source)}; {weights.kind} weights "
        f"`{weights.sha256[:16]}`; noise floor of float32 {reference.noise_floor:.3g}, up to {NOISE_LIMIT:g} of it pass"
    )
