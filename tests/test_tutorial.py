"""The tutorial on one's own photos, run as it is written, in small."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

PAGE = Path(__file__).parents[1] / "docs" / "your-own-photos.md"
LESS = {"--epochs 8": "--epochs 1", "--epochs 6": "--epochs 1"}


@pytest.mark.slow
def test_every_command_does_what_the_page_says(
    run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    page = PAGE.read_text(encoding="utf-8")
    for whole, small in LESS.items():
        assert whole in page
        page = page.replace(whole, small)
    monkeypatch.chdir(tmp_path)
    ((_, script), *blocks) = re.findall(r"^```(python|sh)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(script, "photos.py", "exec"), {})  # the page's own text
    commands = [shlex.split(line) for _, text in blocks for line in text.replace("\\\n", " ").splitlines()]
    assert len(commands) == 6
    for program, *arguments in commands:
        assert program == "iresnet-export"
        outcome = run(*arguments)
        assert outcome.status == 0, (arguments, outcome.err)
    split = json.loads(Path("runs/photos/train.json").read_text())["split"]
    assert (split["images"], split["held_out"]) == (300, 60)
    manifest = json.loads(Path("artifacts/iresnet18-int8-cpu.onnx.json").read_text())
    assert manifest["spec"]["split"] == split
