"""What the docs say of the sweep of folds is what was measured."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from iresnet_models.files import read_json

ROOT = Path(__file__).parents[2]
KINDS = ("kept", "kept_fp16", "kept_equalized")


@pytest.fixture(autouse=True)
def scripts_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))


def test_the_docs_say_what_is_committed() -> None:
    from fold_sweep import NETWORKS

    rows = read_json(ROOT / "studies" / "results" / "fold_sweep.json", "The study")["results"]
    page = " ".join((ROOT / "docs" / "folding.md").read_text(encoding="utf-8").split())
    assert [row["network"] for row in rows] == [trained.name for trained in NETWORKS]
    assert f"Of {len(rows)} networks that were trained on the digits" in page
    assert not any("refused" in row or row["kept"] for row in rows), "none was refused, and in float32 all were folded whole"
    ratios = [row["fp32"] for row in rows]
    assert f"error ratios of {min(ratios):.2f} to {max(ratios):.2f} (median {median(ratios):.2f})" in page
    narrowed = {row["network"]: row for row in rows if any(row[kind] for kind in KINDS)}
    assert list(narrowed) == ["iresnet101, 2 epochs, seed 2", "iresnet152, 2 epochs, seed 2"]
    equalized, half = narrowed.values()
    assert f"({equalized['equalized']:.2f} then, 2.48 whole)" in page
    assert f"({half['fp16']:.2f} then, which is recorded, 2.34 whole)" in page
    assert "2.48 times" in equalized["kept_equalized"]
    assert "2.34 times" in half["kept_fp16"]
    assert [row["network"][:10] for row in rows if row["fp16"] is None] == ["iresnet152"] * 2


def test_a_summary_counts_what_was_refused_and_narrowed() -> None:
    from fold_sweep import summary

    rows = [{"fp32": 1.0, "kept": None}, {"fp32": 1.9, "kept": "some"}, {"refused": "no"}]
    assert summary(rows).startswith("3 networks, 1 refused, 1 not folded whole; largest error ratios {'fp32': 1.9,")
