"""What gives the inner values of a loaded artifact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from iresnet_export.graph.ir import Graph

if TYPE_CHECKING:
    from torch import Tensor


class Probe(ABC):
    """A loaded artifact whose inner values can be asked for. `graph`: what it holds."""

    graph: Graph
    with_preprocessing: bool = False

    @property
    def places(self) -> dict[str, int]:
        """The places of a network at which it is compared, in order, each with the number of the node that gives its value."""
        return self.graph.modules

    def in_words(self, place: str) -> str:
        """A place as messages call it."""
        return place

    @abstractmethod
    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """What the nodes of these numbers give, as float32 or wider, for a batch of what the artifact takes."""
