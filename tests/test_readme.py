"""The README's figures are those of the committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path

from torchvision.models import ResNet50_Weights

from iresnet_models.spec import IMAGENET_TOP1

ROOT = Path(__file__).parents[1]

CLAIMS = {
    "int8 over float32, in ONNX Runtime": "int8 over float32, both folded, in ONNX Runtime",
    "folded int8 over plain int8, in ONNX Runtime": "folded int8 over plain int8, in ONNX Runtime",
    "the fastest runtime over ONNX Runtime in float32": "the fastest (iresnet50 int8 openvino) over ONNX Runtime in float32",
    "iResNet-50 over ResNet-50, per multiply-accumulate: float32, ONNX Runtime": (
        "iResNet-50 over ResNet-50 per multiply-accumulate, fp32, in ONNX Runtime"
    ),
    "the same in int8, ONNX Runtime": "iResNet-50 over ResNet-50 per multiply-accumulate, int8, in ONNX Runtime",
    "the same in int8, OpenVINO": "iResNet-50 over ResNet-50 per multiply-accumulate, int8, in OpenVINO",
}


def figures(entry: dict[str, float]) -> list[str]:
    low, high = entry["ci95"]  # type: ignore[misc]
    digits = 3 if entry["promised"] < 1 else 2
    return [f"{value:.{digits}f}" for value in (entry["speedup"], low, high)]


def test_the_promises_table_says_what_was_measured() -> None:
    results = json.loads((ROOT / "studies/results/cpu_inference.json").read_text())
    measured = {entry["claim"]: entry for entry in results["claims"]}
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| what was promised") :]
    rows = {
        cells[0]: cells
        for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line)
    }
    for row, claim in CLAIMS.items():
        assert re.findall(r"\d+\.\d+", rows[row][2])[:3] == figures(measured[claim]), row
        assert ("not met" in rows[row][2]) == (not measured[claim]["met"]), row
    folds = [entry for claim, entry in measured.items() if claim.endswith("folded float32 over unfolded")]
    lower = [entry["ci95"][0] for entry in folds]
    (row,) = (cells for name, cells in rows.items() if name.startswith("folded float32 over unfolded"))
    assert row[2] == f"{min(lower):.3f} to {max(lower):.3f}"
    assert results["date"] in readme


def test_what_is_said_of_imagenet_is_what_was_published() -> None:
    weights = ResNet50_Weights.IMAGENET1K_V2.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert (
        f"torchvision's V2: {weights:.1f} %) beat the paper's iResNet-50 ({IMAGENET_TOP1['iresnet', 50]:.1f} %"
        in (ROOT / "README.md").read_text()
    )
