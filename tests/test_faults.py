"""A part of the study of faults (studies/faults.py): one of each kind that loses, runs or takes anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

STUDIES = Path(__file__).parents[1] / "studies"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, limits and special files as Linux has them")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The study's modules, and what its cases are made of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        import fault_cases
        import fault_runner
        import fault_shop

        folder = tmp_path_factory.mktemp("faults")
        for place in (folder, *folder.parents):  # other users' runs have to reach it
            if place.stat().st_uid == os.geteuid() and place.name.startswith(("faults", "popen-", "pytest-")):
                place.chmod(place.stat().st_mode | 0o055)
        shop = fault_shop.Shop(folder, trained=False)
        yield SimpleNamespace(cases=fault_cases.all_cases(), runner=fault_runner, shop=shop, folder=folder)
        shop.close()


KINDS = {"checkpoints", "code", "images", "lost", "manifests", "paths", "reports", "special", "zips"}


def test_one_fault_of_each_kind_does_no_harm(study: SimpleNamespace) -> None:
    """Of those that are soon over and need no benchmark, by forks of the program; `studies/faults.py` injects them all."""
    soon_over = [case for case in study.cases if case.quick and not case.fresh and case.kind in KINDS]
    soon_over = [case for case in soon_over if "bench.json" not in case.command]
    cases = list({case.kind: case for case in reversed(soon_over)}.values())
    assert {case.kind for case in cases} == KINDS
    violations: list[str] = []

    def told(case: Any, wrong: list[str], outcome: Any) -> None:
        violations.extend(f"{case.name}: {what}; {outcome.err[-500:]}" for what in wrong)

    assert study.runner.run_cases(cases, study.folder, study.shop, 2, None, told) == len(cases)
    assert violations == []


def test_all_commands_and_numeric_options_are_tried(study: SimpleNamespace) -> None:
    """The table is made from the program's own list of options, so that one which is added is tried too."""
    commands = {case.command[0] for case in study.cases}
    exports, others = {"torchscript", "pt2", "onnx", "trt"}, {"verify", "bench", "report", "predict", "doctor", "models", "inspect"}
    assert commands >= {"quickstart", "train", "eval"} | exports | others
    tried = {option for case in study.cases if case.kind == "options" for option in case.command}
    assert {"--lr", "--mixup", "--seed", "--image-size", "--images", "--top-k", "--batch-size", "--calibration-images"} <= tried


def test_the_study_sees_a_violation(study: SimpleNamespace) -> None:
    """Of each rule: what it looks at is laid out wrongly, and it says so."""
    runner = study.runner
    case = runner.Case("x", "control", ("inspect", "x"), status=frozenset({0}))
    canary = runner.Canary()
    scene = runner.Scene(study.folder / "rules", study.shop, None, canary, case)
    try:
        scene.write("kept", "old")
        before = scene.snapshot()
        scene.write("kept", "new")
        scene.write(".x.partial", "half")
        outcome = runner.Outcome(4, "", "Traceback (most recent call last)\n\x1b]0;x\x07", 1.0, 10**6)
        wrong = "; ".join(runner.judged(case, scene, outcome, before))
        for words in ("exit status 4", "Traceback", "control character", "MB of memory", "kept was changed", ".x.partial"):
            assert words in wrong
        own = runner.Case("x", "control", ("inspect", "x"), status=frozenset({0}), outputs=("kept",))
        done = runner.Outcome(0, "", "", 1.0, 1)
        (scene.work / ".x.partial").unlink()
        assert runner.judged(own, scene, done, before) == []
        (scene.outside / "kept").write_text("an output elsewhere")
        assert runner.judged(own, scene, done, before) == ["outside/kept was made"]
        assert "hung" in runner.judged(case, scene, runner.Outcome(None, "", "", 1.0, 1), before)[0]
        assert "SIGSEGV" in runner.judged(case, scene, runner.Outcome(-11, "", "", 1.0, 1), before)[0]
    finally:
        scene.close()
        canary.close()
