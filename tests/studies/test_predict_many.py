"""What the docs say of `predict` over many photos is what was measured."""

from __future__ import annotations

from pathlib import Path

from iresnet_models.files import read_json

ROOT = Path(__file__).parents[2]


def test_the_docs_say_what_is_committed() -> None:
    found = read_json(ROOT / "studies" / "results" / "predict_many.json", "The study")
    page = " ".join((ROOT / "docs" / "command-line.md").read_text(encoding="utf-8").split())

    def extent(values: dict[str, float]) -> str:
        return f"({values['least']:.2f} to {values['most']:.2f})"

    ours, openvino = found["ratios"]["onnxruntime"], found["ratios"]["openvino"]
    assert f"{ours['median']:.2f} times as many images a second by ONNX Runtime {extent(ours)}" in page
    assert f"{openvino['median']:.2f} by OpenVINO {extent(openvino)}" in page
    assert f"one image is answered within {found['one_image_s']['median']:.2f} s {extent(found['one_image_s'])}" in page
    assert len(found["rounds"]) == 7
