"""Damages files at random, and reads them with every reader.

    python studies/fuzz.py --minutes 20 --seed 1 --json studies/results/fuzz.json

Bytes are flipped, cut, doubled and spliced; fields of JSON, of specs and of pickled states are replaced. A reader may give what it
reads, or raise an error of this project (`IResNetError`) or MemoryError. Anything else is a finding: another exception, a crash, a
hang, memory beyond a bound. Readers run in forked workers. With one seed the same files are made again. `--keep FOLDER` saves what
was found; tests/corpus holds small files, which a test gives to all readers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / part) for part in (".", "models", "train"))]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
from fault_files import STRANGE, dumped, saved  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from iresnet_models.errors import IResNetError  # noqa: E402

SECONDS, MEMORY_MB = 20, 2000
_BATCH = 200
"""Files that one worker reads before it is replaced."""


# Readers: each takes a file, and nothing else ------------------------------------------------------------------------------


def read_manifest(path: Path) -> object:
    from iresnet_export.artifacts.manifest import Manifest
    from iresnet_models.files import read_json

    return Manifest.from_json(read_json(path, "The manifest"), path)


def read_spec(path: Path) -> object:
    from iresnet_models.files import read_json
    from iresnet_models.spec import ModelSpec

    return ModelSpec.from_json(read_json(path, "The spec"))


def read_inspected(path: Path) -> object:
    from iresnet_export.inspection import inspect_file

    found = inspect_file(path)
    return found.rows(), found.to_json()


def read_checkpoint(path: Path) -> object:
    from iresnet_models.checkpoint import load_checkpoint

    return load_checkpoint(path)


def read_onnx_graph(path: Path) -> object:
    from iresnet_export.artifacts.metadata import identity_of
    from iresnet_export.backends.registry import format_named

    identity_of(path, "onnx")
    return format_named("onnx").read(_artifact(path, "onnx"))


def read_engine(path: Path) -> object:
    from iresnet_export.backends.tensorrt.plan import read_plan

    return read_plan(_artifact(path, "engine"))


def _artifact(path: Path, format: Any) -> Any:
    from iresnet_export.artifacts.artifact import Artifact

    return Artifact(path, format, None)


def read_a_report(path: Path) -> object:
    from iresnet_export.reporting.report import ReportOptions, make_report

    return [make_report([path], ReportOptions(format, None, None, None)) for format in ("html", "md", "csv")]


def read_state(path: Path) -> object:
    import hashlib

    from iresnet_train.saved import checked
    from iresnet_train.state import StateFolder

    folder = path.with_name(f"{path.name}-states")
    folder.mkdir(exist_ok=True)
    content = path.read_bytes()
    (folder / f"state-000000001-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    states = StateFolder(folder)
    try:
        return states.newest(checked)
    finally:
        states.close()
        for entry in folder.iterdir():
            entry.unlink()


def read_shard(path: Path) -> object:
    from iresnet_data.datasets import evaluation_set
    from iresnet_models.spec import ModelSpec

    spec = ModelSpec("iresnet", 18, num_classes=2, image_size=8, resize=8)
    images = evaluation_set(str(path), spec)
    return [images[index] for index in range(min(len(images), 4))]


def read_image(path: Path) -> object:
    from iresnet_models.preprocessing import load_image

    return load_image(path).size


def read_reference(path: Path) -> object:
    """What verification keeps of the float64 network, in the user's cache."""
    from iresnet_export.verification.reference_cache import _read

    return _read(path, (2, 3))


def read_as_artifact(path: Path) -> object:
    """As every command does that takes an artifact: the file by its content, and its manifest."""
    from iresnet_export.artifacts.artifact import open_artifact

    return open_artifact(path)


def read_beside(path: Path) -> object:
    """A manifest beside an artifact, and what `inspect` shows of both."""
    from iresnet_export.inspection import inspect_file

    artifact = path.with_name("beside.onnx")
    artifact.write_bytes(small_graph(whole_manifest()[1]))
    shutil.copyfile(path, artifact.with_name("beside.onnx.json"))
    found = inspect_file(artifact)
    return found.rows(), found.to_json(), found.manifest_state


READERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "manifest.json": (read_manifest, read_beside),
    "spec.json": (read_spec,),
    "checkpoint.pt": (read_checkpoint, read_inspected, read_state, read_as_artifact),
    "whole.pt": (read_checkpoint, read_inspected),
    "state.pt": (read_state, read_checkpoint),
    "script.ts": (read_inspected, read_checkpoint),
    "program.pt2": (read_inspected,),
    "package.aoti.pt2": (read_inspected,),
    "graph.onnx": (read_inspected, read_onnx_graph),
    "plan.engine": (read_engine, read_inspected),
    "bench.report": (read_a_report,),
    "verify.report": (read_a_report,),
    "eval.report": (read_a_report,),
    "train.report": (read_a_report,),
    "shard.tar": (read_shard,),
    "reference.npz": (read_reference, read_as_artifact),
    "image.png": (read_image,),
    "image.jpg": (read_image,),
    "image.tif": (read_image,),
    "image.gif": (read_image,),
    "image.webp": (read_image,),
    "image.bmp": (read_image,),
}


def readers_of(name: str) -> tuple[Callable[[Path], object], ...]:
    """Those of a file of the corpus, whose name ends in that of its seed, after a dash."""
    return READERS[name.rpartition("-")[2]]


# Seeds: small whole files of every kind ------------------------------------------------------------------------------------


def seeds() -> dict[str, bytes]:
    """Small whole files; of networks only what the readers look at first, for eleven million weights teach a fuzzer nothing."""
    from fault_shop import picture, sample, shard

    manifest, spec = whole_manifest()
    made = {
        "manifest.json": json.dumps(manifest).encode(),
        "spec.json": json.dumps(spec).encode(),
        "checkpoint.pt": small_checkpoint(spec),
        "whole.pt": whole_checkpoint(spec),
        "state.pt": saved({"format": "iresnet-export/state/1", "config": {"epochs": 2}, "records": [], "position": {"epoch": 1, "step": 2}, "network": {"a": torch.ones(3)}}),
        "script.ts": small_script(),
        "graph.onnx": small_graph(spec),
        "plan.engine": (b"vtrt" + bytes(12) + (200).to_bytes(8, "little") + bytes([1, 7, 1, 116]) + bytes(4) + (63).to_bytes(4, "little")).ljust(200, b"\0"),
        "shard.tar": shard({f"{index}.{ending}": content for index in range(3) for ending, content in sample(index)}),
    }  # fmt: skip
    buffer = io.BytesIO()
    np.savez(buffer, logits=np.ones((2, 3)), noise_floor=np.float64(1e-7))
    made["reference.npz"] = buffer.getvalue()
    program = small_program()
    made["program.pt2"] = program
    made["package.aoti.pt2"] = as_package(program)
    for ending, how in (("png", "PNG"), ("jpg", "JPEG"), ("tif", "TIFF"), ("gif", "GIF"), ("webp", "WEBP"), ("bmp", "BMP")):
        buffer = io.BytesIO()
        picture(3, 16).save(buffer, how)
        made[f"image.{ending}"] = buffer.getvalue()
    for kind, document in sample_reports().items():
        made[f"{kind}.report"] = json.dumps(document).encode()
    return made


def whole_manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    from iresnet_export.artifacts.manifest import Manifest, OnnxDetails, OnnxSettings, Weights
    from iresnet_models.spec import ModelSpec

    spec = ModelSpec("iresnet", 18, num_classes=3, image_size=8, resize=8, labels=("a", "b", "c"), data="digits")
    details = OnnxDetails(settings=OnnxSettings(opset=20), multiply_accumulates={"fp32": 1.0})
    weights = Weights("checkpoint", "0" * 64, "best.pt")
    manifest = Manifest("m.onnx", "onnx", "0" * 64, 9, spec, weights, "fp32", True, (1, 8), details=details)
    return manifest.to_json(), spec.to_json()


