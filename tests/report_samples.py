"""Reports made up for tests, in the full form that docs/reports.md gives them: no machine ever measured these figures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

Document = dict[str, Any]

ENVIRONMENT: Document = {
    "versions": {"iresnet-export": "0.1.0", "python": "3.11.7", "torch": "2.15.0", "openvino": "2026.4.1"},
    "hardware": {"cpu": "Imaginary 9000", "cores": 8, "memory_bytes": 2**35, "system": "Linux x86_64", "gpus": []},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "command": "iresnet-export bench iresnet50.onnx --json bench.json",
    "cpu": {
        "model": "Imaginary 9000", "features": ["avx2", "avx512f", "avx512_vnni"], "physical_cores": 8, "usable_cores": 8,
        "affinity": [0, 1, 2, 3, 4, 5, 6, 7], "governor": "performance", "load_before": 0.12, "load_after": 1.9,
    },
    "gpu": None,
    "warnings": [],
}  # fmt: skip

CANDIDATES: tuple[tuple[str, str, str, float], ...] = (
    ("iresnet50-1a2b3c4d", "eager", "fp32", 64.0),
    ("iresnet50.ts", "torchscript", "fp32", 57.0),
    ("iresnet50.onnx", "onnxruntime", "fp32", 39.0),
    ("iresnet50.onnx", "openvino", "fp32", 38.6),
    ("iresnet50-bf16.onnx", "openvino", "bf16", 20.4),
    ("iresnet50-int8-cpu.onnx", "onnxruntime", "int8", 12.4),
    ("iresnet50-int8-cpu.onnx", "openvino", "int8", 11.6),
)
PEAKS = {"fp32": 410.0, "bf16": 1500.0, "int8": 2900.0}
MACS, BYTES = 4_100_000_000, {"fp32": 1.9e8, "bf16": 0.95e8, "int8": 0.48e8}


def samples(median: float, seed: int, *, turns: int = 30, runs: int = 8, spread: float = 0.02) -> list[list[float]]:
    """Turns of latencies with a long upper tail; samples of a turn share a part of their error."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, spread / 2, (turns, 1))
    own = generator.gamma(2.0, spread / 2, (turns, runs)) - spread * 0.84
    return (median * np.exp(shared + own)).round(6).tolist()


def latency(values: Sequence[Sequence[float]]) -> Document:
    flat = np.concatenate([np.array(turn) for turn in values])
    p50, half = float(np.median(flat)), float(flat.std() / np.sqrt(len(flat))) * 2.5
    return {
        "p50": p50, "p90": float(np.percentile(flat, 90)) if len(flat) >= 100 else None,
        "p99": float(np.percentile(flat, 99)) if len(flat) >= 1000 else None, "mean": float(flat.mean()),
        "std": float(flat.std(ddof=1)), "min": float(flat.min()), "max": float(flat.max()), "p50_ci95": [p50 - half, p50 + half],
    }  # fmt: skip


def result(artifact: str, backend: str, precision: str, median: float, batch: int = 1, **changes: Any) -> Document:
    """One measurement in `latency` mode against a baseline of 64 ms an image."""
    found = samples(median, seed=len(artifact) * 31 + len(backend) * 7 + batch, runs=40 if median < 15 else 8)
    times = latency(found)
    gflops = 2 * MACS * batch / times["p50"] / 1e6
    speedup, baseline = 64.0 * batch**0.95 / times["p50"], backend == "eager"
    return {
        "artifact": artifact, "backend": backend, "precision": precision, "device": "cpu", "mode": "latency", "batch": batch,
        "threads": 8, "status": "ok", "reason": None, "arch": "iresnet", "depth": 50, "image_size": 224, "peer": False,
        "baseline": None if baseline else "iresnet50-1a2b3c4d",
        "parity": None if baseline else {"status": "pass", "noise_ratio": None if precision == "int8" else 0.4,
                                         "sqnr_db": 38.0 if precision == "int8" else 110.0, "reason": None},
        "samples": found, "latency_ms": times, "device_ms": None, "copy_ms": None, "throughput": 1e3 * batch / times["p50"],
        "memory_mb": 410.0, "size_bytes": None if baseline else int(BYTES[precision] / 2), "gflops": gflops,
        "peak_fraction": gflops / PEAKS[precision], "macs": MACS, "bytes": int(BYTES[precision] * batch**0.8),
        "arithmetic_intensity": 2 * MACS * batch / (BYTES[precision] * batch**0.8), "stable": True, "server": None, "cold": None,
        "speedup": None if baseline else {"p50": speedup, "ci95": [speedup * 0.985, speedup * 1.012], "tie": False},
        "null_reasons": {}, **changes,
    }  # fmt: skip


