"""The table of faults: what is laid out, what is run, and how that has to end."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import fault_files as files
import torch
import typer
from fault_files import STRANGE, changed, dumped, saved
from fault_runner import ACCEPTED, REFUSED, Case, Outcome, Scene
from fault_shop import SMALL, loaded, picture, png, sample, shard
from PIL import Image

Setup = Callable[[Scene], object]

STOPPED = frozenset({0, 130, 143, 129, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP})
"""After a signal: done before it came, or stopped by it. A shell calls a death by SIGINT 130 too: that comes where Python ends."""
DONE = frozenset({0})
MISSING = frozenset({3})

VERIFY = ("verify", "m.onnx", "--images", "32", "--device", "cpu", "--backend", "onnxruntime")
BENCH = (
    "bench",
    "m.onnx",
    "--seconds",
    "0.02",
    "--images",
    "32",
    "--no-memory",
    "--no-limits",
    "--device",
    "cpu",
    "--backend",
    "onnxruntime",
)
EVAL = ("eval", "m.onnx", "--device", "cpu", "--backend", "onnxruntime")
PREDICT = ("predict", "m.onnx", "photos", "--device", "cpu")
TRAIN = ("train", "--data", "synthetic:64", "--depth", "18", "--epochs", "1", "--batch-size", "32", *SMALL)
EXPORTS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "--checkpoint", "best.pt", "-o", "x.onnx"),
    "torchscript": ("torchscript", "--checkpoint", "best.pt", "-o", "x.ts"),
    "pt2": ("pt2", "--checkpoint", "best.pt", "-o", "x.pt2"),
}
WRITTEN = ("x.*",)


def take(*names: str) -> Setup:
    return lambda scene: scene.take(*names)


def after(*steps: Setup) -> Setup:
    def setup(scene: Scene) -> None:
        for step in steps:
            step(scene)

    return setup


def put(name: str, content: bytes | str) -> Setup:
    return lambda scene: scene.write(name, content)


def manifest(change: Callable[[dict[str, Any], Scene], dict[str, Any]], name: str = "m.onnx") -> Setup:
    """Changes the manifest of an artifact that lies there."""

    def setup(scene: Scene) -> None:
        path = scene.work / f"{name}.json"
        path.write_text(dumped(change(json.loads(path.read_text()), scene)))

    return setup


def checkpoint(change: Callable[[dict[str, Any], Scene], Any]) -> Setup:
    """Lays a changed best.pt there."""

    def setup(scene: Scene) -> None:
        scene.write("best.pt", saved(change(loaded(scene.shop.get("best.pt")), scene)))

    return setup


def spec(**fields: Any) -> Setup:
    def change(content: dict[str, Any], scene: Scene) -> dict[str, Any]:
        told = {key: text(value, scene) if isinstance(value, str) else value for key, value in fields.items()}
        return content | {"spec": content["spec"] | told}

    return checkpoint(change)


def text(value: str, scene: Scene) -> str:
    return value.replace("{trap}", scene.trap).replace("{url}", scene.url).replace("{root}", str(scene.root))


# Code and network access from files ------------------------------------------------------------------------------------

SOURCES = {
    "a command": "pipe:{trap}; false",
    "a command of shards": "pipe:{trap}; cat train-{0000..0003}.tar",
    "a URL": "{url}/train-{0000..0001}.tar",
    "a file URL": "file://{root}/outside/train.tar",
    "an absolute folder": "{root}/outside",
    "a folder above": "../outside",
    "a folder beside": "classes",
    "shards beside": "shards/train-0000.tar",
    "too many shards": "x-{0..9999999999999999}.tar",
    "too many images": "synthetic:99999999999",
    "no data set": "\x1b[31mdigits",
    "a number": 5,
    "a list": ["digits"],
}


def code_from_data() -> Iterator[Case]:
    """A data set that a file names is shown, and not opened."""
    for what, data in SOURCES.items():
        bounded = ACCEPTED
        lay = after(take("classes", "shards"), spec(data=data))
        for command in ("onnx", "torchscript", "pt2"):
            if command != "onnx" and what not in ("a command", "a URL"):
                continue
            quick = command == "onnx" and what == "a command"
            yield Case(
                f"{command} of a checkpoint whose data is {what}",
                "code",
                EXPORTS[command],
                lay,
                bounded,
                outputs=WRITTEN,
                quick=quick,
            )
        yield Case(
            f"int8 of a checkpoint whose data is {what}",
            "code",
            (*EXPORTS["onnx"], "--precision", "int8"),
            lay,
            bounded,
            outputs=WRITTEN,
        )
        yield Case(f"eval of a checkpoint whose data is {what}", "code", ("eval", "best.pt", "--device", "cpu"), lay, REFUSED,
                   quick=what == "a URL")  # fmt: skip
        yield Case(f"inspect of a checkpoint whose data is {what}", "code", ("inspect", "best.pt"), lay, bounded)
        yield Case(f"train from a checkpoint whose data is {what}", "code", (*TRAIN[:3], "--pretrained", "best.pt", *TRAIN[3:]),
                   after(take("classes", "shards"), spec(data=data)), ACCEPTED, outputs=("runs*",))  # fmt: skip

        def named(content: dict[str, Any], scene: Scene, data: Any = data) -> dict[str, Any]:
            return changed(content, "spec.data", text(data, scene) if isinstance(data, str) else data)

        lay = after(take("m.onnx", "classes", "shards", "photos", "best.pt"), manifest(named))
        for name, command in (
            ("verify", VERIFY),
            ("eval", EVAL),
            ("bench", BENCH),
            ("predict", PREDICT),
            ("inspect", ("inspect", "m.onnx")),
        ):
            quick = name == "verify" and what == "a command"
            yield Case(f"{name} of a manifest whose data is {what}", "code", command, lay, ACCEPTED, quick=quick)


def hostile_pickles() -> Iterator[Case]:
    makers: dict[str, Callable[[Scene], bytes]] = {
        "torch's format": lambda scene: files.hostile_zip(scene.trap),
        "torch's old format": lambda scene: files.hostile_legacy(scene.trap),
        "plain pickle": lambda scene: files.hostile_numpy(scene.trap),
        "a pickle that opens a file": lambda scene: saved({"state_dict": files.Opens(str(scene.canaries / "ran"))}),
        "a pickle of a function of torch": lambda scene: saved({"state_dict": torch.hub.load}),
        "a pickle without an end": lambda scene: saved({"a": 1}).replace(b"data.pkl", b"data.pkl")[:300],
        "a pickle of a hundred thousand lists": lambda scene: b"\x80\x02" + b"(" * 200_000 + b"l" * 10 + b".",
        "a pickle that names itself": lambda scene: b"\x80\x02}q\x00h\x00h\x00s.",
        "a string of gigabytes": lambda scene: b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"abc.",
        "a tuple of terabytes": lambda scene: b"\x80\x02X\xff\xff\xff\x7fabc.",
    }
    commands: dict[str, tuple[str, ...]] = {
        "onnx": EXPORTS["onnx"],
        "torchscript": EXPORTS["torchscript"],
        "pt2": EXPORTS["pt2"],
        "trt": ("trt", "--checkpoint", "best.pt", "-o", "x.engine"),
        "eval": ("eval", "best.pt", "--data", "digits", "--device", "cpu"),
        "inspect": ("inspect", "best.pt"),
        "train": (*TRAIN, "--pretrained", "best.pt"),
        "verify": (*VERIFY, "--checkpoint", "best.pt"),
        "predict": ("predict", "best.pt", "photos", "--device", "cpu"),
        "bench": (*BENCH, "--checkpoint", "best.pt"),
    }
    for (what, make), (name, command) in itertools.product(makers.items(), commands.items()):

        def lay(scene: Scene, make: Callable[[Scene], bytes] = make) -> None:
            scene.take("m.onnx", "photos")
            (scene.work / "m.onnx.json").unlink()
            scene.write("best.pt", make(scene))

        if name in ("inspect", "onnx", "eval", "train") or what in ("torch's format", "plain pickle"):
            right = frozenset({2, 3}) if name == "trt" else REFUSED
            quick = (what, name) in (("torch's format", "onnx"), ("torch's old format", "eval"))
            yield Case(f"{name} of a checkpoint: {what}", "code", command, lay, right, outputs=("runs*",), quick=quick)

    def hostile_archive(scene: Scene) -> None:
        scene.take("m.pt2", "best.pt")
        pickled = saved({"x": files.Payload(scene.trap)})

        def change(name: str, content: bytes) -> bytes:
            return pickled if name.endswith((".pt", ".pkl")) or "/data/weights/weight" in name else content

        added = {"m/data/sample_inputs/model.pt": pickled, "m/data/constants/custom_obj_0": pickled}
        scene.write("m.pt2", files.rezipped((scene.work / "m.pt2").read_bytes(), change, added))

    for name, command in artifact_commands("m.pt2").items():
        right = frozenset({0, 2}) if name == "inspect" else frozenset({1, 2})
        yield Case(
            f"{name} of a program that holds hostile pickles", "code", command, after(take("photos"), hostile_archive), right
        )
    for what, make_script in (
        ("writes a file", lambda scene: files.script_that_writes(str(scene.canaries / "ran"))),
        ("never ends", lambda scene: files.script_that_loops()),
    ):

        def lay_script(scene: Scene, make: Callable[[Scene], bytes] = make_script) -> None:
            scene.take("best.pt", "photos")
            scene.write("m.ts", make(scene))

        for name, command in artifact_commands("m.ts").items():
            right = frozenset({0, 2}) if name == "inspect" else frozenset({1, 2})
            yield Case(f"{name} of TorchScript that {what} when it is loaded", "code", command, lay_script, right, seconds=20,
                       quick=name == "inspect")  # fmt: skip
    for state in ("hostile", "not whole"):

        def lay_run(scene: Scene, state: str = state) -> None:
            scene.take("run")
            replace_state(scene, files.hostile_zip(scene.trap) if state == "hostile" else b"PK\x03\x04 not a state")

        yield Case(f"train --resume from a state that is {state}, whose hash fits", "code", resumed(), lay_run, frozenset({0}),
                   says="state", outputs=("run/*",), quick=state == "hostile")  # fmt: skip


def resumed(*more: str, epochs: str = "2") -> tuple[str, ...]:
    return ("train", "--data", "synthetic:64", "--depth", "18", "--epochs", epochs, "--batch-size", "32", "--checkpoint-every", "2", *SMALL,
            "--result-path", "run", "--resume", *more)  # fmt: skip


def replace_state(scene: Scene, content: bytes, *, fits: bool = True) -> None:
    """The newest saved state, with a hash in its name that vouches for it."""
    import hashlib

    path = max((scene.work / "run" / "states").glob("state-*.pt"))
    number = int(path.stem.split("-")[1]) + 1
    digest = hashlib.sha256(content).hexdigest()[:16] if fits else "0" * 16
    path.with_name(f"state-{number:09}-{digest}.pt").write_bytes(content)


def artifact_commands(name: str, *more: str) -> dict[str, tuple[str, ...]]:
    """Every command that takes an artifact, with the checkpoint that it was made from."""
    given = ("--checkpoint", "best.pt", "--device", "cpu", *more)
    return {
        "inspect": ("inspect", name),
        "verify": ("verify", name, "--images", "32", "--data", "digits", *given),
        "eval": ("eval", name, "--data", "digits", *given),
        "bench": ("bench", name, "--seconds", "0.02", "--images", "32", "--no-memory", "--no-limits", "--data", "digits", *given),
        "predict": ("predict", name, "photos", *given),
    }


# Damaged manifests and specs -------------------------------------------------------------------------------------------

MANIFEST_FIELDS = (
    "schema", "file", "format", "sha256", "size_bytes", "spec", "spec.arch", "spec.depth", "spec.num_classes", "spec.groups",
    "spec.dropout", "spec.image_size", "spec.resize", "spec.mean", "spec.mean.0", "spec.std", "spec.std.1", "spec.interpolation",
    "spec.labels", "spec.labels.0", "spec.data", "weights", "weights.kind", "weights.sha256", "weights.checkpoint", "weights.seed",
    "precision", "fold", "batch", "with_preprocessing", "parent", "details", "details.settings", "details.fold", "details.fold.plan",
    "details.fold.proof", "details.fold.proof.error_ratio", "details.fold.exactness", "details.multiply_accumulates",
    "details.multiply_accumulates.fp32", "versions", "versions.torch", "hardware", "commit", "command", "created",
)  # fmt: skip
INT8_FIELDS = ("details.quantization", "details.predicted_sqnr_db", "details.settings.calibrator", "details.settings.images")
SPEC_VALUES: dict[str, tuple[Any, ...]] = {
    "arch": ("vgg", "", 5, None),
    "depth": (0, -1, 19, 10**6, "18", 18.0, None, float("nan")),
    "num_classes": (0, -1, 11, 10**12, "ten", 10.5, None, True),
    "groups": (3, -1, "a"),
    "dropout": (1.0, -0.1, float("nan"), "x", float("inf")),
    "image_size": (0, -32, 10**6, 10**12, "32", 31.5, float("nan")),
    "resize": (10**6, 31, -1, "x"),
    "mean": ([0.1], [], [0.1] * 4, ["a"] * 3, [float("nan")] * 3, 0.5, [1e308] * 3, [[0.1] * 3] * 3, None),
    "std": ([0.0] * 3, [0.0, 0.1, 0.1], [-1.0] * 3, [float("inf")] * 3, [float("nan")] * 3, [1e-320] * 3, "abc", [True] * 3),
    "interpolation": ("lanczos", "", 5, None, "bilinear\0"),
    "labels": (["a"] * 9, ["a"] * 11, [5] * 10, [None] * 10, "0123456789", ["a" * 10**6] * 10, ["\ud800"] * 10, ["\x1b]0;x\x07"] * 10),
    "unknown": (1,),
}  # fmt: skip


def damaged_manifests() -> Iterator[Case]:
    for number, (field, (what, value)) in enumerate(itertools.product(MANIFEST_FIELDS, STRANGE.items())):
        deep = field.count(".") > 1
        if number % 4 and (
            deep
            or what in ("fraction", "object", "true", "zero byte", "huge", "infinity", "empty", "negative", "escape", "overflow")
        ):
            continue  # some of those that teach little
        lay = after(take("m.onnx"), manifest(lambda found, _, field=field, value=value: changed(found, field, value)))  # type: ignore[misc]
        yield Case(
            f"inspect of a manifest whose {field} is {what}",
            "manifests",
            ("inspect", "m.onnx"),
            lay,
            ACCEPTED,
            quick=number % 61 == 0,
        )
    chosen = ("format", "sha256", "size_bytes", "spec", "spec.mean", "spec.labels", "weights", "weights.checkpoint", "weights.kind", "precision",
              "fold", "batch", "with_preprocessing", "parent", "details", "details.settings", "details.fold.plan", "versions", "created")  # fmt: skip
    commands = {"verify": VERIFY, "eval": EVAL, "bench": BENCH, "predict": PREDICT}
    values = ("null", "text", "negative", "list", "object", "nan", "surrogate", "nested", "absolute", "climbing", "missing")
    turn = itertools.cycle(commands)
    for number, (field, what) in enumerate(itertools.product(chosen, values)):
        name, value = next(turn), STRANGE[what]
        lay = after(
            take("m.onnx", "best.pt", "photos"),
            manifest(lambda found, _, field=field, value=value: changed(found, field, value)),  # type: ignore[misc]
        )
        yield Case(
            f"{name} of a manifest whose {field} is {what}", "manifests", commands[name], lay, ACCEPTED, quick=number % 53 == 0
        )
    for what, content in {
        "empty": "", "a list": "[]", "text": '"x"', "null": "null", "half": '{"schema": "iresnet-export/manifest/1", "file"',
        "brackets": files.DEEP, "objects": '{"a":' * 50_000, "no text": b"\xff\xfe\x00", "with a mark": b"\xef\xbb\xbf{}", "UTF-16": '{"a": 1}'.encode("utf-16"),
        "of another schema": '{"schema": "iresnet-export/manifest/99"}', "of a schema that is a list": '{"schema": []}',
        "a number of five thousand digits": "1" * 5000, "a report": '{"schema": "iresnet-export/verify/1"}', "a key twice": '{"schema": 1, "schema": 2}',
    }.items():  # fmt: skip
        for name, command in (("inspect", ("inspect", "m.onnx")), ("verify", VERIFY)):
            yield Case(
                f"{name} with a manifest that is {what}",
                "manifests",
                command,
                after(take("m.onnx", "best.pt"), put("m.onnx.json", content)),
                REFUSED,
            )

    def fifo(scene: Scene) -> None:
        (scene.work / "m.onnx.json").unlink()
        os.mkfifo(scene.work / "m.onnx.json")

    def folder(scene: Scene) -> None:
        (scene.work / "m.onnx.json").unlink()
        (scene.work / "m.onnx.json").mkdir()

    def endless(scene: Scene) -> None:
        with (scene.work / "m.onnx.json").open("wb") as file:
            file.truncate(40 << 30)

    for what, place in (("a FIFO", fifo), ("a folder", folder), ("of forty gigabytes", endless)):
        if what != "of forty gigabytes":  # hashing what is there before and after would take minutes
            yield Case(
                f"inspect with a manifest that is {what}",
                "manifests",
                ("inspect", "m.onnx"),
                after(take("m.onnx"), place),
                REFUSED,
                seconds=20,
            )
    for what, value in STRANGE.items():
        for field in INT8_FIELDS:
            lay = after(
                take("q.onnx", "best.pt"),
                manifest(lambda found, _, field=field, value=value: with_field(found, field, value), "q.onnx"),
            )  # type: ignore[misc]
            if field == "details.predicted_sqnr_db" or what in ("null", "text", "list", "missing"):
                command = ("verify", "q.onnx", "--images", "32", "--device", "cpu", "--backend", "onnxruntime")
                yield Case(f"verify of int8 whose {field} is {what}", "manifests", command, lay, ACCEPTED)
    for value in (-300, 1e308, -1e308, 0, "12"):
        lay = after(
            take("q.onnx", "best.pt"),
            manifest(lambda found, _, value=value: everywhere(found, "predicted_sqnr_db", value), "q.onnx"),
        )  # type: ignore[misc]
        yield Case(
            f"verify of int8 whose predicted figure is {value!r}",
            "manifests",
            ("verify", "q.onnx", "--images", "32", "--device", "cpu"),
            lay,
            ACCEPTED,
        )


def with_field(document: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    last = field.rpartition(".")[2]
    return everywhere(document, last, value)


def everywhere(document: Any, key: str, value: Any) -> Any:
    """The same with another value for a key at whatever depth."""
    if isinstance(document, dict):
        return {
            name: value if name == key else everywhere(found, key, value)
            for name, found in document.items()
            if not (name == key and value is ...)
        }
    return [everywhere(found, key, value) for found in document] if isinstance(document, list) else document


def damaged_specs() -> Iterator[Case]:
    turn = itertools.cycle(("inspect", "onnx", "eval"))
    commands = {
        "inspect": ("inspect", "best.pt"),
        "onnx": EXPORTS["onnx"],
        "eval": ("eval", "best.pt", "--data", "digits", "--device", "cpu"),
    }
    for number, (field, value) in enumerate((field, value) for field, values in SPEC_VALUES.items() for value in values):
        name = next(turn)
        said = repr(value)[:40]
        harmless = (field, said) in (("depth", "18.0"), ("groups", "None"))
        lay = after(spec(**{field: value}))
        right = ACCEPTED if harmless or field in ("labels", "resize", "mean", "std", "num_classes") else REFUSED
        yield Case(
            f"{name} of a checkpoint whose {field} is {said}",
            "checkpoints",
            commands[name],
            lay,
            right,
            outputs=WRITTEN,
            quick=number % 13 == 0,
        )
        if field in ("image_size", "resize", "mean", "std", "interpolation", "labels"):
            lay = after(
                take("m.onnx", "best.pt", "photos"),
                manifest(lambda found, _, field=field, value=value: changed(found, f"spec.{field}", value)),
            )  # type: ignore[misc]
            name, command = (("verify", VERIFY), ("predict", PREDICT), ("bench", BENCH))[number % 3]
            yield Case(f"{name} of a manifest whose spec's {field} is {said}", "manifests", command, lay, ACCEPTED)
    for what, value in STRANGE.items():
        if value is ... or (isinstance(value, str) and value.startswith(files.RAW)):
            continue
        for name, change in (
            ("spec", lambda content, value: content | {"spec": value}),
            ("format", lambda content, value: content | {"format": value}),
            ("state_dict", lambda content, value: content | {"state_dict": value}),
            ("config", lambda content, value: content | {"config": value, "epoch": value, "val_acc1": value}),
        ):
            lay = checkpoint(lambda content, _, change=change, value=value: change(content, value))  # type: ignore[misc]
            yield Case(
                f"inspect of a checkpoint whose {name} is {what}", "checkpoints", ("inspect", "best.pt"), lay, frozenset({0, 2})
            )


def damaged_checkpoints() -> Iterator[Case]:
    for what, make in files.tensors().items():

        def change(content: dict[str, Any], _: Scene, make: Callable[[torch.Tensor], Any] = make) -> dict[str, Any]:
            state = dict(content["state_dict"])
            state["layer1.0.conv1.weight"] = make(state["layer1.0.conv1.weight"].contiguous())
            return content | {"state_dict": state}

        for name, command in (("inspect", ("inspect", "best.pt")), ("onnx", EXPORTS["onnx"])):
            yield Case(f"{name} of a checkpoint with weights that are {what}", "checkpoints", command, checkpoint(change), REFUSED, outputs=WRITTEN,
                       quick=name == "inspect" and what in ("sparse", "meta"))  # fmt: skip

        def bare(content: dict[str, Any], scene: Scene, change: Any = change) -> Any:
            return change(content, scene)["state_dict"]

        yield Case(
            f"inspect of a bare state dict with weights that are {what}",
            "checkpoints",
            ("inspect", "best.pt"),
            checkpoint(bare),
            REFUSED,
        )

    contents: dict[str, Callable[[dict[str, Any]], Any]] = {
        "an empty dict": lambda content: {},
        "a list": lambda content: [1, 2],
        "a tensor": lambda content: torch.zeros(3),
        "a number": lambda content: 5,
        "keys that are numbers": lambda content: {5: torch.zeros(3)},
        "keys that are tuples": lambda content: {("a", 1): torch.zeros(3)},
        "a state dict of one": lambda content: {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        "a layer of number 10^12": lambda content: content["state_dict"] | {f"layer1.{10**12}.conv1.weight": torch.zeros(1)},
        "a layer of no number": lambda content: content["state_dict"] | {"layer1.²².conv1.weight": torch.zeros(1)},
        "module. thrice": lambda content: {f"module.module.module.{key}": value for key, value in content["state_dict"].items()},
        "weights missing": lambda content: content | {"state_dict": dict(list(content["state_dict"].items())[3:])},
        "weights too many": lambda content: content | {"state_dict": content["state_dict"] | {"extra": torch.zeros(3)}},
        "a state dict that is None": lambda content: content | {"state_dict": None},
        "names with escapes": lambda content: {"\x1b]0;owned\x07": torch.zeros(3)},
    }
    for what, build in contents.items():
        for name, command in (("inspect", ("inspect", "best.pt")), ("train", (*TRAIN, "--pretrained", "best.pt"))):
            lay = checkpoint(lambda content, _, build=build: build(content))  # type: ignore[misc]
            yield Case(f"{name} of a checkpoint that holds {what}", "checkpoints", command, lay, REFUSED, outputs=("runs*",))
    for what in files.damaged_zips(saved({"a": torch.zeros(3)})):
        for kind, name in (("checkpoint", "best.pt"), ("TorchScript", "m.ts"), ("program", "m.pt2")):

            def broken(scene: Scene, what: str = what, name: str = name) -> None:
                scene.write(name, files.damaged_zips(scene.shop.get(name).read_bytes())[what])

            yield Case(
                f"inspect of a {kind} {what}",
                "zips",
                ("inspect", name),
                broken,
                frozenset({0, 2}),
                quick=what == "cut in its directory",
            )
        for name in ("onnx", "eval"):

            def broken_too(scene: Scene, what: str = what) -> None:
                scene.write("best.pt", files.damaged_zips(scene.shop.get("best.pt").read_bytes())[what])

            command = EXPORTS["onnx"] if name == "onnx" else ("eval", "best.pt", "--data", "digits", "--device", "cpu")
            yield Case(f"{name} of a checkpoint {what}", "zips", command, broken_too, frozenset({0, 2}), outputs=WRITTEN)

        def vouched(scene: Scene, what: str = what) -> None:
            scene.take("best.pt", "m.ts", "photos")
            scene.write("m.ts", files.damaged_zips(scene.shop.get("m.ts").read_bytes())[what])
            vouch(scene, "m.ts")

        yield Case(f"verify of TorchScript {what}, whose manifest vouches for it", "zips", ("verify", "m.ts", "--images", "32", "--device", "cpu"),
                   vouched, frozenset({0, 1, 2}))  # fmt: skip
    for name, entry in (("best.pt", "archive/data.pkl"), ("m.ts", "m/code/x.py"), ("m.pt2", "m/models/model.json")):
        bomb = lambda scene, name=name, entry=entry: scene.write(  # noqa: E731
            name,
            files.zip_bomb(entry, 3 << 30),
        )
        yield Case(f"inspect of a zip bomb {name}", "bombs", ("inspect", name), bomb, frozenset({0, 2, 3}))
    small = (b"", b"\0", b"PK\x03\x04", b"\x80\x02.", b"<html></html>", bytes(10_000), os.urandom(0) + bytes(range(256)) * 20)
    for number, content in enumerate(small):
        for name in ("best.pt", "m.ts", "m.pt2", "m.onnx", "m.engine", "m.xyz", "m"):
            lay = put(name, content)
            yield Case(
                f"inspect of {name} with rubbish {number}",
                "rubbish",
                ("inspect", name),
                lay,
                frozenset({0, 2}),
                quick=name == "m.engine" and number == 1,
            )


def vouch(scene: Scene, name: str) -> None:
    """The manifest's hash is made that of the file: it comes from the same stranger."""
    import hashlib

    path = scene.work / f"{name}.json"
    found = json.loads(path.read_text())
    content = (scene.work / name).read_bytes()
    path.write_text(json.dumps(found | {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}))


