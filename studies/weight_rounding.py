"""How much of int8's error comes from the rounding of weights: the most that any better rounding of them could take away.

    python studies/weight_rounding.py --artifact int8.onnx --checkpoint best.pt --json studies/results/weight_rounding.json

The int8 graph is computed by torch over the held-out digits, once as it is and once with the float32 weights in place of their codes;
activations stay codes in both. Artifacts are exports of networks trained on the digits; a row of the JSON file is one of them.
"""

from __future__ import annotations

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper

from iresnet_data import evaluation_pixels
from iresnet_export.artifacts.artifact import open_artifact
from iresnet_export.artifacts.source import source_of_artifact
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.quantization.cost import sqnr_db
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.system.environment import environment
from iresnet_export.verification.deployment import Deployment
from iresnet_models.files import read_json, write_json
from iresnet_models.preprocessing import normalised

IMAGES, BATCH = 500, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--name", help="of the row; default: the network's")
    parser.add_argument("--json", type=Path, help="rows that it holds are kept")
    options = parser.parse_args()
    artifact = open_artifact(options.artifact)
    source = source_of_artifact(artifact, options.checkpoint)
    assert artifact.manifest is not None
    deployment = Deployment(source, artifact.manifest)
    pixels, _ = evaluation_pixels("digits", source.spec, IMAGES)
    inputs = normalised(pixels, source.spec)
    with torch.inference_mode():
        exact = torch.cat([source.own(batch) for batch in inputs.split(BATCH)]).numpy()

    def measured(model: onnx.ModelProto) -> float:
        graph = OnnxGraph(model)
        return sqnr_db(torch.cat([graph.run(batch) for batch in inputs.split(BATCH)]).numpy(), exact)

    floating, codes = deployment.floating_model, deployment.quantization
    assert codes is not None
    plain = quantized_onnx(floating, dataclasses.replace(codes, bias_corrections={}))
    found = {
        "sqnr_db": measured(deployment.quantized_model),
        "uncorrected_db": measured(plain),
        "with_float_weights_db": measured(with_float_weights(plain, floating)),
    }
    row = {"network": options.name or source.spec.name} | found
    exported, rounded, floats = found.values()
    print(
        f"{row['network']}: {exported:.2f} dB; {rounded:.2f} dB without corrected biases, {floats:.2f} dB with float32 weights too"
    )
    if options.json is not None:
        known = read_json(options.json, "The study")["results"] if options.json.exists() else []
        rows: list[Any] = [other for other in known if other["network"] != row["network"]] + [row]
        about = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(), "images": IMAGES}
        write_json(options.json, about | {"results": rows})


def with_float_weights(quantized: onnx.ModelProto, floating: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each layer's weights as the float32 graph has them; biases, activations and the rest as they are."""
    made = onnx.ModelProto()
    made.CopyFrom(quantized)
    weights = {value.name: value for value in floating.graph.initializer}
    layers = {node.name: node for node in floating.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    written = {value.name for value in made.graph.initializer}
    decoded = {node.output[0] for node in made.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in written}
    for node in made.graph.node:
        layer = layers.get(node.name)
        if layer is not None and node.input[1] in decoded:
            exact = numpy_helper.from_array(numpy_helper.to_array(weights[layer.input[1]]), f"{node.name}.exact")
            made.graph.initializer.append(exact)
            node.input[1] = exact.name
    return made


if __name__ == "__main__":
    main()
