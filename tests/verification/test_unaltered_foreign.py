"""Artifacts of others that hold the network: each passes, or is not comparable for the reason that is said. No false alarm."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import version_converter
from torch import Tensor, nn

from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.initialization import untrained_network

pytestmark = [
    pytest.mark.usefixtures("shared_references"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DYNAMIC = ({0: torch.export.Dim("batch")},)
Make = Callable[[nn.Module, Path], None]


class Wrapped(nn.Module):
    """A network with something before or behind it."""

    def __init__(self, network: nn.Module, before: Callable[[Tensor], Tensor] | None = None, after: Any = None) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x if self.before is None else self.before(x))
        return found if self.after is None else self.after(found)  # type: ignore[no-any-return]


def dynamo(network: nn.Module, path: Path, images: Tensor = IMAGES, **options: Any) -> None:
    torch.onnx.export(
        network, (images,), str(path), dynamo=True, dynamic_shapes=DYNAMIC, external_data=False, verbose=False, **options
    )


def legacy(network: nn.Module, path: Path, images: Tensor = IMAGES, **options: Any) -> None:
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    names: Any = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    torch.onnx.export(network, (images,), str(path), dynamo=False, **names, **options)


def preserved(network: nn.Module, path: Path) -> None:
    legacy(network, path, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)


def optimised(level: str) -> Make:
    def make(network: nn.Module, path: Path) -> None:
        import onnxruntime as ort

        legacy(network, path.with_suffix(".first"))
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath, options.log_severity_level = str(path), 4
        ort.InferenceSession(path.with_suffix(".first").read_bytes(), options, providers=["CPUExecutionProvider"])

    return make


def by_package(package: str, simplify: Callable[[Any, onnx.ModelProto], onnx.ModelProto]) -> Make:
    def make(network: nn.Module, path: Path) -> None:
        module = pytest.importorskip(package, reason=f"{package} is not installed")
        legacy(network, path)
        onnx.save(simplify(module, onnx.load(path)), path)

    return make


def converted(network: nn.Module, path: Path) -> None:
    legacy(network, path)
    onnx.save(version_converter.convert_version(onnx.load(path), 21), path)


def shortcuts_first(network: nn.Module, path: Path) -> None:
    """The same nodes, those of each shortcut before those of the block's branch."""
    preserved(network, path)
    model = onnx.load(path)
    left, known = list(model.graph.node), {*(value.name for value in model.graph.input), *(t.name for t in model.graph.initializer)}
    ordered = list[onnx.NodeProto]()
    while left:
        ready = [node for node in left if known.issuperset(node.input)]
        ordered.append(max(ready, key=lambda node: ("downsample" in node.name, -left.index(node))))
        left.remove(ordered[-1])
        known.update(ordered[-1].output)
    names = [node.name for node in ordered]
    first = next(index for index, name in enumerate(names) if "downsample" in name)
    assert first < next(index for index, name in enumerate(names) if "layer2/layer2.0/conv1" in name)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    onnx.save(model, path)


def scripted(network: nn.Module) -> Any:
    """torchvision's code is what TorchScript compiles; ours is traced."""
    torchvision = pytest.importorskip("torchvision.models")
    other = torchvision.resnet18(num_classes=10).eval()
    other.load_state_dict(network.state_dict())
    return torch.jit.script(other)


def script(change: Callable[[nn.Module], Any]) -> Make:
    return lambda network, path: torch.jit.save(change(network), str(path))  # type: ignore[no-untyped-call]


def traced(network: nn.Module, images: Tensor = IMAGES) -> Any:
    return torch.jit.trace(network, images)  # type: ignore[no-untyped-call]


def program(network: nn.Module, path: Path, images: Tensor = IMAGES, *, decomposed: bool = False) -> None:
    made = torch.export.export(network, (images,), dynamic_shapes=DYNAMIC)
    torch.export.save(made.run_decompositions() if decomposed else made, path)


