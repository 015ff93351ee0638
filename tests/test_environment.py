"""What reports and manifests say of where they were made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from iresnet_export.system.environment import commit

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these sources are no checkout")
def test_the_commit_is_that_of_the_sources() -> None:
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (commit() or "").removesuffix("+") == head
