"""What reports and manifests say of where they were made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iresnet_export.system.environment import command, commit

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these sources are no checkout")
def test_the_commit_is_that_of_the_sources() -> None:
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (commit() or "").removesuffix("+") == head


def test_a_command_line_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """However an address is given."""
    address = "https://me:hidden@host/deep/train.tar?sig=hidden"
    monkeypatch.setattr(sys, "argv", ["iresnet-export", "eval", address, "--data", address, f"--data={address}", "--out=a/b.pt"])
    assert command() == "iresnet-export eval train.tar --data train.tar --data=train.tar --out=b.pt"
