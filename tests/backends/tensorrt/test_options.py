"""How engines are built: profiles, options and what they do, and TensorRT's reading held against the ONNX file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Outcome
from onnx import TensorProto, helper, numpy_helper

from iresnet_export.artifacts.manifest import TimingCacheDetails
from iresnet_export.artifacts.source import untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.reading import graph_of_onnx
from iresnet_export.backends.tensorrt.builder import engine_from_onnx, profiles_of, require_options
from iresnet_export.backends.tensorrt.flavours import Flavour, flavour_named
from iresnet_export.backends.tensorrt.network import parsed_network, require_sparse
from iresnet_export.backends.tensorrt.options import BuildOptions, EngineOptions
from iresnet_export.backends.tensorrt.plan import engine_details
from iresnet_export.backends.tensorrt.probing import observed_engine
from iresnet_export.backends.tensorrt.timing import TimingCache
from iresnet_export.errors import ExportError, InputError
from iresnet_export.exporting import export_artifact
from iresnet_export.system import nvidia
from iresnet_export.system.progress import no_progress
from iresnet_models import ModelSpec

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'iresnet-export[tensorrt-rtx]'")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


def options_for(precision: Any, **others: Any) -> ExportOptions:
    return EngineOptions(precision=precision, target="tensorrt", calibration_images=32, max_batch=4, **others)


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    return flavour_named("tensorrt_rtx")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, small_spec: ModelSpec) -> dict[str, bytes]:
    """The ONNX files that engines of every precision are built from."""
    folder, source = tmp_path_factory.mktemp("parents"), untrained_source(small_spec, seed=1)
    made = {name: export_artifact("onnx", source, options_for(name), output=folder / f"{name}.onnx") for name in PRECISIONS}
    return {name: artifact.path.read_bytes() for name, artifact in made.items()}


class Spy:
    """What the builder is given."""

    def __init__(self, flavour: Flavour, patch: pytest.MonkeyPatch) -> None:
        self.outputs: list[tuple[str, str]] = []
        self.workspace = self.profiles = 0
        build, trt = flavour.module.Builder.build_serialized_network, flavour.module

        def spying(builder: Any, network: Any, config: Any) -> Any:
            outputs = [network.get_output(index) for index in range(network.num_outputs)]
            self.outputs = [(output.name, output.dtype.name) for output in outputs]
            self.workspace = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
            self.profiles = config.num_optimization_profiles
            return build(builder, network, config)

        patch.setattr(trt.Builder, "build_serialized_network", spying)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_built_and_proved(precision: str, flavour: Flavour, models: dict[str, bytes]) -> None:
    plan, details = engine_from_onnx(flavour, models[precision], options_for(precision), no_progress)
    assert plan[:4] == b"vtrt"
    first = "fp32" if precision == "fp8" else precision  # which has no kernels for a 7x7 convolution
    assert details["layer_precisions"] == [first, *[precision] * 20]
    other = "fp16" if first == "fp32" else "fp32"
    with pytest.raises(ExportError, match=f"in {first}, and {other} was asked for"):
        engine_from_onnx(flavour, models[precision], options_for(other), no_progress)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_engines_that_show_their_inner_values(
    precision: str, flavour: Flavour, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, model = Spy(flavour, monkeypatch), onnx.load_from_string(models[precision])
    operations = graph_of_onnx(model).nodes
    wanted = [0, *(number for number, operation in enumerate(operations) if operation.kind == "add"), len(operations) - 1]
    plan, names = observed_engine(flavour, models[precision], options_for(precision), model, wanted)
    assert plan[:4] == b"vtrt"
    assert len(names) == len(wanted) == 10
    given = {name.removesuffix(".observed"): dtype for name, dtype in spy.outputs}
    assert set(names) <= set(given)
    assert set(given.values()) == {"FLOAT"}
    with pytest.raises(IndexError):
        observed_engine(flavour, models[precision], options_for(precision), model, [len(operations)])


def test_several_profiles(flavour: Flavour, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(flavour, monkeypatch)
    engine = BuildOptions(profiles=((1, 1, 4), (4, 8, 8), (9, 9, 9)), workspace_mib=64)
    _, details = engine_from_onnx(flavour, models["fp32"], EngineOptions(build=engine), no_progress)
    assert (spy.profiles, spy.workspace) == (3, 64 * 2**20)
    assert details["profiles"] == ((1, 1, 4), (4, 8, 8), (9, 9, 9))
    assert profiles_of(EngineOptions(batch=2, max_batch=16)) == ((1, 2, 16),)
    assert profiles_of(EngineOptions(batch=2, dynamic_batch=False)) == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"profiles": ((1, 4, 2),)}, "--profile takes MIN,OPT,MAX"),
        ({"profiles": ((0, 1, 2),)}, "--profile takes MIN,OPT,MAX"),
        ({"profiles": ((5, 5, 8), (1, 2, 3))}, "leave out batches of 4 to 4"),
        ({"workspace_mib": 0}, "--workspace takes MiB"),
        ({"builder_level": 6}, "--builder-level takes 0"),
        ({"hardware_compatibility": "turing"}, "--hardware-compatibility takes none, ampere-plus"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        BuildOptions(**given)


def test_what_tensorrt_rtx_has_no_use_for_is_refused(flavour: Flavour) -> None:
    """Seen: sparse weights and builder levels 0 and 5 leave its plan as it is, version compatibility finds no library."""
    for given in ({"builder_level": 0}, {"sparse": True}, {"version_compatible": True}, {"timing_cache": False}):
        with pytest.raises(InputError, match="TensorRT-RTX has no use"):
            require_options(flavour, EngineOptions(build=BuildOptions(**given)))
    with pytest.raises(InputError, match="--hardware-compatibility: TensorRT-RTX"):
        require_options(flavour, EngineOptions(build=BuildOptions(hardware_compatibility="ampere-plus")))
    with pytest.raises(InputError, match="--profile is for a dynamic batch"):
        require_options(flavour, EngineOptions(build=BuildOptions(profiles=((1, 1, 1),)), dynamic_batch=False))


def test_the_command_s_options_reach_the_manifest(run: Callable[..., Outcome], small_checkpoint: Path, tmp_path: Path) -> None:
    options = ("--profile", "1,1,2", "--profile", "2,4,4", "--workspace", "256", "--flavour", "tensorrt_rtx", "--verbose")
    outcome = run("trt", "--checkpoint", small_checkpoint, "--no-fold", *options, "-o", tmp_path / "x.engine")
    assert outcome.status == 0, outcome.err
    assert "TensorRT, info: " in outcome.err
    assert "batch 1 to 4" in outcome.out
    from iresnet_export.artifacts.artifact import open_artifact

    settings = engine_details(open_artifact(tmp_path / "x.engine")).settings
    assert settings.profiles == ((1, 1, 2), (2, 4, 4))
    assert settings.workspace_mib == 256
    refused = run("trt", "--checkpoint", small_checkpoint, "--flavour", "tensorrt_rtx", "--sparse")
    assert (refused.status, refused.out) == (2, "")
    assert "--sparse: TensorRT-RTX has no use" in refused.err
    assert run("trt", "--profile", "1,2", "--flavour", "tensorrt_rtx").status == 2
    assert run("trt", "--profile", "1,2,4", "--batch", "2", "--flavour", "tensorrt_rtx").status == 2


def test_ctrl_c_cancels_and_leaves_its_handler(flavour: Flavour, models: dict[str, bytes]) -> None:
    """A signal comes while TensorRT's own code runs; its handler must not raise there, as Python's own would."""
    before, told = signal.getsignal(signal.SIGINT), []

    def interrupted(step: str, _share: float) -> None:
        told.append(step)
        if step == "Building engine" and told.count(step) == 1:
            assert signal.getsignal(signal.SIGINT) is not before
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(flavour, models["fp32"], options_for("fp32"), interrupted)
    assert signal.getsignal(signal.SIGINT) is before
    whole: list[str] = []
    engine_from_onnx(flavour, models["fp32"], options_for("fp32"), lambda step, _share: whole.append(step))
    assert len(told) < len(whole) / 2


def test_the_reading_is_held_against_the_file(flavour: Flavour, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT is given one file, and the checks another: whatever differs is an error before anything is built."""

    def refused(change: Callable[[onnx.ModelProto], object], says: str) -> None:
        changed = onnx.load_from_string(models["fp32"])
        change(changed)
        with monkeypatch.context() as patch:
            patch.setattr("iresnet_export.backends.tensorrt.network.onnx.load_from_string", lambda _data: changed)
            with pytest.raises(ExportError, match=says):
                parsed_network(flavour, flavour.module.Builder(flavour.logger), models["fp32"])

    logits = onnx.load_from_string(models["fp32"]).graph.output[0]
    refused(lambda model: setattr(model.graph.output[0], "name", "scores"), r"read the outputs .* as logits FLOAT .* scores FLOAT")
    refused(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16), "read the inputs")
    refused(lambda model: model.graph.output.append(logits), "read the outputs")
    refused(lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 64), r"\(-1, 3, 64, 32\)")
    refused(lambda model: model.graph.node.append(helper.make_node("Conv", ["a", "b"], ["c"])), "read 20 layers of the kind CONV")
    refused(lambda model: model.graph.node.append(helper.make_node("Relu", ["a"], ["c"])), "of the kind ACTIVATION")