def foreign_checkpoints() -> Iterator[Case]:
    """What the training scripts of others save beside the weights."""
    import argparse
    import datetime
    from collections import OrderedDict

    import numpy as np

    extras: dict[str, Any] = {
        "an argparse.Namespace": {"args": argparse.Namespace(lr=0.1, data="/data", epochs=90)},
        "a numpy scalar": {"best_acc1": np.float64(76.1), "epoch": np.int64(90)},
        "a Path": {"output": Path("out")},
        "a date": {"date": datetime.datetime(2024, 1, 1), "took": datetime.timedelta(hours=3)},
        "an OrderedDict": {"optimizer": OrderedDict(state={}, param_groups=[])},
        "all of it": {"args": argparse.Namespace(out=Path("x"), when=datetime.date(2024, 1, 1)), "acc": np.float32(3)},
    }
    for what, extra in extras.items():
        lay = checkpoint(lambda content, _, extra=extra: {"model": content["state_dict"], **extra})  # type: ignore[misc]
        yield Case(f"inspect of a checkpoint with {what}", "foreign", ("inspect", "best.pt"), lay, DONE, quick=what == "all of it")
        yield Case(
            f"onnx of a checkpoint with {what}", "foreign", (*EXPORTS["onnx"], "--arch", "iresnet"), lay, DONE, outputs=WRITTEN
        )
    for name in ("dynamo.onnx", "legacy.onnx"):
        for command, words in artifact_commands(name).items():
            yield Case(
                f"{command} of {name}, exported by torch",
                "foreign",
                words,
                take(name, "best.pt", "photos"),
                DONE,
                seconds=120,
            )


