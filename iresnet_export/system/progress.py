"""How long work tells of itself."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told what is being done and which share of it, 0 to 1, is done; may raise KeyboardInterrupt to cancel."""


def no_progress(_step: str, _share: float) -> None:
    """For callers that show nothing."""
