"""How fast a network trains, and where a step's time goes: data, forward, backward, optimizer.

Run: python studies/training.py --json studies/results/training.json        (on a GPU: --batch-size 256 --compile)
     python studies/training.py --smoke                                           (seconds: does it run?)

Three candidates take turns, step by step, in random order, in each precision: this project's Learner; the same with --compile; and
"reference", torchvision's reference training loop written plainly (SGD, autocast where the precision asks for it, zero_grad,
backward, step, with its per-step reading of loss and accuracy). All train the same network on the same images. Speed-ups are paired
by round, with 95 % intervals from resampled rounds. A second part measures how fast images arrive from JPEG files, by workers.
The limit is `bench`'s: the fastest of large matrix products and convolutions by every library here in the same precision; where a
candidate itself is faster, what it reached at its best, and the JSON says so.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from iresnet_data import spec_for, training_set
from iresnet_export.benchmark.limits import measured_limits
from iresnet_export.system.environment import environment
from iresnet_export.system.progress import no_progress
from iresnet_models import ModelSpec, build_model, network_from_spec
from iresnet_models.errors import UnavailableError
from iresnet_models.files import write_json
from iresnet_models.operations import multiply_accumulates
from iresnet_train import TrainConfig
from iresnet_train.augmentation import augmented
from iresnet_train.dali import DaliBatches
from iresnet_train.distributed import World
from iresnet_train.learner import Learner
from iresnet_train.loader import TrainingLoader
from iresnet_train.torchrun import processors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARTS = ("data", "forward", "backward", "optimizer")
Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Settings:
    arch: str
    depth: int
    batch_size: int
    image_size: int
    steps: int
    warmup: int
    device: torch.device
    compile: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--batch-size", type=int, help="default: 256 on a GPU, 16 on a CPU")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--precisions", help="default: bf16,fp16,fp32 on a GPU, fp32,bf16 on a CPU")
    parser.add_argument("--steps", type=int, help="rounds measured; default: 50 on a GPU, 8 on a CPU")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, two steps: does it run?")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    settings = Settings(
        chosen.arch,
        18 if chosen.smoke else chosen.depth,
        4 if chosen.smoke else chosen.batch_size or (256 if on_gpu else 16),
        32 if chosen.smoke else chosen.image_size,
        2 if chosen.smoke else chosen.steps or (50 if on_gpu else 8),
        1 if chosen.smoke else (10 if on_gpu else 2),
        device,
        chosen.compile,
    )
    if not on_gpu:
        print("No GPU here: these are the figures of a CPU.")
    precisions = (chosen.precisions or ("bf16,fp16,fp32" if on_gpu else "fp32,bf16")).split(",")
    rows = [row for precision in precisions for row in measured(settings, precision)]
    loading = loading_rows(settings, 32 if chosen.smoke else 1024)
    show(rows, loading)
    if chosen.json is not None:
        date = datetime.now(UTC).date().isoformat()
        document = {"date": date, "environment": environment(), "settings": {**vars(settings), "device": str(device)}}
        write_json(chosen.json, document | {"results": rows, "loading": loading})


def measured(settings: Settings, precision: str) -> list[dict[str, Any]]:
    """Every candidate in one precision, in turns."""
    torch.backends.cudnn.benchmark = True
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(settings.batch_size, 3, settings.image_size, settings.image_size, generator=generator)
    labels = torch.randint(0, 1000, (settings.batch_size,), generator=generator)
    if settings.device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    candidates = {"reference": reference_step(settings, precision), "iresnet-train": own_step(settings, precision, compiled=False)}
    if settings.compile:
        candidates["iresnet-train, compiled"] = own_step(settings, precision, compiled=True)
    for step in candidates.values():
        for _ in range(settings.warmup):
            step(images, labels)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    draw = random.Random(0)
    for _ in range(settings.steps):
        for name in draw.sample(list(candidates), len(candidates)):
            times[name].append(timed(settings.device, lambda step=candidates[name]: step(images, labels)))
    spec = ModelSpec(settings.arch, settings.depth, image_size=settings.image_size, resize=settings.image_size)
    operations = 3 * 2 * multiply_accumulates(spec) * settings.batch_size  # the backward pass takes twice the forward one's
    limit, kernel = limit_of(settings, precision)
    fastest = operations / min(min(seconds) for seconds in times.values())
    if fastest > limit:
        limit, kernel = fastest, "the fastest step of this run, faster than every kernel that was tried"
    split = parts_of_step(settings, precision, images, labels)
    rows = []
    for name, seconds in times.items():
        median = float(np.median(seconds))
        low, middle, high = speedup(times["reference"], seconds)
        rows.append(
            {
                "candidate": name,
                "precision": precision,
                "step_ms": 1e3 * median,
                "images_per_second": settings.batch_size / median,
                "speedup": {"p50": middle, "ci95": [low, high]},
                "fraction_of_limit": operations / median / limit,
                "limit_gflops": limit / 1e9,
                "limit_kernel": kernel,
                "parts_ms": split if name == "iresnet-train" else None,
                "samples_ms": [1e3 * value for value in seconds],
            }
        )
    return rows


def own_step(settings: Settings, precision: str, *, compiled: bool) -> Step:
    learner, taken = own_learner(settings, precision, compiled=compiled), 0

    def step(images: Tensor, labels: Tensor) -> None:
        nonlocal taken
        learner.backward(images, labels, step=taken)
        learner.update(1e-4, taken)
        taken += 1

    return step


def own_learner(settings: Settings, precision: str, *, compiled: bool) -> Learner:
    size = settings.image_size
    config = TrainConfig(
        "synthetic",
        arch=settings.arch,
        depth=settings.depth,
        batch_size=settings.batch_size,
        train_crop_size=size,
        val_resize=size,
        val_crop_size=size,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
    )
    torch.manual_seed(0)
    spec = spec_for("synthetic", settings.arch, settings.depth, **config.model_fields())
    return Learner(config, network_from_spec(spec), World(0, 1, settings.device))


def reference_step(settings: Settings, precision: str) -> Step:
    """The reference loop, with none of this project's choices but the network."""
    torch.manual_seed(0)
    device = settings.device
    model = build_model(settings.arch, settings.depth).to(device).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step(images: Tensor, labels: Tensor) -> None:
        images, labels = images.to(device), labels.to(device)
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            logits = model(images)
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found = logits.topk(5, 1)[1] == labels[:, None]
        loss.item(), found[:, 0].sum().item(), found.sum().item()

    return step