def small_checkpoint(spec: dict[str, Any]) -> bytes:
    """A checkpoint of ours by its looks: its weights are views of one number, so that it is small. It is refused for that, at last."""
    from iresnet_models.recognition import shapes_of
    from iresnet_models.spec import ModelSpec

    one = torch.ones(1)
    state = {
        key: one.expand(shape) if shape else torch.tensor(0) for key, shape in list(shapes_of(ModelSpec.from_json(spec)).items())
    }
    return saved({"format": "iresnet-export/checkpoint/1", "spec": spec, "state_dict": state, "epoch": 3, "val_acc1": 50.0})


def whole_checkpoint(spec: dict[str, Any]) -> bytes:
    """One that is read to its end; in half precision, since it is large."""
    from iresnet_models.recognition import shapes_of
    from iresnet_models.spec import ModelSpec

    shapes = shapes_of(ModelSpec.from_json(spec))
    state = {key: torch.ones(shape, dtype=torch.float16 if shape else torch.int64) for key, shape in shapes.items()}
    return saved(
        {"format": "iresnet-export/checkpoint/1", "spec": spec, "state_dict": state, "epoch": 3, "config": {"data": "digits"}}
    )


def small_script() -> bytes:
    import warnings

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv1(x).relu()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(
            torch.jit.trace(Small(), torch.zeros(1, 3, 8, 8)),
            buffer,
            _extra_files={"iresnet_export.json": '{"spec": {"arch": "iresnet"}}'},
        )
    return buffer.getvalue()


def small_program() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(
        torch.export.export(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU()), (torch.zeros(1, 3, 8, 8),)), buffer
    )
    return buffer.getvalue()


def as_package(program: bytes) -> bytes:
    """The same records as in a package of AOTInductor, where there is no compiler to make one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(buffer, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        for name in ("archive_format", "archive_version", "byteorder"):
            if f"{top}/{name}" in old.namelist():
                new.writestr(f"{top}/{name}", old.read(f"{top}/{name}"))
        new.writestr(f"{top}/data/aotinductor/model/model.so", b"\x7fELF" + bytes(60))
        new.writestr(f"{top}/data/aotinductor/model/model_metadata.json", json.dumps({"AOTI_DEVICE_KEY": "cpu"}))
    return buffer.getvalue()


def small_graph(spec: dict[str, Any]) -> bytes:
    weights = [
        numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "conv1.weight"),
        numpy_helper.from_array(np.ones((2,), np.float32), "conv1.bias"),
    ]
    nodes = [
        helper.make_node("Conv", ["input", "conv1.weight", "conv1.bias"], ["a"], name="conv1", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["logits"], name="flat"),
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 20)])
    from iresnet_export.backends.onnx.writing import METADATA_KEY

    model.metadata_props.add(
        key=METADATA_KEY, value=json.dumps({"spec": spec, "producer": "iresnet-export", "weights_sha256": "0" * 64})
    )
    content: bytes = model.SerializeToString()
    return content


def sample_reports() -> dict[str, Any]:
    """Those that the tests of `report` use."""
    tests = Path(__file__).parents[1] / "tests"
    if str(tests) not in sys.path:
        sys.path.append(str(tests))
    import report_samples

    return {
        "bench": report_samples.full_bench(),
        "verify": report_samples.verify(),
        "eval": report_samples.evaluation(),
        "train": report_samples.training(3),
    }


# Mutations -----------------------------------------------------------------------------------------------------------------

_NUMBERS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\0", b"\x01\0\0\0", b"\xff" * 8, b"\xff" * 7 + b"\x7f")


def mutated(content: bytes, name: str, others: list[bytes], chance: random.Random) -> bytes:
    """A damaged copy: by its structure where it has one, else by its bytes, one to eight times."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if name.endswith((".json", ".report")) and chance.random() < 0.7:
            content = structured_json(content, chance)
        elif name.endswith((".pt", ".ts", ".pt2", ".npz")) and chance.random() < 0.6:
            content = structured_zip(content, chance)
        elif name.endswith(".pt") and chance.random() < 0.5:
            content = structured_pickle(content, chance)
        elif name.endswith(".onnx") and chance.random() < 0.6:
            content = structured_onnx(content, chance)
        else:
            content = bytes_mutated(content, others, chance)
    return content


