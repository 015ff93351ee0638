"""Activations that are computed again when they are needed, in place of kept: memory for one more forward pass.

What is kept is each block's input (arXiv 1604.06174), so that iResNet-404 and 1001 fit on one GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from iresnet_models.network import Network


def checkpoint_activations(model: Network) -> None:
    """Makes every block of `model` compute its activations again in the backward pass; keys and results stay what they are."""
    for blocks in model.stages:
        for block in blocks:
            block.forward = partial(_checkpointed, block, block.forward)  # type: ignore[method-assign]


def _checkpointed(block: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not block.training:
        return forward(x)
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(norms)

    result: Tensor = checkpoint(forward, x, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """The second time, batches are normalised as the first time, but do not count towards the running statistics again."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [None if count is None else count.clone() for _, count in before]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, tracked), count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)
