"""Does int8 decide as float32 does? iResNets trained on the digits, exported in int8, over all held-out digits.

Run: python studies/int8_decisions.py --json FILE

With --precision fp8 the same of fp8, whose codes the runtimes of a CPU compute in float32: what it decides, not how fast.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from iresnet_data import evaluation_pixels
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.registry import runtimes_for
from iresnet_export.exporting import export_artifact
from iresnet_export.quantization.schemes import QUANTIZED, SCHEMES, Target
from iresnet_export.system.environment import environment
from iresnet_export.verification.reference import in_batches
from iresnet_models.files import write_json
from iresnet_models.preprocessing import normalised
from iresnet_train import config_for, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", default="18,50,101")
    parser.add_argument("--epochs", type=int, help="default: the digits preset's")
    parser.add_argument("--precision", choices=QUANTIZED, default="int8")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for depth in map(int, options.depths.split(",")):
            config = config_for("digits", depth=depth, result_path=Path(folder) / str(depth), epochs=options.epochs)
            source = source_from_checkpoint(train(config).best)
            target: Target = "tensorrt" if options.precision == "fp8" else "cpu"
            for calibrator in SCHEMES[options.precision, target].calibrators:
                choice = ExportOptions(precision=options.precision, target=target, calibrator=calibrator)
                path = Path(folder) / f"{depth}-{calibrator}.onnx"
                rows += compared(source, export_artifact("onnx", source, choice, output=path))
    print(f"| network | calibrator | equalized | runs by | float32 top-1 | {options.precision} top-1 | same decision | SQNR |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['network']} | {row['calibrator']} | {'yes' if row['equalized'] else 'no'} | {row['backend']} "
            f"| {row['top1_fp32']:.1f} % | {row[f'top1_{options.precision}']:.1f} % | {row['agreement']:.1f} % "
            f"| {row['sqnr_db']:.1f} dB |"
        )
    if options.json is not None:
        date = datetime.now(UTC).date().isoformat()
        write_json(options.json, {"date": date, "environment": environment(), "images": 500, "results": rows})


def compared(source: Source, artifact: Artifact) -> list[dict[str, Any]]:
    pixels, labels = evaluation_pixels("digits", source.spec, 500)
    assert labels is not None
    with torch.inference_mode():
        exact = in_batches(source.network, normalised(pixels, source.spec), 50)
    assert artifact.manifest is not None
    quantization = artifact.manifest.details.quantization
    assert quantization is not None
    rows = []
    for backend in runtimes_for("onnx"):
        with backend.load(artifact, torch.device("cpu")) as session:
            found = in_batches(session.run, session.batch_of(pixels, source.spec), 50)
        noise = (found - exact).double().square().mean()
        rows.append(
            {
                "network": source.spec.name,
                "calibrator": quantization.calibrator,
                "equalized": quantization.equalized,
                "backend": backend.name,
                "top1_fp32": 100 * float((exact.argmax(1) == labels).double().mean()),
                f"top1_{artifact.manifest.precision}": 100 * float((found.argmax(1) == labels).double().mean()),
                "agreement": 100 * float((found.argmax(1) == exact.argmax(1)).double().mean()),
                "sqnr_db": 10 * float(torch.log10(exact.double().square().mean() / noise)),
            }
        )
    return rows


if __name__ == "__main__":
    main()
