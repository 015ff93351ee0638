"""Untrained weights that behave like trained ones: for latency work and tests, where there is no checkpoint."""

from __future__ import annotations

import hashlib
import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

from iresnet_models.network import Network
from iresnet_models.spec import ModelSpec

_STATISTICS_SAMPLES = 98
"""Values per channel, at least, from which the last stage's statistics are taken."""


def untrained_network(spec: ModelSpec, *, seed: int = 0) -> Network:
    """A network (float32, evaluation mode) whose weights follow from `spec` and `seed` alone.

    Every weight is drawn from a generator of its own, seeded by its name. BatchNorm statistics are those of one
    seeded batch, so that activations stay of order 1 at every depth (plain initialisation overflows float32 at
    depth 1001).
    """
    with torch.device("meta"):
        network = Network(spec)
    network.load_state_dict(
        {key: _filled(key, tuple(value.shape), seed) for key, value in network.state_dict().items()}, assign=True
    )
    _set_statistics(network, seed)
    return network.eval()


def state_sha256(network: nn.Module) -> str:
    """SHA-256 of all weights and statistics: names, types, shapes and bytes, in state-dict order."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _filled(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = _generator(key, seed)
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if len(shape) == 4:  # a convolution: He et al., arXiv 1502.01852, section 2.2, by fan-in
        values = generator.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    elif len(shape) == 2:  # the classifier: logits of order 1
        values = generator.standard_normal(shape, dtype=np.float32) * np.float32(1 / math.sqrt(shape[1]))
    elif key.endswith(".weight"):  # BatchNorm scales
        values = generator.uniform(0.5, 1.5, shape).astype(np.float32)
    elif key.endswith("running_var"):
        values = np.ones(shape, dtype=np.float32)
    elif key.endswith("running_mean"):
        values = np.zeros(shape, dtype=np.float32)
    else:
        values = (0.1 * generator.standard_normal(shape)).astype(np.float32)
    return torch.from_numpy(values)


def _set_statistics(network: Network, seed: int) -> None:
    """Sets every BatchNorm's statistics to those of one batch of seeded noise of the network's own image size.

    Computed in float64 and rounded to 8 bits, so that another machine, which adds in another order, gets the same.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    height, width = network.spec.sides
    images = math.ceil(_STATISTICS_SAMPLES / (math.ceil(height / 32) * math.ceil(width / 32)))
    batch = torch.from_numpy(_generator("batch", seed).standard_normal((images, 3, height, width)))
    network.double().train()
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(batch)
    for norm in norms:
        norm.momentum = momentum
        for statistics in (norm.running_mean, norm.running_var):
            assert statistics is not None
            mantissa, exponent = torch.frexp(statistics)
            statistics.copy_(torch.ldexp(torch.round(mantissa * 256) / 256, exponent))
        norm.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    network.float()
