"""Part of the committed sweep, and the arithmetics that it simulates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from iresnet_export.system.machine import products_of_codes_overflow
from iresnet_export.verification.criteria import NOISE_LIMIT

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(autouse=True)
def scripts_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (8, 5)])
def test_winograd_is_the_convolution(groups: int, size: tuple[int, int]) -> None:
    from simulated import WinogradConv

    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=groups).double()
    images = torch.randn(2, 8, *size, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(WinogradConv(conv)(images), conv(images), atol=1e-12, rtol=0)


@pytest.mark.slow
def test_the_sweep_over_one_network(tmp_path: Path) -> None:
    """Float32 as it is passes, Winograd too, TF32 does not; what a file of results has is not measured again."""
    results = tmp_path / "sweep.json"
    command = [sys.executable, str(STUDIES / "parity_sweep.py"), "--json", str(results), "--archs", "iresnet", "--depths", "18"]
    command += ["--seeds", "1", "--exports", "torchscript,onnxruntime,onnxruntime:int8", "--trained", ""]
    subprocess.run([*command, "--plot", str(tmp_path / "sweep.svg")], check=True, capture_output=True)
    written = json.loads(results.read_text())
    rows = written["results"]
    unfit = [("openvino", "int8")] if products_of_codes_overflow() else []
    unaltered = [row for row in rows if row["kind"] == "unaltered"]
    assert {row["status"] for row in unaltered if (row["backend"], row["precision"]) not in unfit} == {"pass"}
    assert {row["status"] for row in unaltered if (row["backend"], row["precision"]) in unfit} <= {"skipped"}
    assert {(row["backend"], row["precision"]) for row in rows} >= {("torchscript", "fp32"), ("onnxruntime", "int8")}
    (winograd,) = (row["noise_ratio"] for row in rows if row["kind"] == "Winograd")
    (tf32,) = (row["noise_ratio"] for row in rows if row["kind"] == "TF32")
    assert winograd < NOISE_LIMIT < 10 < tf32
    (smallest,) = written["smallest_single_weight_change"]
    assert set(smallest["smallest_change"]) == {"layer1.1.conv1", "layer3.1.conv1", "layer4.1.conv2"}
    assert all(change is None or change > 2**-12 for change in smallest["smallest_change"].values())
    assert (tmp_path / "sweep.svg").read_text().count("<svg") == 1
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "iresnet18, untrained" not in again.stdout
    assert len(json.loads(results.read_text())["results"]) == len(rows)
