"""The summary for a pull request, as GitHub would read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.reporting.documents import verify_report
from iresnet_export.reporting.markdown import verify_markdown
from iresnet_export.reporting.schemas import Flip
from iresnet_export.reporting.words import figures
from iresnet_export.verification.decisions import Decisions, Proportion
from iresnet_export.verification.verify import Candidate, Verification, VerifyOptions, verify

OPTIONS = VerifyOptions(images=32, batch_sizes=(7,))


@pytest.fixture(scope="module")
def verification(artifacts: dict[str, Artifact]) -> Verification:
    return verify(
        [artifact.path for artifact in artifacts.values()], dataclasses.replace(OPTIONS, backends=("onnxruntime", "torchscript"))
    )


def parsed(text: str) -> SyntaxTreeNode:
    return SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(text))


def plain(node: SyntaxTreeNode) -> str:
    return "".join(leaf.content for leaf in node.walk() if leaf.type in ("text", "code_inline", "text_special"))


def rows(text: str) -> list[list[str]]:
    (table,) = [node for node in parsed(text).walk() if node.type == "table"]
    return [[plain(cell) for cell in row.children] for row in table.walk() if row.type == "tr"]


def items(text: str) -> Iterator[str]:
    return (plain(node) for node in parsed(text).walk() if node.type == "list_item")


def test_a_table_of_candidates_and_what_they_were_compared_with(verification: Verification) -> None:
    text = verify_markdown(verify_report(verification, OPTIONS))
    header, *body = rows(text)
    named = ["artifact", "by", "precision", "verdict", "compared", "weights"]
    assert header == [*named, "error", "largest error", "top-1 agrees", "flips", "batch"]
    assert [row[:5] for row in body] == [
        ["small.ts", "TorchScript", "fp32", "passed", "whole file"],
        ["small.onnx", "ONNX Runtime", "fp32", "passed", "whole file"],
    ]
    for row, candidate in zip(body, verification.candidates, strict=True):
        assert candidate.outputs is not None
        assert candidate.weights is not None
        outputs = candidate.outputs
        error = f"{figures(outputs.noise_ratio)} noise floors"
        assert row[5:8] == [f"{candidate.weights.compared:,} equal", error, figures(outputs.max_abs)]
        assert row[8:] == ["100.0 %", "0", "7"]
    (compared,) = items(text)
    assert compared.startswith("iresnet18 in float64 over 32 images of seeded noise; checkpoint weights ")
    assert verification.references[0].source.weights.sha256[:16] in compared
    assert plain(next(node for node in parsed(text).walk() if node.type == "heading")) == "Verification passed"


def test_reasons_follow_the_table_and_break_nothing(verification: Verification) -> None:
    candidate = verification.candidates[1]
    assert candidate.outputs is not None
    agreeing = Proportion(31, 32)
    decisions = Decisions(agreeing, agreeing, (Flip(3, 0, 1, 0.25, 0.3, False),), 0.1)
    outputs = dataclasses.replace(candidate.outputs, noise_ratio=None, sqnr_db=12.34, decisions=decisions)
    reason = "weights: fc.bias[2] is *0.5* | and\nnot <b>1</b>"
    failed = dataclasses.replace(candidate, artifact=Path("/home/me/a|b.onnx"), status="fail", reason=reason, outputs=outputs)
    skipped = Candidate(Path("c_d_e.engine"), "tensorrt", "fp16", "skipped", "not here")
    text = verify_markdown(verify_report(dataclasses.replace(verification, candidates=[failed, skipped]), OPTIONS))
    assert "/home/me" not in text
    _, first, second = rows(text)
    assert (first[0], first[3], first[6], first[9]) == ("a|b.onnx", "failed", "12.3 dB", "1")
    assert second == ["c_d_e.engine", "TensorRT", "fp16", "skipped", "", "not read", "", "", "", "", ""]
    said = list(items(text))
    assert said[:3] == [
        "a|b.onnx by onnxruntime: fail: weights: fc.bias[2] is *0.5* | and not <b>1</b>",
        "a|b.onnx by onnxruntime: 1 of 32 decision differs; rounding does not explain it (margin 0.25)",
        "c_d_e.engine by tensorrt: skipped: not here",
    ]
    assert len(said) == 4
    assert "### Verification did not pass" in text