def test_an_empty_graph_and_a_refused_profile(flavour: Flavour, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load_from_string(models["fp32"])
    del model.graph.node[:], model.graph.output[:]
    with pytest.raises(ExportError, match=r"cannot read the ONNX file|as 0 layers"):
        engine_from_onnx(flavour, model.SerializeToString(), options_for("fp32"), no_progress)
    monkeypatch.setattr(flavour.module.IBuilderConfig, "add_optimization_profile", lambda _config, _profile: -1)
    with pytest.raises(ExportError, match="refused batches of 1 to 4: TensorRT gave no reason"):
        engine_from_onnx(flavour, models["fp32"], options_for("fp32"), no_progress)


def test_sparse_weights_are_counted(models: dict[str, bytes]) -> None:
    model = onnx.load_from_string(models["fp32"])
    with pytest.raises(InputError, match="two in every four"):
        require_sparse(model)
    name = next(node.input[1] for node in model.graph.node if node.name == "layer1.0.conv1")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weight = np.array(numpy_helper.to_array(tensor))
    weight[:, ::2] = 0
    tensor.CopyFrom(numpy_helper.from_array(weight, name))
    assert require_sparse(model) == 1


class Config:
    """A builder's configuration as far as timing caches go; refuses data that does not begin with `good`."""

    def __init__(self, measured: bytes) -> None:
        self.given: list[bytes] = []
        self._measured = measured

    def create_timing_cache(self, data: bytes) -> Any:
        self.given.append(data)
        measured = self._measured
        return type("Cache", (), {"serialize": lambda _self: measured, "data": data})()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        return not cache.data or cache.data.startswith(b"good")


def test_timings_are_kept_for_one_gpu_driver_and_version(flavour: Flavour) -> None:
    gpu = nvidia.Gpu("GPU", (8, 6), 1)

    def built(measured: bytes, driver: str = "580.1", here: nvidia.Gpu = gpu) -> tuple[Config, TimingCacheDetails]:
        config, cache = Config(measured), TimingCache(flavour, here, driver)
        cache.give(config)
        return config, cache.keep()["timing_cache"]

    first, about = built(b"good 1")
    assert first.given == [b""]
    assert about.started_from is None
    second, later = built(b"good 2")
    assert second.given == [b"good 1"]
    assert later.started_from == about.sha256 != later.sha256
    assert built(b"good 3", driver="590.1")[0].given == [b""]
    assert built(b"good 3", here=nvidia.Gpu("GPU", (8, 9), 1))[0].given == [b""]
    built(b"bad")
    assert built(b"good 4")[0].given == [b"bad", b""], "what TensorRT refuses is left aside"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_a_timing_cache_that_cannot_be_kept_costs_nothing(
    flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("IRESNET_EXPORT_CACHE", str(tmp_path / "file"))
    cache = TimingCache(flavour, nvidia.Gpu("GPU", (8, 6), 1), None)
    cache.give(Config(b"good"))
    assert len(cache.keep()["timing_cache"].sha256) == 64