def hostile_onnx() -> Iterator[Case]:
    for number, what in enumerate(files.hostile_onnx()):

        def lay(scene: Scene, what: str = what) -> None:
            scene.take("best.pt", "photos")
            files.external_companions(scene.work)
            scene.write("m.onnx", files.hostile_onnx(scene.trap, scene.url)[what](scene.shop.get("m.onnx").read_bytes()))

        commands = artifact_commands("m.onnx")
        external = what.startswith("external") or "metadata that names" in what
        for index, (name, command) in enumerate(commands.items()):
            if name == "inspect" or external or index % 4 == number % 4 or name == "verify":
                right = REFUSED if external and name != "inspect" and "metadata" not in what else ACCEPTED
                if right is REFUSED and name in ("verify", "bench"):
                    right = frozenset({1})  # their verdict on a damaged file
                if what in ("nothing but zeros", "nothing but text", "the head alone", "one byte", "no graph", "no nodes"):
                    right = frozenset({1}) if name in ("verify", "bench") else REFUSED
                quick = name == "verify" and what in (
                    "external data above the folder",
                    "no inputs",
                    "weights of unknown type",
                    "metadata that names a command",
                )
                yield Case(f"{name} of ONNX with {what}", "onnx", command, lay, right, seconds=90, quick=quick)
    for what, name in (
        ("cut off", "m.engine"),
        ("with a false length", "m.engine"),
        ("of another magic", "m.engine"),
        ("in a zip", "m.engine"),
    ):

        def damaged(scene: Scene, what: str = what) -> None:
            scene.take("m.engine", "m.onnx", "best.pt", "photos")
            content = scene.shop.get("m.engine").read_bytes()
            made = {
                "cut off": content[:20], "with a false length": b"vtrt" + content[4:16] + b"\xff" * 8 + content[24:], "of another magic": b"abcd" + content[4:],
                "in a zip": saved({"a": 1}),
            }[what]  # fmt: skip
            scene.write("m.engine", made)
            vouch(scene, "m.engine")

        for command_name, command in artifact_commands(name).items():
            yield Case(f"{command_name} of an engine {what}", "engines", command, damaged, ACCEPTED)
    for what, value in STRANGE.items():
        lay_engine = after(take("m.engine"), manifest(lambda found, _, value=value: found | {"details": {} if value is ... else {  # type: ignore[misc]
            "flavour": value, "builder_version": value, "gpus": value, "gpu": value, "settings": value}}, "m.engine"))  # fmt: skip
        yield Case(f"inspect of an engine whose details are {what}", "engines", ("inspect", "m.engine"), lay_engine, ACCEPTED)
        yield Case(f"verify of an engine whose details are {what}", "engines", ("verify", "m.engine", "--device", "cpu"),
                   after(take("m.onnx", "best.pt"), lay_engine), ACCEPTED)  # fmt: skip


def climbing_paths() -> Iterator[Case]:
    """What a manifest may name lies beside it."""
    for what, path in {
        "an absolute path": "{root}/outside/best.pt", "a path above": "../outside/best.pt", "a link out of it": "link.pt", "/dev/zero": "/dev/zero",
        "a URL": "{url}/best.pt", "its own folder": ".", "nothing": "", "a zero byte": "a\0b", "a tilde": "~/best.pt", "a long name": "a" * 5000,
    }.items():  # fmt: skip

        def lay(scene: Scene, path: str = path) -> None:
            scene.take("m.onnx")
            shutil.copyfile(scene.shop.get("best.pt"), scene.outside / "best.pt")
            (scene.work / "link.pt").symlink_to("../outside/best.pt")
            manifest(lambda found, _: changed(found, "weights.checkpoint", text(path, scene)))(scene)

        for name, command in (("verify", VERIFY), ("eval", EVAL), ("bench", BENCH)):
            right = ACCEPTED if what in ("a link out of it",) or name == "eval" else frozenset({1, 2})
            says = "--checkpoint" if what in ("an absolute path", "a path above") and name == "verify" else None
            yield Case(
                f"{name} with a checkpoint at {what}",
                "paths",
                command,
                lay,
                right,
                says=says,
                seconds=60,
                quick=name == "verify" and what == "a path above",
            )

        def parent(scene: Scene, path: str = path) -> None:
            scene.take("m.engine", "best.pt")
            shutil.copyfile(scene.shop.get("m.onnx"), scene.outside / "best.pt")
            (scene.work / "link.pt").symlink_to("../outside/best.pt")
            manifest(lambda found, _: changed(found, "parent.file", text(path, scene)), "m.engine")(scene)

        yield Case(
            f"verify with a parent at {what}",
            "paths",
            ("verify", "m.engine", "--device", "cpu"),
            parent,
            frozenset({1, 2, 3}),
            seconds=60,
        )
        yield Case(f"inspect with a parent at {what}", "paths", ("inspect", "m.engine"), parent, frozenset({0, 2}), seconds=60)


# Lost data -------------------------------------------------------------------------------------------------------------


def reports_over_inputs() -> Iterator[Case]:
    """A report replaces no input, by whatever name."""

    def alias(way: str, target: str) -> tuple[str, Setup]:
        def lay(scene: Scene) -> None:
            if way == "a symbolic link":
                (scene.work / "alias").symlink_to(target)
            elif way == "a hard link":
                os.link(scene.work / target, scene.work / "alias")
            elif way == "a linked folder":
                (scene.work / "here").symlink_to(".")

        names = {
            "its name": target,
            "./": f"./{target}",
            "..": f"photos/../{target}",
            "an absolute path": f"{{root}}/desk/{target}",
        }
        names |= {"a linked folder": f"here/{target}"}
        return names.get(way, "alias"), lay

    commands: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "eval best.pt --json": (("eval", "best.pt", "--data", "digits", "--device", "cpu", "--json"), ("best.pt",)),
        "eval m.onnx --json": ((*EVAL, "--data", "digits", "--json"), ("m.onnx", "m.onnx.json")),
        "verify --json": ((*VERIFY, "--json"), ("m.onnx", "m.onnx.json", "best.pt")),
        "verify --markdown": ((*VERIFY, "--markdown"), ("m.onnx", "m.onnx.json", "best.pt")),
        "bench --json": ((*BENCH, "--json"), ("m.onnx", "m.onnx.json", "best.pt")),
        "bench --markdown": ((*BENCH, "--markdown"), ("m.onnx",)),
        "predict --json": ((*PREDICT, "--json"), ("m.onnx", "m.onnx.json", "photos/0.png")),
        "inspect --json": (("inspect", "m.onnx", "--json"), ("m.onnx", "m.onnx.json")),
        "inspect best.pt --json": (("inspect", "best.pt", "--json"), ("best.pt",)),
        "report -o": (("report", "verify.json", "--format", "html", "-o"), ("verify.json",)),
        "onnx --force -o": (("onnx", "--checkpoint", "best.pt", "--force", "-o"), ("best.pt",)),
        "torchscript --force -o": (("torchscript", "--checkpoint", "best.pt", "--force", "-o"), ("best.pt",)),
        "pt2 --force -o": (("pt2", "--checkpoint", "best.pt", "--force", "-o"), ("best.pt",)),
        "train --pretrained --json": ((*TRAIN, "--arch", "iresnet", "--pretrained", "best.pt", "--json"), ("best.pt",)),
    }
    ways = ("its name", "./", "..", "an absolute path", "a symbolic link", "a hard link", "a linked folder")
    for name, (command, targets) in commands.items():
        for way, target in itertools.product(ways, targets):
            if way in ("./", "..", "an absolute path", "a linked folder") and target != targets[0]:
                continue
            told, lay_alias = alias(way, target)
            needed = ("m.onnx", "best.pt", "photos", *(["verify.json"] if name.startswith("report") else []))
            right, outputs = REFUSED, ("runs*",) if name.startswith("train") else ()
            quick = way == "a hard link" and name in ("verify --json", "eval best.pt --json", "onnx --force -o")
            yield Case(
                f"{name} over its input {target} by {way}",
                "lost",
                (*command, told),
                after(take(*needed), lay_alias),
                right,
                outputs=outputs,
                quick=quick,
            )
    for what, command in {
        "calibration images": ("onnx", "--checkpoint", "best.pt", "--precision", "int8", "--calibration-data", "classes", "--force", "-o", "classes/train/cat/0.png"),
        "its own manifest": ("onnx", "--checkpoint", "best.pt", "--force", "-o", "best.pt.json"),
        "a foreign file": ("onnx", "--checkpoint", "best.pt", "-o", "notes.txt"),
        "a foreign file beside, as its manifest": ("onnx", "--checkpoint", "best.pt", "-o", "x.onnx"),
    }.items():  # fmt: skip
        lay = after(take("best.pt", "classes"), put("notes.txt", "mine"), put("x.onnx.json", '{"mine": 1}'))
        outputs = ("best.pt.json*",) if what == "its own manifest" else ()
        yield Case(f"onnx over {what}", "lost", command, lay, ACCEPTED if what == "its own manifest" else REFUSED, outputs=outputs)
    lay = after(take("best.pt", "classes", "photos"))
    yield Case(
        "eval --json over an image of its data",
        "lost",
        ("eval", "best.pt", "--data", "classes", "--device", "cpu", "--json", "classes/val/cat/0.png"),
        lay,
        REFUSED,
    )
    yield Case(
        "report over another report",
        "lost",
        ("report", "verify.json", "-o", "eval.json"),
        after(take("verify.json", "eval.json")),
        ACCEPTED,
    )
    yield Case(
        "report to a folder", "lost", ("report", "verify.json", "-o", "photos"), after(take("verify.json", "photos")), REFUSED
    )
    for name, command in (
        ("quickstart onto a file", ("quickstart", "-o", "best.pt")),
        ("quickstart into a foreign folder", ("quickstart", "-o", "photos")),
    ):
        yield Case(name, "lost", command, take("best.pt", "photos"), REFUSED)
    yield Case("train into a file", "lost", (*TRAIN, "--result-path", "best.pt"), take("best.pt"), REFUSED)
    yield Case("train into a run that is there", "lost", (*TRAIN, "--result-path", "run"), take("run"), REFUSED, quick=True)
    for what, more in {
        "another learning rate": ("--lr", "0.5"), "another seed": ("--seed", "7"), "other data": ("--data", "synthetic:65"), "another batch": ("--batch-size", "16"),
        "fewer epochs": ("--epochs", "1"), "another depth": ("--depth", "34"), "a wrong value": ("--lr", "-1"), "another preset": ("--preset", "modern"),
    }.items():  # fmt: skip
        yield Case(
            f"train --resume with {what}",
            "lost",
            resumed(*more),
            take("run"),
            REFUSED,
            outputs=("run/.lock",),
            quick=what == "another seed",
        )


