"""What a manifest or an artifact says of itself is read in one way by every command: exit 2, and nothing run, opened or changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from conftest import Outcome

from iresnet_export.artifacts.artifact import Artifact, open_artifact, record
from iresnet_export.artifacts.manifest import manifest_path
from iresnet_export.artifacts.metadata import identity_of
from iresnet_export.backends.onnx.writing import METADATA_KEY
from iresnet_export.errors import ArtifactError
from iresnet_export.quantization.codes import FORMAT, Quantization

Run = Callable[..., Outcome]
Copy = Callable[[str], Artifact]
PIPE = "pipe:touch was-run; false"


def told(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest_path(artifact.path).read_text(encoding="utf-8"))
    return found


def tell(artifact: Artifact, data: Any) -> None:
    manifest_path(artifact.path).write_text(json.dumps(data), encoding="utf-8")


COMMANDS = {
    "inspect": (),
    "verify": ("--images", 4),
    "eval": (),
    "bench": ("--batch", 1),
    "predict": (".",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_manifest_names(command: str, copied: Copy, run: Run) -> None:
    artifact = copied("onnx")
    data = told(artifact)
    tell(artifact, data | {"spec": data["spec"] | {"data": PIPE}})
    outcome = run(command, artifact.path, *COMMANDS[command])
    assert outcome.status == 2
    assert "spec: data names an embedded data set" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not Path("was-run").exists()


@pytest.mark.parametrize("command", ["onnx", "torchscript"])
def test_an_export_over_a_damaged_manifest_leaves_it(command: str, copied: Copy, run: Run, small_checkpoint: Path) -> None:
    artifact = copied(command)
    tell(artifact, told(artifact) | {"size_bytes": -1})
    outcome = run(command, "--checkpoint", small_checkpoint, "-o", artifact.path)
    assert outcome.status == 2
    assert "--force" in outcome.err


@pytest.mark.parametrize("command", ["eval", "onnx", "inspect"])
def test_no_command_runs_what_a_checkpoint_names(command: str, small_checkpoint: Path, tmp_path: Path, run: Run) -> None:
    content = torch.load(small_checkpoint, weights_only=True)
    content["spec"]["data"] = PIPE
    torch.save(content, tmp_path / "evil.pt")
    outcome = run(command, *(("--checkpoint",) if command == "onnx" else ()), tmp_path / "evil.pt")
    assert outcome.status == 2
    assert "data names an embedded data set" in outcome.err
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN"),
        ({"spec": 3}, "spec"),
        ({"spec": {"arch": "iresnet", "depth": 18, "data": PIPE}}, "spec: data names"),
        ({"fold": "yes"}, "fold"),
        ({"weights_sha256": 3}, "weights_sha256"),
        ({"producer": "\ud800"}, "producer"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_a_file_says_of_itself_is_typed(text: Any, message: str, copied: Copy, run: Run) -> None:
    artifact = copied("onnx")
    model = onnx.load(artifact.path)
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = text if isinstance(text, str) else json.dumps(json.loads(entry.value) | text)
    onnx.save(model, artifact.path)
    with pytest.raises(ArtifactError, match=rf"says of itself is damaged.*{message}"):
        identity_of(artifact.path, "onnx")
    manifest_path(artifact.path).unlink()
    outcome = run("inspect", artifact.path)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err


GOOD = {
    "format": FORMAT,
    "target": "cpu",
    "calibrator": "minmax",
    "images": 64,
    "image_source": "64 images",
    "ranges": {"a": [-1.0, 1.0]},
    "inputs": {"conv1": "a"},
    "equalized": False,
    "compared": 64,
    "predicted_sqnr_db": 30.0,
    "predicted_agreement": 1.0,
    "predicted_interval_db": 0.5,
    "bias_corrections": {"conv1": [3, 0, -2]},
    "tried": [
        {"calibrator": "minmax", "equalized": False, "images": 48, "sqnr_db": 30.0, "agreement": 1.0, "corrected": True},
    ],
    "precision": "int8",
    "floating": [],
    "kept": [],
    "steps": [],
    "top1": None,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("predicted_sqnr_db", float("nan")),
        ("predicted_sqnr_db", -300.0),
        ("predicted_sqnr_db", "30"),
        ("predicted_sqnr_db", 1e308),
        ("predicted_agreement", -0.1),
        ("predicted_agreement", 1.5),
        ("predicted_interval_db", -1.0),
        ("predicted_interval_db", 11.0),
        ("tried", [3]),
        ("tried", [{"calibrator": "minmax", "equalized": False, "images": 65, "sqnr_db": 30.0, "agreement": 1.0}]),
        ("tried", [{"calibrator": "minmax", "equalized": False, "images": 48, "sqnr_db": 1e9, "agreement": 1.0}]),
        ("tried", [{"calibrator": "minmax", "equalized": False, "images": 48, "sqnr_db": 30.0, "agreement": 2.0}]),
        ("compared", 0),
        ("compared", 65),
        ("images", 10**400),
        ("images", True),
        ("ranges", []),
        ("ranges", {"a": [1.0]}),
        ("ranges", {"a": [1.0, -1.0]}),
        ("ranges", {"a": [0.0, float("inf")]}),
        ("ranges", {"a": [-1e308, 1e308]}),
        ("inputs", {"conv1": 3}),
        ("calibrator", "guess"),
        ("target", "toaster"),
        ("precision", "int3"),
        ("equalized", "no"),
        ("floating", [1]),
        ("kept", [1]),
        ("kept", "stem"),
        ("steps", [{"place": "stem", "sqnr_db": float("nan"), "milliseconds": None}]),
        ("steps", [{"place": "stem", "sqnr_db": 1e9, "milliseconds": None}]),
        ("steps", [{"place": "stem", "sqnr_db": 30.0, "milliseconds": -1.0}]),
        ("steps", [{"place": "stem"}]),
        ("steps", [{"place": "stem", "sqnr_db": 30.0, "accuracy_drop": 101.0}]),
        ("top1", {"images": 500, "image_source": "digits", "right": 400, "lost": 401, "gained": 0}),
        ("top1", {"images": 500, "image_source": "digits", "right": 400, "lost": 0, "gained": 101}),
        ("top1", {"images": 0, "image_source": "digits", "right": 0, "lost": 0, "gained": 0}),
        ("top1", {"images": 500, "right": 400}),
        ("bias_corrections", {"conv1": 3}),
        ("bias_corrections", {"conv1": [0.5]}),
        ("bias_corrections", {"conv1": [2**30]}),
        ("surprise", 1),
        ("format", "other"),
    ],
)
def test_the_figures_of_a_quantization_are_possible_ones(field: str, value: object) -> None:
    assert Quantization.from_json(GOOD).to_json() == GOOD
    with pytest.raises(ArtifactError, match=rf"quantization is damaged.*{field}") as caught:
        Quantization.from_json({**GOOD, field: value})
    assert caught.value.exit_status == 2


def test_a_manifest_of_another_kind_of_file_is_refused(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    """Else the file would be read as what it is not."""
    script, graph = artifacts["torchscript"], artifacts["onnx"]
    path = Path(shutil.copy(graph.path, tmp_path / "a.onnx"))
    record(path, script.require_intact())
    with pytest.raises(ArtifactError, match="of the format torchscript"):
        open_artifact(path)
