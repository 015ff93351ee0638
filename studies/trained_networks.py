"""Exports of many trained networks: does the fold always hold, does int8 pass verification, and what do peers' quantizers cost?

    python studies/trained_networks.py --folder networks --json studies/results/trained_networks.json

Networks of several depths, lengths of training, seeds and numbers of threads are trained on the digits. Each is exported in float32
and int8 by the defaults, and both are verified over all 500 held-out digits. Peers quantize the same network from the same
calibration images: ONNX Runtime's quantize_static, of the unfolded and of our folded graph, and NNCF where it is installed; all run
by ONNX Runtime. Rows that the JSON file holds already are not made again, so that a run goes on where one ended; with --table they
are printed as a table in Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import iresnet_export as ie
from iresnet_data import evaluation_pixels
from iresnet_data.datasets import calibration_set
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.registry import runtime_named
from iresnet_export.benchmark.quantizers import by_nncf, by_onnxruntime
from iresnet_export.exporting import export_artifact
from iresnet_export.quantization.cost import sqnr_db
from iresnet_export.system.environment import environment
from iresnet_export.verification.reference import in_batches
from iresnet_models.errors import IResNetError, UnavailableError
from iresnet_models.files import read_json, write_json
from iresnet_models.preprocessing import normalised
from iresnet_train import config_for, train

IMAGES = 500


@dataclass(frozen=True)
class Trained:
    """How a network is trained: what is not said is the `digits` preset's."""

    depth: int
    epochs: int
    seed: int = 0
    threads: int | None = None
    averaged: bool = False
    arch: str = "iresnet"

    @property
    def name(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread"
        return f"{self.arch}{self.depth}, {self.epochs} epochs, seed {self.seed}{threads}{', averaged' if self.averaged else ''}"


NETWORKS = (
    Trained(50, 10, 0, threads=1),
    Trained(50, 6, 3),
    *(Trained(18, 6, seed) for seed in range(8)),
    *(Trained(18, 12, seed, averaged=True) for seed in range(3)),
    *(Trained(18, 6, seed, arch="resnet") for seed in range(2)),
    *(Trained(34, 6, seed) for seed in range(4)),
    Trained(101, 12),
    *(Trained(50, 10, seed) for seed in range(3)),
    *(Trained(50, 6, seed) for seed in (0, 1, 2, 4)),
    Trained(50, 6, arch="resnet"),
    Trained(50, 10, averaged=True),
    *(Trained(101, 6, seed) for seed in range(1, 3)),
    Trained(152, 12),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("networks"), help="where networks and artifacts are kept")
    parser.add_argument("--table", action="store_true", help="print what the JSON file holds, and no more")
    options = parser.parse_args()
    if options.table:
        print(table(read_json(options.json, "The study")["results"]))
        return
    rows = made(NETWORKS, options, lambda trained: row_of(trained, options.folder), in_words, images=IMAGES)
    passed = sum(row["fp32"]["passed"] and row["int8"]["passed"] for row in rows)
    print(f"{passed} of {len(rows)} networks pass in float32 and int8")


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Of a study that trains one network after another."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--only", metavar="REGEX", default="", help="networks whose name this is found in")
    parser.add_argument("--json", type=Path, help="rows that it holds are kept")
    parser.add_argument("--minutes", type=float, help="begin no further network after so many")
    return parser


def made(
    networks: Iterable[Trained],
    options: argparse.Namespace,
    row_of: Callable[[Trained], dict[str, Any]],
    in_words: Callable[[dict[str, Any]], str],
    **about: Any,
) -> list[dict[str, Any]]:
    """The rows of the JSON file, and of the networks that it lacks; each is written when it is there."""
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime.quantization remarks on every BatchNorm
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    known = read_json(options.json, "The study")["results"] if options.json is not None and options.json.exists() else []
    rows: dict[str, Any] = {row["network"]: row for row in known}
    for trained in networks:
        if trained.name in rows or not re.search(options.only, trained.name):
            continue
        if options.minutes is not None and time.monotonic() - begun > 60 * options.minutes:
            break
        rows[trained.name] = row_of(trained)
        print(in_words(rows[trained.name]), flush=True)
        if options.json is not None:
            said = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(), **about}
            write_json(options.json, said | {"results": list(rows.values())})
    return list(rows.values())


def row_of(trained: Trained, folder: Path) -> dict[str, Any]:
    """What becomes of one network."""
    place = folder / re.sub(r"[ ,]+", "-", trained.name)
    source = source_from_checkpoint(checkpoint_of(trained, place))
    pixels, labels = evaluation_pixels("digits", source.spec, IMAGES)
    assert labels is not None
    with torch.inference_mode():
        exact = in_batches(source.network, normalised(pixels, source.spec), 50)
    top1 = 100 * float((exact.argmax(1) == labels).double().mean())
    row: dict[str, Any] = {"network": trained.name, "threads": trained.threads or torch.get_num_threads(), "top1": top1}
    for precision in ("fp32", "int8"):
        path = place / f"{precision}.onnx"
        row[precision] = exported_and_verified(source, precision, path)
    row["peers"] = {}
    for name, quantize in peers(source, place).items():
        artifact = Artifact(place / f"{name}.onnx", "onnx", None)
        try:
            quantize(artifact.path)
            row["peers"][name] = compared(artifact, source, pixels, exact)
        except UnavailableError:
            row["peers"][name] = None
    return row


def checkpoint_of(trained: Trained, place: Path) -> Path:
    path = place / "run" / "best.pt"
    if not path.exists():
        before = torch.get_num_threads()
        torch.set_num_threads(trained.threads or before)
        averaging = {"ema_decay": 0.99, "export_ema": True} if trained.averaged else {}
        config = config_for(
            "digits",
            arch=trained.arch,
            depth=trained.depth,
            epochs=trained.epochs,
            seed=trained.seed,
            result_path=path.parent,
            resume="auto",
            **averaging,
        )
        train(config)
        torch.set_num_threads(before)
    return path