def special_outputs() -> Iterator[Case]:
    """Outputs that are no regular files stay what they are."""

    def fifo(scene: Scene) -> None:
        path = scene.work / "special"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        scene.closing.append(lambda: os.close(reader))

    def unread(scene: Scene) -> None:
        os.mkfifo(scene.work / "special")

    def null(scene: Scene) -> None:
        try:
            os.mknod(scene.work / "special", 0o666 | 0o020000, os.makedev(1, 3))
        except PermissionError:
            (scene.work / "special").symlink_to("/dev/null")

    def full(scene: Scene) -> None:
        try:
            os.mknod(scene.work / "special", 0o666 | 0o020000, os.makedev(1, 7))
        except PermissionError:
            (scene.work / "special").symlink_to("/dev/full")

    def link(scene: Scene) -> None:
        scene.write("target.json", "old")
        (scene.work / "special").symlink_to("target.json")

    def dangling(scene: Scene) -> None:
        (scene.work / "special").symlink_to("target.json")

    def circle(scene: Scene) -> None:
        (scene.work / "special").symlink_to("special")

    def directory(scene: Scene) -> None:
        (scene.work / "special").mkdir()

    def bound_socket(scene: Scene) -> None:
        import socket

        made = socket.socket(socket.AF_UNIX)
        there = os.open(scene.work, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{there}/special")
        os.close(there)
        scene.closing.append(made.close)

    kinds = {
        "a FIFO": (fifo, frozenset({0, 2})), "a FIFO without a reader": (unread, frozenset({0, 2, 3})), "a device": (null, frozenset({0, 2})),
        "a full device": (full, frozenset({2, 3})), "a symbolic link": (link, frozenset({0, 2})), "a dangling link": (dangling, frozenset({0, 2})),
        "a circle of links": (circle, REFUSED), "a folder": (directory, REFUSED), "a socket": (bound_socket, REFUSED),
    }  # fmt: skip
    commands: dict[str, tuple[str, ...]] = {
        "inspect --json": ("inspect", "m.onnx", "--json", "special"),
        "doctor --json": ("doctor", "--json", "special"),
        "predict --json": (*PREDICT, "--json", "special"),
        "report -o": ("report", "eval.json", "--format", "md", "-o", "special"),
        "onnx -o": ("onnx", "--checkpoint", "best.pt", "-o", "special", "--force"),
        "torchscript -o": ("torchscript", "--checkpoint", "best.pt", "-o", "special", "--force"),
        "pt2 -o": ("pt2", "--checkpoint", "best.pt", "-o", "special", "--force"),
        "train --result-path": (*TRAIN, "--result-path", "special"),
    }
    for (what, (make, right)), (name, command) in itertools.product(kinds.items(), commands.items()):
        if what == "a FIFO without a reader" and name not in ("onnx -o", "torchscript -o", "pt2 -o"):
            continue  # waits for one, as everything does that writes to a FIFO
        exporting = name in ("onnx -o", "torchscript -o", "pt2 -o", "train --result-path")
        if exporting and what in ("a FIFO", "a FIFO without a reader", "a full device"):
            right = frozenset({0, 2, 3})
        if name == "train --result-path" and what == "a folder":
            right = DONE
        if name.startswith("doctor"):
            right = right | {1, 3}
        outputs = ("target.json*", "special.json", "special/*")
        if what == "a folder" and name == "train --result-path":
            outputs = ("special/*",)
        lay = after(take("m.onnx", "best.pt", "photos", *(["eval.json"] if name == "report -o" else [])), make)
        yield Case(
            f"{name} to {what}",
            "special",
            command,
            lay,
            right,
            outputs=outputs,
            seconds=60,
            quick=(name, what) == ("inspect --json", "a FIFO"),
        )
    for name in ("inspect --json", "doctor --json", "predict --json"):
        command = (*commands[name][:-1], "-")
        yield Case(
            f"{name} -",
            "special",
            command,
            take("m.onnx", "photos"),
            frozenset({0, 1, 3} if "doctor" in name else {0}),
            says='"schema"',
        )
    stdout = (*commands["inspect --json"][:-1], "/dev/fd/1")
    yield Case("inspect --json to its standard output by /dev/fd/1", "special", stdout, take("m.onnx"), frozenset({0, 2}))


def full_disks() -> Iterator[Case]:
    commands: dict[str, tuple[str, ...]] = {
        "onnx": ("onnx", "--checkpoint", "best.pt", "-o", "full/x.onnx"),
        "torchscript": ("torchscript", "--checkpoint", "best.pt", "-o", "full/x.ts"),
        "pt2": ("pt2", "--checkpoint", "best.pt", "-o", "full/x.pt2"),
        "train": (*TRAIN, "--result-path", "full/run"),
        "verify": (*VERIFY, "--json", "full/x.json"),
        "eval": (*EVAL, "--data", "digits", "--json", "full/x.json"),
        "predict": (*PREDICT, "--json", "full/x.json"),
        "inspect": ("inspect", "m.onnx", "--json", "full/x.json"),
        "report": ("report", "eval.json", "-o", "full/x.html"),
        "doctor": ("doctor", "--json", "full/x.json"),
        "quickstart": ("quickstart", "-o", "full/q", "--epochs", "1", "--seconds", "0.05"),
    }
    for name, command in commands.items():
        sizes = (4096, 5 << 20, 30 << 20) if name in ("onnx", "torchscript", "pt2", "train") else (4096,)
        for size in sizes:

            def lay(scene: Scene, name: str = name, size: int = size) -> None:
                scene.take("best.pt", "m.onnx", "photos", *(["eval.json"] if name == "report" else []))
                scene.full_disk("full", size)
                if size == 4096 and scene.mounts:
                    with open(scene.work / "full" / "filler", "wb", buffering=0) as file:  # to the last byte
                        try:
                            while file.write(bytes(512)):
                                pass
                        except OSError:
                            pass

            outputs = ("full/run*", "full/q*", "full")
            yield Case(f"{name} to a disk of {size} bytes", "disk", command, lay, MISSING, says="full|space", outputs=outputs, seconds=120,
                       quick=name == "torchscript" and size == 5 << 20)  # fmt: skip
            if name in ("onnx", "torchscript", "pt2", "train", "verify"):
                narrow = {"FSIZE": 20_000_000 if name in ("onnx", "torchscript", "pt2") else size}
                yield Case(f"{name} where files end at {size} bytes", "disk", tuple(word.replace("full/", "") for word in command),
                           take("best.pt", "m.onnx", "photos"), frozenset({0, 2, 3}), limits=narrow, outputs=("run*",))  # fmt: skip
    for name in ("onnx", "torchscript", "pt2"):

        def reference(scene: Scene) -> None:
            scene.take("best.pt")
            scene.full_disk("tiny", 4096)

        yield Case(
            f"{name} with a full TMPDIR",
            "disk",
            EXPORTS[name],
            reference,
            frozenset({0, 3}),
            env={"TMPDIR": "{root}/desk/tiny"},
            outputs=(*WRITTEN, "tiny/*"),
        )
        yield Case(
            f"{name} with no TMPDIR",
            "disk",
            EXPORTS[name],
            take("best.pt"),
            frozenset({0, 2, 3}),
            env={"TMPDIR": "{root}/nowhere"},
            outputs=WRITTEN,
        )
    for name, command in (("verify", VERIFY), ("bench", BENCH), ("eval", (*EVAL, "--data", "digits"))):
        yield Case(f"{name} with a full cache", "disk", command, after(take("best.pt", "m.onnx"), lambda scene: scene.full_disk("tiny", 4096)), frozenset({0, 3}),
                   env={"IRESNET_EXPORT_CACHE": "{root}/desk/tiny"}, outputs=("tiny/*", "tiny"))  # fmt: skip


def signals() -> Iterator[Case]:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
    moments: tuple[float | str, ...] = ("partial", 0.15, 0.5, 0.9, 1.4)
    for name, number, at in itertools.product(EXPORTS, numbers, moments):
        killed = number == signal.SIGKILL

        def swept(scene: Scene, outcome: Outcome, name: str = name) -> list[str]:
            again = scene.run(*EXPORTS[name], "--force", signal=None)
            wrong = [] if again.status == 0 else [f"the next {name} ends with {again.status}: {again.err[-300:]}"]
            return wrong + [f"the next {name} leaves {Path(path).name}" for path in scene.partials()]

        right = frozenset({-9, 0}) if killed else STOPPED
        quick = name == "onnx" and at == "partial" and number in (signal.SIGTERM, signal.SIGKILL)
        yield Case(f"{name} and {number.name} at {at}", "signals", EXPORTS[name], take("best.pt"), right, signal=number, at=at, outputs=WRITTEN if not killed else ("*",),
                   then=swept if killed else None, quick=quick)  # fmt: skip

    def goes_on(scene: Scene, outcome: Outcome) -> list[str]:
        report = scene.work / "run" / "train.json"
        if outcome.status == 0:
            return []
        nothing_yet = "before a step was taken" in outcome.said
        if outcome.status == 75 and not nothing_yet and not list((scene.work / "run" / "states").glob("state-*.pt")):
            return ["preempted, and no state was saved"]
        more = ("--auto-resume",) if not (scene.work / "run" / "states").exists() else ("--resume",)
        again = scene.run(*long_training(), *more, signal=None)
        if again.status == 2 and more == ("--resume",) and not list((scene.work / "run").glob("states/state-*.pt")):
            again = scene.run(*long_training(), "--auto-resume", signal=None)
        wrong = [] if again.status == 0 else [f"going on ends with {again.status}: {again.err[-300:]}"]
        found = json.loads(report.read_text()) if report.exists() else {"epochs": []}
        if len(found["epochs"]) != 3 or found.get("status") != "done":
            wrong.append(f"after going on the report has {len(found['epochs'])} of 3 epochs, status {found.get('status')}")
        return wrong + [f"left behind after going on: {Path(path).name}" for path in scene.partials()]

    for number, at in itertools.product(numbers, (0.1, 0.3, 0.6, 1.0, 1.5, 2.2, 3.0, "partial")):
        if number == signal.SIGKILL:
            right = frozenset({-9, 0})
        else:
            early = {-number} if isinstance(at, float) and at < 0.5 else set()
            right = frozenset({0, 75, *early} | ({130} if number == signal.SIGINT else set()))
        yield Case(f"train and {number.name} at {at}", "signals", long_training(), status=right, signal=number, at=at, outputs=("run*",), then=goes_on,
                   says=None, quick=number == signal.SIGHUP and at == 1.0)  # fmt: skip
    others: dict[str, tuple[str, ...]] = {
        "verify": VERIFY, "bench": (*BENCH, "--seconds", "3"), "eval": (*EVAL, "--data", "digits"), "predict": PREDICT,
        "quickstart": ("quickstart", "-o", "q", "--epochs", "2"), "doctor": ("doctor",), "inspect": ("inspect", "m.onnx"), "report": ("report", "eval.json", "-o", "x.html"),
        "int8": (*EXPORTS["onnx"], "--precision", "int8", "--calibration-images", "64"),
    }  # fmt: skip
    for (name, command), number, at in itertools.product(
        others.items(), (signal.SIGTERM, signal.SIGHUP, signal.SIGINT), (0.2, 0.8)
    ):
        needed = ("m.onnx", "best.pt", "photos", *(["eval.json"] if name == "report" else []))
        right = STOPPED | {1, 3, 75}
        yield Case(
            f"{name} and {number.name} at {at}",
            "signals",
            command,
            take(*needed),
            right,
            signal=number,
            at=at,
            outputs=("q*", "x.*"),
        )


def long_training() -> tuple[str, ...]:
    return (
        "train",
        "--data",
        "synthetic:96",
        "--depth",
        "18",
        "--epochs",
        "3",
        "--batch-size",
        "16",
        "--checkpoint-every",
        "3",
        *SMALL,
        "--result-path",
        "run",
    )


def damaged_states() -> Iterator[Case]:
    wrong: dict[str, Callable[[dict[str, Any]], Any]] = {
        "a list": lambda state: [1],
        "an empty dict": lambda state: {},
        "a number": lambda state: 5,
        "without its network": lambda state: {key: value for key, value in state.items() if key not in ("network", "model", "learner")},
        "with a position of text": lambda state: state | {"position": "x"},
        "with a position beyond the end": lambda state: state | {"position": everywhere(everywhere(state["position"], "epoch", 10**9), "step", -7)},
        "with records that are numbers": lambda state: state | {"records": [1, 2]},
        "with a config of text": lambda state: state | {"config": "x"},
        "with a config of another kind": lambda state: state | {"config": everywhere(state["config"], "data", ["a"])},
        "of another version": lambda state: state | {"format": "iresnet-export/state/99"},
        "of no format": lambda state: state | {"format": None},
        "with tensors of another shape": lambda state: mapped(state, lambda value: torch.zeros(3, 3)),
        "with tensors that are NaN": lambda state: mapped(state, lambda value: value * float("nan") if value.is_floating_point() else value),
        "with meta tensors": lambda state: mapped(state, lambda value: value.to("meta")),
        "with tensors that are text": lambda state: mapped(state, lambda value: "x"),
        "with everything null": lambda state: {key: (value if key == "format" else None) for key, value in state.items()},
    }  # fmt: skip
    for what, change in wrong.items():

        def lay(scene: Scene, change: Callable[[dict[str, Any]], Any] = change) -> None:
            scene.take("run")
            newest = max((scene.work / "run" / "states").glob("state-*.pt"))
            replace_state(scene, saved(change(loaded(newest))))

        right = DONE if "config" not in what and "NaN" not in what else frozenset({0, 1, 2})
        yield Case(
            f"train --resume from a newest state {what}",
            "states",
            resumed(),
            lay,
            right,
            outputs=("run/*",),
            quick=what == "a list",
        )
    for what, content in (("of rubbish", bytes(range(256))), ("cut off", b"PK\x03\x04"), ("empty", b"")):
        for fits in (True, False):

            def lay_rubbish(scene: Scene, content: bytes = content, fits: bool = fits) -> None:
                scene.take("run")
                replace_state(scene, content, fits=fits)

            yield Case(f"train --resume from a newest state {what}, hash {'fits' if fits else 'does not fit'}", "states", resumed(), lay_rubbish, DONE,
                       says="state", outputs=("run/*",))  # fmt: skip

    def all_damaged(scene: Scene) -> None:
        scene.take("run")
        for path in (scene.work / "run" / "states").glob("state-*.pt"):
            path.write_bytes(b"rubbish")

    yield Case(
        "train --resume where all states are damaged",
        "states",
        resumed(),
        all_damaged,
        REFUSED,
        outputs=("run/states/*", "run/.lock"),
    )
    names = (
        "state-abc.pt",
        "state-.pt",
        "state--5-x.pt",
        "state-99999999999999999999-0123456789abcdef.pt",
        "state-000000001-.pt",
        "state-²-a.pt",
    )
    for name in names:

        def lay_named(scene: Scene, name: str = name) -> None:
            scene.take("run")
            scene.write(f"run/states/{name}", b"x")

        yield Case(f"train --resume beside a file {name}", "states", resumed(), lay_named, DONE, outputs=("run/*",))
    yield Case("train --resume with more epochs", "states", resumed(epochs="3"), take("run"), DONE, outputs=("run/*",))
    yield Case(
        "train --resume alone", "states", ("train", "--result-path", "run", "--resume"), take("run"), DONE, outputs=("run/*",)
    )
    for name in ("log.csv", "train.json", "best.pt", "last.pt"):
        for what, content in (("rubbish", b"\xff\x00rubbish"), ("empty", b"")):

            def lay_beside(scene: Scene, name: str = name, content: bytes = content) -> None:
                scene.take("run")
                scene.write(f"run/{name}", content)

            yield Case(f"train --resume where {name} is {what}", "states", resumed(), lay_beside, DONE, outputs=("run/*",))


def mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return [mapped(item, change) for item in value] if isinstance(value, list | tuple) else value


# The machine -----------------------------------------------------------------------------------------------------------


def limits() -> Iterator[Case]:
    commands: dict[str, tuple[str, ...]] = {
        "onnx": EXPORTS["onnx"], "torchscript": EXPORTS["torchscript"], "pt2": EXPORTS["pt2"], "verify": VERIFY, "eval": (*EVAL, "--data", "digits"),
        "eval best.pt": ("eval", "best.pt", "--data", "digits", "--device", "cpu"), "bench": BENCH, "predict": PREDICT, "inspect": ("inspect", "m.onnx"),
        "inspect best.pt": ("inspect", "best.pt"), "train": TRAIN, "report": ("report", "eval.json", "-o", "x.html"), "doctor": ("doctor",), "models": ("models",),
    }  # fmt: skip
    outputs = ("x.*", "runs*")
    for name, command in commands.items():
        needed = ("m.onnx", "best.pt", "photos", *(["eval.json"] if name == "report" else []))
        for more in (10, 40, 90, 150, 250):
            right = frozenset({0, 1, 3}) if name in ("doctor", "bench") else frozenset({0, 3})
            yield Case(f"{name} with {more} MB more", "memory", command, take(*needed), right, limits={"more_memory": more << 20}, outputs=outputs,
                       quick=name == "onnx" and more == 40)  # fmt: skip
        if name in ("onnx", "torchscript", "verify", "eval best.pt", "predict", "inspect", "train", "doctor", "models"):
            for limit in (400, 1000, 2500):
                right = frozenset({0, 1, 3})
                yield Case(
                    f"{name} under ulimit -v {limit} MB",
                    "memory",
                    command,
                    take(*needed),
                    right,
                    limits={"AS": limit << 20},
                    outputs=outputs,
                    fresh=True,
                )
        for number in (12, 24, 64):
            yield Case(
                f"{name} with {number} open files",
                "files",
                command,
                take(*needed),
                frozenset({0, 1, 3}),
                limits={"NOFILE": number},
                outputs=outputs,
                fresh=number == 64,
            )
        if name not in ("doctor", "models"):
            yield Case(
                f"{name} as a user without processes",
                "processes",
                command,
                take(*needed),
                frozenset({0, 1, 3}),
                limits={"NPROC": 0},
                uid=54321,
                outputs=outputs,
            )
    yield Case(
        "train with workers and 64 open files",
        "files",
        (*TRAIN, "--workers", "2"),
        status=frozenset({0, 3}),
        limits={"NOFILE": 64},
        outputs=("runs*",),
    )
    yield Case("eval with workers and no processes", "processes", ("eval", "best.pt", "--data", "digits", "--workers", "2", "--device", "cpu"), take("best.pt"),
               frozenset({0, 3}), limits={"NPROC": 0}, uid=54321)  # fmt: skip


def users() -> Iterator[Case]:
    if os.geteuid() != 0:
        return
    nobody = 65534

    def closed(name: str, mode: int = 0) -> Setup:
        return lambda scene: (scene.work / name).chmod(mode)

    readers: dict[str, tuple[tuple[str, ...], str]] = {
        "onnx of a checkpoint": (EXPORTS["onnx"], "best.pt"),
        "eval of a checkpoint": (("eval", "best.pt", "--device", "cpu"), "best.pt"),
        "inspect of a checkpoint": (("inspect", "best.pt"), "best.pt"),
        "inspect of a manifest": (("inspect", "m.onnx"), "m.onnx.json"),
        "verify of a manifest": (VERIFY, "m.onnx.json"),
        "verify of an artifact": (VERIFY, "m.onnx"),
        "verify of a checkpoint": (VERIFY, "best.pt"),
        "predict of a folder": (PREDICT, "photos"),
        "eval of a folder": (("eval", "best.pt", "--data", "classes", "--device", "cpu"), "classes/val"),
        "eval of a folder of a class": (("eval", "best.pt", "--data", "classes", "--device", "cpu"), "classes/val/cat"),
        "eval of shards": (("eval", "best.pt", "--data", "shards", "--device", "cpu"), "shards/val-0000.tar"),
        "eval of a folder of shards": (("eval", "best.pt", "--data", "shards", "--device", "cpu"), "shards"),
        "train of a folder": (("train", "--data", "classes", "--depth", "18", "--epochs", "1", *SMALL), "classes/train"),
        "train of a folder of a class": (
            ("train", "--data", "classes", "--depth", "18", "--epochs", "1", *SMALL),
            "classes/train/dog",
        ),
        "train from a state": (resumed(), "run/states"),
        "report of a report": (("report", "eval.json", "-o", "x.html"), "eval.json"),
        "doctor of a folder": (("doctor", "photos"), "photos"),
        "int8 of a folder": ((*EXPORTS["onnx"], "--precision", "int8", "--calibration-data", "classes"), "classes/train"),
    }
    for name, (command, shut) in readers.items():
        lay = after(take("best.pt", "m.onnx", "photos", "classes", "shards", "run", "eval.json"), closed(shut))
        right = frozenset({0, 1, 2, 3}) if "doctor" in name else frozenset({2})
        yield Case(
            f"{name} that may not be read",
            "permissions",
            command,
            lay,
            right,
            uid=nobody,
            outputs=("runs*", "run/.lock"),
            quick="a folder of a class" in name,
        )
    for name, command in {
        "onnx": EXPORTS["onnx"], "torchscript": EXPORTS["torchscript"], "pt2": EXPORTS["pt2"], "train": TRAIN, "report": ("report", "eval.json", "-o", "x.html"),
        "verify": (*VERIFY, "--json", "x.json"), "inspect": ("inspect", "m.onnx", "--json", "x.json"), "predict": (*PREDICT, "--json", "x.json"),
        "quickstart": ("quickstart",), "doctor": ("doctor", "--json", "x.json"),
    }.items():  # fmt: skip
        lay = after(take("best.pt", "m.onnx", "photos", "eval.json"), lambda scene: scene.work.chmod(0o555))
        yield Case(f"{name} into a folder that may not be written", "permissions", command, lay, REFUSED, uid=nobody)
    lost_home = {
        "HOME": None,
        "XDG_CACHE_HOME": None,
        "XDG_STATE_HOME": None,
        "XDG_DATA_HOME": None,
        "XDG_CONFIG_HOME": None,
        "IRESNET_EXPORT_CACHE": None,
    }
    unwritable = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), "/proc/1") | {
        "IRESNET_EXPORT_CACHE": None
    }
    commands: dict[str, tuple[str, ...]] = {
        "onnx": EXPORTS["onnx"], "torchscript": EXPORTS["torchscript"], "pt2": EXPORTS["pt2"], "verify": (*VERIFY[:-2], "--data", "digits"),
        "eval": ("eval", "m.onnx", "--device", "cpu", "--data", "digits"), "eval of shards": ("eval", "best.pt", "--data", "shards", "--device", "cpu"),
        "bench": BENCH, "predict": PREDICT, "predict by OpenVINO": (*PREDICT, "--backend", "openvino"), "inspect": ("inspect", "m.onnx"), "train": TRAIN,
        "doctor": ("doctor",), "models": ("models",), "report": ("report", "eval.json", "-o", "x.html"), "official": ("onnx", "--depth", "50", "--weights", "official"),
    }  # fmt: skip
    for name, command in commands.items():
        for what, env, uid in (
            ("HOME unset", lost_home, None),
            ("a user without an entry", lost_home, 54321),
            ("a home that cannot be written", unwritable, 54321),
        ):
            if what == "HOME unset" and os.geteuid() == 0 and name not in ("doctor", "models", "report", "inspect"):
                continue  # it would be root's own home
            right = frozenset({0, 1, 3}) if name == "doctor" else frozenset({2, 3}) if name == "official" else frozenset({0})
            yield Case(f"{name} with {what}", "homeless", command, take("best.pt", "m.onnx", "photos", "shards", "eval.json"), right, uid=uid, env=env,
                       outputs=("x.*", "runs*"), fresh=name in ("predict by OpenVINO", "doctor", "verify"), quick=name == "eval of shards" and uid is not None)  # fmt: skip