def bench(candidates: Sequence[tuple[str, str, str, float]] = CANDIDATES, batches: Sequence[int] = (1,)) -> Document:
    """A benchmark of every candidate, no other modes."""
    results = [result(*names, median * batch**0.9, batch) for batch in batches for *names, median in candidates]
    return {
        "schema": "iresnet-export/bench/1",
        "environment": copy.deepcopy(ENVIRONMENT),
        "settings": {
            "modes": ["latency"],
            "batch_sizes": list(batches),
            "device": "cpu",
            "threads": [8],
            "seconds": 3.0,
            "seed": 0,
        },
        "limits": [
            {"precision": name, "threads": 8, "gflops": peak, "kernel": "matrix product of 4096", "bandwidth_gb_s": 38.0}
            for name, peak in PEAKS.items()
        ],
        "results": results,
        "recommendation": None,
    }


def full_bench() -> Document:
    """Every mode, a tie, an unstable one, one out of memory, one that failed parity, a peer, a recommendation, a warning."""
    document = bench(batches=(1, 2, 4, 8, 16))
    results: list[Document] = document["results"]
    results[3]["speedup"] = {"p50": 1.004, "ci95": [0.99, 1.02], "tie": True}
    results[8] |= {"status": "unstable", "stable": False, "reason": "first and last half differ by 9 %"}
    gone = {"status": "oom", "samples": None, "latency_ms": None, "throughput": None, "gflops": None, "speedup": None}
    results[-7] |= gone | {"reason": "memory ended at batch 16"}
    failed = result("iresnet50-nofold.onnx", "onnxruntime", "fp32", 41.0, status="failed_parity", speedup=None)
    failed["parity"] = {"status": "fail", "noise_ratio": 371.0, "sqnr_db": 52.0, "reason": "the outputs differ"}
    results += [failed, result("resnet50", "torch.compile", "fp32", 44.0, peer=True, arch="resnet")]
    for artifact, backend, precision, median in CANDIDATES[2:]:
        times = {"p50": median * 1.1, "p90": median * 1.7, "p99": median * 2.9, "p999": median * 4.2}
        server = {"rate_per_s": 12.0, "offered": 12000, "completed": 12000, "response_ms": times}
        server |= {"highest_rate_per_s": 700 / median, "p99_limit_ms": 60.0}
        bare = {"latency_ms": None, "speedup": None, "gflops": None, "throughput": None}
        answers = np.random.default_rng(3).gamma(3, median / 3, 400).tolist()
        results.append(result(artifact, backend, precision, median, mode="server", **bare) | {"server": server, "samples": answers})
        cold = {"load_ms": {"p50": median * 8, "samples": []}, "first_inference_ms": {"p50": median * 3, "samples": []}}
        results.append(result(artifact, backend, precision, median, mode="cold", **bare) | {"cold": cold, "samples": None})
    document["recommendation"] = {
        "artifact": "iresnet50-int8-cpu.onnx", "backend": "openvino", "precision": "int8", "batch": 1, "threads": 8, "speedup": 5.5,
        "accuracy_drop_points": 0.2, "sentence": "The fastest that passes parity and loses at most 0.5 points of accuracy.",
    }  # fmt: skip
    document["environment"]["warnings"] = ["Other programs used 1.9 of 8 cores while this was measured."]
    return document