def bytes_mutated(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    if not content:
        return bytes([chance.randrange(256)])
    at = chance.randrange(len(content))
    length = chance.choice((1, 1, 2, 4, 8, 64, 512))
    return chance.choice((
        lambda: content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
        lambda: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
        lambda: content[:at],
        lambda: content[at:],
        lambda: content[:at] + content[at + length :],
        lambda: content[:at] + content[at : at + length] * chance.choice((2, 3, 50)) + content[at + length :],
        lambda: content[:at] + chance.randbytes(length) + content[at + length :],
        lambda: content[:at] + bytes(length) + content[at + length :],
        lambda: content[:at] + (number := chance.choice(_NUMBERS)) + content[at + len(number) :],
        lambda: content[:at] + spliced(chance.choice(others), chance) + content[at:],
        lambda: content[:at] + chance.choice(others)[at:],
    ))()  # fmt: skip


def spliced(other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(other))
    return other[at : at + chance.choice((4, 16, 100, 1000))]


def structured_json(content: bytes, chance: random.Random) -> bytes:
    from fault_cases import leaf, leaves

    try:
        document = json.loads(content)
        places = leaves(document)
        place = chance.choice(places)
        if len(place) > 1 and chance.random() < 0.3:
            place = place[: chance.randrange(1, len(place))]
        if not place:
            return dumped(chance.choice([value for value in STRANGE.values() if value is not ...])).encode()
        parent, value = (
            leaf(document, place[:-1]),
            chance.choice((*STRANGE.values(), 1e308, -1e308, 5e-324, 2**63, [], {}, "pipe:false", 10**6)),
        )
        if value is ...:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
        return dumped(document).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError, LookupError):
        return bytes_mutated(content, [content], chance)


