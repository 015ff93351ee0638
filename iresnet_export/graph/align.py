"""Places: the ends of a network's blocks, and where a file's graph has them.

Every format keeps the operations of the forward pass in their order, under names of its own or none. So a place is found in a file
by aligning the file's nodes with the network's, as lines of text are compared.
"""

from __future__ import annotations

from difflib import SequenceMatcher

from iresnet_export.graph.ir import Graph, Node
from iresnet_models.network import Network

STEM, POOL, CLASSIFIER = "stem", "pool", "classifier"


def place_of(node: Node) -> str:
    """Of a network's node: stem, `layer1.0` ..., pool or classifier."""
    parts = node.name.split(".")
    if parts[0].startswith("layer") and len(parts) > 1:
        return ".".join(parts[:2])
    if node.kind == "average_pool":
        return POOL
    return CLASSIFIER if node.kind == "linear" else STEM


def aligned(expected: Graph, found: Graph, places: dict[str, int]) -> dict[str, int]:
    """For each place the number of the node of `found` that gives its value, where there is one."""
    partner: dict[int, int] = {}
    kinds = [node.kind for node in expected.nodes], [node.kind for node in found.nodes]
    for block in SequenceMatcher(None, *kinds, autojunk=False).get_matching_blocks():
        partner |= {block.a + step: block.b + step for step in range(block.size)}
    return {place: partner[index] for place, index in places.items() if index in partner}


def place_in_words(place: str, network: Network) -> str:
    """Such as `stage 3 block 1 (end)`."""
    if place in (STEM, POOL, CLASSIFIER):
        return place
    stage, index = place.removeprefix("layer").split(".")
    role = network.stages[int(stage) - 1][int(index)].layout.role
    return f"stage {stage} block {index}" + ("" if role == "block" else f" ({role})")