def verify() -> Document:
    """Three that pass, one that departs in the middle, one that was skipped; blocks compared."""
    places = ["stem", *(f"stage {stage} block {block}" for stage, count in enumerate((3, 4, 6, 3), 1) for block in range(count))]
    places += ["pool", "classifier"]
    candidates = []
    for artifact, backend, precision, level in (
        ("iresnet50.onnx", "onnxruntime", "fp32", 133.0),
        ("iresnet50-bf16.onnx", "openvino", "bf16", 52.0),
        ("iresnet50-int8-cpu.onnx", "openvino", "int8", 40.0),
        ("iresnet50-nofold.onnx", "onnxruntime", "fp32", 132.0),
    ):
        failed = "nofold" in artifact
        found = [
            {
                "place": place,
                "sqnr_db": level - 0.8 * index - (70 if failed and index > 9 else 0),
                "floor_db": level - 0.8 * index - 1,
                "ratio": 0.9,
            }
            for index, place in enumerate(places)
        ]
        candidates.append(
            {
                "artifact": artifact, "backend": backend, "precision": precision, "computed_precision": precision,
                "reference": "iresnet50", "batch_sizes": [1, 7, 32], "status": "fail" if failed else "pass",
                "reason": "the outputs differ" if failed else None,
                "weights": {"compared": 25557032, "worst_ulp": 0, "first_difference": None}, "graph": None,
                "noise_ratio": None if precision == "int8" else 371.0 if failed else 0.4, "max_abs": 1e-4, "max_rel": 1e-5,
                "cosine": 1.0,
                "sqnr_db": level - 15, "top1_agreement": 0.5 if failed else 1.0, "decisions": None,
                "first_divergence": "stage 3 block 2" if failed else None, "localisation": found, "null_reasons": {},
            }
        )  # fmt: skip
    candidates[2]["steps"] = [
        {"place": place, "sqnr_db": 31.0 + 2 * number, "milliseconds": time}
        for number, (place, time) in enumerate((("", 4.0), ("stem", 4.4), ("layer1.0", 4.2), ("classifier", None)))
    ]
    skipped = dict.fromkeys(
        ("computed_precision", "reference", "weights", "noise_ratio", "max_abs", "sqnr_db", "top1_agreement", "localisation")
    )
    candidates.append(
        {
            "artifact": "iresnet50.engine",
            "backend": "tensorrt",
            "precision": "fp16",
            "status": "skipped",
            "reason": "no NVIDIA GPU is here",
            **skipped,
        }
    )
    reference = {"id": "iresnet50", "arch": "iresnet", "depth": 50, "checkpoint_sha256": None, "weights": "seeded", "images": 64}
    return {
        "schema": "iresnet-export/verify/1",
        "environment": copy.deepcopy(ENVIRONMENT),
        "settings": {"images": 64, "noise_limit": 2.5},
        "references": [reference | {"image_source": "64 images of seeded noise", "noise_floor": {"fp32": 1.2e-7}, "cached": False}],
        "candidates": candidates,
        "passed": False,
    }


def evaluation() -> Document:
    found = {"iresnet50.pt": ("eager", 77.1), "iresnet50.ts": ("torchscript", 77.1), "iresnet50.onnx": ("onnxruntime", 77.1)}
    pairs = [(artifact, backend, top1) for artifact, (backend, top1) in found.items()]
    pairs += [("iresnet50.onnx", "openvino", 77.1), ("iresnet50-bf16.onnx", "openvino", 77.05)]
    pairs += [("iresnet50-int8-cpu.onnx", "onnxruntime", 76.6), ("iresnet50-int8-cpu.onnx", "openvino", 76.8)]
    results = [
        {
            "artifact": artifact, "backend": backend, "status": "ok", "reason": None, "images": 50000, "top1": top1,
            "top1_ci95": [top1 - 0.37, top1 + 0.37], "top5": 93.4, "top5_ci95": [93.2, 93.6], "loss": 0.94, "null_reasons": {},
        }
        for artifact, backend, top1 in pairs
    ]  # fmt: skip
    results[2] |= by_class(12, 0)
    results[5] |= by_class(12, 9) | {"changes": changes()}
    results[4] |= by_class(60, 0) | {"changes": changes() | {"listed": []}}
    return {
        "schema": "iresnet-export/eval/1",
        "environment": copy.deepcopy(ENVIRONMENT),
        "settings": {"data": "photos", "device": "cpu", "mistakes": 2},
        "results": results,
    }


