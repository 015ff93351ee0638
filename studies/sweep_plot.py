"""The table and the plot of parity_sweep.py."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from iresnet_export.reporting.words import backend_name
from iresnet_export.verification.criteria import NOISE_LIMIT

_COLOURS = {"unaltered": "#0072b2", "Winograd": "#e69f00", "TF32": "#d55e00"}  # Okabe and Ito's, safe for the colour-blind
_MARKERS = {"unaltered": "o", "Winograd": "s", "TF32": "^"}
_LABELS = {"unaltered": "backends as they are", "Winograd": "Winograd F(4x4, 3x3), simulated", "TF32": "TF32, simulated"}


def summary(rows: list[dict[str, Any]], smallest: list[dict[str, Any]]) -> None:
    """Prints both tables of docs/parity.md."""
    groups = defaultdict(list)
    for row in rows:
        groups[_candidate(row)].append(row)
    print("\n| candidate | measured | smallest ratio | largest | verdicts |\n| --- | --- | --- | --- | --- |")
    for name, entries in sorted(groups.items(), key=lambda group: _ORDER.index(group[0][0])):
        ratios = [entry["noise_ratio"] for entry in entries if entry["noise_ratio"] is not None]
        figures = [f"{value:.3g}" for value in (min(ratios), max(ratios))] if ratios else ["", ""]
        counts = Counter(entry["status"] for entry in entries)
        verdicts = f"all {entries[0]['status']}" if len(counts) == 1 else ", ".join(f"{n} {status}" for status, n in counts.items())
        print(f"| {''.join(name)} | {len(entries)} | {' | '.join(figures)} | {verdicts} |")
    print("\n| iResNet, pixels | layer1.1.conv1 | layer3.1.conv1 | layer4.1.conv2 |\n| --- | --- | --- | --- |")
    for entry in sorted(smallest, key=lambda entry: (entry["image_size"], entry["depth"], entry["weights"])):
        changes = ["not at all" if change is None else f"{100 * change:.3g} %" for change in entry["smallest_change"].values()]
        trained = "" if entry["weights"] == "untrained" else ", trained"
        print(f"| {entry['depth']}, {entry['image_size']}{trained} | {' | '.join(changes)} |")


_ORDER = (
    "TorchScript",
    "torch.export",
    "AOTInductor",
    "ONNX Runtime",
    "OpenVINO",
    "eager: NCHW and channels last, one and two threads, batches of 3 and 16",
    "eager without oneDNN, batches of 3 and 16",
    "Winograd F(4x4, 3x3) in float32, simulated",
    "TF32, simulated",
)


def _candidate(row: dict[str, Any]) -> tuple[str, str]:
    """One of _ORDER, and what else is said of it."""
    if row["kind"] != "unaltered":
        return next(name for name in _ORDER if name.startswith(row["kind"])), ""
    if row["backend"].startswith("eager"):
        return _ORDER[6] if "oneDNN off" in row["backend"] else _ORDER[5], ""
    return backend_name(row["backend"]), "" if row["precision"] == "fp32" else f", {row['precision']}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The ratios by depth and kind of candidate, against the limit."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "parity"  # the same file each time
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.4))
    depths = sorted({row["depth"] for row in rows})
    for offset, kind in enumerate(_LABELS):
        found = [
            (depths.index(row["depth"]), row["noise_ratio"])
            for row in rows
            if row["kind"] == kind and row["noise_ratio"] and row["precision"] == "fp32"
        ]
        places = [(x + (offset - 1) * 0.2 + _spread(number), y) for number, (x, y) in enumerate(found)]
        axes.scatter(*zip(*places, strict=True), s=11, alpha=0.65, color=_COLOURS[kind], marker=_MARKERS[kind], label=_LABELS[kind])
    axes.axhline(NOISE_LIMIT, color="black", linewidth=1)
    axes.annotate(f"limit {NOISE_LIMIT}", (1.005, NOISE_LIMIT), xycoords=("axes fraction", "data"), va="center")
    axes.set(yscale="log", xlabel="depth", ylabel="error in noise floors", xticks=range(len(depths)))
    axes.set_xticklabels([str(depth) for depth in depths])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3, frameon=False, handletextpad=0.2)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _spread(number: int) -> float:
    """Points of one depth side by side."""
    return (number % 7 - 3) * 0.018
