"""The study of trained networks, and the table that the docs show of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from iresnet_models.files import read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))


def test_the_docs_show_what_is_committed() -> None:
    from trained_networks import NETWORKS, table

    results = read_json(ROOT / "studies" / "results" / "trained_networks.json", "The study")["results"]
    page = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    assert table(results) in page
    assert f"{len(results)} networks of the `digits` preset, the first of the {len(NETWORKS)} that the study lists" in page
    assert [row["network"] for row in results] == [trained.name for trained in NETWORKS[: len(results)]]
    assert all(
        row[precision]["passed"] and row[precision]["fold"]["kept"] is None for row in results for precision in ("fp32", "int8")
    )
    for peer, words in (("onnxruntime", "above the plain"), ("onnxruntime, folded", "above the same on our fold")):
        leads = [row["int8"]["runtimes"]["onnxruntime"]["sqnr_db"] - row["peers"][peer]["sqnr_db"] for row in results]
        assert f"{min(leads):.1f} to {max(leads):.1f} dB {words}" in page
    alike = [run["agreement"] for row in results if row["top1"] >= 98 for run in row["int8"]["runtimes"].values()]
    assert f"but for {sum(share < 0.996 for share in alike)} of {len(alike)} runs" in page


def test_networks_of_other_seeds_and_threads_share_a_row() -> None:
    from trained_networks import table

    def row(network: str, level: float) -> dict[str, object]:
        runtime = {"onnxruntime": {"sqnr_db": level, "agreement": 0.998}, "openvino": {"sqnr_db": None, "agreement": None}}
        peers = {"onnxruntime": {"sqnr_db": 20.0}, "onnxruntime, folded": None, "nncf": None, "nncf, folded": None}
        return {"network": network, "top1": 99.0, "int8": {"passed": level > 30, "runtimes": runtime}, "peers": peers}

    rows = [row("a50, 6 epochs, seed 0", 31.0), row("a50, 6 epochs, seed 1, 1 thread", 29.0)]
    rows += [row("a50, 6 epochs, seed 0, averaged", 40.0), row("a50, 6 epochs, seed 2", 30.0) | {"int8": {"passed": False}}]
    first, second = table(rows).splitlines()[2:]
    assert first == "| a50, 6 epochs | 3 | 99.0 % | 1 of 3 | 29.0 to 31.0 dB | 99.8 % |  |  | 20.0 dB |  |  |  |"
    assert second.startswith("| a50, 6 epochs, averaged | 1 | 99.0 % | 1 of 1 | 40.0 dB |")


@pytest.mark.parametrize(("values", "words"), [([], ""), ([1.04, 1.0], "1.0 dB"), ([1.0, 2.0], "1.0 to 2.0 dB")])
def test_an_extent(values: list[float], words: str) -> None:
    from trained_networks import extent

    assert extent(values, "dB") == words
