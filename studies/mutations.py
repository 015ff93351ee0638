"""Edits artifacts at random, one thing at a time, and verifies them: does any edit stay hidden?

    python studies/mutations.py --edits 2000 --seed 1 --json studies/results/mutations.json

An edit changes one field of an ONNX file (any field of any message: a bit of a tensor, a name, a number, a shape; or an entry of a list
is dropped, doubled or swapped with another), one record of a TorchScript or torch.export archive, or one leaf of a manifest. Hash
and size in the manifest are made to fit the file. `verify --quick` has to fail, by a verdict or an error; where a manifest passes,
`verify --quick --from-scratch` has to. What passes both is hidden, unless it is in ALLOWED, which says why it may be.

With --as-others the manifests name another version of torch, so that graphs are compared in place of whole files. There an edit is hidden
only if the file then computes otherwise: every output for seeded noise, white and black images is compared with the original's.
"""

from __future__ import annotations

import argparse
import binascii
import copy
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import manifest_path
from iresnet_export.artifacts.source import source_from_checkpoint
from iresnet_export.backends.base import ExportJob, ExportOptions
from iresnet_export.backends.onnx.format import Onnx
from iresnet_export.backends.pt2.format import Program
from iresnet_export.backends.torchscript.format import TorchScript
from iresnet_export.exporting import export_artifact
from iresnet_export.system.environment import environment
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.errors import IResNetError
from iresnet_models.files import read_json, sha256_of, write_json
from iresnet_models.initialization import untrained_network

EXPORTS: dict[str, tuple[Any, ExportOptions]] = {
    "fp32.onnx": ("onnx", ExportOptions()),
    "unfolded.onnx": ("onnx", ExportOptions(fold=False)),
    "pixels.onnx": ("onnx", ExportOptions(with_preprocessing=True)),
    "int8.onnx": ("onnx", ExportOptions(precision="int8", calibration_data="digits", calibration_images=64)),
    "mixed.onnx": (
        "onnx",
        ExportOptions(
            precision="int8",
            calibrator="minmax",
            calibration_data="digits",
            calibration_images=20,
            keep_float=("layer4",),
            min_sqnr=33.0,
        ),
    ),
    "fp32.ts": ("torchscript", ExportOptions()),
    "pixels.ts": ("torchscript", ExportOptions(with_preprocessing=True, precision="bf16")),
    "fp32.pt2": ("pt2", ExportOptions()),
    "pixels.pt2": ("pt2", ExportOptions(with_preprocessing=True, precision="fp16")),
}

UNKNOWABLE = (r"(versions|hardware)\..*|commit|command|created", r"file", r"weights\.checkpoint")
ALLOWED = {
    r"file": "a file may be renamed: its manifest is found by the name that the file has",
    r"weights\.checkpoint": "where the checkpoint was seen: a hint, and the hash decides which it is",
    r"(versions|hardware)\..*|commit|command|created": "where, when and by what it was made: nothing in the file tells",
    r"details\.fold\.proof\.(error_ratio|own_precision)": "a ratio of two rounding errors: held to the limit, and repeated within a factor of 2",
    r"details\.quantization\.(predicted_|tried\.\d+\.)(sqnr_db|interval_db|agreement)": "depends on how ties between codes round: repeated within 1.5 dB, 1 dB and 1/16",
    r"details\.fold\.plan\.norms\..*": "a bound of a channel that is cut out: within 0.1 % of the one that is measured again",
    r"details\.quantization\.steps\.\d+\.sqnr_db": "depends on how ties between codes round: repeated within 1.5 dB",
    r"details\.quantization\.steps\.\d+\.milliseconds": "how long one image took, on that machine and then",
    r"details\.settings\.min_sqnr": "asked for more or less, as far as the same places are kept for it: --from-scratch looks for one without need, within 1.5 dB",
    r"details\.settings\.calibration_images": "how many images were asked for, where there were fewer, or noise",
}

# Edits of ONNX files ----------------------------------------------------------------------------------------------------------


