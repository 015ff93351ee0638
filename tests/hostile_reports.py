"""Reports whose every text is an attack on the page that shows it."""

from __future__ import annotations

import copy
from typing import Any

import report_samples

HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked=1">.onnx',
    "</style></title></svg><script>window.hacked=1</script>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{2}$ & <b>bold</b>",
    "' onload='window.hacked=1",
    "javascript:window.hacked=1",
)


def hostile_reports() -> dict[str, Any]:
    bench, verify, evaluation, training = (
        report_samples.full_bench(), report_samples.verify(), report_samples.evaluation(), report_samples.training(3),
    )  # fmt: skip
    for index, text in enumerate(HOSTILE):
        bench["results"][index] |= {"artifact": text, "backend": text, "reason": text, "precision": text, "arch": None}
        bench["results"][-1 - index] |= {"artifact": text, "device": text, "mode": bench["results"][-1 - index]["mode"]}
        bench["limits"].append({"precision": text, "threads": 1, "gflops": 100.0, "kernel": text})
        candidate = copy.deepcopy(verify["candidates"][index % 4]) | {"artifact": text, "backend": text, "reason": text}
        candidate["first_divergence"] = candidate["localisation"][3]["place"] = text
        verify["candidates"].append(candidate | {"reference": text})
        verify["references"].append({"id": text, "image_source": text, "weights": text, "noise_floor": {"fp32": 1e-7}})
        evaluation["results"].append(evaluation["results"][0] | {"artifact": text, "backend": text})
        judged = evaluation["results"][2]
        judged["classes"][index]["label"] = text
        judged["mistakes"].append(judged["mistakes"][0] | {"file": text})
        for document in (bench, verify, evaluation, training):
            environment = document["environment"]
            environment["versions"][text] = environment["command"] = environment["hardware"]["cpu"] = text
            environment["cpu"] = {text: text}
            environment["warnings"].append(text)
    bench["recommendation"] |= {"sentence": HOSTILE[0]}
    training["network"]["arch"] = HOSTILE[1]
    return {"bench": bench, "verify": verify, "eval": evaluation, "train": training}
