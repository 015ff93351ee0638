"""`predict` against a plain loop of Pillow and ONNX Runtime, over a folder of photos, in turns; and how soon it answers for one.

    iresnet-export onnx --depth 50 --precision int8 --output net.onnx
    python studies/predict_many.py net.onnx photos/ --json studies/results/predict_many.json

The loop decodes an image, resizes, crops and normalises it and runs it, one at a time, with ONNX Runtime's own settings. Each turn is a
process of its own: the loop, then `predict` by each backend that is installed. Images a second count from the loaded session on,
since a start-up is once; processor milliseconds per image tell what a shared machine hides. Ratios are of the turns of one round. The answer
for one image is measured from the command to its end, in turn with importing what no answer can do without. The artifact takes
normalised images of 224 pixels, as ImageNet's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from iresnet_export import prediction
from iresnet_export.artifacts.artifact import open_artifact
from iresnet_export.system.environment import environment
from iresnet_export.system.machine import cpu_state, load_now
from iresnet_models.files import write_json
from iresnet_models.image_files import image_files

LIBRARIES = ["-c", "import onnxruntime, numpy, PIL.Image"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turn is not None:
        print(json.dumps(loop(given) if given.turn == "loop" else by_predict(given, given.turn)))
        return
    backends = ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
    rounds = [one_round(given, backends, number, given.rounds) for number in range(given.rounds)]
    found = {
        "images": len(image_files(given.photos).paths),
        "ratios": {backend: spread([one[backend]["rate"] / one["loop"]["rate"] for one in rounds]) for backend in backends},
        "one_image_s": spread([one["one_image"]["wall_s"] for one in rounds]),
        "one_image_cpu_s": spread([one["one_image"]["cpu_s"] for one in rounds]),
        "rounds": rounds,
        "cpu": cpu_state(),
        "environment": environment(),
    }
    print(json.dumps({key: found[key] for key in ("ratios", "one_image_s", "one_image_cpu_s")}))
    if given.json is not None:
        write_json(given.json, found)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def one_round(given: argparse.Namespace, backends: list[str], number: int, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {"load_before": load_now()}
    for turn in ("loop", *backends):
        command = [sys.executable, __file__, str(given.artifact), str(given.photos), "--turn", turn]
        found[turn] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    photo = image_files(given.photos).paths[0]
    found["libraries"] = process(LIBRARIES)
    found["one_image"] = process(["-m", "iresnet_export", "predict", str(given.artifact), photo])
    print(f"{number + 1}/{count}: {json.dumps(found)}", file=sys.stderr)
    return found


def process(arguments: list[str]) -> dict[str, float]:
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": time.perf_counter() - start, "cpu_s": cpu}


def rate(images: int, start: float, cpu: float) -> dict[str, float]:
    return {"rate": images / (time.perf_counter() - start), "cpu_ms": 1e3 * (time.process_time() - cpu) / images}


def loop(given: argparse.Namespace) -> dict[str, float]:
    import numpy as np
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(given.artifact)
    name = session.get_inputs()[0].name
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    files = image_files(given.photos).paths
    start, cpu = time.perf_counter(), time.process_time()
    for file in files:
        image = Image.open(file).convert("RGB")
        size = [int(256 * side / min(image.size)) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (round((side - 224) / 2) for side in size)
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        inputs = (pixels * np.float32(1 / 255) - mean) / std
        session.run(None, {name: inputs.transpose(2, 0, 1)[None]})[0].argmax()
    return rate(len(files), start, cpu)


def by_predict(given: argparse.Namespace, backend: str) -> dict[str, float]:
    options = prediction.PredictOptions(backend=backend)
    found = prediction.find_images([given.photos])
    with prediction._running(open_artifact(given.artifact), options, len(found)) as running:
        start, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in running.predictions(found, lambda *_: None))
        return rate(count, start, cpu)


if __name__ == "__main__":
    main()
