"""`predict`: its answers against the float64 network by hand, which images it finds, and what it does with broken ones."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import onnx
import pytest
import torch
from conftest import Outcome
from PIL import Image

from iresnet_export import prediction
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import manifest_path
from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.backends.base import ArraysForSession, ExportOptions, HostSession, Loaded, usable_batch_size
from iresnet_export.backends.onnxruntime.runtime import OnnxHostSession
from iresnet_export.backends.openvino.runtime import OpenVinoSession
from iresnet_export.backends.registry import runtime_named
from iresnet_export.errors import ArtifactError, CheckFailedError, InputError, StaleManifestError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.graph.ir import Array
from iresnet_export.prediction import PredictOptions, Written, find_images, predict, predict_to
from iresnet_export.reporting.schemas import ImagePrediction
from iresnet_models import ModelSpec, load_checkpoint, save_checkpoint
from iresnet_models.files import sha256_of
from iresnet_models.initialization import untrained_network
from iresnet_models.json_lines import LineFile
from iresnet_models.preprocessing import load_image, to_pixels
from iresnet_models.spec import SpecOptions
from iresnet_train import distributed
from iresnet_train.distributed import World

Run = Callable[..., Outcome]
Values = np.ndarray[Any, np.dtype[np.float64]]

NAMES = ["a.png", "b.PNG", "deep/c.jpeg", "deep/deeper/d.webp", "e.gif", "z.tiff"]
"""In the order in which they are predicted."""


def picture(seed: int, width: int = 50, height: int = 40) -> Image.Image:
    """Smooth enough that lossy formats and resizing leave it much as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images at several depths, and what is none of them."""
    root = tmp_path / "pictures"
    for seed, name in enumerate(reversed(NAMES)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(root / name)
    for other in ("notes.txt", ".hidden.png", ".thumbnails/t.png"):
        (root / other).parent.mkdir(exist_ok=True)
        (root / other).write_text("no image", encoding="utf-8")
    (root / "empty").mkdir()
    return root


@pytest.fixture
def expected(folder: Path, small_checkpoint: Path) -> Values:
    """Probabilities of the folder's images by eager PyTorch in float64, prepared by hand."""
    checkpoint = load_checkpoint(small_checkpoint)
    inputs = []
    for name in NAMES:
        with Image.open(folder / name) as image:
            resized = image.convert("RGB").resize((40, 32), Image.Resampling.BILINEAR)
        cropped = np.asarray(resized, dtype=np.float64)[:, 4:36] / 255
        inputs.append(((cropped - checkpoint.spec.mean) / checkpoint.spec.std).transpose(2, 0, 1))
    with torch.no_grad():
        logits = checkpoint.model.double().eval()(torch.from_numpy(np.stack(inputs))).numpy()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def require_equal(found: tuple[ImagePrediction, ...], expected: Values) -> None:
    """Every class of every image, in order of probability."""
    for image, probabilities in zip(found, expected, strict=True):
        assert image.status == "ok"
        assert [entry.number for entry in image.top] == np.argsort(-probabilities).tolist()
        np.testing.assert_allclose([entry.probability for entry in image.top], -np.sort(-probabilities), atol=2e-6)


ALL = PredictOptions(top_k=10, batch_size=4)


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "checkpoint"])
def test_it_answers_as_the_network_in_float64(
    kind: str, folder: Path, expected: Values, artifacts: dict[str, Artifact], small_checkpoint: Path
) -> None:
    path = small_checkpoint if kind == "checkpoint" else artifacts[kind].path
    shares: list[float] = []
    found = predict(path, [folder], ALL, lambda _step, share: shares.append(share))
    assert [image.file for image in found.results] == NAMES
    assert found.backend == {"checkpoint": "eager", "onnx": "onnxruntime"}.get(kind, kind)
    require_equal(found.results, expected)
    assert len({probabilities.argmax() for probabilities in expected}) > 1, "images that the network tells apart"
    assert shares == [4 / 6, 1.0]


@pytest.mark.parametrize(("kind", "file"), [("onnx", "pixels.onnx"), ("torchscript", "pixels.ts")])
def test_an_artifact_that_takes_pixels_answers_the_same(
    kind: str, file: str, folder: Path, expected: Values, small_source: Source
) -> None:
    artifact = export_artifact(kind, small_source, ExportOptions(fold=False, with_preprocessing=True), output=Path(file))
    require_equal(predict(artifact.path, [folder], ALL).results, expected)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_a_static_batch_is_filled_up(batch_size: int, folder: Path, expected: Values, small_source: Source, tmp_path: Path) -> None:
    options = ExportOptions(fold=False, dynamic_batch=False, batch=4)
    artifact = export_artifact("onnx", small_source, options, output=tmp_path / "static.onnx")
    require_equal(predict(artifact.path, [folder], dataclasses.replace(ALL, batch_size=batch_size)).results, expected)
    (alone,) = predict(artifact.path, [folder / NAMES[3]], ALL).results
    require_equal((alone,), expected[3:4])