def exported_and_verified(source: Source, precision: str, path: Path) -> dict[str, Any]:
    """By the defaults. A refusal is a result."""
    begun = time.monotonic()
    try:
        artifact = export_artifact("onnx", source, ExportOptions(precision=precision), output=path, force=True)  # type: ignore[arg-type]
    except IResNetError as error:
        return {"passed": False, "refused": str(error)}
    seconds = time.monotonic() - begun
    assert artifact.manifest is not None
    details = artifact.manifest.details
    report = ie.verify(artifact, data="digits", images=IMAGES)
    row: dict[str, Any] = {"passed": report.passed, "seconds": seconds, "fold": {}, "runtimes": {}}
    if details.fold is not None:
        row["fold"] = {
            "exact": details.fold.exact_everywhere,
            "error_ratio": details.fold.proof.error_ratio,
            "kept": details.fold.kept,
        }
    if (codes := details.quantization) is not None:
        row |= {
            "calibrator": codes.calibrator,
            "equalized": codes.equalized,
            "predicted_sqnr_db": codes.predicted_sqnr_db,
            "predicted_interval_db": codes.predicted_interval_db,
            "tried": [dataclasses.asdict(trial) for trial in codes.tried],
        }
    for candidate in report.candidates:
        row["runtimes"][candidate.backend] = {
            "status": candidate.status,
            "reason": candidate.reason,
            "sqnr_db": candidate.sqnr_db,
            "noise_ratio": candidate.noise_ratio,
            "agreement": candidate.top1_agreement,
        }
    return row


def peers(source: Source, place: Path) -> dict[str, Callable[[Path], None]]:
    """What makes an int8 file of the network by another's quantizer, from all of the images that ours calibrates with."""
    plain, folded = place / "plain.onnx", place / "fp32.onnx"
    data: Any = calibration_set("digits", source.spec, ExportOptions().calibration_images)
    images = [normalised(torch.as_tensor(data[index][0])[None], source.spec).numpy() for index in range(len(data))]

    def unfolded() -> Path:
        if not plain.exists():
            program = torch.onnx.export(source.network, (torch.from_numpy(images[0]),), dynamo=True, verbose=False)
            assert program is not None
            program.save(plain)
        return plain

    return {
        "onnxruntime": lambda path: by_onnxruntime(unfolded(), path, images),
        "onnxruntime, folded": lambda path: by_onnxruntime(folded, path, images),
        "nncf": lambda path: by_nncf(unfolded(), path, images),
        "nncf, folded": lambda path: by_nncf(folded, path, images),
    }


def compared(artifact: Artifact, source: Source, pixels: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    with runtime_named("onnxruntime").load(artifact, torch.device("cpu")) as session:
        taken = normalised(pixels, source.spec)
        found = torch.cat([session.run(image[None]) for image in taken])
    agreement = float((found.argmax(1) == exact.argmax(1)).double().mean())
    return {"sqnr_db": sqnr_db(found.numpy(), exact.numpy()), "agreement": agreement}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Networks that differ in seeds and threads alone share a row: the lowest and the highest of them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(re.sub(", seed .*?(?=, averaged|$)", "", row["network"]), []).append(row)
    lines = [
        "| network | seeds | top-1 | int8 passes | by ONNX Runtime | alike | by OpenVINO | alike | `quantize_static`, plain | on our fold | NNCF, plain | on our fold |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, group in groups.items():
        passed = sum(row["int8"]["passed"] for row in group)
        cells = [name, f"{len(group)}", extent([row["top1"] for row in group], "%"), f"{passed} of {len(group)}"]
        for runtime in ("onnxruntime", "openvino"):
            runs = [run for row in group if (run := row["int8"].get("runtimes", {}).get(runtime)) and run["sqnr_db"] is not None]
            cells += [extent([run["sqnr_db"] for run in runs], "dB"), extent([100 * run["agreement"] for run in runs], "%")]
        for peer in ("onnxruntime", "onnxruntime, folded", "nncf", "nncf, folded"):
            cells.append(extent([found["sqnr_db"] for row in group if (found := row["peers"][peer]) is not None], "dB"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def extent(values: Sequence[float], unit: str) -> str:
    """Such as `38.2 to 39.4 dB`."""
    if not values:
        return ""
    ends = [f"{min(values):.1f}", f"{max(values):.1f}"]
    return f"{' to '.join(dict.fromkeys(ends))} {unit}"


def in_words(row: dict[str, Any]) -> str:
    int8 = row["int8"]
    if "refused" in int8:
        return f"{row['network']}: {row['top1']:.1f} %; refused: {int8['refused']}"
    found = "; ".join(
        f"{name} {run['status']}"
        + ("" if run["sqnr_db"] is None else f" {run['sqnr_db']:.1f} dB, {100 * run['agreement']:.1f} % alike")
        for name, run in int8["runtimes"].items()
    )
    peers = ", ".join(f"{name} {found['sqnr_db']:.1f} dB" for name, found in row["peers"].items() if found is not None)
    kept = row["fp32"].get("fold", {}).get("kept")
    return (
        f"{row['network']}: {row['top1']:.1f} %; fp32 {'pass' if row['fp32']['passed'] else 'FAIL'}, "
        f"{'whole fold' if kept is None else kept}; int8 by {int8['calibrator']}{', equalized' if int8['equalized'] else ''}, "
        f"predicted {int8['predicted_sqnr_db']:.1f} dB; {found}; peers: {peers}"
    )


if __name__ == "__main__":
    main()