def slots(message: Any) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    """Every single edit of a message and of all within it, by the kind of field that it is an edit of."""
    for field in message.DESCRIPTOR.fields:
        kind = f"{message.DESCRIPTOR.name}.{field.name}"
        values = getattr(message, field.name)
        if field.is_repeated:
            if len(values):
                yield f"{kind}: an entry dropped", lambda rng, values=values: values.pop(rng.randrange(len(values)))
                yield f"{kind}: an entry doubled", lambda rng, values=values: values.append(_one(values, rng))
            if len(values) > 1:
                yield f"{kind}: two swapped", lambda rng, values=values: _swap(values, rng)
            if field.message_type is not None:
                for value in values:
                    yield from slots(value)
            elif len(values):
                yield kind, lambda rng, values=values, field=field: _change_entry(values, field, rng)
        elif field.message_type is not None:
            if message.HasField(field.name):
                yield f"{kind}: cleared", lambda _rng, message=message, name=field.name: message.ClearField(name)
                yield from slots(values)
        else:
            yield (
                kind,
                lambda rng, message=message, field=field: setattr(
                    message, field.name, _other(getattr(message, field.name), field, rng)
                ),
            )


def _one(values: Any, rng: random.Random) -> Any:
    return copy.deepcopy(values[rng.randrange(len(values))])


def _swap(values: Any, rng: random.Random) -> None:
    first, second = rng.sample(range(len(values)), 2)
    entries = [copy.deepcopy(value) for value in values]
    entries[first], entries[second] = entries[second], entries[first]
    del values[:]
    values.extend(entries)


def _change_entry(values: Any, field: Any, rng: random.Random) -> None:
    index = rng.randrange(len(values))
    values[index] = _other(values[index], field, rng)


def _other(value: Any, field: Any, rng: random.Random) -> Any:
    if field.type == field.TYPE_BYTES:
        return _bit_flipped(value, rng) if value else b"x"
    if field.type == field.TYPE_STRING:
        return rng.choice([f"{value}x", value[:-1], value.swapcase()] if value else ["x", "ai.onnx.ml"])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice([value * 1.01 + 1e-6, -value, float(np.nextafter(np.float32(value), np.float32(9)))])
    if field.type == field.TYPE_ENUM:
        return rng.choice([entry.number for entry in field.enum_type.values if entry.number != value])
    return rng.choice([value + 1, max(0, value - 1), 2 * value + 2])


def _bit_flipped(data: bytes, rng: random.Random) -> bytes:
    index = rng.randrange(len(data))
    return data[:index] + bytes([data[index] ^ 1 << rng.randrange(8)]) + data[index + 1 :]


def edited_onnx(model: onnx.ModelProto, rng: random.Random) -> tuple[str, bytes]:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    by_kind = defaultdict(list)
    for kind, edit in slots(made):
        by_kind[kind].append(edit)
    kind = rng.choice(sorted(by_kind))
    rng.choice(by_kind[kind])(rng)
    return kind, made.SerializeToString(deterministic=True)


# Edits of archives ------------------------------------------------------------------------------------------------------------