def by_class(count: int, lost: int) -> Document:
    """Of so many classes of 50 images, each mistaken for the next; class 3 loses more."""
    wrong = [2 + number % 5 + (lost if number == 3 else 0) for number in range(count)]
    classes = [
        {
            "class": number, "label": f"a long name of class {number}", "images": 50,
            "predicted": 50 - wrong[number] + wrong[number - 1], "right": 50 - wrong[number],
            "recall": 100 - 2.0 * wrong[number], "recall_ci95": [60.0, 100.0], "precision": 90.0, "precision_ci95": [80.0, 95.0],
        }
        for number in range(count)
    ]  # fmt: skip
    pairs = [{"actual": number, "predicted": (number + 1) % count, "images": wrong[number]} for number in range(count)]
    bins = [
        {"low": low / 15, "high": (low + 1) / 15, "images": 5 * low + 1, "confidence": (low + 0.5) / 15, "accuracy": low / 15,
         "accuracy_ci95": [low / 16, (low + 1) / 15]}
        for low in range(15)
    ]  # fmt: skip
    mistakes = [
        {"image": 7, "file": "val/a long name of class 3/0007.jpg", "actual": 3, "predicted": 4, "confidence": 0.998},
        {"image": 9, "file": None, "actual": 1, "predicted": 2, "confidence": 0.98},
    ]
    return {
        "without_class": 0, "calibration": {"ece": 0.033, "bins": bins}, "classes": classes,
        "confusions": {"pairs": count, "listed": sorted(pairs, key=lambda one: -one["images"])}, "mistakes": mistakes,
    }  # fmt: skip


def changes() -> Document:
    listed = [
        {"class": 3, "images": 50, "reference": 90.0, "candidate": 72.0, "only_reference_right": 10, "only_candidate_right": 1,
         "p": 0.012, "p_holm": 0.024},
        {"class": 1, "images": 50, "reference": 94.0, "candidate": 96.0, "only_reference_right": 0, "only_candidate_right": 1,
         "p": 1.0, "p_holm": 1.0},
    ]  # fmt: skip
    beside = {"artifact": "iresnet50.onnx", "backend": "onnxruntime", "classes": 2, "least_images": 7, "largest_class": 50}
    return beside | {"listed": listed}


def training(epochs: int = 90) -> Document:
    rows = []
    for epoch in range(1, epochs + 1):
        rate, done = 0.1 * 0.1 ** (epoch // 30), 1 - 0.55 * np.exp(-epoch / 12) - 0.08 * (2 - epoch // 30)
        top1 = float(77.2 * done)
        rows.append(
            {
                "epoch": epoch, "train_loss": float(5.2 * (1.05 - done) + 0.7), "train_acc1": top1 - 1.5, "train_acc5": top1 + 12,
                "val_loss": float(4.6 * (1.04 - done) + 0.9), "val_acc1": top1, "val_acc5": top1 + 15, "lr": rate, "seconds": 800.0,
                "images_per_second": 1600.0, "data_wait_share": 0.02, "ema_val_acc1": top1 + 0.4, "ema_val_acc5": top1 + 15.2,
            }
        )  # fmt: skip
    return {
        "schema": "iresnet-export/train/1",
        "environment": copy.deepcopy(ENVIRONMENT),
        "settings": {"preset": "official"},
        "network": {"arch": "iresnet", "depth": 50, "num_classes": 1000, "image_size": 224},
        "epochs": rows,
        "best": {"epoch": epochs, "val_acc1": rows[-1]["val_acc1"]},
        "status": "done",
    }