def parts_of_step(settings: Settings, precision: str, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Median milliseconds of the parts of a step of ours, each waited for: their sum is more than a step that is not."""
    learner = own_learner(settings, precision, compiled=False)
    loss = torch.nn.functional.cross_entropy
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    enabled, kept = precision != "fp32", {}
    layout = torch.channels_last if learner.model.conv1.weight.is_contiguous(memory_format=torch.channels_last) else None

    def data() -> None:
        kept["x"] = images.to(settings.device, memory_format=layout or torch.contiguous_format)
        kept["y"] = labels.to(settings.device)

    def forward() -> None:
        with torch.autocast(settings.device.type, DTYPES[precision], enabled=enabled):
            kept["loss"] = loss(learner.model.train()(kept["x"]).float(), kept["y"])

    def backward() -> None:
        for value in learner.model.parameters():
            value.grad = None
        kept["loss"].backward()

    for step in range(settings.warmup + settings.steps):
        for part, work in zip(PARTS, (data, forward, backward, lambda: learner.update(1e-4)), strict=True):
            if part == "optimizer" and precision == "fp16":
                learner._scaler.scale(kept["loss"])  # the scaler is made when it is first used
            seconds = timed(settings.device, work)
            if step >= settings.warmup:
                found[part].append(1e3 * seconds)
    return {part: float(np.median(values)) for part, values in found.items()}


def loading_rows(settings: Settings, count: int) -> list[dict[str, Any]]:
    """Images a second from JPEG files of 500 x 375 pixels, ImageNet's usual size, decoded and augmented, by workers."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        random_pixels = np.random.RandomState(0)
        for part in ("train", "val"):
            for label in range(2):
                (Path(folder) / part / str(label)).mkdir(parents=True)
                for index in range(count // 2 if part == "train" else 1):
                    coarse = random_pixels.randint(0, 256, (15, 20, 3), dtype=np.uint8)
                    image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
                    image.save(Path(folder) / part / str(label) / f"{index}.jpg", quality=90)
        spec = spec_for(folder, "iresnet", 50)
        data = training_set(folder, spec, augmented("crop-flip", spec, 224))
        for workers in (0, 1, 2, 4, 8, 16):
            if workers > processors():
                break
            loader = TrainingLoader(data, 32, World(0, 1, torch.device("cpu")), workers=workers)
            rows.append({"loader": "torch", "workers": workers, "images_per_second": count / second_epoch(loader)})
        threads = min(16, processors())
        decoded = partial(DaliBatches, spec=spec, size=224, seed=0, device=settings.device, threads=threads)
        with suppress(UnavailableError):  # DALI is an extra
            loader = TrainingLoader(data, 32, World(0, 1, settings.device), batches=decoded)
            rows.append({"loader": "dali", "workers": threads, "images_per_second": count / second_epoch(loader)})
    return rows


def second_epoch(loader: TrainingLoader) -> float:
    """Seconds; in the first one processes start and files are read from the disk."""
    list(loader.epoch(0))
    before = time.perf_counter()
    list(loader.epoch(1))
    return time.perf_counter() - before


def limit_of(settings: Settings, precision: str) -> tuple[float, str]:
    """Operations a second of the fastest kernel here, and which it is."""
    with tempfile.TemporaryDirectory() as folder:
        found = measured_limits([precision], torch.get_num_threads(), settings.device, Path(folder), no_progress)
    return max(((limit.gflops * 1e9, limit.kernel) for limit in found), default=(0.0, "none"))


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    before = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - before


def speedup(reference: list[float], own: list[float]) -> tuple[float, float, float]:
    """2.5 %, 50 % and 97.5 % of the median ratio of rounds, over resampled rounds."""
    ratios = np.array(reference) / np.array(own)
    draws = np.random.RandomState(0).randint(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), (2.5, 97.5))
    return float(low), float(np.median(ratios)), float(high)


def show(rows: list[dict[str, Any]], loading: list[dict[str, Any]]) -> None:
    print(
        "| candidate | precision | ms a step | images/s | over the reference | of the limit | data, forward, backward, optimizer |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        low, high = row["speedup"]["ci95"]
        parts = "" if row["parts_ms"] is None else ", ".join(f"{row['parts_ms'][part]:.1f}" for part in PARTS)
        print(
            f"| {row['candidate']} | {row['precision']} | {row['step_ms']:.1f} | {row['images_per_second']:.1f} "
            f"| {row['speedup']['p50']:.3f} ({low:.3f} to {high:.3f}) | {row['fraction_of_limit']:.0%} | {parts} |"
        )
    for row in loading:
        print(f"JPEG files by {row['loader']}, {row['workers']} workers: {row['images_per_second']:.0f} images/s")


if __name__ == "__main__":
    main()
