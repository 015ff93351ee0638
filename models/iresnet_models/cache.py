"""Where downloads, and what took long to find out, are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "IRESNET_EXPORT_CACHE"


def cache_folder() -> Path:
    """$IRESNET_EXPORT_CACHE, else the user's cache folder of this system."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("iresnet-export"))
