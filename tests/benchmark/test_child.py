"""Fresh processes: what they say of load time, first inference and memory."""

from __future__ import annotations

import dataclasses
import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.benchmark.child import in_fresh_process, peak_memory_mb
from iresnet_export.benchmark.recipe import COMPILED, TORCHVISION, Recipe, host_to_host, noise_inputs
from iresnet_export.errors import UnavailableError
from iresnet_models import ModelSpec

CPU = torch.device("cpu")


@pytest.fixture
def recipe(benched: dict[str, Artifact], small_spec: ModelSpec) -> Recipe:
    return Recipe("onnxruntime", benched["onnx"].path, small_spec, CPU, 1)


def test_a_recipe_survives_json(recipe: Recipe) -> None:
    for one in (recipe, dataclasses.replace(recipe, opener="onnxruntime[nhwc,search=heuristic]")):
        assert Recipe.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.slow
def test_memory_is_the_childs_own(recipe: Recipe) -> None:
    """The parent's peak must not show: ru_maxrss would hand it down through fork and exec."""
    parents = np.ones(2**27)  # 1.1 GB, touched
    assert peak_memory_mb() > 1_400
    found = in_fresh_process(recipe, (1, 64))
    del parents
    gc.collect()
    assert 100 < found.peaks_mb[0] <= found.peaks_mb[1] < 1_300
    assert found.load_ms > 0
    assert found.first_inference_ms > 0


def test_what_cannot_be_opened_says_why(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"ended with 1: .*does not exist"):
        in_fresh_process(dataclasses.replace(recipe, path=tmp_path / "none.onnx"), (1,))


def test_every_opener_gives_a_session(recipe: Recipe, small_checkpoint: Path, small_spec: ModelSpec) -> None:
    logits = {}
    for opener, path in (("onnxruntime", recipe.path), ("eager", small_checkpoint), (TORCHVISION, small_checkpoint)):
        with dataclasses.replace(recipe, opener=opener, path=path).open() as session:
            logits[opener] = host_to_host(session, noise_inputs(small_spec, session, 2))
    assert {tuple(found.shape) for found in logits.values()} == {(2, 10)}
    torch.testing.assert_close(logits["onnxruntime"], logits["eager"], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits[TORCHVISION], logits["eager"], atol=1e-2)


@pytest.mark.slow
@pytest.mark.compiler
def test_torch_compile_computes_the_network(recipe: Recipe, small_checkpoint: Path, small_spec: ModelSpec) -> None:
    with (
        dataclasses.replace(recipe, opener="eager", path=small_checkpoint).open() as eager,
        dataclasses.replace(recipe, opener=COMPILED, path=small_checkpoint).open() as compiled,
    ):
        for batch in (1, 3):
            images = noise_inputs(small_spec, eager, batch)
            torch.testing.assert_close(host_to_host(compiled, images), host_to_host(eager, images), atol=1e-5, rtol=1e-4)
