"""What a .pt2 archive holds, read from its records: nothing in it is loaded or run."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from iresnet_export.errors import ArtifactError


def read_archive(path: Path) -> dict[str, Any]:
    """The program's `inputs`, `outputs`, `operators` and the number of `weights` of each type."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = {name.partition("/")[2]: name for name in archive.namelist()}

            def parsed(name: str) -> Any:
                return json.loads(archive.read(records[name]))

            found: dict[str, Any] = {}
            if "models/model.json" in records:
                stored = [parsed(f"data/{kind}/model_{kind}_config.json") for kind in ("weights", "constants")]
                found |= _program(parsed("models/model.json")["graph_module"])
                found["weights"] = _weights([tensor for config in stored for tensor in config["config"].values()])
            return found
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not a whole .pt2 archive ({error!r}). Export or copy it again.") from error


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
        counts[_type(tensor["tensor_meta"])] += math.prod(size["as_int"] for size in tensor["tensor_meta"]["sizes"])
    return dict(counts)


def _type(tensor: dict[str, Any]) -> str:
    from torch._export.serde.schema import ScalarType

    names = {"byte": "uint8", "long": "int64", "half": "float16", "float": "float32", "double": "float64"}
    name = ScalarType(tensor["dtype"]).name.lower()
    return names.get(name, name)