def channels_last(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def half(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).half()


def nhwc(network: nn.Module) -> nn.Module:
    return Wrapped(network, before=lambda x: x.permute(0, 3, 1, 2)).eval()


def probabilities(network: nn.Module) -> nn.Module:
    return Wrapped(network, after=lambda logits: torch.softmax(logits, 1)).eval()


def likeliest(network: nn.Module) -> nn.Module:
    return Wrapped(network, after=lambda logits: logits.argmax(1)).eval()


LAST = IMAGES.permute(0, 2, 3, 1).contiguous()

PASSES: dict[str, tuple[str, Make, str]] = {
    "dynamo": (".onnx", dynamo, "outputs"),
    "dynamo, not optimised": (".onnx", lambda n, p: dynamo(n, p, optimize=False), "graph"),
    "legacy": (".onnx", legacy, "outputs"),
    "legacy, preserved": (".onnx", preserved, "graph"),
    "legacy, weights as inputs": (".onnx", lambda n, p: legacy(n, p, keep_initializers_as_inputs=True), "outputs"),
    "legacy, channels last": (".onnx", lambda n, p: legacy(channels_last(n), p), "outputs"),
    "shortcuts first": (".onnx", shortcuts_first, "graph"),
    "another opset": (".onnx", converted, "outputs"),
    "onnxslim": (".onnx", by_package("onnxslim", lambda module, model: module.slim(model)), "outputs"),
    "onnxsim": (".onnx", by_package("onnxsim", lambda module, model: module.simplify(model)[0]), "outputs"),
    "ONNX Runtime, basic": (".onnx", optimised("BASIC"), "outputs"),
    "ONNX Runtime, extended": (".onnx", optimised("EXTENDED"), "outputs"),
    "ONNX Runtime, all": (".onnx", optimised("ALL"), "outputs"),
    "traced": (".ts", script(traced), "graph"),
    "traced, channels last": (".ts", script(lambda n: traced(channels_last(n))), "graph"),
    "scripted": (".ts", script(scripted), "graph"),
    "frozen": (".ts", script(lambda n: torch.jit.freeze(traced(n))), "outputs"),
    "frozen, scripted": (".ts", script(lambda n: torch.jit.freeze(scripted(n), optimize_numerics=False)), "graph"),
    "traced at another size": (".ts", script(lambda n: traced(n, torch.zeros(2, 3, 64, 64))), "graph"),
    "exported": (".pt2", program, "graph"),
    "exported, decomposed": (".pt2", lambda n, p: program(n, p, decomposed=True), "graph"),
}
"""How much of each is compared."""

UNLIKE: dict[str, tuple[str, Make, str]] = {
    "fp16 ONNX": (".onnx", lambda n, p: legacy(half(n), p, IMAGES.half()), r"not comparable: it is fp16 without a manifest"),
    "fp16 script": (".ts", script(lambda n: traced(half(n), IMAGES.half())), r"not comparable: it is fp16 without a manifest"),
    "fp16 program": (".pt2", lambda n, p: program(half(n), p, IMAGES.half()), r"not comparable: it is fp16 without a manifest"),
    "NHWC ONNX": (".onnx", lambda n, p: legacy(nhwc(n), p, LAST), r"not comparable: it takes images as 32 x 32 x 3, channels last"),
    "NHWC script": (".ts", script(lambda n: traced(nhwc(n), LAST)), r"not comparable: .*channels last"),
    "NHWC program": (".pt2", lambda n, p: program(nhwc(n), p, LAST), r"not comparable: .*channels last"),
    "softmax ONNX": (".onnx", lambda n, p: preserved(probabilities(n), p), r"not comparable: it gives probabilities \(the softmax"),
    "softmax script": (".ts", script(lambda n: traced(probabilities(n))), r"not comparable: it gives probabilities \(the softmax"),
    "log-softmax": (
        ".ts",
        script(lambda n: traced(Wrapped(n, after=lambda logits: torch.log_softmax(logits, 1)))),
        r"not comparable: it gives probabilities \(the logarithm of the softmax",
    ),
    "class ONNX": (".onnx", lambda n, p: preserved(likeliest(n), p), "not comparable: it gives the number of a class"),
    "class script": (".ts", script(lambda n: traced(likeliest(n))), "not comparable: it gives the number of a class"),
    "another size": (
        ".onnx",
        lambda n, p: legacy(n, p, torch.zeros(2, 3, 64, 64)),
        r"not comparable: it takes images of 3 x 64 x 64",
    ),
}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A ResNet, which torchvision has too."""
    path = tmp_path_factory.mktemp("resnet") / "resnet.pt"
    save_checkpoint(path, untrained_network(ModelSpec("resnet", 18, num_classes=10, image_size=32, resize=32), seed=1))
    return source_from_checkpoint(path)


@pytest.fixture
def verdict(resnet: Source, tmp_path: Path) -> Iterator[Callable[[str, Make], Candidate]]:
    def found(suffix: str, make: Make) -> Candidate:
        path, network = tmp_path / f"foreign{suffix}", copy.deepcopy(resnet.network).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(network, path)
        backend = {".onnx": "onnxruntime", ".ts": "torchscript", ".pt2": "torch_export"}[suffix]
        options = VerifyOptions(resnet.checkpoint, images=32, batch_sizes=(1, 7), trust=True, backends=(backend,))
        return verify([path], options).candidates[0]

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what exporters have to say
    yield found
    logging.disable(level)


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSES)
def test_it_passes(name: str, verdict: Callable[[str, Make], Candidate]) -> None:
    suffix, make, coverage = PASSES[name]
    found = verdict(suffix, make)
    assert (found.status, found.reason, found.coverage) == ("pass", None, coverage)
    said = "compared by its outputs alone: what 32 images exercise" if coverage == "outputs" else "compared by its graph"
    assert found.notices[-1].startswith(said)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNLIKE)
def test_it_is_not_comparable(name: str, verdict: Callable[[str, Make], Candidate]) -> None:
    suffix, make, reason = UNLIKE[name]
    found = verdict(suffix, make)
    assert found.status == "skipped"
    assert re.search(reason, str(found.reason)), found.reason
    assert found.precision == ("fp16" if "fp16" in name else "fp32")


def test_packed_weights_are_named(verdict: Callable[[str, Make], Candidate]) -> None:
    found = verdict(".ts", script(lambda n: torch.jit.optimize_for_inference(scripted(n))))
    assert found.status == "fail"
    assert "was made by torch.jit.optimize_for_inference" in str(found.reason)


def test_openvino_says_whose_operators_it_does_not_know(resnet: Source, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "optimised.onnx"
    optimised("ALL")(copy.deepcopy(resnet.network).eval(), path)
    options = VerifyOptions(resnet.checkpoint, images=32, batch_sizes=(7,), backends=("openvino",))
    (found,) = verify([path], options).candidates
    assert found.status == "skipped"
    assert "optimised by ONNX Runtime for itself: it holds com.microsoft.nchwc.Conv" in str(found.reason)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: n.layer2[0].downsample[0].weight[3].mul_(1.01), r"weights: layer2\.0\.downsample\.0\.weight\[3, 0, 0, 0\]"),
        (lambda n: n.layer2[0].conv1.weight[3].mul_(1.01), r"weights: layer2\.0\.conv1\.weight\[3, 0, 0, 0\]"),
    ],
    ids=["shortcut", "branch"],
)
def test_what_is_wrong_is_named_whatever_the_order(
    change: Callable[[Any], object], said: str, verdict: Callable[[str, Make], Candidate]
) -> None:
    def make(network: nn.Module, path: Path) -> None:
        with torch.no_grad():
            change(network)
        shortcuts_first(network, path)

    found = verdict(".onnx", make)
    assert found.status == "fail"
    assert re.search(said, str(found.reason)), found.reason
