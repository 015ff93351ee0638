"""Where a file's graph has the places of a network, such as the ends of its blocks.

A file that says which module each of its operations is of has a module's value in the last of them. Every other format keeps the
operations of the forward pass in their order, under names of its own or none: there a place is found by aligning the file's nodes
with the network's, as lines of text are compared.
"""

from __future__ import annotations

from difflib import SequenceMatcher

from iresnet_export.graph.ir import Graph


def aligned(expected: Graph, found: Graph, places: dict[str, int]) -> dict[str, int]:
    """For each place the number of the node of `found` that gives its value, where there is one."""
    if places == expected.modules:
        modules = found.modules
        return {place: modules[place] for place in places if place in modules}
    partner: dict[int, int] = {}
    kinds = [node.kind for node in expected.nodes], [node.kind for node in found.nodes]
    for block in SequenceMatcher(None, *kinds, autojunk=False).get_matching_blocks():
        partner |= {block.a + step: block.b + step for step in range(block.size)}
    return {place: partner[index] for place, index in places.items() if index in partner}