def edited_archive(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One record changed. Where no byte is added or lost, in its place, with its checksum; else the archive is written anew."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        by_kind = defaultdict(list)
        for entry in archive.infolist():
            by_kind[re.sub(r"\d+", "N", entry.filename.partition("/")[2])].append(entry)
        kind = rng.choice(sorted(by_kind))
        entry = rng.choice(by_kind[kind])
        data = archive.read(entry)
        how = rng.choice(["a bit", "a bit", "a byte less", "a byte more", "dropped", "doubled"])
        if how == "a bit" and entry.compress_type == zipfile.ZIP_STORED and data:
            return f"{kind}: {how}", _in_place(content, entry, _bit_flipped(data, rng))
        other = {"a bit": lambda: _bit_flipped(data, rng), "a byte less": lambda: data[:-1]}.get(how, lambda: data + b"\n")()
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as new:
            for each in archive.infolist():
                if each.filename != entry.filename or how != "dropped":
                    changed = each.filename == entry.filename and how not in ("dropped", "doubled")
                    new.writestr(each, other if changed else archive.read(each))
            if how == "doubled":
                new.writestr(f"{entry.filename}x", data)
    return f"{kind}: {how}", made.getvalue()


def _in_place(content: bytes, entry: zipfile.ZipInfo, data: bytes) -> bytes:
    made, checksum = bytearray(content), struct.pack("<L", binascii.crc32(data))
    name, extra = struct.unpack_from("<HH", content, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    made[start : start + len(data)] = data
    old = struct.pack("<L", entry.CRC)
    for place in (entry.header_offset + 14, start + len(data) + 4):  # the header, and the descriptor behind the data
        if made[place : place + 4] == old:
            made[place : place + 4] = checksum
    central = content.index(b"PK\x01\x02")
    while content[central + 46 : central + 46 + len(entry.filename)] != entry.filename.encode() or (
        struct.unpack_from("<H", content, central + 28)[0] != len(entry.filename)
    ):
        central = content.index(b"PK\x01\x02", central + 1)
    made[central + 16 : central + 20] = checksum
    return bytes(made)


# Edits of manifests -----------------------------------------------------------------------------------------------------------

_CHOICES = {
    "format": ["onnx", "torchscript", "pt2"],
    "kind": ["checkpoint", "untrained"],
    "precision": ["fp32", "fp16", "bf16", "int8", "fp8"],
    "interpolation": ["bilinear", "bicubic", "nearest"],
    "arch": ["iresnet", "resnet", "resstage"],
    "calibrator": ["minmax", "percentile", "entropy"],
    "target": ["cpu", "tensorrt"],
    "calibration_data": ["digits", "synthetic:64", "photos"],
    "data": ["digits", "synthetic"],
    "groups": [2, 32],
    "seed": [0, 1],
    "batch": [[1, 1], [1, 32]],
    "labels": [list("abcdefghij")],
    "parent": [{"file": "small.pt", "sha256": "0" * 64}],
    "commit": ["0" * 40],
    "own_precision": [0.9],
}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves of a JSON document: place, what holds it, and its key there."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        inside = f"{place}.{key}".removeprefix(".")
        if isinstance(item, dict | list) and item:
            yield from leaves(item, inside)
        else:
            yield inside, value, key


def edited_manifest(document: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    """Changes one leaf; returns its place, and what it was and is."""
    by_kind = defaultdict(list)
    for place, holder, key in leaves(document):
        kind = re.sub(r"(ranges|inputs|bias_corrections)\..*?(?=\.\d+$|$)", r"\1.*", place)
        by_kind[re.sub(r"\.\d+", ".N", kind)].append((place, holder, key))
    place, holder, key = rng.choice(by_kind[rng.choice(sorted(by_kind))])
    old = holder[key]
    new = old
    while new == old:
        new = _other_value(place, key, old, rng)
    holder[key] = new
    return place, f"{old!r:.60} -> {new!r:.60}"


def _other_value(place: str, key: Any, old: Any, rng: random.Random) -> Any:
    others = [choice for choice in _CHOICES.get(str(key), []) if choice != old]
    if others:
        return rng.choice(others)
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return rng.choice([old + 1, max(0, old - 1), 2 * old + 1])
    if isinstance(old, float):
        return rng.choice([old * 1.1 + 0.01, old / 2, -old, old * 40 + 1])
    if isinstance(old, str):
        if re.fullmatch(r"[0-9a-f]{64}", old):
            return old[1:] + old[0] if old[1:] + old[0] != old else "0" * 64
        numbers = re.findall(r"\d+", old)
        return old.replace(numbers[-1], str(int(numbers[-1]) + 1)) if numbers else rng.choice([f"{old}x", f"other {old}"])
    return rng.choice(["x", 1])


# Verification -----------------------------------------------------------------------------------------------------------------


def check_of(path: Path, **options: Any) -> str | None:
    """By which check an artifact fails; None where it passes."""
    try:
        (found,) = verify([path], VerifyOptions(quick=True, **options)).candidates
    except IResNetError as error:
        return f"error: {type(error).__name__}"
    if found.status != "fail":
        return None
    if "check itself" in str(found.reason):
        print(f"CRASH {found.reason}", flush=True)
    return str(found.reason).partition(":")[0] if re.match(r"[\w ]{1,30}:", str(found.reason)) else "refused"


def outputs_of(path: Path) -> list[np.ndarray] | str:
    """Every output for images of all kinds, at two batch sizes; why not, where it does not run."""
    rng = np.random.default_rng(0)
    pixels = np.concatenate([rng.integers(0, 256, (30, 32, 32, 3)), np.full((2, 32, 32, 3), 255), np.zeros((2, 32, 32, 3))])
    batch = pixels.astype(np.uint8)
    if "pixels" not in path.name:
        batch = ((pixels / 255 - 0.45) / 0.225).transpose(0, 3, 1, 2).astype(np.float32)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".onnx":
                import onnxruntime as ort

                ort.set_default_logger_severity(4)
                session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
                name = session.get_inputs()[0].name
                return [value for part in (batch, batch[:1]) for value in session.run(None, {name: part})]
            module: Any = torch.jit.load(path) if path.suffix == ".ts" else torch.export.load(path).module()
            found = [module(torch.from_numpy(part)) for part in (batch, batch[:1])]
            return [value.numpy() for each in found for value in (each if isinstance(each, tuple) else (each,))]
    except Exception as error:
        return type(error).__name__


def computes_otherwise(path: Path, original: list[np.ndarray] | str) -> bool:
    """Whether outputs differ at all from the original's; a file that does not run deceives nobody."""
    found = outputs_of(path)
    if isinstance(found, str) or isinstance(original, str):
        return False
    return len(found) != len(original) or not all(
        one.shape == other.shape and np.array_equal(one, other, equal_nan=True) for one, other in zip(original, found, strict=True)
    )


def with_silent_channels(network: Any) -> None:
    """Some channels of the stream never switch, so that the fold's plan has bounds."""
    with torch.no_grad():
        for norm in (network.layer1[1].bn2, network.layer2[1].bn2):
            norm.bias[:3] = torch.tensor([-90.0, 80.0, -70.0])


@dataclass(frozen=True)
class Shop:
    """What workers share: the artifacts by name, parsed where they are ONNX files, and their outputs where these are compared."""

    folder: Path
    artifacts: dict[str, Artifact]
    models: dict[str, onnx.ModelProto]
    outputs: dict[str, list[np.ndarray] | str]
    seed: int
    as_others: bool

    def verdict(self, number: int) -> dict[str, Any]:
        """One edit, which follows from the seed and its number, and what became of it."""
        rng, name = random.Random(f"{self.seed}/{number}"), list(self.artifacts)[number % len(self.artifacts)]
        original = self.artifacts[name].path.read_bytes()
        document = read_json(manifest_path(self.artifacts[name].path), "The manifest")
        work = self.folder / f"work{os.getpid()}"
        work.mkdir(exist_ok=True)
        if not (work / "small.pt").exists():
            shutil.copy(self.folder / "small.pt", work)
        what, content, path, about = "manifest", original, work / name, dict[str, Any]()
        if self.as_others or rng.random() < 0.6:
            what = "file"
            while content == original:
                edit, content = edited_onnx(self.models[name], rng) if name in self.models else edited_archive(original, rng)
        path.write_bytes(content)
        document |= {"sha256": sha256_of(path), "size_bytes": len(content)}
        if self.as_others:
            document["versions"]["torch"] = "2.0.0"
        if what == "manifest":
            edit, about["change"] = edited_manifest(document, rng)
        write_json(manifest_path(path), document)
        with rebuilt_once(what == "file"):
            check = check_of(path)
        place = next((place for place in ALLOWED if re.fullmatch(place, edit)), None) if what == "manifest" else None
        if check is None and what == "manifest" and place not in UNKNOWABLE and document.get("fold"):
            again = check_of(path, from_scratch=True)
            check = None if again is None else f"--from-scratch {again}"
        allowed = ALLOWED.get(place or "")
        if what == "file" and self.as_others and check is None and not computes_otherwise(path, self.outputs[name]):
            allowed = "the file computes the same, or does not run"
        found = {"number": number, "artifact": name, "what": what, "edit": edit, **about}
        return found | {"check": check, "allowed": allowed if check is None else None}


@contextmanager
def rebuilt_once(is_same: bool) -> Iterator[None]:
    """Where the manifest is as it was, what it gives is made once for each artifact."""
    originals = {kind: kind.content for kind in (Onnx, TorchScript, Program)}

    def kept(self: Any, job: ExportJob) -> Any:
        if job.path.name not in _REBUILT:
            _REBUILT[job.path.name] = originals[type(self)](self, job)
        return _REBUILT[job.path.name]

    for kind in originals if is_same else ():
        kind.content = kept  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, content in originals.items():
            kind.content = content  # type: ignore[method-assign]


_REBUILT: dict[str, bytes] = {}
_SHOP: list[Shop] = []
"""In the parent, before it forks."""


def _verdict(number: int) -> dict[str, Any]:
    return _SHOP[0].verdict(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--as-others", action="store_true", help="as if another version of torch had made them: files alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counts, allowed, hidden = defaultdict[str, Counter[str]](Counter), Counter[str](), list[Any]()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = exported(Path(folder))
        models = {name: onnx.load(artifact.path) for name, artifact in artifacts.items() if name.endswith(".onnx")}
        outputs = {name: outputs_of(artifact.path) for name, artifact in artifacts.items()} if options.as_others else {}
        _SHOP.append(Shop(Path(folder), artifacts, models, outputs, options.seed, options.as_others))
        # torch keeps whatever it has traced: a worker is replaced after some.
        with multiprocessing.get_context("fork").Pool(options.workers, maxtasksperchild=5) as pool:
            for done, found in enumerate(pool.imap_unordered(_verdict, range(options.edits), chunksize=20), 1):
                check, reason = found.pop("check"), found.pop("allowed")
                counts[f"{found['artifact']}, {found['what']}"]["passed" if check is None else check] += 1
                allowed.update([reason] if check is None and reason is not None else [])
                if check is None and reason is None:
                    hidden.append(found)
                    print(f"HIDDEN {found}", flush=True)
                if done % 100 == 0 or done == options.edits:
                    print(f"{done} edits, {len(hidden)} hidden, {allowed.total()} allowed", flush=True)
                    result = document(options, done, counts, allowed, hidden)
                    if options.json is not None:
                        write_json(options.json, result)
    print(json.dumps({key: result[key] for key in ("caught_by", "allowed", "hidden")}, indent=2))


def document(
    options: argparse.Namespace, edits: int, counts: dict[str, Counter[str]], allowed: Counter[str], hidden: list[Any]
) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "seed": options.seed,
        "edits": edits,
        "as_others": options.as_others,
        "caught_by": {kind: dict(found.most_common()) for kind, found in sorted(counts.items())},
        "allowed": dict(allowed.most_common()),
        "hidden": sorted(hidden, key=lambda found: found["number"]),
    }


def exported(folder: Path) -> dict[str, Artifact]:
    checkpoint = folder / "small.pt"
    network = untrained_network(ModelSpec("iresnet", 18, num_classes=10, image_size=32, resize=32), seed=1)
    with_silent_channels(network)
    save_checkpoint(checkpoint, network)
    source = source_from_checkpoint(checkpoint)
    made = {name: export_artifact(format, source, options, output=folder / name) for name, (format, options) in EXPORTS.items()}
    mixed = made["mixed.onnx"].require_intact().details.quantization
    assert mixed is not None
    assert mixed.steps, "min_sqnr asks for no more than there is, and no step is edited"
    return made


if __name__ == "__main__":
    main()
