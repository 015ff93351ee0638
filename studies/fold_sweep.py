"""Does the fold hold for every trained network, and what does it leave unfolded?

    python studies/fold_sweep.py --json studies/results/fold_sweep.json

More than a hundred networks, of depths 18 to 152, several lengths of training, seeds and numbers of threads, with and without
averaged weights, are trained on the digits. Each is folded as exports in float32, float16 and int8 (with the stream equalized) fold
it, and each fold is proved as an export proves it. Rows that the JSON file holds already are not made again.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from trained_networks import IMAGES, Trained, checkpoint_of, made, parser_of

from iresnet_data import evaluation_pixels
from iresnet_export.artifacts.source import source_from_checkpoint
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import calibration_images, equalization_scales
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.fold import FOLD_LIMIT, fold_sample, proved_fold
from iresnet_export.verification.reference import in_batches
from iresnet_models.errors import IResNetError
from iresnet_models.preprocessing import normalised

NETWORKS = (
    *(Trained(18, epochs, seed, averaged=averaged) for seed in range(10) for epochs in (1, 2, 4) for averaged in (False, True)),
    *(Trained(18, 2, seed, threads=1) for seed in range(4)),
    *(Trained(18, 2, seed, arch="resnet") for seed in range(4)),
    *(Trained(34, epochs, seed, averaged=averaged) for seed in range(4) for epochs in (1, 2) for averaged in (False, True)),
    *(Trained(50, epochs, seed) for seed in range(4) for epochs in (1, 2)),
    *(Trained(50, 2, seed, averaged=True) for seed in range(4)),
    *(Trained(50, 2, seed, threads=1) for seed in range(2)),
    *(Trained(101, 2, seed, averaged=averaged) for seed in range(3) for averaged in (False, True)),
    *(Trained(152, 2, seed) for seed in range(3)),
)


def main() -> None:
    options = parser_of(__doc__).parse_args()
    rows = made(NETWORKS, options, in_a_folder_of_its_own, str, limit=FOLD_LIMIT)
    print(summary(rows))


def in_a_folder_of_its_own(trained: Trained) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return row_of(trained, Path(folder))


def row_of(trained: Trained, place: Path) -> dict[str, Any]:
    source = source_from_checkpoint(checkpoint_of(trained, place))
    sample = fold_sample(source, "digits")
    pixels, labels = evaluation_pixels("digits", source.spec, IMAGES)
    with torch.inference_mode():
        found = in_batches(source.network, normalised(pixels, source.spec), 50).argmax(1)
    row: dict[str, Any] = {"network": trained.name, "top1": 100 * float((found == labels).double().mean())}
    try:
        folded, fold = proved_fold(sample, no_progress)
        row |= {"fp32": fold.proof.error_ratio, "kept": fold.kept}
        half = proved_fold(sample, no_progress, precision="fp16")[1]
        row |= {"fp16": half.proof.own_precision, "kept_fp16": half.kept}
        images = calibration_images(source, ExportOptions(precision="int8", calibration_data="digits"))
        equalized = proved_fold(sample, no_progress, scales=equalization_scales(folded, images))[1]
        row |= {"equalized": equalized.proof.error_ratio, "kept_equalized": equalized.kept}
    except IResNetError as error:
        row["refused"] = str(error)
    return row


def summary(rows: list[dict[str, Any]]) -> str:
    refused = sum("refused" in row for row in rows)
    narrowed = sum(any(row.get(key) for key in ("kept", "kept_fp16", "kept_equalized")) for row in rows)
    largest = {
        key: max((row[key] for row in rows if row.get(key) is not None), default=None) for key in ("fp32", "fp16", "equalized")
    }
    return f"{len(rows)} networks, {refused} refused, {narrowed} not folded whole; largest error ratios {largest}"


if __name__ == "__main__":
    main()