def terminals() -> Iterator[Case]:
    ascii_locale = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
    strict_ascii = ascii_locale | {"PYTHONIOENCODING": "ascii:strict"}
    chinese = after(take("best.pt", "photos"), spec(labels=["猫", "犬", "é", "𝄞", "ß", "ж", "ن", "\u202eabc", "‹", "😀"]))
    commands: dict[str, tuple[str, ...]] = {
        "inspect": ("inspect", "best.pt"), "predict": ("predict", "best.pt", "photos", "--device", "cpu"), "models": ("models",), "help": ("--help",), "train help": ("train", "--help"),
        "doctor": ("doctor",), "eval": ("eval", "best.pt", "--data", "digits", "--device", "cpu"), "report": ("report", "eval.json", "-o", "x.md"),
        "onnx": ("onnx", "--checkpoint", "best.pt", "-o", "ü.onnx"), "a name that is not there": ("inspect", "Ünicode.pt"),
    }  # fmt: skip
    for name, command in commands.items():
        for what, env in (("an ASCII locale", ascii_locale), ("strict ASCII", strict_ascii)):
            right = frozenset({0, 1, 3}) if name == "doctor" else REFUSED if "not there" in name else DONE
            yield Case(f"{name} in {what}", "locale", command, after(chinese, take("eval.json") if name == "report" else take()), right, env=env, fresh=True,
                       outputs=("x.*", "*.onnx", "*.onnx.json"), quick=name == "models" and env is strict_ascii)  # fmt: skip
    raw = os.fsdecode(b"\xff\xfe")
    for name, command in {
        "inspect": ("inspect", f"{raw}.onnx"), "inspect --json": ("inspect", f"{raw}.onnx", "--json", f"{raw}.json"), "predict": ("predict", f"{raw}.onnx", f"{raw}.png", f"{raw}"),
        "predict --json": ("predict", "m.onnx", f"{raw}.png", "--json", "x.json"), "eval": ("eval", f"{raw}.pt", "--data", "digits", "--device", "cpu", "--json", "x.json"),
        "eval of a folder": ("eval", "best.pt", "--data", raw, "--device", "cpu"), "onnx": ("onnx", "--checkpoint", f"{raw}.pt", "-o", f"x{raw}.onnx"),
        "torchscript": ("torchscript", "--checkpoint", f"{raw}.pt", "-o", f"x{raw}.ts"), "pt2": ("pt2", "--checkpoint", f"{raw}.pt", "-o", f"x{raw}.pt2"),
        "verify": ("verify", f"{raw}.onnx", "--images", "32", "--device", "cpu", "--json", "x.json"), "bench": ("bench", f"{raw}.onnx", *BENCH[2:], "--json", "x.json"),
        "report": ("report", f"{raw}.json", "-o", f"x{raw}.html"), "train": (*TRAIN, "--result-path", f"runs{raw}"),
        "train of a folder": ("train", "--data", raw, "--depth", "18", "--epochs", "1", "--result-path", "runs", *SMALL), "models": ("models", raw), "doctor": ("doctor", raw),
        "an option": ("onnx", "--precision", raw), "quickstart": ("quickstart", "-o", f"{raw}.png"),
    }.items():  # fmt: skip

        def lay(scene: Scene, name: str = name) -> None:
            scene.take("m.onnx", "best.pt", "photos", "classes")
            for ending in ("onnx", "onnx.json"):
                (scene.work / f"m.{ending}").copy(scene.work / f"{raw}.{ending}") if hasattr(Path, "copy") else shutil.copyfile(
                    scene.work / f"m.{ending}", scene.work / f"{raw}.{ending}"
                )
            shutil.copyfile(scene.work / "best.pt", scene.work / f"{raw}.pt")
            shutil.copyfile(scene.work / "photos" / "0.png", scene.work / f"{raw}.png")
            shutil.copytree(scene.work / "classes", scene.work / raw)
            os.rename(scene.work / raw / "val" / "cat", scene.work / raw / "val" / f"cat{raw}")
            os.rename(scene.work / raw / "train" / "cat", scene.work / raw / "train" / f"cat{raw}")
            if name == "report":
                shutil.copyfile(scene.shop.get("eval.json"), scene.work / f"{raw}.json")

        outputs = ("x*", "runs*", f"{raw}.json" if name == "inspect --json" else "x*")
        right = (
            ACCEPTED
            if name
            in ("inspect --json", "train of a folder", "train", "doctor", "verify", "bench", "report", "onnx", "torchscript", "pt2")
            else frozenset({0, 2})
        )
        yield Case(
            f"{name} with names that are no text", "names", command, lay, right, outputs=outputs, quick=name == "predict --json"
        )
    printing: dict[str, tuple[str, ...]] = {
        "models": ("models",), "inspect": ("inspect", "m.onnx"), "verify": VERIFY, "eval": (*EVAL, "--data", "digits"), "bench": BENCH, "predict": PREDICT, "doctor": ("doctor",),
        "help": ("--help",), "version": ("--version",), "onnx": EXPORTS["onnx"], "torchscript": EXPORTS["torchscript"], "pt2": EXPORTS["pt2"], "train": TRAIN,
        "report": ("report", "eval.json", "-o", "x.html"), "inspect --json -": ("inspect", "m.onnx", "--json", "-"),
    }  # fmt: skip
    for name, command in printing.items():
        lay_all = take("m.onnx", "best.pt", "photos", "eval.json")
        outputs = ("x.*", "runs*")
        silent = name == "report"
        for fresh in (False, True):
            if fresh and name in ("bench", "torchscript", "pt2", "train"):
                continue
            words = "a closed pipe, afresh" if fresh else "a closed pipe"
            yield Case(f"{name} into {words}", "pipes", command, lay_all, frozenset({141, 0}) if silent else frozenset({141}), stdout="broken", outputs=outputs, fresh=fresh,
                       quick=name in ("verify", "models") and not fresh)  # fmt: skip
        yield Case(
            f"{name} with stdout closed",
            "pipes",
            command,
            lay_all,
            frozenset({0, 1, 2, 3, 141}),
            stdout="closed",
            outputs=outputs,
            fresh=True,
        )
        yield Case(
            f"{name} to a full stdout",
            "pipes",
            command,
            lay_all,
            frozenset({0, 3}) if silent else frozenset({3}),
            stdout="full",
            outputs=outputs,
        )


