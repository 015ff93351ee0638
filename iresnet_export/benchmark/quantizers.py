"""Quantizers of others, by their defaults: int8 files of a float32 ONNX file, from the images that ours are calibrated with."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from iresnet_export.backends.pt2.reading import quiet
from iresnet_export.errors import UnavailableError
from iresnet_export.graph.ir import Array

Quantizer = Callable[[Path, Path, Sequence[Array]], None]
"""From a file to another, by images (1, 3, h, w), float32."""


def by_onnxruntime(model: Path, path: Path, images: Sequence[Array]) -> None:
    """U8S8, QDQ, per channel, ranges by extremes: its defaults but for the second and third, which its documentation advises."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._left: Iterator[dict[str, Array]] = iter([{name: image} for image in images])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._left, None)

    prepared = path.with_suffix(".prepared.onnx")
    with _silently():
        quant_pre_process(str(model), str(prepared))
        quantize_static(
            str(prepared),
            str(path),
            Reader(_input_of(prepared)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


def by_nncf(model: Path, path: Path, images: Sequence[Array]) -> None:
    """Of the ONNX file, by all defaults. UnavailableError where NNCF is not installed."""
    import onnx

    with _silently():
        try:
            nncf: Any = importlib.import_module("nncf")
        except ImportError as error:
            raise UnavailableError("NNCF is not installed here;", "install it with: pip install nncf.") from error
        name = _input_of(model)
        images = list(images)
        made = nncf.quantize(onnx.load(model), nncf.Dataset(images, lambda image: {name: image}), subset_size=len(images))
    onnx.save(made, path)


QUANTIZERS: dict[str, Quantizer] = {"quantize_static": by_onnxruntime, "nncf": by_nncf}
"""By what tables call them: ONNX Runtime's own, and Intel's."""


def _input_of(model: Path) -> str:
    import onnx

    return str(onnx.load(model).graph.input[0].name)


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Both remark on every BatchNorm, and draw progress bars."""
    nothing = io.StringIO()
    with warnings.catch_warnings(), quiet("root", "nncf"), contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        warnings.simplefilter("ignore")
        yield
