"""What cases are made of: a small trained network and all that comes of it, each made once, when it is first asked for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fault_runner import ROOT, Nursery
from PIL import Image

from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.initialization import untrained_network

LABELS = tuple("0123456789")
SMALL = ("--train-crop-size", "32", "--val-resize", "32", "--val-crop-size", "32", "--device", "cpu", "--workers", "0")


class Shop:
    """Files by name. `trained`: the network has learnt the digits for an epoch, rather than nothing."""

    def __init__(self, folder: Path, *, trained: bool) -> None:
        self.folder = folder / "shop"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._trained = trained
        self._lock = threading.RLock()
        self._nursery: Nursery | None = None
        self._recipes: dict[str, Callable[[Path], object]] = {
            "best.pt": self._checkpoint,
            "run": self._run,
            "m.onnx": lambda path: self._export("onnx", path),
            "m.ts": lambda path: self._export("torchscript", path),
            "m.pt2": lambda path: self._export("pt2", path),
            "q.onnx": lambda path: self._export("onnx", path, "--precision", "int8", "--calibration-images", "32"),
            "u.onnx": lambda path: self._export("onnx", path, "--with-preprocessing"),
            "m.engine": self._engine,
            "dynamo.onnx": lambda path: self._foreign(path, dynamo=True),
            "legacy.onnx": lambda path: self._foreign(path, dynamo=False),
            "photos": self._photos,
            "classes": self._classes,
            "shards": self._shards,
            "verify.json": lambda path: self._report("verify", path, "m.onnx", "--images", "32", "--data", "digits"),
            "bench.json": lambda path: self._report(
                "bench", path, "m.onnx", "--seconds", "0.05", "--no-memory", "--no-limits", "--images", "32", "--data", "digits"
            ),
            "eval.json": lambda path: self._report("eval", path, "best.pt", "--data", "digits"),
            "predict.json": lambda path: self._report("predict", path, "m.onnx", "photos"),
            "train.json": lambda path: path.write_bytes((self.get("run") / "train.json").read_bytes()),
        }

    def get(self, name: str) -> Path:
        """The thing of this name, made now if it is not there."""
        path = self.folder / name
        with self._lock:
            if not path.exists():
                self._recipes[name](path)
        return path

    def program(self, *arguments: str) -> None:
        """Runs the program here; it has to succeed."""
        if self._nursery is None:
            self._nursery = Nursery()
        home = self.folder.parent / "shop-home"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "models", "train")),
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "IRESNET_EXPORT_CACHE": str(home / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        request = {
            "arguments": arguments, "cwd": str(self.folder), "env": environment, "err": str(self.folder / "said"), "stdout": os.devnull,
            "limits": {}, "uid": None, "fresh": False, "hidden": [], "program": [],
        }  # fmt: skip
        status, _ = self._nursery.run(request, 300, None)
        if status:
            raise RuntimeError(f"{' '.join(arguments)} ended with {status}: {(self.folder / 'said').read_text()[-2000:]}")

    def close(self) -> None:
        if self._nursery is not None:
            self._nursery.close()

    def _checkpoint(self, path: Path) -> None:
        if self._trained:
            self.program(
                *["train", "--data", "digits", "--depth", "18", "--epochs", "1", "--result-path", "trained", "--device", "cpu"]
            )
            (self.folder / "trained" / "best.pt").rename(path)
            return
        spec = ModelSpec(
            "iresnet",
            18,
            num_classes=10,
            image_size=32,
            resize=32,
            mean=(0.305,) * 3,
            std=(0.324,) * 3,
            labels=LABELS,
            data="digits",
        )
        save_checkpoint(path, untrained_network(spec, seed=1))

    def _run(self, path: Path) -> None:
        """A short finished run, with two saved states."""
        self.program(*["train", "--data", "synthetic:64", "--depth", "18", "--epochs", "2", "--batch-size", "32", "--checkpoint-every", "2"], *SMALL,
                     "--result-path", "run")  # fmt: skip

    def _export(self, command: str, path: Path, *more: str) -> None:
        self.get("best.pt")
        self.program(command, "--checkpoint", "best.pt", "-o", path.name, *more)

    def _report(self, command: str, path: Path, *arguments: str) -> None:
        for name in arguments:
            if name in self._recipes:
                self.get(name)
        with_failures = command == "verify"  # an untrained network has no decisions to compare
        try:
            self.program(command, *arguments, "--json", path.name)
        except RuntimeError:
            if not (with_failures and path.exists()):
                raise

    def _engine(self, path: Path) -> None:
        """The header of a plan and nothing behind it, with a manifest that vouches for it."""
        import hashlib

        size = 4096
        head = b"ftrt" + bytes(12) + size.to_bytes(8, "little") + bytes([11, 4, 0, 0]) + bytes(4) + (2).to_bytes(4, "little")
        path.write_bytes(head.ljust(size, b"\0"))
        manifest = json.loads(self.get("m.onnx").with_name("m.onnx.json").read_text())
        manifest |= {"file": path.name, "format": "engine", "size_bytes": size}
        manifest["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["parent"] = {"file": "m.onnx", "sha256": hashlib.sha256(self.get("m.onnx").read_bytes()).hexdigest()}
        manifest["batch"] = [1, 32]
        manifest["details"] |= {"flavour": "tensorrt", "builder_version": "11.4.0", "gpus": ["8.6"], "settings": {}}
        path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))

    def _foreign(self, path: Path, *, dynamo: bool) -> None:
        """What people export by torch itself, without simplification. In another process: it is slow, and says much."""
        self.get("best.pt")
        how = "dynamo=True, optimize=False" if dynamo else "dynamo=False, training=torch.onnx.TrainingMode.PRESERVE"
        script = (
            "import sys, torch\nfrom iresnet_models import load_checkpoint\n"
            "network = load_checkpoint('best.pt').model.eval()\n"
            f"torch.onnx.export(network, (torch.zeros(2, 3, 32, 32),), {path.name!r}, input_names=['input'],"
            f" output_names=['logits'], {how})\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "models", "train"))}
        subprocess.run([sys.executable, "-c", script], cwd=self.folder, check=True, capture_output=True, env=environment)

    def _photos(self, path: Path) -> None:
        path.mkdir()
        for index in range(4):
            picture(index).save(path / f"{index}.png")

    def _classes(self, path: Path) -> None:
        for part, count in (("train", 4), ("val", 2)):
            for label in ("cat", "dog"):
                folder = path / part / label
                folder.mkdir(parents=True)
                for index in range(count):
                    picture(index).save(folder / f"{index}.png")

    def _shards(self, path: Path) -> None:
        path.mkdir()
        for part in ("train", "val"):
            (path / f"{part}-0000.tar").write_bytes(
                shard({f"{index:04}.{ending}": content for index in range(8) for ending, content in sample(index)})
            )


def picture(seed: int, size: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def png(seed: int = 0, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


def sample(index: int) -> list[tuple[str, bytes]]:
    return [("png", png(index)), ("cls", str(index % 2).encode())]


def shard(files: dict[str, bytes], change: Callable[[tarfile.TarInfo], object] = lambda info: None) -> bytes:
    """A tar archive; `change` is applied to every entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


def loaded(path: Path) -> dict[str, Any]:
    """What a checkpoint of ours holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content
