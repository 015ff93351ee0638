"""What gives the inner values of a loaded artifact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from iresnet_export.graph.ir import Graph


class Probe(ABC):
    """A loaded artifact whose inner values can be asked for. `graph`: what it holds."""

    graph: Graph
    with_preprocessing: bool = False

    @abstractmethod
    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """What the nodes of these numbers give, as float32 or wider, for a batch of what the artifact takes."""
