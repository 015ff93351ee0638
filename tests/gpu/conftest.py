"""Artifacts for a GPU, one of each kind and precision; every test in this folder needs an NVIDIA GPU.

`IRESNET_EXPORT_GPU_TESTS_ON=cpu` runs the tests that TensorRT is not needed for on a CPU: so their own logic is tried where no
GPU is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.registry import format_named, runtime_named
from iresnet_export.exporting import export_artifact
from iresnet_models import ModelSpec

PRETENDED = os.environ.get("IRESNET_EXPORT_GPU_TESTS_ON")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of this folder alone: pytest gives every conftest all that was collected."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and PRETENDED is None:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(PRETENDED or "cuda")


@pytest.fixture(scope="session")
def gpu_source() -> Source:
    """An untrained iResNet-18 of 64 pixels: it may be exported in int8 over noise."""
    return untrained_source(ModelSpec("iresnet", 18, num_classes=10, image_size=64, resize=64), seed=3)


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, gpu_source: Source) -> Callable[..., Artifact]:
    """Exports once for each backend and set of options."""
    folder, made = tmp_path_factory.mktemp("gpu"), dict[str, Artifact]()

    def artifact(backend: str, **options: Any) -> Artifact:
        if backend == "tensorrt":
            require_builder()
            require_fp8(options.get("precision"))
        if backend == "aotinductor":
            require_compiler()
            options = {"device": str(PRETENDED or "cuda"), **options}
        key = f"{backend}-{abs(hash(repr(sorted(options.items()))))}"
        if key not in made:
            format = format_named(runtime_named(backend).format)
            chosen = format.options_type(**{"calibration_images": 64, "max_batch": 16, **options})
            made[key] = export_artifact(format.name, gpu_source, chosen, output=folder / f"{key}{format.suffix}")
        return made[key]

    return artifact


def require_compiler() -> None:
    """Skips where packages cannot be compiled for want of a compiler or of CUDA's headers."""
    from iresnet_export.backends.aotinductor.cuda import cuda_home
    from iresnet_export.backends.aotinductor.package import cpp_compiler
    from iresnet_export.errors import UnavailableError

    try:
        cpp_compiler()
        cuda_home()
    except UnavailableError as error:
        pytest.skip(str(error))


def require_builder() -> None:
    """Skips where no TensorRT is installed that builds for the GPU at hand; the reason is counted in pytest's summary."""
    from iresnet_export.backends.tensorrt.flavours import flavour_for_building
    from iresnet_export.errors import UnavailableError
    from iresnet_export.system import nvidia

    try:
        flavour = flavour_for_building(None)
    except UnavailableError as error:
        pytest.skip(str(error))
    here = nvidia.gpu()
    assert here is not None
    target = "SM{}{}".format(*here.capability)
    if flavour.builds_without_gpu and target not in flavour.module.ComputeCapability.__members__:
        pytest.skip(f"{flavour.name} does not build for {here.name}; install tensorrt")


def require_fp8(precision: object) -> None:
    """Skips what is in fp8 where the GPU has none."""
    from iresnet_export.system import nvidia

    here = nvidia.gpu()
    if precision == "fp8" and here is not None and not here.has_fp8:
        pytest.skip(f"{here.name} has compute capability {here.capability[0]}.{here.capability[1]}, and fp8 needs 8.9")
