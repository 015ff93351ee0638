"""What reports and manifests say of where they were made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from iresnet_export.system.environment import command, commit

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these sources are no checkout")
def test_the_commit_is_that_of_the_sources() -> None:
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (commit() or "").removesuffix("+") == head


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("/home/me/net.onnx", "net.onnx"),
        ("--output=/home/me/net.onnx", "--output=net.onnx"),
        ("--data=https://me:secret@host/d/t.tar?sig=secret", "--data=t.tar"),
        ("s3://me:secret@bucket/year=2024/a.jpg", "a.jpg"),
        ("https://me:secret@host/deep/train.tar?sig=secret", "train.tar"),
        ("onnxruntime[cache=/home/me/x]", "'onnxruntime[cache=x]'"),
        ("--checkpoint=/home/me/secret/a=b/x.pt", "--checkpoint=a=x.pt"),
        ("--lr=0.1", "--lr=0.1"),
    ],
)
def test_the_command_holds_no_folder_and_no_password(argument: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/iresnet-export", argument])
    assert command() == f"iresnet-export {told}"