def structured_zip(content: bytes, chance: random.Random) -> bytes:
    """One entry of an archive is damaged, with checksums that fit; or left out, doubled, renamed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
        index = chance.randrange(len(entries))
        name, inside = entries[index]
        how = chance.randrange(8)
        if how == 0:
            del entries[index]
        elif how == 1:
            entries.append((name + chance.choice(("x", "/", "")), inside))
        elif how == 2:
            entries[index] = chance.choice(("../x", "/x", "", name.upper(), name.replace("/", "//"), "é" * 9)), inside
        elif name.endswith(".json") and how < 7:
            entries[index] = name, structured_json(inside, chance)
        else:
            entries[index] = name, bytes_mutated(inside, [part for _, part in entries if part] or [b"x"], chance)
        buffer = io.BytesIO()
        import warnings

        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as made:
            warnings.simplefilter("ignore")
            for name, inside in entries:
                made.writestr(name or "x", inside)
        return buffer.getvalue()
    except Exception:  # what was damaged before may be an archive no more
        return bytes_mutated(content, [content], chance)


def structured_pickle(content: bytes, chance: random.Random) -> bytes:
    """A field of what was pickled becomes something else."""
    from fault_cases import leaf, leaves

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        place = chance.choice(leaves(state))
        value = chance.choice(
            (
                None,
                5,
                -1,
                "x",
                "\ud800",
                float("nan"),
                [],
                {},
                torch.zeros(0),
                torch.zeros(3, device="meta"),
                torch.zeros(2, 2).to_sparse(),
                10**400,
                b"x",
                (1, 2),
            )
        )
        leaf(state, place[:-1])[place[-1]] = value
        return saved(state)
    except Exception:
        return bytes_mutated(content, [content], chance)


def structured_onnx(content: bytes, chance: random.Random) -> bytes:
    """A field of the graph becomes something else."""
    try:
        model = onnx.ModelProto.FromString(content)
        messages: list[Any] = [
            model,
            model.graph,
            *model.graph.node,
            *model.graph.initializer,
            *model.graph.input,
            *model.graph.output,
            *model.opset_import,
            *model.metadata_props,
        ]
        messages += [attribute for node in model.graph.node for attribute in node.attribute]
        message = chance.choice(messages)
        field = chance.choice(message.DESCRIPTOR.fields)
        if chance.random() < 0.3:
            message.ClearField(field.name)
        elif field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_ENUM, field.CPPTYPE_UINT64):
            set_field(message, field, chance.choice((0, -1, 1, 7, 99, 2**31 - 1)))
        elif field.cpp_type == field.CPPTYPE_STRING:
            text = chance.choice(("", "x", "../x", "a" * 1000, "input", "logits", "{", "[" * 5000))
            set_field(message, field, text.encode() if field.type == field.TYPE_BYTES else text)
        elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            set_field(message, field, chance.choice((float("nan"), float("inf"), 0.0, -1.0)))
        elif field.label == field.LABEL_REPEATED:
            getattr(message, field.name).add()
        else:
            getattr(message, field.name).SetInParent()
        made: bytes = model.SerializeToString()
        return made
    except Exception:
        return bytes_mutated(content, [content], chance)


def set_field(message: Any, field: Any, value: Any) -> None:
    if field.label == field.LABEL_REPEATED:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


# Running -------------------------------------------------------------------------------------------------------------------


def refusal(reader: Callable[[Path], object], path: Path) -> str | None:
    """Why a reader refuses a whole file: it should not, or the fuzz stops at its door."""
    try:
        reader(path)
    except IResNetError as error:
        return str(error)
    return None


def finding(reader: Callable[[Path], object], path: Path) -> str | None:
    """What is wrong with how a reader takes a file; None where it reads it, or says in a typed error why not."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path)
    except (IResNetError, MemoryError):
        return None
    except RecursionError:
        return f"{reader.__name__}: RecursionError"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((frame for frame in reversed(frames) if "iresnet" in frame.filename), frames[-1])
        return f"{reader.__name__}: {type(error).__name__} at {Path(ours.filename).name}:{ours.lineno}"
    return None