def test_a_batch_is_no_larger_than_asked_for_and_no_fuller_than_its_images(
    folder: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from iresnet_export.backends.onnxruntime.runtime import OnnxHostSession

    sizes: list[int] = []
    run = OnnxHostSession.run

    def counted(self: OnnxHostSession, batch: Array) -> Array:
        sizes.append(len(batch))
        return run(self, batch)

    monkeypatch.setattr(OnnxHostSession, "run", counted)
    predict(artifacts["onnx"].path, [folder], ALL)
    assert sizes == [4, 2]


def test_images_are_decoded_one_batch_ahead_and_no_further(
    folder: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of images must not pile up in memory before the network has seen the first."""
    decoded: list[Path] = []
    threads: set[int] = set()
    load = prediction.load_image

    def counted(path: Path) -> Image.Image:
        decoded.append(path)
        threads.add(threading.get_ident())
        return load(path)

    monkeypatch.setattr(prediction, "load_image", counted)
    monkeypatch.setattr(prediction, "processors", lambda: 1)
    ahead = []
    predict(artifacts["onnx"].path, [folder] * 5, dataclasses.replace(ALL, batch_size=2), lambda *_: ahead.append(len(decoded)))
    assert len(ahead) == 15
    assert all(2 * step <= count <= 2 * (step + 1) for step, count in enumerate(ahead, 1))
    assert threading.get_ident() not in threads


def test_folders_are_searched_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [image.name for image in find_images([folder])] == NAMES
    monkeypatch.chdir(folder.parent)
    assert [image.name for image in find_images([Path("pictures")])] == NAMES
    assert [image.name for image in find_images([Path("pictures/deep"), Path("pictures/notes.txt")])] == [
        "pictures/deep/c.jpeg",
        "pictures/deep/deeper/d.webp",
        "pictures/notes.txt",
    ]
    assert [image.name for image in find_images([folder / "a.png", folder / "deep" / "deeper"])] == [
        (folder / "a.png").as_posix(),
        (folder / "deep" / "deeper" / "d.webp").as_posix(),
    ]


def test_a_folder_that_cannot_be_searched_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def forbid(path: Any) -> Any:  # root, who may run the tests, may read everything
        if Path(path).name == "deeper":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(InputError, match=r"deeper cannot be searched \(Permission denied\)"):
        find_images([folder])


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text are Linux's")
def test_a_file_name_that_is_no_text_can_be_printed(folder: Path, run: Run, small_checkpoint: Path) -> None:
    shutil.copy(folder / "a.png", folder / "deep" / "deeper" / os.fsdecode(b"\xff.png"))
    outcome = run("predict", small_checkpoint, folder / "deep" / "deeper", "--top-k", 1, "--json", "p.json")
    assert outcome.status == 0, outcome.err
    assert r"\udcff.png" in outcome.out
    assert json.loads(Path("p.json").read_text(encoding="utf-8"))["results"][1]["file"] == r"\udcff.png"


@pytest.fixture
def labelled(small_spec: ModelSpec, tmp_path: Path) -> Path:
    labels = tuple(f"[b]kind {number}" for number in range(10))
    save_checkpoint(tmp_path / "labelled.pt", untrained_network(dataclasses.replace(small_spec, labels=labels), seed=1))
    export_artifact("onnx", source_from_checkpoint(tmp_path / "labelled.pt"), ExportOptions(), output=tmp_path / "l.onnx")
    return tmp_path / "l.onnx"


def test_labels_are_those_of_the_artifact(labelled: Path, folder: Path, expected: Values, run: Run) -> None:
    (image,) = predict(labelled, [folder / "a.png"], ALL).results
    assert [(entry.number, entry.label) for entry in image.top] == [
        (number, f"[b]kind {number}") for number in np.argsort(-expected[0]).tolist()
    ]
    outcome = run("predict", labelled, folder / "a.png", "--top-k", 3)
    best = int(expected[0].argmax())
    assert outcome.out.count("[b]kind ") == 3
    assert f"[b]kind {best} " in outcome.out.splitlines()[3]
    assert f"{expected[0][best]:.2%}" in outcome.out.splitlines()[3]


def test_where_there_are_no_labels_classes_go_by_their_number(folder: Path, small_checkpoint: Path) -> None:
    (image,) = predict(small_checkpoint, [folder / "a.png"], ALL).results
    assert all(entry.label == str(entry.number) for entry in image.top)


def test_a_broken_image_among_good_ones(folder: Path, expected: Values, artifacts: dict[str, Artifact], run: Run) -> None:
    (folder / "bad[red].png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "b0.png").touch()
    outcome = run("predict", artifacts["onnx"].path, folder, "--batch-size", 4, "--top-k", 10, "--json", "p.json")
    assert outcome.status == 2
    text = " ".join(outcome.err.split())
    assert "The image b0.png cannot be read (it is empty" in text
    assert "The image bad[red].png cannot be read (" in text
    assert "Not read: 2 of 8 images" in text
    assert outcome.out.count("unreadable") == 2
    report = Path("p.json").read_text(encoding="utf-8")
    assert str(folder) not in report, "no absolute path"
    results = json.loads(report)["results"]
    assert [result["file"] for result in results] == sorted([*NAMES, "b0.png", "bad[red].png"])
    bad = [result for result in results if result["status"] == "unreadable"]
    assert [(result["file"], result["top"]) for result in bad] == [("b0.png", []), ("bad[red].png", [])]
    assert all(result["reason"] in text for result in bad)
    good = [result for result in results if result["status"] == "ok"]
    for result, probabilities in zip(good, expected, strict=True):
        assert result["reason"] is None
        found = {entry["class"]: entry["probability"] for entry in result["top"]}
        np.testing.assert_allclose([found[number] for number in range(10)], probabilities, atol=2e-6)


def test_nothing_but_broken_and_absent_images(run: Run, small_checkpoint: Path) -> None:
    Path("notes").write_text("no image", encoding="utf-8")
    outcome = run("predict", small_checkpoint, "notes", "absent.png", "--json", "p.json")
    assert outcome.status == 2
    assert "absent.png cannot be read (No such file or directory)" in " ".join(outcome.err.split())
    results = json.loads(Path("p.json").read_text(encoding="utf-8"))["results"]
    assert [(result["file"], result["status"]) for result in results] == [("notes", "unreadable"), ("absent.png", "unreadable")]


def test_no_images_at_all(folder: Path, run: Run, small_checkpoint: Path) -> None:
    outcome = run("predict", small_checkpoint, folder / "empty", "--json", "p.json")
    assert outcome.status == 2
    assert (
        f"No image was found in {(folder / 'empty').as_posix()}: folders and shards are searched for files that end in .jpg"
        in outcome.err
    )
    assert not Path("p.json").exists()
    assert run("predict", small_checkpoint).status == 2


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (3, 3), (10, 10), (11, 10), (1000, 10)])
def test_top_k_is_at_most_the_number_of_classes(asked: int, given: int, folder: Path, small_checkpoint: Path) -> None:
    (image,) = predict(small_checkpoint, [folder / "a.png"], PredictOptions(top_k=asked)).results
    assert len(image.top) == given


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"batch_size": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, int], run: Run) -> None:
    with pytest.raises(InputError, match="takes a number of at least 1, not 0"):
        PredictOptions(**wrong)  # type: ignore[arg-type]
    ((name, value),) = wrong.items()
    assert run("predict", "x.onnx", "y.png", f"--{name.replace('_', '-')}", value).status == 2


def test_of_equal_classes_the_first_comes_first(small_spec: ModelSpec, folder: Path) -> None:
    network = untrained_network(dataclasses.replace(small_spec, num_classes=100))
    torch.nn.init.zeros_(network.fc.weight)
    torch.nn.init.zeros_(network.fc.bias)
    save_checkpoint(Path("equal.pt"), network)
    (image,) = predict(Path("equal.pt"), [folder / "a.png"], PredictOptions(top_k=100)).results
    assert [entry.number for entry in image.top] == list(range(100))
    assert {entry.probability for entry in image.top} == {0.01}


def test_the_report_survives_json(folder: Path, artifacts: dict[str, Artifact], run: Run) -> None:
    path = artifacts["torchscript"].path
    outcome = run("predict", path, folder, "--batch-size", 4, "--top-k", 2, "--json", "p.json")
    assert outcome.status == 0, outcome.err
    assert "\x1b" not in outcome.out
    assert "Report: p.json" in outcome.err
    document = json.loads(Path("p.json").read_text(encoding="utf-8"))
    assert document["schema"] == "iresnet-export/predict/1"
    assert document["environment"]["versions"]["torch"]
    made = predict(path, [folder], PredictOptions(top_k=2, batch_size=4)).to_json()
    assert {key: document[key] for key in made if key != "environment"} == json.loads(
        json.dumps({key: value for key, value in made.items() if key != "environment"})
    )
    assert document["settings"]["top_k"] == 2
    for result in document["results"]:
        assert [set(entry) for entry in result["top"]] == [{"class", "label", "probability"}] * 2
        assert f"{result['file']} " in outcome.out


def test_an_artifact_without_manifest_says_itself_what_it_is(
    folder: Path, expected: Values, artifacts: dict[str, Artifact], small_source: Source
) -> None:
    """ONNX as it is, TorchScript with the user's trust; and pixels go to those that take pixels."""
    alone = Path(shutil.copy(artifacts["onnx"].path, "alone.onnx"))
    require_equal(predict(alone, [folder], ALL).results, expected)
    path = export_artifact("torchscript", small_source, ExportOptions(with_preprocessing=True), output=Path("pixels.ts")).path
    manifest_path(path).unlink()
    with pytest.raises(ArtifactError, match="--trust"):
        predict(path, [folder], ALL)
    require_equal(predict(path, [folder], dataclasses.replace(ALL, trust=True)).results, expected)


def test_a_foreign_artifact_needs_its_checkpoint(
    folder: Path, expected: Values, artifacts: dict[str, Artifact], small_checkpoint: Path, small_spec: ModelSpec
) -> None:
    model = onnx.load(artifacts["onnx"].path)
    del model.metadata_props[:]
    foreign = Path("foreign.onnx")
    onnx.save(model, foreign)
    with pytest.raises(ArtifactError, match="--checkpoint"):
        predict(foreign, [folder], ALL)
    require_equal(predict(foreign, [folder], dataclasses.replace(ALL, checkpoint=small_checkpoint)).results, expected)
    save_checkpoint(Path("other.pt"), untrained_network(dataclasses.replace(small_spec, num_classes=9)))
    with pytest.raises(ArtifactError, match=r"shape \(4, 10\) for 4 images, and not 9 logits each"):
        predict(foreign, [folder], dataclasses.replace(ALL, checkpoint=Path("other.pt")))
    native = Path(shutil.copy(artifacts["torchscript"].path, "foreign.ts"))
    options = dataclasses.replace(ALL, checkpoint=small_checkpoint)
    with pytest.raises(ArtifactError, match="--trust"):
        predict(native, [folder], options)
    require_equal(predict(native, [folder], dataclasses.replace(options, trust=True)).results, expected)


def test_a_changed_artifact_is_refused(folder: Path, copied: Callable[[str], Artifact]) -> None:
    path = copied("onnx").path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StaleManifestError):
        predict(path, [folder], ALL)


def test_outputs_that_are_no_numbers_are_refused(
    folder: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from iresnet_export.backends.onnxruntime.runtime import OnnxHostSession

    run = OnnxHostSession.run

    def overflowing(self: OnnxHostSession, batch: Array) -> Array:
        logits = run(self, batch).copy()
        logits[1, 3] = float("inf")
        return logits

    monkeypatch.setattr(OnnxHostSession, "run", overflowing)
    with pytest.raises(CheckFailedError, match=r"NaN or infinite outputs for b\.PNG"):
        predict(artifacts["onnx"].path, [folder], ALL)


def test_it_runs_by_the_first_backend_that_can(
    folder: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime

    class Absent(OnnxRuntime):
        name = "absent"

        def load_for_arrays(self, *_arguments: Any, **_options: Any) -> Any:
            raise UnavailableError("It is not here.")

    path = artifacts["onnx"].path
    monkeypatch.setattr(prediction, "runtimes_for", lambda *_: [Absent(), OnnxRuntime()])
    assert predict(path, [folder], ALL).backend == "onnxruntime"
    monkeypatch.setattr(prediction, "runtimes_for", lambda *_: [Absent()])
    outcome = run("predict", path, folder)
    assert (outcome.status, outcome.err.strip()) == (3, "iresnet-export: It is not here.")


def test_a_backend_that_does_not_run_the_format_is_refused(folder: Path, artifacts: dict[str, Artifact], run: Run) -> None:
    path = artifacts["onnx"].path
    outcome = run("predict", path, folder, "--backend", "tensorrt")
    assert outcome.status == 2
    assert "onnx files are run by" in outcome.err
    assert run("predict", path, folder, "--backend", "onnxruntime").status == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_an_absent_gpu_is_exit_3(folder: Path, artifacts: dict[str, Artifact], run: Run) -> None:
    outcome = run("predict", artifacts["onnx"].path, folder, "--device", "cuda")
    assert outcome.status == 3
    assert "--device cpu" in outcome.err


def test_each_stream_computes_on_a_core(artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a session without streams on this process's own processors, where torchrun started several."""
    with runtime_named("onnxruntime").load_for_arrays(artifacts["onnx"], streams=2, threads=5) as session:
        assert isinstance(session, OnnxHostSession)
        assert session.session.get_session_options().intra_op_num_threads == 1
    with runtime_named("onnxruntime").load_for_arrays(artifacts["onnx"], threads=5) as session:
        assert isinstance(session, OnnxHostSession)
        assert session.session.get_session_options().intra_op_num_threads == 5
    if find_spec("openvino") is not None:
        with runtime_named("openvino").load_for_arrays(artifacts["onnx"], streams=2) as session:
            assert isinstance(session, OpenVinoSession)
            assert session._compiled.get_property("NUM_STREAMS") == 2
            assert session._compiled.get_property("INFERENCE_NUM_THREADS") == 2
    monkeypatch.setattr(prediction, "processors", lambda: 1)
    asked: list[int | None] = []
    kind = type(runtime_named("onnxruntime"))
    load = kind.load_for_arrays

    def seen(self: Any, *arguments: Any, **options: Any) -> HostSession:
        asked.append(options["threads"])
        return load(self, *arguments, **options)

    monkeypatch.setattr(kind, "load_for_arrays", seen)
    for size in ("1", "4"):
        monkeypatch.setenv("WORLD_SIZE", size)
        with prediction._running(artifacts["onnx"], ALL, 1):
            pass
    assert asked == [None, 1]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_streams_answer_the_same_in_order_each_on_a_core(
    backend: str, folder: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at once, of two images each: no more than the batch that was asked for."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    (folder / "broken.png").write_text("no image", encoding="utf-8")
    options = dataclasses.replace(ALL, batch_size=6, backend=backend)
    monkeypatch.setattr(prediction, "processors", lambda: 1)
    expected = predict(artifacts["onnx"].path, [folder] * 6, options).results
    monkeypatch.setattr(prediction, "processors", lambda: 3)
    kind = type(runtime_named(backend).load_for_arrays(artifacts["onnx"]))
    together, sizes, run = threading.Barrier(3), list[int](), kind.run

    def at_once(self: HostSession, batch: Array) -> Array:
        if len(sizes) < 3:
            sizes.append(len(batch))
            together.wait(timeout=60)
        return run(self, batch)

    monkeypatch.setattr(kind, "run", at_once)
    decoded: list[Path] = []
    load = prediction.load_image

    def counted(path: Path) -> Image.Image:
        decoded.append(path)
        return load(path)

    monkeypatch.setattr(prediction, "load_image", counted)
    ahead = list[int]()
    found = predict(artifacts["onnx"].path, [folder] * 6, options, lambda *_: ahead.append(len(decoded))).results
    assert [image.file for image in found] == [image.file for image in expected]
    for image, wanted in zip(found, expected, strict=True):
        assert (image.status, image.reason) == (wanted.status, wanted.reason)
        assert [entry.number for entry in image.top] == [entry.number for entry in wanted.top]
        assert [entry.probability for entry in image.top] == pytest.approx([entry.probability for entry in wanted.top], rel=1e-5)
    assert set(sizes) <= {1, 2}, "one beside the broken image"
    assert len(ahead) == 21
    assert all(count <= 2 * (step + 6) for step, count in enumerate(ahead, 1))


def test_the_first_run_of_openvino_is_alone(artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that begin at once may each wait for what the other holds, for ever."""
    openvino = pytest.importorskip("openvino")
    events, infer, together = list[str](), openvino.InferRequest.infer, threading.Barrier(3)

    def noted(*arguments: Any, **options: Any) -> Any:
        events.append("begun")
        time.sleep(0.05)
        if len(events) > 6:
            together.wait(timeout=60)
        elif "done" not in events:
            assert events == ["begun"]
        found = infer(*arguments, **options)
        events.append("done")
        return found

    monkeypatch.setattr(openvino.InferRequest, "infer", noted)
    with runtime_named("openvino").load_for_arrays(artifacts["onnx"], streams=3) as session, ThreadPoolExecutor(3) as pool:
        assert session.image is not None
        batch = np.zeros((1, *(extent or 1 for extent in session.image)), np.float32)
        for _ in range(2):
            assert len(list(pool.map(session.run, [batch] * 3))) == 3


@pytest.mark.parametrize(
    ("taken", "wanted", "size"), [(None, 7, 7), ((1, 32), 32, 32), ((2, 4), 3, 3), ((4, 512), 2, 4), ((1, 300), 999, 300)]
)
def test_a_range_of_batch_sizes_has_one_for_predictions(taken: tuple[int, int] | None, wanted: int, size: int) -> None:
    """As engines have it."""
    session = Loaded()
    session.batch = taken
    assert usable_batch_size(session, wanted) == size


def test_what_fails_in_a_stream_ends_the_command(
    folder: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from iresnet_export.backends.onnxruntime.runtime import OnnxHostSession

    def broken(self: OnnxHostSession, batch: Array) -> Array:
        raise RuntimeError("no more")

    monkeypatch.setattr(prediction, "processors", lambda: 2)
    monkeypatch.setattr(OnnxHostSession, "run", broken)
    with pytest.raises(ArtifactError, match="does not run: RuntimeError: no more"):
        predict(artifacts["onnx"].path, [folder] * 6, ALL)


@pytest.mark.parametrize("kind", ["checkpoint", "torchscript"])
def test_sessions_of_torch_are_called_by_one_thread(
    kind: str, folder: Path, artifacts: dict[str, Artifact], small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many streams are asked for."""
    monkeypatch.setattr(prediction, "processors", lambda: 3)
    threads, run = set[int](), ArraysForSession.run

    def noted(self: ArraysForSession, batch: Array) -> Array:
        threads.add(threading.get_ident())
        return run(self, batch)

    monkeypatch.setattr(ArraysForSession, "run", noted)
    path = small_checkpoint if kind == "checkpoint" else artifacts[kind].path
    assert len(predict(path, [folder] * 6, ALL).results) == 36
    assert threads == {threading.get_ident()}


WITHOUT_TORCH = """
import sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "scipy", "sklearn"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Absent())
from iresnet_export.cli.main import main
sys.argv = ["iresnet-export", *sys.argv[1:]]
main()
"""


def without_torch(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["inputs", "pixels", "foreign"])
def test_without_torch_it_answers_the_same(kind: str, backend: str, folder: Path, small_source: Source, tmp_path: Path) -> None:
    """ONNX files need no torch, and have the answers that torch's preprocessing, tensors and softmax give."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    options = ExportOptions(with_preprocessing=kind == "pixels")
    artifact = export_artifact("onnx", small_source, options, output=tmp_path / "net.onnx")
    if kind == "foreign":
        manifest_path(artifact.path).unlink()
    lines = tmp_path / "p.jsonl"
    said = ["--top-k", 10, "--device", "auto" if backend == "onnxruntime" else "cpu", "--backend", backend]
    without_torch("predict", artifact.path, folder, *said, "--json", tmp_path / "p.json")
    without_torch("predict", artifact.path, folder, *said, "--jsonl", lines)
    found = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["results"]
    pixels = torch.stack([to_pixels(small_source.spec)(load_image(folder / name)) for name in NAMES])
    with runtime_named(backend).load(artifact, torch.device("cpu")) as session:
        logits = session.run(session.batch_of(pixels, small_source.spec)).double()
    for image, line, values in zip(found, lines.read_text(encoding="utf-8").splitlines(), logits, strict=True):
        assert [entry["class"] for entry in image["top"]] == values.sort(descending=True, stable=True).indices.tolist()
        expected = values.softmax(0).sort(descending=True, stable=True).values.tolist()
        assert [entry["probability"] for entry in image["top"]] == pytest.approx(expected, rel=1e-12)
        assert json.loads(line)["top"] == image["top"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchscript", "checkpoint"])
def test_what_torch_runs_imports_it(kind: str, folder: Path, artifacts: dict[str, Artifact], small_checkpoint: Path) -> None:
    """So that the test above would see it."""
    path = small_checkpoint if kind == "checkpoint" else artifacts[kind].path
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "predict", path, folder / "a.png"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "torch is not to be imported" in done.stderr


@pytest.fixture
def lines(folder: Path, artifacts: dict[str, Artifact], tmp_path: Path) -> Path:
    """Of the folder's images and a broken one, line by line."""
    (folder / "broken.png").write_text("no image", encoding="utf-8")
    file = tmp_path / "lines" / "found.jsonl"
    assert predict_to(file, artifacts["onnx"].path, [folder], ALL) == Written(7, 1, 0)
    return file


def test_lines_are_what_the_report_holds(lines: Path, folder: Path, artifacts: dict[str, Artifact]) -> None:
    artifact = artifacts["onnx"]
    by = {"artifact": artifact.path.name, "sha256": artifact.require_intact().sha256, "options": {"top_k": 10}}
    report = predict(artifact.path, [folder], ALL).to_json()["results"]
    assert [json.loads(line) for line in lines.read_text().splitlines()] == [found | by for found in report]


@pytest.fixture
def store(folder: Path) -> Iterator[str]:
    """The folder's images in an object store of this process, and in a shard of it; `deep` lies deeper in both."""
    place, memory = f"memory://{uuid4().hex}", fsspec.filesystem("memory")
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as shard:
        for name in (*NAMES, "notes.txt", ".hidden.png"):
            memory.pipe(f"{place}/{name}", (folder / name).read_bytes())
            shard.add(folder / name, name)
        shard.add(folder / "a.png", "link.png")
        shard.getmembers()[-1].type = tarfile.SYMTYPE
    memory.pipe(f"{place}/shard.tar", packed.getvalue())
    (folder.parent / "shard.tar").write_bytes(packed.getvalue())
    yield place
    memory.rm(place, recursive=True)


def test_addresses_and_shards_are_searched_and_named(store: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)

    def names(*named: str) -> list[str]:
        return [image.name for image in find_images(named)]

    assert names(f"{store}/*.png") == [f"{store}/a.png"]
    members = [*NAMES, "link.png"]
    assert names("shard.tar") == [f"shard.tar/{name}" for name in members]
    assert names(f"{store}/*.tar", "shard.tar") == [f"{at}shard.tar/{name}" for at in (f"{store}/", "") for name in members]
    shard = [f"{store}/shard.tar/{name}" for name in members]
    assert names(f"{store}/") == [f"{store}/{name}" for name in NAMES[:5]] + shard + [f"{store}/z.tiff"]
    assert names(f"{store}/notes.txt", "https://me:secret@host/x.jpg?sig=abc") == [f"{store}/notes.txt", "https://host/x.jpg"]
    with pytest.raises(InputError, match=r"No image was found in memory.*Left out: 1 file that ends in \.txt"):
        find_images([f"{store}/*.txt"])


def test_what_lies_at_addresses_and_in_shards_is_predicted(
    store: str, folder: Path, expected: Values, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(folder.parent)
    artifact = artifacts["onnx"].path
    sources = ("shard.tar", f"{store}/shard.tar", *(f"{store}/{name}" for name in NAMES))
    found = predict(artifact, sources, ALL).results
    assert [image.status for image in found] == ["ok"] * 20
    for start in (0, 7, 14):
        require_equal(found[start : start + 6], expected)
    outcome = run("predict", artifact, *sources, f"{store}/absent.png", "--top-k", 10, "--json", "p.json")
    assert outcome.status == 2
    assert f"The image {store}/absent.png cannot be read" in outcome.err
    results = json.loads(Path("p.json").read_text(encoding="utf-8"))["results"]
    assert [result["file"] for result in results] == [*(image.file for image in found), f"{store}/absent.png"]
    assert [result["status"] for result in results] == ["ok"] * 20 + ["unreadable"]
    monkeypatch.setattr(prediction, "_MOST_BYTES", 50)
    few = predict(artifact, [f"{store}/a.png", "shard.tar"], ALL).results
    assert {image.status for image in few} == {"unreadable"}
    for image, name in zip(few, (f"{store}/a.png", "shard.tar/a.png"), strict=False):
        assert f"{name} cannot be read (it has more than 50 bytes)" in (image.reason or "")


def test_addresses_are_gone_on_with_by_their_names(store: str, artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    artifact, file = artifacts["onnx"].path, tmp_path / "found.jsonl"
    named = [f"{store}/*.png", f"{store}/shard.tar"]
    assert predict_to(file, artifact, named, ALL) == Written(8, 0, 0)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert predict_to(file, artifact, named, ALL, resume=True) == Written(8, 0, 7)
    assert file.read_bytes() == whole


def test_no_password_is_written(artifacts: dict[str, Artifact], run: Run) -> None:
    address = "http://me:secret@127.0.0.1:1/a.jpg?sig=signature"
    outcome = run("predict", artifacts["onnx"].path, address, "--json", "p.json")
    assert outcome.status == 2
    assert "The image http://127.0.0.1:1/a.jpg cannot be read" in " ".join(outcome.err.split())
    written = Path("p.json").read_text(encoding="utf-8")
    for text in (outcome.out, outcome.err, written):
        assert "secret" not in text
        assert "signature" not in text
    outcome = run("predict", artifacts["onnx"].path, "what://me:secret@host/a.jpg")
    assert (outcome.status, "secret" in outcome.err) == (2, False)


@pytest.mark.parametrize("kept", [0, 1, 1000, 10_000])
def test_a_run_that_was_ended_goes_on(kept: int, lines: Path, folder: Path, artifacts: dict[str, Artifact]) -> None:
    """Wherever it was ended: no image twice, none left out; the line that was not written whole is written again."""
    whole = lines.read_bytes()
    assert len(whole) < 10_000
    lines.write_bytes(whole[:kept])
    artifact = artifacts["onnx"].path
    assert predict_to(lines, artifact, [folder], ALL, resume=True) == Written(7, 1, whole[:kept].count(b"\n"))
    assert lines.read_bytes() == whole


def test_lines_of_something_else_are_left_alone(lines: Path, folder: Path, artifacts: dict[str, Artifact], run: Run) -> None:
    whole, artifact, other = lines.read_bytes(), artifacts["onnx"].path, artifacts["torchscript"].path

    def refusal(artifact: Path, images: Path, *options: str) -> str:
        outcome = run("predict", artifact, images, "--jsonl", lines, "--top-k", 10, *options)
        assert outcome.status == 2
        return outcome.err

    assert "is there already. Name another file" in refusal(artifact, folder)
    assert f'line 1, has artifact "{artifact.name}", and this run "{other.name}"' in refusal(other, folder, "--resume")
    assert 'has options {"top_k": 10}, and this run {"top_k": 3}' in refusal(artifact, folder, "--resume", "--top-k", 3)
    assert "line 1, is of 'a.png', and now c.jpeg would stand there" in refusal(artifact, folder / "deep", "--resume")
    assert lines.read_bytes() == whole
    beginning = "line 1, is the beginning of no prediction here"
    for content, words in ((b"[]\n", "line 1, is no prediction"), (b"my only notes", beginning), (b"x" * 16 * 2**20, beginning)):
        lines.write_bytes(content)
        assert words in refusal(artifact, folder, "--resume")
        assert lines.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jsonl", "x.jsonl", "--json", "x.json"], "give one of them"),
        (["--jsonl", "-"], "is a file that a later run can go on with"),
        (["--resume"], "goes on with the file of --jsonl or --parquet"),
        (["--parquet", "x.parquet", "--json", "x.json"], "give one of them"),
        (["--parquet", "-"], "is a file that a later run can go on with"),
        (["--parquet", "x.jsonl", "--jsonl", "x.jsonl"], "--jsonl and --parquet both name x.jsonl"),
    ],
)
def test_options_of_lines_that_say_nothing(
    options: list[str], words: str, folder: Path, artifacts: dict[str, Artifact], run: Run
) -> None:
    outcome = run("predict", artifacts["onnx"].path, folder, *options)
    assert (outcome.status, words in outcome.err) == (2, True)


def test_one_run_at_a_time_writes_a_file(lines: Path, folder: Path, artifacts: dict[str, Artifact]) -> None:
    by: dict[str, Any] = {"artifact": artifacts["onnx"].path.name}
    with LineFile(lines.with_name("own"), by, ["a"], resume=False), pytest.raises(InputError, match="being written by another run"):
        LineFile(lines.with_name("own"), by, ["a"], resume=True)
    lines.with_name(f"{lines.name}.1-of-3").touch()
    with pytest.raises(InputError, match=r"jsonl\.1-of-3 is a share .* that a run of 3 processes has begun"):
        predict_to(lines, artifacts["onnx"].path, [folder], ALL, resume=True)


def test_without_pyarrow_its_extra_is_named(
    folder: Path, artifacts: dict[str, Artifact], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iresnet_export.reporting.parquet_file.find_spec", lambda _name: None)
    outcome = run("predict", artifacts["onnx"].path, folder, "--parquet", "x.parquet")
    assert (outcome.status, "pip install 'iresnet-export[parquet]'" in outcome.err) == (3, True)
    assert not list(Path().glob("x.parquet*"))


@pytest.mark.parametrize("kept", [None, 0, 1000, 10_000])
def test_a_parquet_file_holds_the_lines(
    kept: int | None, lines: Path, folder: Path, artifacts: dict[str, Artifact], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a run that was ended, which left lines alone; in several row groups."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    monkeypatch.setattr("iresnet_export.reporting.parquet_file.ROWS", 3)
    whole, file = lines.read_bytes(), lines.with_name("found.parquet")
    beside = lines.with_name("found.parquet.lines.jsonl")
    if kept is not None:
        beside.write_bytes(whole[:kept])
    command = ["predict", artifacts["onnx"].path, folder, "--top-k", 10, "--batch-size", 4, "--parquet", file]
    outcome = run(*command, *(["--resume"] if kept is not None else []))
    assert (outcome.status, "Not read: 1 of 7" in outcome.err) == (2, True), outcome.err
    assert not beside.exists()
    found = parquet.ParquetFile(file)
    assert found.num_row_groups == 3
    rows = found.read().to_pylist()
    assert [row | {"options": json.loads(row["options"])} for row in rows] == [json.loads(line) for line in whole.splitlines()]
    again = run(*command, "--resume")
    assert (again.status, "only ever written whole" in again.err) == (2, True)


def test_lines_that_were_asked_for_stay_beside_a_parquet_file(
    lines: Path, folder: Path, artifacts: dict[str, Artifact], run: Run
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    whole, file = lines.read_bytes(), lines.with_name("found.parquet")
    command = ["predict", artifacts["onnx"].path, folder, "--top-k", 10, "--batch-size", 4, "--parquet", file]
    assert run(*command, "--jsonl", lines, "--resume").status == 2, "of the broken image"
    assert lines.read_bytes() == whole
    assert parquet.ParquetFile(file).metadata.num_rows == 7
    assert [path.name for path in sorted(lines.parent.iterdir())] == ["found.jsonl", "found.parquet"]


def test_lines_of_an_earlier_run_outlive_a_table_of_their_name(
    lines: Path, folder: Path, artifacts: dict[str, Artifact], run: Run
) -> None:
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    whole, file = lines.read_bytes(), lines.with_suffix("")
    command = ["predict", artifacts["onnx"].path, folder, "--top-k", 10, "--batch-size", 4, "--parquet", file, "--resume"]
    assert (run(*command).status, file.exists(), lines.read_bytes() == whole) == (2, True, True)


def test_no_report_replaces_an_image(folder: Path, artifacts: dict[str, Artifact], run: Run) -> None:
    image = folder / "empty.json"
    image.touch()
    outcome = run("predict", artifacts["onnx"].path, folder / "a.png", image, "--json", image)
    assert (outcome.status, "which this command reads" in outcome.err) == (2, True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files, as Linux has it")
def test_a_full_disk_is_told_and_can_be_gone_on_with(lines: Path, folder: Path, artifacts: dict[str, Artifact]) -> None:
    whole, file, artifact = lines.read_bytes(), lines.with_name("limited.jsonl"), artifacts["onnx"].path
    limited = f'ulimit -f 4; exec "{sys.executable}" -m iresnet_export "$@"'
    command = ["predict", artifact, folder, "--top-k", "10", "--batch-size", "4", "--jsonl", file]
    ended = subprocess.run(["bash", "-c", limited, "-", *command], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, "the disk is full, or a limit on the size of files" in ended.stderr) == (3, True), ended.stderr
    assert 0 < predict_to(file, artifact, [folder], ALL, resume=True).before < 7
    assert file.read_bytes() == whole


def test_several_processes_find_what_is_together_already(
    lines: Path, folder: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two says so, and takes away what is left of shares; it waits for others as long as their shares take."""
    whole, artifact, asked = lines.read_bytes(), artifacts["onnx"].path, []

    @contextmanager
    def joined(device: str, **options: Any) -> Iterator[World]:
        asked.append(options)
        yield World(0, 2, torch.device("cpu"))

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "joined_world", joined)
    monkeypatch.setattr(World, "gather", lambda self, item: [item, (0, 0, 0)])
    part = lines.with_name(f"{lines.name}.1-of-2")
    part.write_bytes(whole)
    assert predict_to(lines, artifact, [folder], ALL, resume=True) == Written(7, 1, 7)
    assert (lines.read_bytes(), part.exists(), asked) == (whole, False, [{"patience": timedelta(days=365)}])
    lines.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="Go on with it in one process"):
        predict_to(lines, artifact, [folder], ALL, resume=True)
    with pytest.raises(InputError, match="is there already"):
        predict_to(lines, artifact, [folder], ALL)


@pytest.mark.parametrize(("rank", "told"), [(0, True), (1, False)])
def test_of_several_processes_one_tells(
    rank: int, told: bool, folder: Path, artifacts: dict[str, Artifact], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(prediction, "predict_to", lambda *arguments, **options: Written(3, 1, 0))
    outcome = run("predict", artifacts["onnx"].path, folder, "--jsonl", "x.jsonl")
    assert (outcome.status, "Predictions: x.jsonl (3 images)" in outcome.err, "Not read: 1" in outcome.err) == (2, told, told)


@pytest.mark.slow
def test_torchruns_processes_share_images_out(lines: Path, folder: Path, artifacts: dict[str, Artifact]) -> None:
    """The file is that of one process; a share that was cut off is gone on with."""
    whole, merged = lines.read_bytes(), lines.with_name("merged.jsonl")
    lines.with_name("merged.jsonl.1-of-2").write_bytes(whole.splitlines(keepends=True)[1] + b"{")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "iresnet_export"]
    command = ["predict", artifacts["onnx"].path, folder, "--top-k", "10", "--batch-size", "4", "--device", "cpu", "--resume"]
    local = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([*launcher, *command, "--jsonl", merged], capture_output=True, check=False, timeout=300, env=local)
    found, expected = ([json.loads(line) for line in content.splitlines()] for content in (merged.read_bytes(), whole))
    assert [line["file"] for line in found] == [line["file"] for line in expected]
    assert [line["status"] for line in found] == [line["status"] for line in expected]
    assert not list(lines.parent.glob("*-of-*"))
    # Ended between bringing the lines together and removing the shares; and once more, when all is done.
    brought_together = merged.read_bytes()
    for rank in range(2):
        merged.with_name(f"merged.jsonl.{rank}-of-2").write_bytes(b"".join(brought_together.splitlines(keepends=True)[rank::2]))
    subprocess.run([*launcher, *command, "--jsonl", merged], capture_output=True, check=False, timeout=300, env=local)
    assert [path.name for path in lines.parent.glob("merged*")] == ["merged.jsonl"]
    assert merged.read_bytes() == brought_together


def test_lines_say_the_options_that_change_them_and_no_list_of_labels(small_checkpoint: Path) -> None:
    said = SpecOptions(resize=40, mean=(0.5, 0.5, 0.5), labels=("a", "b"))
    told = PredictOptions(top_k=3, checkpoint=small_checkpoint, which="raw", said=said).in_lines
    labels = told.pop("labels_sha256")
    assert told == {"top_k": 3, "checkpoint": sha256_of(small_checkpoint), "which": "raw", "resize": 40, "mean": [0.5, 0.5, 0.5]}
    other = PredictOptions(said=SpecOptions(labels=("b", "a"))).in_lines
    assert set(other) == {"top_k", "labels_sha256"}
    assert other["labels_sha256"] != labels