def missing_things() -> Iterator[Case]:
    official = ("onnx", "--depth", "50", "--weights", "official", "-o", "x.onnx")
    yield Case("official weights without a network", "missing", official, status=MISSING, quick=True)
    for name, command in {
        "verify": (*VERIFY[:-3], "cuda"), "eval": ("eval", "best.pt", "--data", "digits", "--device", "cuda"), "predict": (*PREDICT[:-1], "cuda"), "train": (*TRAIN, "--device", "cuda"),
        "bench": (*BENCH, "--device", "cuda"), "pt2": (*EXPORTS["pt2"], "--compile", "--device", "cuda"),
    }.items():  # fmt: skip
        if not torch.cuda.is_available():
            yield Case(f"{name} on a GPU that is not there", "missing", command, take("m.onnx", "best.pt", "photos"), MISSING)
    yield Case(
        "trt without TensorRT or a GPU",
        "missing",
        ("trt", "--checkpoint", "best.pt", "-o", "x.engine"),
        take("best.pt"),
        frozenset({0, 3}),
        hidden=("tensorrt", "tensorrt_rtx"),
        outputs=WRITTEN,
    )
    yield Case(
        "pt2 --compile without a compiler",
        "missing",
        (*EXPORTS["pt2"], "--compile"),
        take("best.pt"),
        MISSING,
        env={"PATH": "/nonexistent", "CXX": None},
        outputs=WRITTEN,
    )
    yield Case(
        "train by DALI without DALI",
        "missing",
        ("train", "--data", "classes", "--depth", "18", "--loader", "dali", *SMALL),
        take("classes"),
        frozenset({2, 3}),
        hidden=("nvidia.dali",),
    )
    yield Case(
        "train --log tensorboard without it",
        "missing",
        (*TRAIN, "--log", "tensorboard"),
        status=MISSING,
        hidden=("tensorboard", "torch.utils.tensorboard"),
        outputs=("runs*",),
    )
    for module, command in {
        "onnxruntime": VERIFY, "openvino": (*PREDICT, "--backend", "openvino"), "onnx": EXPORTS["onnx"], "sklearn": ("eval", "best.pt", "--data", "digits", "--device", "cpu"),
        "scipy": (*VERIFY, "--max-accuracy-drop", "1"), "matplotlib": ("report", "eval.json", "-o", "x.html"), "jinja2": ("report", "eval.json", "-o", "x.html"),
        "onnxscript": (*BENCH, "--peers"), "gdown": official, "psutil": BENCH,
    }.items():  # fmt: skip
        lay = take("m.onnx", "best.pt", "photos", "eval.json")
        yield Case(
            f"{command[0]} without {module}", "missing", command, lay, frozenset({0, 2, 3}), hidden=(module,), outputs=WRITTEN
        )
    nothing: dict[str, tuple[str, ...]] = {
        "train": ("train", "--data", "nowhere"), "eval": ("eval", "nowhere.pt"), "torchscript": ("torchscript", "--checkpoint", "nowhere.pt"), "pt2": ("pt2", "--checkpoint", "nowhere.pt"),
        "onnx": ("onnx", "--checkpoint", "nowhere.pt"), "trt": ("trt", "--checkpoint", "nowhere.pt"), "verify": ("verify", "nowhere.onnx"), "bench": ("bench", "nowhere.onnx"),
        "report": ("report", "nowhere.json"), "predict": ("predict", "nowhere.onnx", "x.png"), "inspect": ("inspect", "nowhere"), "doctor": ("doctor", "nowhere"),
        "bench of nothing": ("bench",), "verify of nothing": ("verify",), "report of nothing": ("report",), "models with a word": ("models", "x"), "no command": ("nonsense",), "an unknown option": ("onnx", "--nonsense"),
    }  # fmt: skip
    for name, command in nothing.items():
        right = frozenset({0, 1, 2, 3}) if name == "doctor" else frozenset({2, 3})
        yield Case(f"{name} of what is not there", "missing", command, status=right, quick=name in ("bench", "report"))

    def gone(scene: Scene) -> None:
        (scene.work / "best.pt").symlink_to("nowhere")

    for name, command in (("inspect", ("inspect", "best.pt")), ("onnx", EXPORTS["onnx"])):
        yield Case(f"{name} of a dangling link", "missing", command, gone)
    for kind in ("FIFO", "socket", "device"):
        for name, path, command in (
            ("inspect", "m.onnx", ("inspect", "m.onnx")), ("onnx", "best.pt", EXPORTS["onnx"]), ("verify", "m.onnx", (*VERIFY, "--checkpoint", "c.pt")), ("report", "e.json", ("report", "e.json")),
            ("predict", "p.png", ("predict", "m2.onnx", "p.png")), ("eval", "t.tar", ("eval", "c.pt", "--data", "t.tar", "--device", "cpu")), ("train", "best.pt", (*TRAIN, "--pretrained", "best.pt")),
        ):  # fmt: skip

            def node(scene: Scene, kind: str = kind, path: str = path) -> None:
                shutil.copyfile(scene.shop.get("best.pt"), scene.work / "c.pt")
                for ending in ("", ".json"):
                    shutil.copyfile(scene.shop.get("m.onnx").with_name(f"m.onnx{ending}"), scene.work / f"m2.onnx{ending}")
                make_node(scene, path, kind)

            yield Case(
                f"{name} of a {kind}",
                "special",
                command,
                node,
                frozenset({2, 3}) if kind == "device" else REFUSED,
                outputs=("runs*",),
                seconds=20,
                quick=kind == "FIFO" and name == "predict",
            )


def make_node(scene: Scene, name: str, kind: str) -> None:
    path = scene.work / name
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        import socket

        made = socket.socket(socket.AF_UNIX)
        there = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{there}/{path.name}")
        os.close(there)
        scene.closing.append(made.close)
    else:
        try:
            os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # as /dev/zero: without an end
        except PermissionError:
            path.symlink_to("/dev/zero")


# Options ---------------------------------------------------------------------------------------------------------------

NUMBERS = (
    "-1",
    "0",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 30,
    str(2**31),
    str(2**63),
    "x",
    "",
    "１２",
    "1_0",
    "0x10",
    "-" + "9" * 30,
)
TEXTS = (
    "",
    " ",
    "nonsense",
    "-1",
    "0",
    "1,,2",
    "1,nan",
    "9" * 40,
    "1e400",
    "a\nb",
    "\x1b[31m",
    "é" * 300,
    "../..",
    "pipe:{trap}x",
    ",",
)


NEEDED: dict[str, tuple[str, ...]] = {
    "quickstart": (), "train": (), "eval": ("best.pt",), "torchscript": ("best.pt",), "pt2": ("best.pt",), "onnx": ("best.pt",), "trt": ("best.pt",), "verify": ("m.onnx", "best.pt"),
    "bench": ("m.onnx", "best.pt"), "report": ("eval.json",), "predict": ("m.onnx", "photos"), "doctor": (), "models": (), "inspect": ("m.onnx",),
}  # fmt: skip


def bases() -> dict[str, tuple[str, ...]]:
    """A command line for each command that is right as it is, and soon done."""
    return {
        "quickstart": ("quickstart", "-o", "taken"),  # refused after its options were read
        "train": TRAIN,
        "eval": ("eval", "best.pt", "--data", "digits", "--device", "cpu"),
        "torchscript": EXPORTS["torchscript"],
        "pt2": EXPORTS["pt2"],
        "onnx": EXPORTS["onnx"],
        "trt": ("trt", "--checkpoint", "best.pt", "-o", "x.engine"),
        "verify": VERIFY,
        "bench": BENCH,
        "report": ("report", "eval.json", "-o", "x.html"),
        "predict": PREDICT,
        "doctor": ("doctor",),
        "models": ("models",),
        "inspect": ("inspect", "m.onnx"),
    }