def worker(folder: Path, seed: int, first: int, content: dict[str, bytes], names: list[str], until: float, report: int) -> None:
    """Reads the files from `first` on, and writes a line for each: its number before, and what was wrong after."""
    out = os.fdopen(report, "w", buffering=1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (MEMORY_MB << 21), mapped + (MEMORY_MB << 21)))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.environ["IRESNET_EXPORT_CACHE"] = str(folder / "cache")
    for number in range(first, first + _BATCH):
        if time.monotonic() > until:
            break
        path, readers = one_file(folder, seed, number, content, names)
        for index, reader in enumerate(readers):
            out.write(f"begin {number} {index}\n")
            signal.alarm(SECONDS)
            wrong = finding(reader, path)
            signal.alarm(0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            if peak > MEMORY_MB and wrong is None:
                wrong = f"{reader.__name__}: it took {peak} MB of memory"
            if wrong is not None:
                out.write("wrong " + json.dumps(wrong) + "\n")
        path.unlink(missing_ok=True)
        out.write(f"done {number}\n")
    out.write("end\n")
    out.flush()
    os._exit(0)


def one_file(
    folder: Path, seed: int, number: int, content: dict[str, bytes], names: list[str]
) -> tuple[Path, tuple[Callable[[Path], object], ...]]:
    """The damaged file of this number, which a seed and a number make again."""
    chance = random.Random(f"{seed}/{number}")
    name = names[number % len(names)]
    path = folder / f"{number}-{name}"
    path.write_bytes(mutated(content[name], name, list(content.values()), chance))
    return path, READERS[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=1.0, help="of processor time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="NAME", action="append", help=f"of {', '.join(READERS)}")
    parser.add_argument("--file", type=int, metavar="NUMBER", help="make this file alone again, and read it here")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="save one file of every finding")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    content = seeds()
    for name in content:  # what is loaded here need not be loaded in every worker
        with tempfile.TemporaryDirectory() as warm:
            path = Path(warm) / name
            path.write_bytes(content[name])
            for reader in READERS[name]:
                path.write_bytes(content[name])
                if (wrong := finding(reader, path) or refusal(reader, path)) is not None:
                    print(f"The whole file {name}: {reader.__name__}: {wrong[:200]}")
    names = [name for name in content if not options.only or name in options.only]
    names = names if options.only else [*(name for name in names if name != "whole.pt")] * 8 + ["whole.pt"]  # which takes its time
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary)
        if options.file is not None:
            path, readers = one_file(folder, options.seed, options.file, content, names)
            for reader in readers:
                reader(path)
            return 0
        found, counts, seconds = fuzzed(folder, options.seed, content, names, options.minutes * 60)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for wrong, (number, _) in found.items():
                path, _ = one_file(folder, options.seed, number, content, names)
                path.replace(options.keep / path.name)
                print(f"{path.name}: {wrong}")
    for wrong, (number, times) in sorted(found.items(), key=lambda entry: -entry[1][1]):
        print(f"{times:6} times, first file {number}: {wrong}")
    print(f"{sum(counts.values())} damaged files, {len(found)} findings, {seconds / 60:.1f} minutes of processor time")
    if options.json is not None:
        options.json.write_text(json.dumps(document(options, counts, found, seconds), indent=2) + "\n")
    return 1 if found else 0


def fuzzed(
    folder: Path, seed: int, content: dict[str, bytes], names: list[str], seconds: float
) -> tuple[dict[str, tuple[int, int]], Counter[str], float]:
    """Findings, each with the number of its first file and how often it came; how many files of each kind were read; and the time."""
    found: dict[str, tuple[int, int]] = {}
    counts: Counter[str] = Counter()
    number, before = 0, spent()

    def note(wrong: str, at: int) -> None:
        first, times = found.get(wrong, (at, 0))
        if times == 0:
            print(f"file {at}: {wrong}", flush=True)
        found[wrong] = first, times + 1

    while spent() - before < seconds:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            worker(folder, seed, number, content, names, time.monotonic() + 600, write)
        os.close(write)
        current, reader = number, 0
        with os.fdopen(read) as lines:
            for line in lines:
                word, _, rest = line.partition(" ")
                if word == "begin":
                    current, reader = (int(part) for part in rest.split())
                elif word == "wrong":
                    note(json.loads(rest), current)
                elif word == "done":
                    counts[names[int(rest) % len(names)]] += 1
                    number = int(rest) + 1
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            name = READERS[names[current % len(names)]][reader].__name__
            what = f"{name}: it hung for {SECONDS} s" if code == -signal.SIGALRM else f"{name}: the process ended with {code}"
            note(what, current)
            number = current + 1
    return found, counts, spent() - before


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def document(
    options: argparse.Namespace, counts: Counter[str], found: dict[str, tuple[int, int]], seconds: float
) -> dict[str, Any]:
    from iresnet_export.system.environment import commit, hardware, versions

    return {
        "about": "files damaged at random, read by every reader; see studies/fuzz.py",
        "command": f"python studies/fuzz.py --minutes {options.minutes:g} --seed {options.seed}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "processor_seconds": round(seconds, 1),
        "files": sum(counts.values()),
        "kinds": dict(sorted(counts.items())),
        "readers": {name: [reader.__name__ for reader in readers] for name, readers in READERS.items()},
        "findings": [{"what": what, "file": number, "times": times} for what, (number, times) in found.items()],
    }


if __name__ == "__main__":
    sys.exit(main())
