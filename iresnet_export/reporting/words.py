"""Names and figures as people read them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

BACKENDS = {
    "eager": "eager PyTorch",
    "torchscript": "TorchScript",
    "torch_export": "torch.export",
    "channels-last": "torch.export, channels-last",
    "compiled": "torch.export, compiled",
    "aotinductor": "AOTInductor",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
    "torch.compile": "torch.compile",
}
_FAMILIES = {
    "resnet": "ResNet",
    "resstage": "ResStage",
    "iresnet": "iResNet",
    "resgroup": "ResGroup",
    "resgroupfix": "ResGroupFix",
    "iresgroup": "iResGroup",
    "iresgroupfix": "iResGroupFix",
}
_NETWORK = re.compile(r"(i?res(?:net|stage|group(?:fix)?))(\d+)", re.IGNORECASE)

STATUS = {
    "pass": "passed",
    "fail": "failed",
    "skipped": "skipped",
    "ok": "measured",
    "failed_parity": "failed parity",
    "unstable": "unstable",
    "oom": "out of memory",
    "unreadable": "unreadable",
}


_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]"
)
"""Control characters (C0 but tabs and new lines, C1), those that turn or hide text, and halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""Text that may come from a file, as a terminal or a page can show it: what would act on either is written out, as `\x1b`.

    Names of files and classes can hold anything: sequences that clear the screen, or that make a line read backwards.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """The same where a line ends nothing but itself: a name, a cell."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def backend_name(backend: str) -> str:
    """A backend as it calls itself, with the settings that a report gives in parentheses."""
    name, space, settings = backend.partition(" (")
    return BACKENDS.get(name, name) + space + settings


def network_name(arch: str | None, depth: int | None, artifact: str) -> str:
    """Such as `iResNet-50`: from the report, else from the artifact's name, else that name."""
    if arch is None or depth is None:
        found = _NETWORK.match(artifact)
        if found is None:
            return PurePosixPath(artifact).name
        arch, depth = found[1].lower(), int(found[2])
    return f"{_FAMILIES.get(arch, arch)}-{depth}"


def flavour(artifact: str) -> str:
    """What an artifact's name says beyond network and precision: ` unfolded`, ` from pixels`."""
    parts = re.split(r"[-.]", artifact)
    return (" unfolded" if "nofold" in parts else "") + (" from pixels" if "pre" in parts else "")


def count(number: int, one: str, several: str | None = None) -> str:
    """`1 candidate`, `3 candidates`."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def figures(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, without an exponent where that is readable; nothing for None."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e7:
        return f"{value:.{digits}g}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if abs(value) < 1:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, digits - whole)}f}"


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{figures(value)} ms"


def step_name(place: str) -> str:
    """Of a step of mixed precision, which keeps one place more than the one before."""
    return f"{place} too" if place else "none of them"


def interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{figures(bounds[0])} to {figures(bounds[1])}"


def times(value: float) -> str:
    """A ratio, such as `3.18 ×`."""
    return f"{figures(value)} ×"


def percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f} %"


def share(value: float | None) -> str:
    """A number from 0 to 1 in percent."""
    return "" if value is None else percent(100 * value)


def probability(p: float) -> str:
    """A p value, as exact as anybody needs it."""
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}"


def megabytes(size: float | None) -> str:
    """Bytes as people read them."""
    return "" if size is None else f"{size / 1e6:.1f} MB"


def parity_figure(noise_ratio: float | None, sqnr_db: float | None) -> str:
    """The error in noise floors, or of int8 and fp8 the signal-to-noise ratio."""
    if noise_ratio is not None:
        return f"{figures(noise_ratio)} noise floors"
    return "" if sqnr_db is None else f"{sqnr_db:.1f} dB"


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