def options_of(command: str) -> Iterator[tuple[str, str, bool]]:
    """Name, option and whether it is a number, of each option of a command that takes a value; asked of the program itself."""
    from iresnet_export.cli.main import application

    for parameter in typer.main.get_command(application(command)).commands[command].params:  # type: ignore[attr-defined]
        if parameter.param_type_name != "option" or parameter.is_flag or parameter.name == "help":
            continue
        annotation = parameter.type_descriptor.annotation
        kinds = set(get_args(annotation)) | {annotation}
        yield parameter.name, parameter.opts[0], bool(kinds & {int, float})


def option_bounds() -> Iterator[Case]:
    shared = {name for name, _, _ in options_of("onnx")}  # the exports take these by the same code
    endless = {"epochs", "seconds", "repeats"}  # more of it takes longer, as was asked for
    for command, base in bases().items():
        for name, option, number in options_of(command):
            if name in ("json", "output", "result_path", "markdown", "checkpoint", "pretrained", "bench", "title"):
                continue
            if command in ("torchscript", "pt2", "trt") and name in shared:
                continue
            for index, value in enumerate(NUMBERS if number else TEXTS):
                if name in endless and value in (str(2**31), str(2**63), "9" * 30):
                    continue
                if not number and index % 2 and name not in ("data", "val_data", "batch", "threads", "rate", "profile"):
                    continue
                lay = after(take(*NEEDED[command]), put("taken", "a file") if command == "quickstart" else take())
                wrong = number and value in ("nan", "inf", "-inf", "x", "", "0x10", "-" + "9" * 30)
                right = frozenset({2}) if wrong else frozenset({0, 1, 2, 3})
                if name == "p99_limit" or (name, value) in (("clip_norm", "inf"), ("noise_limit", "inf"), ("ema_decay", "nan")):
                    right = frozenset({0, 1, 2, 3})
                case_command = (*base, option, value.replace("{trap}", "touch {root}/outside/canary/"))
                if command == "quickstart" and name == "output":
                    continue
                quick = (command, name, value) in (
                    ("train", "mixup", "nan"),
                    ("onnx", "image_size", "9" * 30),
                    ("eval", "batch_size", "0"),
                )
                yield Case(
                    f"{command} {option} {value[:20]!r}",
                    "options",
                    case_command,
                    lay,
                    right,
                    outputs=("x.*", "runs*"),
                    seconds=60,
                    quick=quick,
                )
    for value in ("synthetic:99999999999", "synthetic:0", "synthetic:-1", "synthetic:x", "synthetic:" + "9" * 5000, "x-{0..9999999999999999}.tar", "x-{0..99999999}-{0..99999999}.tar",
                  "x-{a..b}.tar", "{" * 5000 + ".tar", "x-{9..0}.tar", "x-{0000..0001}.tar", "a\0b", "http://127.0.0.1:9/x.tar", "ftp://127.0.0.1:9/x.tar", "file:///etc/hostname.tar",
                  "pipe:false", "pipe:", "pipe:exit 3", ".tar", "gopher://x.tar"):  # fmt: skip
        if "\0" in value:
            continue  # no command line can hold it
        for name, command in (
            ("eval", ("eval", "best.pt", "--device", "cpu", "--data", value)),
            ("train", ("train", "--data", value, *TRAIN[3:])),
            ("int8", (*EXPORTS["onnx"], "--precision", "int8", "--calibration-data", value)),
        ):
            yield Case(
                f"{name} of the data {value[:30]}",
                "bombs",
                command,
                take("best.pt"),
                frozenset({2, 3}),
                outputs=("runs*",),
                seconds=60,
                quick=name == "eval" and "9999999999999999" in value,
            )
    for name, size in (("onnx", 10**5), ("torchscript", 10**5), ("onnx", 20_000), ("pt2", 10**5)):
        yield Case(
            f"{name} --image-size {size}",
            "bombs",
            (*EXPORTS[name], "--image-size", str(size)),
            take("best.pt"),
            frozenset({0, 1, 2, 3}),
            outputs=WRITTEN,
            seconds=120,
        )
    yield Case(
        "onnx of 10^9 classes",
        "bombs",
        ("onnx", "--depth", "18", "--num-classes", str(10**9), "-o", "x.onnx"),
        status=frozenset({2, 3}),
        outputs=WRITTEN,
    )
    yield Case("an argument of a megabyte", "options", ("inspect", "a" * 120_000), status=REFUSED)
    for ending in ("x", "x.engine", "x.pt", "x.onnx.json", ".onnx", "x.ts", "a/b/c/x.onnx", "."):
        outputs = ("a/*", "a")
        yield Case(f"onnx -o {ending}", "options", ("onnx", "--checkpoint", "best.pt", "-o", ending), take("best.pt"), frozenset({0, 2}) if ending in (".onnx", "a/b/c/x.onnx") else REFUSED,
                   outputs=(*outputs, ".onnx*"))  # fmt: skip


# Images, shards, reports -----------------------------------------------------------------------------------------------


