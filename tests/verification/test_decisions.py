"""What a difference between logits means: decisions, their causes, and what may be said of the accuracy."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import beta, norm

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.backends.base import ExportOptions, Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.evaluation import EvalOptions, accuracies, eval_report
from iresnet_export.exporting import export_artifact
from iresnet_export.reporting.documents import _decisions, verify_report
from iresnet_export.reporting.remarks import decision_lines, flips_in_words
from iresnet_export.reporting.schemas import Decisions as DecisionsDocument
from iresnet_export.reporting.schemas import Flip, VerifyCandidate, validated
from iresnet_export.system.progress import no_progress
from iresnet_export.verification import verify as verify_module
from iresnet_export.verification.criteria import NOISE_LIMIT, Criterion, Expectation
from iresnet_export.verification.decisions import (
    AccuracyDrop,
    Decisions,
    Proportion,
    compare_decisions,
    drop_bound,
    images_needed,
)
from iresnet_export.verification.outputs import OutputsReport, compare_outputs
from iresnet_export.verification.reference import Reference, reference_of, rms
from iresnet_export.verification.verify import Candidate, Verification, VerifyOptions, pixels_for, verify
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.initialization import untrained_network
from iresnet_models.preprocessing import noise_pixels, normalised
from iresnet_models.spec import SpecOptions

Run = Callable[..., Any]
LABELLED = VerifyOptions(images=64, batch_sizes=(7,), data="digits", backends=("onnxruntime",))

REFERENCE = np.array(
    [
        [3.0, 2.0, 1.0, 0.0, -1.0, -2.0],
        [0.0, 1.0, 0.9, -1.0, -2.0, -3.0],
        [5.0, 1.0, 0.0, 4.0, 2.0, 3.0],
        [1.0, 1.0, 0.0, 0.5, -3.0, -1.0],
    ]
)
CANDIDATE = np.array(
    [
        [3.1, 2.0, 1.0, 0.0, -1.0, -2.0],
        [0.0, 0.94, 0.96, -1.0, -2.0, -3.0],  # 1 → 2, margin 0.1, error 0.12
        [4.0, 1.0, 1.5, 4.5, 2.0, 3.0],  # 0 → 3, margin 1, error 1.5; class 2 drives class 1 out of the first five
        [1.0, 1.0, 0.0, 0.5, -3.0, -1.0],
    ]
)


def test_decisions_by_hand() -> None:
    found = compare_decisions(CANDIDATE, REFERENCE, 0.03)
    assert found.top1 == Proportion(2, 4)
    assert found.top5 == Proportion(3, 4)
    small, large = found.flips
    assert (small.image, small.reference, small.candidate, small.explained) == (1, 1, 2, True)
    assert (small.margin, small.error) == pytest.approx((0.1, 0.12))
    assert (large.image, large.reference, large.candidate, large.explained) == (2, 0, 3, False)
    assert (large.margin, large.error) == pytest.approx((1.0, 1.5))
    assert (found.explained, found.unexplained, found.accuracy) == (1, 1, None)


def test_rounding_explains_margins_up_to_three_deviations_of_a_gap() -> None:
    limit = 0.1 / (3 * math.sqrt(2))
    assert compare_decisions(CANDIDATE, REFERENCE, limit * 1.001).explained == 1
    assert compare_decisions(CANDIDATE, REFERENCE, limit * 0.999).explained == 0


def test_of_equal_logits_the_first_class_wins() -> None:
    tied = REFERENCE[3:]
    assert compare_decisions(tied, tied, 0.0).top1 == Proportion(1, 1)
    (flip,) = compare_decisions(tied + np.eye(6)[1] * 1e-9, tied, 0.0).flips
    assert (flip.reference, flip.candidate, flip.margin, flip.explained) == (0, 1, 0.0, True)
    alike = np.zeros((1, 1000))
    assert compare_decisions(alike + np.eye(1000)[4], alike, 0.0).top5 == Proportion(1, 1)


def test_the_divergence_is_of_the_references_probabilities_from_the_candidates() -> None:
    p = np.exp(REFERENCE) / np.exp(REFERENCE).sum(1, keepdims=True)
    q = np.exp(CANDIDATE) / np.exp(CANDIDATE).sum(1, keepdims=True)
    assert compare_decisions(CANDIDATE, REFERENCE, 0.0).kl_divergence == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert compare_decisions(REFERENCE, REFERENCE, 0.0).kl_divergence == 0
    far = np.array([[2000.0, 0.0]])
    assert compare_decisions(far * 2, far, 0.0).kl_divergence == 0, "nothing overflows"


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (498, 500), (64, 64)])
def test_intervals_are_wilsons(count: int, total: int) -> None:
    z, share = norm.ppf(0.975), count / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    found = Proportion(count, total)
    assert found.ci95 == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert found.percent_ci95 == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=1e-9)


def test_accuracy_by_hand() -> None:
    def accuracy(*labels: int) -> AccuracyDrop | None:  # the reference says 0, 1, 0, 0, the candidate 0, 2, 3, 0
        return compare_decisions(CANDIDATE, REFERENCE, 0.0, np.array(labels)).accuracy

    assert accuracy(0, 2, 0, 5) == AccuracyDrop(Proportion(2, 4), Proportion(2, 4), only_reference=1, only_candidate=1)
    assert accuracy(0, 1, 0, 5) == AccuracyDrop(Proportion(3, 4), Proportion(1, 4), only_reference=2, only_candidate=0)
    assert accuracy(5, 2, 3, 5) == AccuracyDrop(Proportion(0, 4), Proportion(2, 4), only_reference=0, only_candidate=2)
    assert drop(9, 2, 200).points == pytest.approx(3.5)
    assert drop(2, 9, 200).points == pytest.approx(-3.5)


def drop(lost: int, won: int, images: int) -> AccuracyDrop:
    right = images // 2
    return AccuracyDrop(Proportion(right, images), Proportion(right - lost + won, images), lost, won)


@pytest.mark.parametrize(("lost", "won"), [(9, 2), (2, 9), (5, 5), (1, 0), (0, 0)])
def test_mcnemar_is_exact(lost: int, won: int) -> None:
    pairs = lost + won
    tail = sum(math.comb(pairs, k) for k in range(max(lost, won), pairs + 1)) / 2**pairs
    assert drop(lost, won, 200).mcnemar_p == pytest.approx(min(1.0, 2 * tail))


def test_the_bound_is_exact_where_the_candidate_gains_nothing() -> None:
    assert drop_bound(0, 0, 64) == pytest.approx(1 - 0.05 ** (1 / 64))
    for lost in (1, 7, 40, 64):
        assert drop_bound(lost, 0, 64) == pytest.approx(1.0 if lost == 64 else beta.ppf(0.95, lost + 1, 64 - lost))
    assert drop_bound(0, 12, 64) == pytest.approx(drop_bound(0, 0, 64)), "luck does not make it better than no difference"


def test_the_bound_adds_both_distances() -> None:
    lost, won, n = 12, 5, 200
    above = beta.ppf(0.95, lost + 1, n - lost) - lost / n
    below = won / n - beta.ppf(0.05, won, n - won + 1)
    correlation = -math.sqrt((lost * won) / ((n - lost) * (n - won)))
    expected = (lost - won) / n + math.sqrt(above**2 + below**2 - 2 * correlation * above * below)
    assert drop_bound(lost, won, n) == pytest.approx(expected)
    assert drop(lost, won, n).bound == pytest.approx(100 * expected)


@pytest.mark.parametrize("images", [64, 500])
@pytest.mark.parametrize("rates", [(0.05, 0.0), (0.06, 0.002), (0.05, 0.01), (0.1, 0.05), (0.5, 0.05), (0.4, 0.3)])
@pytest.mark.slow
def test_the_bound_covers_the_true_drop(rates: tuple[float, float], images: int) -> None:
    """Rates at which scaling the split of the discordant pairs covers 40 to 96 % of the time."""
    lost, won = rates
    drawn = np.random.default_rng(0).multinomial(images, [lost, won, 1 - lost - won], size=5_000)
    outcomes, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    covered = [drop_bound(int(b), int(c), images) >= lost - won for b, c in outcomes]
    assert counts[covered].sum() / len(drawn) >= 0.94


def test_how_many_images_it_takes() -> None:
    assert images_needed(0, 0, 64, 0.01) == 299 == math.ceil(math.log(0.05) / math.log(0.99))
    needed = images_needed(3, 1, 500, 0.01)
    assert needed is not None
    assert needed > 500
    assert drop_bound(math.ceil(3 * needed / 500), needed // 500, needed) <= 0.01
    fewer = int(0.8 * needed)
    assert drop_bound(math.ceil(3 * fewer / 500), fewer // 500, fewer) > 0.01
    assert images_needed(5, 0, 500, 0.01) is None
    assert images_needed(500_000, 1, 50_000_000, 0.01) is None, "so close that it takes more images than there are"


@pytest.mark.parametrize(
    ("found", "limit", "said"),
    [
        (
            drop(0, 0, 64),
            1.0,
            "cannot tell with so few images: use 299 to show 1 (these 64 show: no worse than 4.58 points, at 95 %)",
        ),
        (drop(2, 1, 500), 1.0, "cannot tell with so few images: use "),
        (
            drop(6, 0, 500),
            1.0,
            "the accuracy drops by 1.2 points over 500 images; at that rate no number of images shows it within 1",
        ),
        (drop(40, 2, 500), 1.0, "it is worse: the accuracy drops by 7.6 points, by more than 1 at 95 %"),
        (drop(0, 0, 500), 1.0, None),
        (drop(0, 0, 500), 0.5, "cannot tell with so few images: use 598 to show 0.5"),
    ],
)
def test_what_is_said_of_a_drop(found: AccuracyDrop, limit: float, said: str | None) -> None:
    complaint = found.reason(limit)
    assert (complaint is None) == (said is None)
    assert complaint is None or complaint.startswith(str(said)), complaint
    assert found.verdict(limit) == (complaint or "no worse than 0.6 points, at 95 %")


def test_without_a_limit_nobody_asked_how_many_images_it_takes() -> None:
    assert drop(0, 0, 500).verdict() == "no worse than 0.6 points, at 95 %"
    assert drop(0, 0, 64).verdict() == "no worse than 4.58 points, at 95 %"
    assert drop(40, 2, 500).verdict().startswith("it is worse: the accuracy drops by 7.6 points, by more than 1")


def flips(*margins: float, explained: int, images: int = 500) -> Decisions:
    made = tuple(Flip(number, 0, 1, margin, margin, number < explained) for number, margin in enumerate(margins))
    agreeing = Proportion(images - len(made), images)
    return Decisions(agreeing, agreeing, made, 0.0)


@pytest.mark.parametrize(
    ("decisions", "said"),
    [
        (flips(explained=0), None),
        (flips(0.002, explained=1), "1 of 500 decision differs; rounding explains it (margin 0.002)"),
        (flips(0.002, 0.003, explained=2), "2 of 500 decisions differ; rounding explains both (margins up to 0.003)"),
        (flips(1, 2, 3, explained=3), "3 of 500 decisions differ; rounding explains all (margins up to 3)"),
        (flips(1, 2, 3, explained=1), "3 of 500 decisions differ; rounding does not explain 2 (margins up to 3)"),
        (flips(1, 2, 3, explained=0), "3 of 500 decisions differ; rounding does not explain any (margins up to 3)"),
        (flips(0.5, explained=0), "1 of 500 decision differs; rounding does not explain it (margin 0.5)"),
    ],
)
def test_flips_in_one_line(decisions: Decisions, said: str | None) -> None:
    assert flips_in_words(validated(DecisionsDocument, _decisions(decisions))) == said


def test_the_document_lists_fifty_flips_and_counts_all() -> None:
    document = json.loads(json.dumps(_decisions(flips(*[0.1] * 60, explained=20)), allow_nan=False))
    assert len(document["flips"].pop("listed")) == 50
    assert document["flips"] == {"total": 60, "explained": 20, "unexplained": 40, "largest_margin": 0.1}
    assert (document["accuracy"], document["top1_agreement"]["share"]) == (None, 0.88)
    assert "accuracy" in document["null_reasons"]
    labelled = dataclasses.replace(flips(explained=0), accuracy=drop(4, 1, 500))
    found = json.loads(json.dumps(_decisions(labelled, 5.0), allow_nan=False))
    assert found["null_reasons"] == {"flips.largest_margin": "no decision differs"}
    assert (found["accuracy"]["only_reference_right"], found["accuracy"]["only_candidate_right"]) == (4, 1)
    assert found["accuracy"]["drop_points"] == pytest.approx(0.6)
    assert found["accuracy"]["drop_bound95_points"] == pytest.approx(100 * drop_bound(4, 1, 500))
    assert found["accuracy"]["verdict"].startswith("no worse than ")


def absent(*_: object, **__: object) -> None:
    raise UnavailableError("not here")


def test_accuracies_of_eval_have_their_intervals(onnx: Path) -> None:
    options = EvalOptions("digits", backends=("onnxruntime",))
    (right,) = accuracies([onnx], options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntime, "load", absent)
        (missing,) = accuracies([onnx], options)
    found, skipped = eval_report([right, missing], options).to_json()["results"]
    top1, top5 = (round(5 * found[key]) for key in ("top1", "top5"))
    assert tuple(found["top1_ci95"]) == Proportion(top1, 500).percent_ci95
    assert tuple(found["top5_ci95"]) == Proportion(top5, 500).percent_ci95
    for one in (found, skipped):
        assert {key for key, value in one.items() if value is None and key != "reason"} == {
            key for key in one["null_reasons"] if "." not in key
        }
    assert {"top1_ci95", "top5_ci95"} <= set(skipped["null_reasons"])


@pytest.fixture(scope="module")
def reference(small_source: Source) -> Reference:
    made = reference_of("r", small_source, noise_pixels(small_source.spec, 40, 0), "noise", (7,), no_progress)
    return dataclasses.replace(made, labels=made.logits.argmax(1))


class Shifted(Session):
    """Eager PyTorch whose classes are shifted by one for the images of the given batches."""

    def __init__(self, source: Source, wrong_from: int) -> None:
        self.device = torch.device("cpu")
        self.sizes: list[int] = []
        self._inner, self._wrong_from = EagerSession(copy.deepcopy(source.network), self.device), wrong_from

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        logits = self._inner.run(batch)
        self.sizes.append(len(batch))
        return logits.roll(1, 1) if len(self.sizes) > self._wrong_from else logits


def test_a_candidate_that_is_worse_fails_by_the_gate(reference: Reference, small_source: Source) -> None:
    criterion = Criterion("fp32", 8, noise_floor=reference.noise_floor, max_accuracy_drop=10.0)
    session = Shifted(small_source, wrong_from=1)  # right where the error is measured, wrong in the other images
    report = compare_outputs(session, reference, criterion, (8,), no_progress)
    assert session.sizes == [8] * 5
    assert report.reason == "at batch 8 it is worse: the accuracy drops by 80 points, by more than 10 at 95 %"
    assert report.decisions is not None
    assert (report.decisions.top1, report.decisions.unexplained) == (Proportion(8, 40), 32)
    assert report.noise_ratio is not None
    assert report.noise_ratio < NOISE_LIMIT
    ungated = dataclasses.replace(criterion, max_accuracy_drop=None)
    short = compare_outputs(Shifted(small_source, 9), reference, ungated, (8,), no_progress)
    assert short.reason is None
    assert short.decisions is not None
    assert short.decisions.top1.total == 8
    assert (short.noise_ratio, short.max_abs) == (report.noise_ratio, report.max_abs), "the error is over the same images"


def test_what_passes_as_rounding(reference: Reference) -> None:
    assert Criterion("fp32", 40, noise_floor=0.1).rounding(reference.logits) == pytest.approx(0.25)
    expected = Expectation("calibration predicted", 23.0, 64, 64)
    allowed = Criterion("int8", 40, expectations=(expected,)).rounding(reference.logits)
    assert allowed == pytest.approx(rms(reference.logits) / 10)  # 20 dB are allowed


@pytest.fixture
def onnx(artifacts: dict[str, Artifact]) -> Path:
    return artifacts["onnx"].path


def test_labels_come_with_the_images(small_spec: ModelSpec, onnx: Path) -> None:
    pixels, labels, where = pixels_for(small_spec, LABELLED)
    assert labels is not None
    assert (len(pixels), len(labels), where) == (64, 64, "64 held-out images of digits")
    assert pixels_for(small_spec, VerifyOptions())[1] is None
    verification = verify([onnx], LABELLED)
    kept = verification.references[0].labels
    assert kept is not None
    assert kept.tolist() == labels.tolist()
    outputs = verification.candidates[0].outputs
    assert outputs is not None
    assert outputs.decisions is not None
    assert outputs.decisions.accuracy is not None
    right = int((verification.references[0].logits.argmax(1) == kept).sum())
    assert outputs.decisions.accuracy.reference == Proportion(right, 64)


def test_the_gate_passes_what_is_shown_and_fails_what_is_not(onnx: Path) -> None:
    assert verify([onnx], dataclasses.replace(LABELLED, max_accuracy_drop=5.0)).passed
    verification = verify([onnx], dataclasses.replace(LABELLED, max_accuracy_drop=1.0))
    assert not verification.passed
    assert "cannot tell with so few images: use 299 to show 1" in str(verification.candidates[0].reason)


def test_without_labels_the_gate_is_refused_before_any_work(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(verify_module, "verify_artifact", lambda *_: pytest.fail("work was begun"))
    gate = VerifyOptions(max_accuracy_drop=1.0)
    with pytest.raises(InputError, match=r"compared over seeded noise, without labels\. Name a folder"):
        verify([onnx], gate)
    with pytest.raises(InputError, match=f"over the images of {tmp_path.name}, without labels"):
        verify([onnx], dataclasses.replace(gate, data=str(tmp_path)))
    for limit in (0.0, -1.0, 101.0, float("nan")):
        with pytest.raises(InputError, match="more than 0 and up to 100"):
            verify([onnx], dataclasses.replace(LABELLED, max_accuracy_drop=limit))


@pytest.mark.slow
def test_several_checkpoints_have_a_reference_each(small_spec: ModelSpec, small_source: Source, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    save_checkpoint(other, untrained_network(small_spec, seed=5))
    sources = (small_source, source_from_checkpoint(other), source_from_checkpoint(other, said=SpecOptions(image_size=40)))
    paths = [
        export_artifact("torchscript", source, ExportOptions(fold=False), output=tmp_path / f"{number}.ts").path
        for number, source in enumerate(sources)
    ]
    verification = verify(paths, VerifyOptions(images=32, batch_sizes=(7,), backends=("torchscript",)))
    assert verification.passed
    ids = [reference.id for reference in verification.references]
    assert len(set(ids)) == 3
    assert [candidate.reference for candidate in verification.candidates] == ids
    for source, found in zip(sources, verification.references, strict=True):
        assert found.source.spec == source.spec
        with torch.inference_mode():
            exact = copy.deepcopy(source.network).double()(normalised(found.pixels, source.spec).double()).numpy()
        np.testing.assert_allclose(found.logits, exact, rtol=1e-12, atol=1e-12)


def test_no_more_than_a_batch_is_prepared_at_a_time(small_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_export.backends import base
    from iresnet_export.verification import reference as reference_module

    sizes: list[int] = []

    def counted(pixels: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
        sizes.append(len(pixels))
        return normalised(pixels, spec)

    monkeypatch.setattr(reference_module, "normalised", counted)
    monkeypatch.setattr(base, "normalised", counted)
    made = reference_of("r", small_source, noise_pixels(small_source.spec, 70, 0), "noise", (7,), no_progress)
    assert max(sizes) == 32, "the images that the noise floor is measured over"
    sizes.clear()
    criterion = Criterion("fp32", 70, noise_floor=made.noise_floor)
    compare_outputs(EagerSession(small_source.network, torch.device("cpu")), made, criterion, (7,), no_progress)
    assert sizes == [7] * 10


def test_progress_goes_up_in_every_step(small_source: Source) -> None:
    told: dict[str, list[float]] = {}
    pixels = noise_pixels(small_source.spec, 33, 0)
    reference_of("r", small_source, pixels, "noise", (7,), lambda step, share: told.setdefault(step, []).append(share))
    assert list(told) == ["Reference in float64", "Noise floor of float32"]
    for shares in told.values():
        assert shares == sorted(shares)
        assert len(shares) > 3
        assert all(0 <= share <= 1 for share in shares)


def test_the_report_says_what_was_decided(onnx: Path) -> None:
    verification = verify([onnx], LABELLED)
    document = json.loads(json.dumps(verify_report(verification, LABELLED).to_json(), allow_nan=False))
    (candidate,) = document["candidates"]
    assert candidate["decisions"]["images"] == 64
    assert candidate["decisions"]["top1_agreement"]["share"] == candidate["top1_agreement"] == 1
    assert candidate["decisions"]["accuracy"]["verdict"] == "no worse than 4.58 points, at 95 %"
    assert document["settings"]["max_accuracy_drop"] is None
    failed = dataclasses.replace(verification.candidates[0], outputs=None, reason="it does not load")
    document = verify_report(dataclasses.replace(verification, candidates=[failed]), LABELLED).to_json()
    assert document["candidates"][0]["decisions"] is None
    assert document["candidates"][0]["null_reasons"]["decisions"] == "it does not load"


def test_lines_are_shown_only_where_there_is_something_to_say() -> None:
    def candidate(decisions: Decisions | None) -> VerifyCandidate:
        outputs = OutputsReport((7,), 0.1, 1.0, 0.1, 0.1, 1.0, None, 1.0, None, decisions)
        found = Candidate(Path("a.onnx"), "onnxruntime", "fp32", "pass", None, outputs=outputs)
        return verify_report(Verification([], [found]), VerifyOptions()).candidates[0]

    assert decision_lines(candidate(None)) == []
    assert decision_lines(candidate(flips(explained=0))) == []
    both = dataclasses.replace(flips(0.1, explained=1), accuracy=drop(0, 0, 500))
    assert decision_lines(candidate(both)) == [
        "1 of 500 decision differs; rounding explains it (margin 0.1)",
        "accuracy 50.00 %, in float64 50.00 %: no worse than 0.6 points, at 95 %",
    ]


@pytest.mark.slow
def test_the_command_shows_the_verdict_and_fails_by_the_gate(run: Run, onnx: Path) -> None:
    arguments = ("verify", onnx, "--data", "digits", "--batch", "7", "--backend", "onnxruntime")
    passed = run(*arguments, "--max-accuracy-drop", "5", "--json", "out/v.json", "--markdown", "out/v.md")
    assert passed.status == 0, passed.out
    assert "no worse than 4.58 points, at 95 %" in passed.out
    assert json.loads(Path("out/v.json").read_text(encoding="utf-8"))["settings"]["max_accuracy_drop"] == 5
    assert Path("out/v.md").read_text(encoding="utf-8").startswith("### Verification passed\n\n| artifact |")
    failed = run(*arguments, "--max-accuracy-drop", "1")
    assert failed.status == 1
    assert failed.out.count("cannot tell with so few images: use 299") == 1
    assert "cannot tell" not in run(*arguments).out, "nobody asked"
    assert run("verify", onnx, "--max-accuracy-drop", "1").status == 2
