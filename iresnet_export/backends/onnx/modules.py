"""ONNX graphs of modules that this project does not know, by torch.onnx.export: every weight under its own name, nothing fused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import helper
from torch import nn

from iresnet_export import __version__
from iresnet_export.artifacts.metadata import METADATA_KEY
from iresnet_export.backends.onnx.reading import SCOPES
from iresnet_export.backends.onnx.writing import INPUT
from iresnet_export.backends.pt2.format import example_of, free_extents, with_any_extent
from iresnet_export.backends.pt2.reading import quiet
from iresnet_export.errors import ExportError, MissingPackageError
from iresnet_models.errors import named_line
from iresnet_models.spec import NetworkSpec


def onnx_from_module(
    network: nn.Module,
    spec: NetworkSpec,
    *,
    opset: int,
    static_batch: int | None,
    free_sides: tuple[int, int] | None,
    outputs: Sequence[str],
    identity: dict[str, Any],
) -> onnx.ModelProto:
    """A module as an ONNX model: `input` (batch, 3, h, w) to `outputs`, float32. The same module gives the same bytes.

    Raises ExportError where torch.onnx.export refuses it, MissingPackageError without onnxscript, by which that writes.
    """
    example = example_of(spec, static_batch, free_sides)
    shapes = free_extents(example, dynamic_batch=static_batch is None, sides=free_sides)
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("onnxscript", "Exporting a module to ONNX", "onnxscript") from error
    try:
        with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "torch.export"), with_any_extent(free_sides):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                optimize=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(outputs),
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error  # its own text is of steps, in colours
        raise ExportError(f"torch.onnx.export refused the module: {named_line(cause)}") from error
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == SCOPES]
        del node.metadata_props[:]  # the rest is source lines, with this machine's paths
        node.metadata_props.extend(kept)
    model.producer_name, model.producer_version = "iresnet-export", __version__
    helper.set_model_props(model, {METADATA_KEY: json.dumps(identity)})
    return model
