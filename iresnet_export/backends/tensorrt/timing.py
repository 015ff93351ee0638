"""TensorRT's timing cache: what its builder measured on this GPU, kept for the next engine.

Timings of another GPU, driver or version would choose the wrong kernels without a word, so each has a file of its own. TensorRT-RTX
measures nothing when it builds, and has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from iresnet_export.artifacts.manifest import TimingCacheDetails
from iresnet_export.backends.tensorrt.flavours import Flavour
from iresnet_export.errors import IResNetError
from iresnet_export.system import nvidia
from iresnet_models.cache import cache_folder
from iresnet_models.files import write_bytes


class TimingCache:
    """Given to a builder before it builds, and kept after that. A cache that cannot be read or written costs time, nothing else."""

    def __init__(self, flavour: Flavour, gpu: nvidia.Gpu, driver: str | None) -> None:
        major, minor = gpu.capability
        self._about = {
            "gpu": gpu.name,
            "compute_capability": f"{major}.{minor}",
            "driver": driver,
            "flavour": flavour.name,
            "version": flavour.version,
        }
        key = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()[:24]
        self.path = cache_folder().expanduser() / "timing" / f"{key}.cache"
        self._before = self._read()
        self._cache: Any = None

    def give(self, config: Any) -> None:
        """Sets it; one that TensorRT refuses is left aside and made anew."""
        self._cache = config.create_timing_cache(self._before)
        if self._cache is None or not config.set_timing_cache(self._cache, False):
            self._before = b""
            self._cache = config.create_timing_cache(b"")
            if self._cache is not None:
                config.set_timing_cache(self._cache, False)

    def keep(self) -> dict[str, Any]:
        """Writes what the builder left, and returns what the manifest should say: the hash of what the engine was chosen by."""
        if self._cache is None:
            return {}
        after = bytes(self._cache.serialize())
        with contextlib.suppress(OSError, IResNetError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if after != self._before:
                write_bytes(self.path, after)
        driver, started_from = self._about["driver"], _hash(self._before)
        return {"timing_cache": TimingCacheDetails(hashlib.sha256(after).hexdigest(), driver, started_from)}

    def _read(self) -> bytes:
        try:
            return Path(self.path).read_bytes()
        except OSError:
            return b""


def _hash(data: bytes) -> str | None:
    return hashlib.sha256(data).hexdigest() if data else None
