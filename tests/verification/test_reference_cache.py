"""References are kept, found again only where nothing changed, and never trusted when damaged."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.reporting.documents import verify_report
from iresnet_export.system.progress import no_progress
from iresnet_export.verification import reference_cache
from iresnet_export.verification.reference import Reference, reference_of
from iresnet_export.verification.reference_cache import cached_reference
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models.preprocessing import noise_pixels

QUICK = VerifyOptions(images=32, batch_sizes=(7,), backends=("onnxruntime",))


def folder() -> Path:
    return Path(os.environ["IRESNET_EXPORT_CACHE"]) / "references"


def kept() -> list[Path]:
    return sorted(folder().glob("*"))


@pytest.fixture(scope="module")
def computed(small_source: Source) -> Reference:
    return reference_of("r", small_source, noise_pixels(small_source.spec, 32, 0), "noise", (7,), no_progress)


@pytest.fixture
def calls(computed: Reference, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every computation of a reference, which takes no time here."""
    made: list[str] = []

    def instead(identifier: str, source: Source, pixels: torch.Tensor, *_rest: object) -> Reference:
        made.append(identifier)
        return dataclasses.replace(computed, id=identifier, source=source, pixels=pixels)

    monkeypatch.setattr(reference_cache, "reference_of", instead)
    return made


def ask(reference: Reference, **changed: Any) -> Reference:
    asked = {"source": reference.source, "pixels": reference.pixels, "batch_sizes": (7,), "labels": None} | changed
    return cached_reference("r", asked["source"], asked["pixels"], "noise", asked["batch_sizes"], no_progress, asked["labels"])


@pytest.mark.slow
def test_a_second_run_finds_the_reference(artifacts: dict[str, Artifact]) -> None:
    path = artifacts["onnx"].path
    assert not folder().exists(), "no test begins with what another kept"
    first = verify([path], QUICK)
    second = verify([path], QUICK)
    assert [run.references[0].cached for run in (first, second)] == [False, True]
    assert np.array_equal(first.references[0].logits, second.references[0].logits)
    assert first.references[0].noise_floor == second.references[0].noise_floor
    assert second.candidates[0].status == "pass"
    document = json.loads(json.dumps(verify_report(second, QUICK).to_json(), allow_nan=False))
    assert document["references"][0]["cached"] is True
    (file,) = kept()
    before = file.stat().st_mtime_ns
    anew = verify([path], dataclasses.replace(QUICK, cache=False))
    assert anew.references[0].cached is False
    assert file.stat().st_mtime_ns == before


def test_labels_are_not_part_of_what_is_kept(computed: Reference, calls: list[str]) -> None:
    ask(computed)
    labels = np.arange(32)
    found = ask(computed, labels=labels)
    assert found.cached
    assert found.labels is labels
    assert len(calls) == 1


def test_whatever_it_depends_on_makes_it_another(computed: Reference, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, pixels = computed.source, computed.pixels
    ask(computed)
    one_pixel = pixels.clone()
    one_pixel[31, 31, 31, 2] ^= 1
    other_mean = dataclasses.replace(source, spec=dataclasses.replace(source.spec, mean=(0.5, 0.5, 0.5)))
    for changed in (
        {"pixels": one_pixel},
        {"pixels": pixels.flip(0)},
        {"batch_sizes": (1, 7)},
        {"source": other_mean},
        {"source": untrained_source(source.spec, 3)},
    ):
        assert not ask(computed, **changed).cached, changed
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert not ask(computed).cached
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert not ask(computed).cached
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert not ask(computed).cached
    monkeypatch.setattr(reference_cache, "__version__", "0.0")
    assert not ask(computed).cached
    monkeypatch.setattr(reference_cache.inspect, "getsource", lambda _module: "other sources")
    assert not ask(computed).cached
    assert ask(computed).cached
    assert len(calls) == len(kept()) == 11


class Harmful:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, ("unpickled", 0o777, True)


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, logits=np.array([Harmful()], dtype=object), noise_floor=np.float64(1))


def rewritten(**changed: Any) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        with np.load(path) as file:
            entries = dict(file)
        with path.open("wb") as target:
            np.savez(target, **(entries | changed))

    return rewrite


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[400] ^= 1  # within the logits
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        flipped,
        pickled,
        rewritten(logits=np.zeros((31, 10))),
        rewritten(logits=np.zeros((32, 10), np.float32)),
        rewritten(logits=np.full((32, 10), np.nan)),
        rewritten(noise_floor=np.float64("inf")),
        rewritten(noise_floor=np.float64(0)),
        rewritten(noise_floor=np.zeros(2)),
    ],
    ids=["empty", "text", "cut", "npy", "bit", "pickle", "shape", "type", "nan", "infinite floor", "no floor", "floors"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_file_is_computed_anew_and_replaced(
    damage: Callable[[Path], object], computed: Reference, calls: list[str]
) -> None:
    ask(computed)
    (file,) = kept()
    damage(file)
    found = ask(computed)
    assert not found.cached
    assert np.array_equal(found.logits, computed.logits)
    assert not Path("unpickled").exists()
    assert len(calls) == 2
    again = ask(computed)
    assert again.cached
    assert np.array_equal(again.logits, computed.logits)
    assert kept() == [file]


def test_the_oldest_go_when_there_are_too_many(computed: Reference, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ask(computed)
    (first,) = kept()
    monkeypatch.setattr(reference_cache, "MOST_BYTES", int(2.5 * first.stat().st_size))
    files = [first]
    for size in (1, 2, 3):
        os.utime(files[-1], (1_000_000 + size, 1_000_000 + size))
        ask(computed, batch_sizes=(size,))
        (new,) = set(kept()) - set(files)
        files.append(new)
    assert kept() == sorted(files[-2:])
    monkeypatch.setattr(reference_cache, "MOST_BYTES", computed.logits.nbytes - 1)
    ask(computed, batch_sizes=(4,))
    assert kept() == sorted(files[-2:]), "what does not fit drives nothing out"


def test_a_cache_that_cannot_be_written_stops_nothing(computed: Reference, calls: list[str]) -> None:
    folder().parent.write_bytes(b"a file where the folder should be")
    for _ in range(2):
        assert not ask(computed).cached
    assert len(calls) == 2


@pytest.mark.slow
def test_the_command_can_leave_the_cache_alone(run: Callable[..., Any], artifacts: dict[str, Artifact]) -> None:
    arguments = ("verify", artifacts["onnx"].path, "--images", "32", "--batch", "7", "--backend", "onnxruntime")
    assert run(*arguments, "--no-cache").status == 0
    assert not folder().exists()
    assert "computed before" not in run(*arguments).out
    assert "computed before" in run(*arguments).out
    assert "computed before" not in run(*arguments, "--no-cache").out
