"""The paper's claim, reproduced small: does iResNet train better than ResNet as the networks get deeper?

Run: python studies/depth_study.py --json studies/results/depth_study.json --plot docs/depth_study.svg   (an hour, two cores)
     python studies/depth_study.py --smoke                                                                    (a minute)

Both families are trained on the embedded digits by one recipe (the digits preset with an epoch of warm-up, not tuned for either),
at each depth from the same seeds; training loss and held-out accuracy are kept for every epoch. Runs go seed by seed;
those that would probably end after the budget of minutes are left out and listed, so that deep networks may have fewer seeds than
shallow ones. A handful of seeds on 500 held-out images shows large differences alone: the table gives every seed, and the paired
differences as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from iresnet_export.system.environment import environment
from iresnet_models.errors import CheckFailedError
from iresnet_models.files import replacing, write_json
from iresnet_models.spec import FAMILIES
from iresnet_train import config_for, train

ARCHS = ("resnet", "iresnet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", default="50,101,152,200", help="deeper ones, to 1001, exist for iresnet alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--budget-minutes", type=float, default=60.0, help="begin no run that would probably end later")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smoke", action="store_true", help="depth 18, one seed, one epoch: does it run?")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="training curves, as SVG or PNG")
    options = parser.parse_args()
    depths = [18] if options.smoke else [int(depth) for depth in options.depths.split(",")]
    seeds, epochs = (1, 1) if options.smoke else (options.seeds, options.epochs)
    date, about = datetime.now(UTC).date().isoformat(), environment()
    settings = {"depths": depths, "seeds": seeds, "epochs": epochs, "budget_minutes": options.budget_minutes}

    def keep(runs: list[dict[str, Any]], left_out: list[str]) -> None:
        if options.json is not None:
            document = {"date": date, "environment": about, "settings": settings, "runs": runs, "left_out": left_out}
            write_json(options.json, document)

    runs, left_out = studied(depths, seeds, epochs, options.budget_minutes, options.device, keep)
    show(runs, depths, left_out)
    if options.plot is not None:
        plot(runs, depths, options.plot)


Runs = list[dict[str, Any]]


def studied(
    depths: list[int], seeds: int, epochs: int, minutes: float, device: str, keep: Callable[[Runs, list[str]], None]
) -> tuple[Runs, list[str]]:
    """All runs that fit into the budget, and the names of the others; `keep` gets them after every run."""
    started, runs, left_out = time.monotonic(), Runs(), list[str]()
    seconds: dict[tuple[str, int], float] = {}
    for seed in range(seeds):
        for depth in depths:
            for arch in ARCHS:
                if depth not in FAMILIES[arch].depths:
                    continue
                if time.monotonic() - started + seconds.get((arch, depth), 0.0) > 60 * minutes:
                    left_out.append(f"{arch}{depth}, seed {seed}")
                    continue
                before = time.monotonic()
                runs.append(trained(arch, depth, seed, epochs, device))
                seconds[arch, depth] = time.monotonic() - before
                last = runs[-1]["epochs"][-1] if runs[-1]["epochs"] else None
                result = (
                    runs[-1]["failure"] if last is None else f"loss {last['train_loss']:.3f}, held-out {last['val_acc1']:.1f} %"
                )
                print(f"{arch}{depth}, seed {seed}: {result} ({seconds[arch, depth]:.0f} s)", flush=True)
                keep(runs, left_out)
    keep(runs, left_out)
    return runs, left_out


def trained(arch: str, depth: int, seed: int, epochs: int, device: str) -> dict[str, Any]:
    """The epochs of one run; a run that diverges keeps those before, with the reason."""
    warm_up = min(1, epochs - 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        overrides = {"arch": arch, "depth": depth, "seed": seed, "epochs": epochs, "warmup_epochs": warm_up, "device": device}
        failure = None
        try:
            train(config_for("digits", result_path=path, **overrides))
        except CheckFailedError as error:
            failure = str(error)
        report = json.loads((path / "train.json").read_text(encoding="utf-8"))
    return {"arch": arch, "depth": depth, "seed": seed, "epochs": report["epochs"], "failure": failure}


def show(runs: list[dict[str, Any]], depths: list[int], left_out: list[str]) -> None:
    print("| depth | resnet: held-out top-1 of each seed | iresnet | iresnet over resnet, points | last training loss, both |")
    print("| --- | --- | --- | --- | --- |")
    for depth in depths:
        found = {
            arch: {run["seed"]: run["epochs"][-1] for run in runs if (run["arch"], run["depth"]) == (arch, depth) and run["epochs"]}
            for arch in ARCHS
        }
        pairs = sorted(found["resnet"].keys() & found["iresnet"].keys())
        gains = [found["iresnet"][seed]["val_acc1"] - found["resnet"][seed]["val_acc1"] for seed in pairs]
        scores = [", ".join(f"{found[arch][seed]['val_acc1']:.1f}" for seed in sorted(found[arch])) for arch in ARCHS]
        gain = f"{statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else ""
        losses = [f"{statistics.mean(e['train_loss'] for e in found[arch].values()):.3f}" if found[arch] else "" for arch in ARCHS]
        print(f"| {depth} | {scores[0]} | {scores[1]} | {gain} | {', '.join(losses)} |")
    if left_out:
        print(f"Left out, for the budget: {'; '.join(left_out)}")


def plot(runs: list[dict[str, Any]], depths: list[int], path: Path) -> None:
    """Training loss by epoch: a panel for each depth, thin lines for seeds, a thick one for their mean."""
    import matplotlib as mpl

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(depths), figsize=(3.2 * len(depths), 3), sharey=True, squeeze=False)
    for panel, depth in zip(panels[0], depths, strict=True):
        for arch, colour in zip(ARCHS, ("tab:gray", "tab:blue"), strict=True):
            curves = [
                [epoch["train_loss"] for epoch in run["epochs"]]
                for run in runs
                if (run["arch"], run["depth"]) == (arch, depth) and run["failure"] is None
            ]
            for curve in curves:
                panel.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.6, alpha=0.6)
            if curves:
                mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
                panel.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=2, label=arch)
        panel.set(title=f"depth {depth}", xlabel="epoch", yscale="log")
    panels[0][0].set_ylabel("training loss")
    panels[0][-1].legend(frameon=False)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
