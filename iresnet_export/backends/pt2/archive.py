"""What a .pt2 archive holds, read from its records: nothing in it is loaded or run."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from iresnet_models.archives import opened


def read_program(path: Path) -> dict[str, Any]:
    """The program's `inputs`, `outputs`, `operators` and the number of `weights` of each type; ArtifactError for a damaged one."""
    with opened(path) as archive:

        def parsed(name: str) -> Any:
            whole = archive.named(name)
            if whole is None:
                raise LookupError(f"{name} is missing")
            return archive.parsed(whole)

        found = _program(parsed("models/model.json")["graph_module"])
        stored = [parsed(f"data/{kind}/model_{kind}_config.json") for kind in ("weights", "constants")]
        return found | {"weights": _weights([tensor for config in stored for tensor in config["config"].values()])}


def _program(module: dict[str, Any]) -> dict[str, Any]:
    graph, signature = module["graph"], module["signature"]
    specs = [spec["user_input"] for spec in signature["input_specs"] if "user_input" in spec]
    specs_out = [spec["user_output"] for spec in signature["output_specs"] if "user_output" in spec]
    operators = Counter(node["target"].removeprefix("torch.ops.aten.").partition(".")[0] for node in graph["nodes"])
    return {
        "inputs": [_value(spec["arg"]["as_tensor"]["name"], graph) for spec in specs],
        "outputs": [_value(spec["arg"]["as_tensor"]["name"], graph) for spec in specs_out],
        "operators": dict(operators.most_common()),
    }


def _value(name: str, graph: dict[str, Any]) -> str:
    tensor = graph["tensor_values"][name]
    shape = ", ".join(str(size.get("as_int", "batch")) for size in tensor["sizes"])
    return f"{name} {_type(tensor)} ({shape})"


def _weights(tensors: list[dict[str, Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for tensor in tensors:
        sizes = [size["as_int"] for size in tensor["tensor_meta"]["sizes"]]
        if len(sizes) > 64 or not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
            raise ValueError("a tensor has a shape that none can have")
        counts[_type(tensor["tensor_meta"])] += math.prod(sizes)
    return dict(counts)


def _type(tensor: dict[str, Any]) -> str:
    from torch._export.serde.schema import ScalarType

    names = {"byte": "uint8", "long": "int64", "half": "float16", "float": "float32", "double": "float64"}
    name = ScalarType(tensor["dtype"]).name.lower()
    return names.get(name, name)
