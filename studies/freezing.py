"""How much faster a training step is whose first stages are frozen.

Run: python studies/freezing.py --json studies/results/freezing.json   (some minutes, two cores)

One ResNet-50 for each part up to which it is frozen takes a step on the same images in turn, round after round; each ratio is the
median of the rounds' own, against the network that is trained whole. With it the lowest and the highest round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch

from iresnet_export.system.environment import environment
from iresnet_models import ModelSpec, network_from_spec, save_checkpoint
from iresnet_models.files import write_json
from iresnet_train import config_for
from iresnet_train.config import FrozenPart
from iresnet_train.distributed import World
from iresnet_train.initial import initial_network
from iresnet_train.learner import Learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="pixels of an image")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    learners = made(options.size, options.batch_size)
    images, labels = torch.randn(options.batch_size, 3, options.size, options.size), torch.arange(options.batch_size) % 5
    rounds = [{part: seconds(learner, images, labels) for part, learner in learners.items()} for _ in range(options.rounds + 1)]
    found = {part: faster(part, rounds[1:]) for part in learners}  # the first is a warm-up
    for part, (ratio, least, most) in found.items():
        print(f"frozen until {part}: {ratio:.2f} times as fast ({least:.2f} to {most:.2f})")
    if options.json is not None:
        settings = {"network": "resnet50", "size": options.size, "batch_size": options.batch_size, "rounds": options.rounds}
        document = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(), "settings": settings}
        write_json(options.json, document | {"times_as_fast": found, "seconds": rounds[1:]})


def made(size: int, batch_size: int) -> dict[str, Learner]:
    spec = ModelSpec("resnet", 50, num_classes=5).with_image_size(size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.pt"
        save_checkpoint(path, network_from_spec(spec))
        found: dict[str, Learner] = {}
        for part in get_args(FrozenPart):
            settings: dict[str, Any] = {"pretrained": path, "freeze_until": part, "batch_size": batch_size}
            config = config_for("photos", "finetune", **settings)
            found[part] = Learner(config, initial_network(config, spec), World(0, 1, torch.device("cpu")))
        return found


def seconds(learner: Learner, images: torch.Tensor, labels: torch.Tensor) -> float:
    before = time.perf_counter()
    learner.backward(images, labels, step=0)
    learner.update(1e-4)
    return time.perf_counter() - before


def faster(part: str, rounds: list[dict[str, float]]) -> tuple[float, float, float]:
    """The median ratio of the rounds, the lowest and the highest."""
    ratios = [each["none"] / each[part] for each in rounds]
    return statistics.median(ratios), min(ratios), max(ratios)


if __name__ == "__main__":
    main()
