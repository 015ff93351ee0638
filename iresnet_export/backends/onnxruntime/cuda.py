"""ONNX Runtime on an NVIDIA GPU: its provider's options, and whether all of a graph really runs there."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.system import nvidia

if TYPE_CHECKING:
    import torch

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
SEARCHES = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")

_SWITCHES = ("tf32", "nhwc", "cuda-graph")
_TF32_CAPABILITY = (8, 0)

_INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"


@dataclass(frozen=True)
class CudaSettings:
    """How the CUDA provider computes. The defaults are for parity: TF32 would round every product of float32 to 10 bits.

    `nhwc`: convolutions in the layout of tensor cores; `search`: how cuDNN chooses an algorithm; `cuda_graph`: one graph for each
    batch size, replayed at fixed addresses.
    """

    tf32: bool = False
    nhwc: bool = False
    search: str = "EXHAUSTIVE"
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise InputError(f"cuDNN's search is one of {', '.join(SEARCHES)}, not {self.search!r}.")

    @classmethod
    def parsed(cls, text: str) -> CudaSettings:
        """From what `--ort-cuda` takes, such as `tf32,nhwc,cuda-graph,search=heuristic`; InputError for other words."""
        found: dict[str, Any] = {}
        for word in (part.strip() for part in text.split(",")):
            name, equals, value = word.partition("=")
            key = name.replace("-", "_")
            if (word in _SWITCHES or (name == "search" and value.upper() in SEARCHES)) and key not in found:
                found[key] = value.upper() if equals else True
                continue
            wrong = f"{name} stands twice in {text!r}" if key in found else f"not {word!r}"
            searches = ", ".join(f"search={search.lower()}" for search in SEARCHES)
            raise InputError(f"--ort-cuda takes {', '.join(_SWITCHES)}, {searches}, each once and separated by commas; {wrong}.")
        return cls(**found)

    @property
    def words(self) -> str:
        """What differs from the defaults, as `parsed` takes it; empty where nothing does."""
        switches = [word for word in _SWITCHES if getattr(self, word.replace("-", "_"))]
        search = [] if self.search == SEARCHES[0] else [f"search={self.search.lower()}"]
        return ",".join(switches + search)

    def options(self, device: torch.device) -> dict[str, str]:
        """The provider's own options, as its documentation names them."""
        return {
            "device_id": str(device.index or 0),
            "use_tf32": str(int(self.tf32)),
            "prefer_nhwc": str(int(self.nhwc)),
            "cudnn_conv_algo_search": self.search,
            "cudnn_conv_use_max_workspace": "1",
            "enable_cuda_graph": str(int(self.cuda_graph)),
        }


def tf32_notice(settings: CudaSettings, device: torch.device, precision: str) -> str | None:
    """What is to be said where TF32 was asked for and changes what float32 means; None where it does not."""
    here = nvidia.gpu(device.index or 0)
    if device.type != "cuda" or not settings.tf32 or precision != "fp32" or here is None or here.capability < _TF32_CAPABILITY:
        return None
    return "it computes in TF32, as --ort-cuda asked: float32 whose products are of numbers rounded to 10 bits"


def providers(ort: Any, device: torch.device | None, settings: CudaSettings | None = None) -> list[Any]:
    """What a session may compute with, None for the CPU; on a GPU, after loading the libraries that pip installed."""
    if device is None or device.type != "cuda":
        return [CPU]
    # ONNX Runtime does not look where pip puts CUDA's libraries, and without them it goes to the CPU without a word.
    with contextlib.suppress(AttributeError):
        ort.preload_dlls()
    return [(CUDA, (settings or CudaSettings()).options(device)), CPU]


def require_on_gpu(session: Any, name: str) -> list[str]:
    """What of a session's graph is computed on the CPU, in words; UnavailableError where that is the whole of it."""
    if session.get_providers()[0] != CUDA:
        raise UnavailableError(
            "ONNX Runtime fell back to the CPU: its CUDA provider could not be loaded.",
            f"Install its libraries with {_INSTALL}, or use --device cpu.",
        )
    there, here = list[str](), list[str]()
    for part in session.get_provider_graph_assignment_info():
        nodes = [f"{node.op_type} at {node.name}" for node in part.get_nodes()]
        (there if part.ep_name == CUDA else here).extend(nodes)
    if here and not there:
        raise UnavailableError(
            f"ONNX Runtime put all {len(here)} operations of {name} on the CPU, although its CUDA provider is loaded.",
            f"Install its libraries with {_INSTALL}, or use --device cpu.",
        )
    if not here:
        return []
    listed = ", ".join(here[:5]) + (" and more" if len(here) > 5 else "")
    notice = f"{len(here)} of {len(here) + len(there)} operations of {name} run on the CPU, with copies to and fro: {listed}"
    logging.getLogger(__name__).warning(notice)
    return [notice]


def graph_options(identifier: int) -> Any:
    """Run options that capture a CUDA graph under a number at the first runs, and replay it at the next."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(identifier))
    return options