def images() -> Iterator[Case]:
    def encoded(image: Image.Image, format: str, **how: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **how)
        return buffer.getvalue()

    whole = png()
    jpeg = encoded(picture(1), "JPEG")
    bad: dict[str, tuple[str, bytes]] = {
        "empty": ("a.png", b""), "text": ("a.png", b"hello"), "cut off": ("a.png", whole[: len(whole) // 2]), "a cut JPEG": ("a.jpg", jpeg[: len(jpeg) // 2]),
        "a bomb": ("a.png", png_of(60_000, 60_000)), "of no size": ("a.png", png_of(0, 0)), "a truncated chunk": ("a.png", whole[:40] + b"\xff" * 20), "a zip": ("a.png", saved({"a": 1})),
        "an SVG": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "PostScript": ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "PostScript named .png": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch ran) (w) file\n"), "a huge EXIF": ("a.jpg", jpeg[:2] + b"\xff\xe1\xff\xff" + b"Exif\0\0" + b"\xff" * 60_000 + jpeg[2:]),
        "a GIF of many frames": ("a.gif", encoded(picture(0), "GIF", save_all=True, append_images=[picture(1)] * 50)), "a TIFF with a wild offset": ("a.tif", b"II*\0\xff\xff\xff\x7f"),
        "greys that are NaN": ("a.tif", encoded(Image.fromarray(__import__("numpy").full((40, 40), float("nan"), "float32")), "TIFF")), "one pixel": ("a.png", png(0, 1)), "very narrow": ("a.png", encoded(Image.new("RGB", (1, 4000)), "PNG")),
    }  # fmt: skip
    for what, (name, content) in bad.items():
        lay = after(take("m.onnx", "best.pt", "photos"), put(f"photos/{name}", content))
        right = (
            frozenset({0, 2})
            if what in ("one pixel", "very narrow", "a GIF of many frames", "a huge EXIF", "PostScript")
            else REFUSED
        )
        yield Case(
            f"predict of an image that is {what}",
            "images",
            (*PREDICT, f"photos/{name}"),
            lay,
            right | ({0} if what == "greys that are NaN" else set()),
            quick=what == "a bomb",
        )

        def classed(scene: Scene, name: str = name, content: bytes = content) -> None:
            scene.take("classes", "best.pt")
            for part in ("train", "val"):
                scene.write(f"classes/{part}/cat/{name}", content)

        training = ("train", "--data", "classes", "--depth", "18", "--epochs", "1", "--batch-size", "4", *SMALL)
        yield Case(f"train over an image that is {what}", "images", training, classed, frozenset({0, 2}), outputs=("runs*",))
    odd: dict[str, Setup] = {
        "a FIFO named a.jpg": lambda scene: os.mkfifo(scene.work / "d" / "a.jpg"),
        "a folder named a.jpg": lambda scene: (scene.work / "d" / "a.jpg").mkdir(),
        "a socket named a.jpg": lambda scene: make_node(scene, "d/a.jpg", "socket"),
        "a device named a.jpg": lambda scene: make_node(scene, "d/a.jpg", "device"),
        "a dangling link": lambda scene: (scene.work / "d" / "a.jpg").symlink_to("nowhere.jpg"),
        "a circle of links": lambda scene: (scene.work / "d" / "loop").symlink_to("."),
        "a link to itself": lambda scene: (scene.work / "d" / "a.jpg").symlink_to("a.jpg"),
        "a hidden file": lambda scene: scene.write("d/._0.jpg", b"\0\5\x16\7"),
        "a hidden folder": lambda scene: scene.write("d/.ipynb_checkpoints/0-checkpoint.png", png()),
        "a .jfif": lambda scene: scene.write("d/a.jfif", jpeg),
        "a .heic": lambda scene: scene.write("d/a.heic", b"\0\0\0\x18ftypheic"),
        "an .avif": lambda scene: scene.write("d/a.avif", b"\0\0\0\x18ftypavif"),
        "a .JPG": lambda scene: scene.write("d/a.JPG", jpeg),
        "Thumbs.db": lambda scene: scene.write("d/Thumbs.db", b"x"),
        "a name of no text": lambda scene: scene.write(os.fsdecode(b"d/\xff.png"), png()),
        "a name with escapes": lambda scene: scene.write("d/\x1b]0;owned\x07.png", png()),
        "a bad name with escapes": lambda scene: scene.write("d/\x1b]0;owned\x07.png", b"x"),
        "nothing": lambda scene: [path.unlink() for path in (scene.work / "d").iterdir()],
        "a thousand folders deep": lambda scene: deep_folder(scene.work / "d"),
    }
    for what, make in odd.items():

        def flat(scene: Scene, make: Setup = make) -> None:
            scene.take("m.onnx", "best.pt")
            scene.write("d/0.png", png())
            make(scene)

        readable = (
            frozenset({0, 2})
            if what not in ("a hidden file", "a .jfif", "a .JPG", "a hidden folder", "Thumbs.db", "a name of no text")
            else DONE
        )
        yield Case(
            f"predict of a folder with {what}",
            "images",
            ("predict", "m.onnx", "d", "--device", "cpu"),
            flat,
            readable,
            seconds=60,
            quick=what == "a FIFO named a.jpg",
        )

        def in_class(scene: Scene, make: Setup = make) -> None:
            scene.take("best.pt")
            for part in ("train", "val"):
                for name in ("cat", "dog"):
                    scene.write(f"data/{part}/{name}/0.png", png())
            scene.write("d/0.png", png())
            make(scene)
            for part in ("train", "val"):
                shutil.rmtree(scene.work / "data" / part / "cat")
                # Linked, since nodes of the file system are not copied: each part's folder of cats is d.
                (scene.work / "data" / part / "cat").symlink_to("../../d")

        for name, command in {
            "train": ("train", "--data", "data", "--depth", "18", "--epochs", "1", "--batch-size", "2", *SMALL),
            "eval": ("eval", "best.pt", "--data", "data", "--device", "cpu"),
            "int8": (*EXPORTS["onnx"], "--precision", "int8", "--calibration-data", "data"),
        }.items():
            right = DONE if name == "train" and readable == DONE else frozenset({0, 2})
            yield Case(
                f"{name} of a class with {what}", "images", command, in_class, right, outputs=(*WRITTEN, "runs*"), seconds=60
            )
    layouts: dict[str, dict[str, bytes]] = {
        "no val": {"train/cat/0.png": whole, "train/dog/0.png": whole}, "no train": {"val/cat/0.png": whole}, "a class without images": {"train/cat/0.png": whole, "train/dog/.keep": b"", "val/cat/0.png": whole},
        "a class without validation images": {"train/cat/0.png": whole, "train/dog/1.png": whole, "val/cat/0.png": whole, "val/dog/.keep": b""}, "one class": {"train/cat/0.png": whole, "val/cat/0.png": whole},
        "a class in val alone": {"train/cat/0.png": whole, "val/cat/0.png": whole, "val/cow/0.png": whole}, "files beside classes": {"train/0.png": whole, "train/cat/0.png": whole, "val/cat/0.png": whole},
        "nothing": {"x": b""}, "a file named val": {"train/cat/0.png": whole, "val": b"x"}, "all unreadable": {"train/cat/0.png": b"x", "train/dog/0.png": b"y", "val/cat/0.png": b"z", "val/dog/0.png": b"z"},
    }  # fmt: skip
    for what, found in layouts.items():

        def lay_out(scene: Scene, found: dict[str, bytes] = found) -> None:
            scene.take("best.pt")
            for name, content in found.items():
                scene.write(f"data/{name}", content)

        for name, command in {
            "train": ("train", "--data", "data", "--depth", "18", "--epochs", "1", "--batch-size", "2", *SMALL),
            "eval": ("eval", "best.pt", "--data", "data", "--device", "cpu"),
        }.items():
            yield Case(f"{name} of a data folder with {what}", "images", command, lay_out, frozenset({0, 2}), outputs=("runs*",))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def deep_folder(top: Path) -> None:
    """Deeper than a path may be long, made step by step."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def shards() -> Iterator[Case]:
    pairs = {f"{index:04}.{ending}": content for index in range(4) for ending, content in sample(index)}

    def linked(info: tarfile.TarInfo) -> None:
        if info.name.endswith("1.png"):
            info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/hostname", 0

    def hard(info: tarfile.TarInfo) -> None:
        if info.name.endswith("1.png"):
            info.type, info.linkname, info.size = tarfile.LNKTYPE, "0000.png", 0

    def device(info: tarfile.TarInfo) -> None:
        if info.name.endswith("1.png"):
            info.type, info.devmajor, info.devminor, info.size = tarfile.CHRTYPE, 1, 5, 0

    def fifo(info: tarfile.TarInfo) -> None:
        if info.name.endswith("1.cls"):
            info.type, info.size = tarfile.FIFOTYPE, 0

    def outside(info: tarfile.TarInfo) -> None:
        info.name = f"../../outside/{info.name}"

    whole = shard(pairs)
    kinds: dict[str, bytes] = {
        **{f"a class of {value!r}"[:40]: shard(pairs | {"0001.cls": value}) for value in (b"-1", b"abc", b"", b"1.5", b"9" * 30, b"9" * 5000, b"\xef\xbb\xbf1", b" 1\n", b"1\n2", b"\xd9\xa1", b"999999999", b"1_0", b"\xff")},
        "a .CLS": shard({key.replace("cls", "CLS"): value for key, value in pairs.items()}), "a .PNG": shard({key.replace("png", "PNG"): value for key, value in pairs.items()}),
        "dotted names": shard({f"a.b.{key}": value for key, value in pairs.items()}), "names in folders": shard({f"x/y.z/{key}": value for key, value in pairs.items()}), "hidden names": shard(pairs | {"._0000.png": b"x"}),
        "symbolic links": shard(pairs, linked), "hard links": shard(pairs, hard), "devices": shard(pairs, device), "a FIFO for a class": shard(pairs, fifo), "names that climb": shard(pairs, outside),
        "names of no text": shard({f"{os.fsdecode(bytes([255]))}{key}": value for key, value in pairs.items()}), "a name twice": whole[: -10240 + 0] + shard(pairs), "no images": shard({"0.cls": b"1"}), "no classes": shard({"0.png": png()}),
        "images that are none": shard({"0.png": b"x", "0.cls": b"0"}), "nothing": b"", "an empty archive": shard({}), "zeros": bytes(10240), "rubbish": bytes(range(256)) * 40, "text": b"<html>not found</html>" * 50,
        "its end cut off": whole[: len(whole) * 2 // 3], "its middle overwritten": whole[:2000] + b"\xff" * 600 + whole[2600:], "gzip": __import__("gzip").compress(whole), "a claimed size of gigabytes": oversized(whole),
        "an image of no bytes": shard(pairs | {"0001.png": b""}), "escapes in names": shard({f"\x1b]0;x\x07{key}": value for key, value in pairs.items()} | {"\x1b]0;x\x07lonely.png": b"x"}),
    }  # fmt: skip
    good = ("a class of b' 1\\n'", "a .CLS", "a .PNG", "dotted names", "names in folders")
    for what, content in kinds.items():

        def lay(scene: Scene, content: bytes = content) -> None:
            scene.take("best.pt")
            for part in ("train", "val"):
                scene.write(f"s/{part}-0000.tar", content)

        for name, command in {
            "train": ("train", "--data", "s", "--depth", "18", "--epochs", "1", "--batch-size", "2", *SMALL),
            "eval": ("eval", "best.pt", "--data", "s", "--device", "cpu"),
            "int8": (*EXPORTS["onnx"], "--precision", "int8", "--calibration-data", "s/train-0000.tar"),
        }.items():
            right = DONE if what in good else frozenset({0, 2})
            yield Case(
                f"{name} of shards with {what}",
                "shards",
                command,
                lay,
                right,
                outputs=(*WRITTEN, "runs*"),
                quick=name == "eval" and what in ("a class of b'-1'", "symbolic links"),
            )
    for what, listed in {
        "a mark": b"\xef\xbb\xbfcat\ndog\n", "too few": b"cat\n", "a blank line": b"cat\n\ndog\n", "no text": b"\xff\xfe", "nothing": b"", "carriage returns": b"cat\r\ndog\r\n", "a name twice": b"cat\ncat\n", "escapes": b"\x1b]0;x\x07\ndog\n",
    }.items():  # fmt: skip
        lay_listed = after(take("shards", "best.pt"), put("shards/classes.txt", listed))
        right = DONE if what in ("a mark", "carriage returns") else frozenset({0, 2})
        command = ("train", "--data", "shards", "--depth", "18", "--epochs", "1", "--batch-size", "2", *SMALL)
        yield Case(f"train of shards whose classes.txt holds {what}", "shards", command, lay_listed, right, outputs=("runs*",))


def oversized(whole: bytes) -> bytes:
    """The first header claims 8 GB."""
    head = bytearray(whole[:512])
    head[124:136] = b"77777777777\0"
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + whole[512:]


def reports() -> Iterator[Case]:
    values: dict[str, Any] = STRANGE | {
        "1e308": 1e308, "-1e308": -1e308, "tiny": 5e-324, "10^400": f"{files.RAW}1{'0' * 400}", "script": "<script>alert(1)</script>", "template": "{{ 7*7 }}", "many": [1] * 100_000,
    }  # fmt: skip
    for name in ("verify.json", "bench.json", "eval.json", "train.json"):
        for number, (what, value) in enumerate(values.items()):
            for format in ("html", "md", "csv"):
                if format != ("html", "md", "csv")[number % 3] and what not in ("1e308", "10^400", "nan"):
                    continue

                def lay(scene: Scene, name: str = name, value: Any = value) -> None:
                    document = json.loads(scene.shop.get(name).read_text())
                    places = [place for place in leaves(document) if "environment" not in place[:1]]
                    for place in scene.random.sample(places, min(1 + len(places) // 30, len(places))):
                        set_leaf(document, place, None if value is ... else value)
                    scene.write(name, dumped(document))

                yield Case(f"report of {name} with {what}, as {format}", "reports", ("report", name, "-o", f"x.{format}"), lay, frozenset({0, 2}), outputs=WRITTEN,
                           quick=name == "bench.json" and what == "1e308" and format == "html")  # fmt: skip

        def numbers(scene: Scene, name: str = name) -> None:
            document = json.loads(scene.shop.get(name).read_text())
            for place in leaves(document):
                if isinstance(leaf(document, place), float):
                    set_leaf(document, place, 1e308 if scene.random.random() < 0.5 else -1e308)
            scene.write(name, dumped(document))

        for format in ("html", "md", "csv"):
            yield Case(
                f"report of {name} with ±1e308 everywhere, as {format}",
                "reports",
                ("report", name, "-o", f"x.{format}"),
                numbers,
                frozenset({0, 2}),
                outputs=WRITTEN,
            )
    for what, content in {
        "empty": "", "a list": "[]", "brackets": files.DEEP, "no text": b"\xff\xfe", "a schema of nothing": '{"schema": "iresnet-export//1"}', "a future schema": '{"schema": "iresnet-export/bench/99"}',
        "a schema of five thousand digits": '{"schema": "iresnet-export/bench/' + "9" * 5000 + '"}', "only a schema": '{"schema": "iresnet-export/bench/1"}', "a manifest": '{"schema": "iresnet-export/manifest/1"}',
        "a number": "1e999", "a key of a megabyte": '{"' + "a" * 10**6 + '": 1}', "text with escapes": '{"schema": "\\u001b]0;x\\u0007"}',
    }.items():  # fmt: skip
        yield Case(
            f"report of a file that is {what}",
            "reports",
            ("report", "x.json", "-o", "y.html"),
            put("x.json", content),
            REFUSED,
            quick=what == "brackets",
        )
    for option, value in (
        ("--fail-if-slower", "nan"),
        ("--fail-if-slower", "-5%"),
        ("--fail-if-slower", "1e400"),
        ("--fail-if-slower", "x"),
        ("--format", "pdf"),
        ("--title", "\x1b]0;x\x07<script>"),
        ("--title", ""),
    ):
        yield Case(f"report {option} {value!r}", "reports", ("report", "bench.json", "bench2.json", "-o", "x.html", option, value), after(take("bench.json"), lambda scene: shutil.copyfile(scene.work / "bench.json", scene.work / "bench2.json")),
                   frozenset({0, 1, 2, 3}), outputs=WRITTEN)  # fmt: skip


def leaves(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(document, dict):
        return [found for key, value in document.items() for found in leaves(value, (*place, key))]
    if isinstance(document, list):
        return [found for index, value in enumerate(document) for found in leaves(value, (*place, index))]
    return [place]


def leaf(document: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        document = document[step]
    return document


def set_leaf(document: Any, place: tuple[Any, ...], value: Any) -> None:
    leaf(document, place[:-1])[place[-1]] = value


def terminal_attacks() -> Iterator[Case]:
    """Text out of files that would write on the terminal what it likes."""
    attack = "\x1b]0;owned\x07\x1b[2J\x1b[31mPASS\r\u202e"
    lay = after(take("best.pt", "photos"), spec(labels=[attack] * 10))
    for name, command in {
        "inspect": ("inspect", "best.pt"), "predict": ("predict", "best.pt", "photos", "--device", "cpu"), "eval": ("eval", "best.pt", "--data", "digits", "--device", "cpu"), "onnx": EXPORTS["onnx"],
    }.items():  # fmt: skip
        yield Case(
            f"{name} of labels with escapes", "terminal", command, lay, frozenset({0, 2}), outputs=WRITTEN, quick=name == "predict"
        )
    for field in (
        "precision",
        "command",
        "created",
        "versions.torch",
        "weights.checkpoint",
        "hardware.cpu",
        "commit",
        "file",
        "details.fold.exactness",
        "details.fold.proof.image_source",
        "spec.arch",
        "spec.data",
        "schema",
    ):
        for name, command in (("inspect", ("inspect", "m.onnx")), ("verify", VERIFY), ("bench", BENCH)):
            if name != "bench" or field in ("precision", "file"):
                lay = after(take("m.onnx", "best.pt"), manifest(lambda found, _, field=field: changed(found, field, attack)))  # type: ignore[misc]
                yield Case(f"{name} of a manifest whose {field} holds escapes", "terminal", command, lay, ACCEPTED)
    for name in ("verify.json", "bench.json", "eval.json"):

        def told(scene: Scene, name: str = name) -> None:
            document = json.loads(scene.shop.get(name).read_text())
            for place in leaves(document):
                if isinstance(leaf(document, place), str) and place[-1] not in ("schema", "status"):
                    set_leaf(document, place, attack)
            scene.write(name, json.dumps(document))

        yield Case(
            f"report of {name} with escapes", "terminal", ("report", name, "-o", "x.md"), told, frozenset({0, 2}), outputs=WRITTEN
        )


def without_a_fault() -> Iterator[Case]:
    """The same commands with nothing wrong: what shows that the others fail for their fault. By the installed program, afresh."""
    for name, command in bases().items():
        if name in ("quickstart", "trt"):
            continue
        right = frozenset({0, 1, 3}) if name == "doctor" else frozenset({0, 1}) if name in ("verify", "bench") else DONE
        needed = ("m.onnx", "best.pt", "photos", *(["eval.json"] if name == "report" else []))
        yield Case(f"{name} without a fault", "control", command, take(*needed), right, outputs=("x.*", "runs*"), fresh=True)
        yield Case(
            f"{name} without a fault, forked",
            "control",
            command,
            take(*needed),
            right,
            outputs=("x.*", "runs*"),
            quick=name in ("inspect", "onnx"),
        )
    for name in ("m.ts", "m.pt2", "q.onnx", "u.onnx"):
        for command_name, command in artifact_commands(name).items():
            right = DONE if command_name in ("inspect", "eval", "predict") else frozenset({0, 1})
            yield Case(f"{command_name} of {name} without a fault", "control", command, take(name, "best.pt", "photos"), right)


TABLES: tuple[Callable[[], Iterator[Case]], ...] = (
    without_a_fault, code_from_data, hostile_pickles, climbing_paths, damaged_manifests, damaged_specs, damaged_checkpoints, foreign_checkpoints, hostile_onnx, reports_over_inputs,
    special_outputs, full_disks, signals, damaged_states, limits, users, terminals, missing_things, option_bounds, images, shards, reports, terminal_attacks,
)  # fmt: skip


def all_cases() -> list[Case]:
    """The whole table; every name is there once."""
    found: dict[str, Case] = {}
    for table in TABLES:
        for case in table():
            name = case.name
            while name in found:
                name += "'"
            found[name] = dataclasses.replace(case, name=name) if name != case.name else case
    return list(found.values())
