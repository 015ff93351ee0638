"""Where a file's graph has the places of a network, such as the ends of its blocks.

A file that says which module each of its operations is of has a module's value in the last of them. Every other format keeps the
operations of the forward pass in their order, under names of its own or none: there a place is found by aligning the file's nodes
with the network's, as lines of text are compared.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from difflib import SequenceMatcher

import numpy as np

from iresnet_export.graph.ir import Graph, Node


def partners(expected: Graph, found: Graph) -> dict[int, int]:
    """For each of the network's nodes the one of `found` that does the same to the same values, whatever order a file has them in.

    Of several, such as a block's first convolution and its shortcut's, it is the one with the same weights, else of the same shapes
    and attributes, else the first. What has no partner is left out, and so is what reads it.
    """
    by_role: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for number, node in enumerate(found.nodes):
        by_role[node.kind, node.inputs].append(number)
    pairs = {-1: -1}
    for number, node in enumerate(expected.nodes):
        if all(source in pairs for source in node.inputs):
            candidates = by_role[node.kind, tuple(sorted(pairs[source] for source in node.inputs))]
            if candidates:
                pairs[number] = max(candidates, key=lambda candidate: _likeness(node, found.nodes[candidate]))
                candidates.remove(pairs[number])
    del pairs[-1]
    return pairs


def in_order_of(expected: Graph, found: Graph) -> Graph:
    """`found` with its nodes in the network's order, if each has its partner there; else as it is."""
    pairs = partners(expected, found)
    if not len(pairs) == len(expected.nodes) == len(found.nodes):
        return found
    order = {old: new for new, old in pairs.items()} | {-1: -1}
    inputs = {old: tuple(sorted(order[source] for source in found.nodes[old].inputs)) for old in pairs.values()}
    nodes = [dataclasses.replace(found.nodes[old], inputs=inputs[old]) for old in pairs.values()]
    return dataclasses.replace(found, nodes=nodes)


def _likeness(wanted: Node, got: Node) -> tuple[bool, bool]:
    keys = wanted.tensors.keys()
    same_shapes = keys == got.tensors.keys() and all(wanted.tensors[key].shape == got.tensors[key].shape for key in keys)
    same_values = same_shapes and all(np.array_equal(wanted.tensors[key], got.tensors[key]) for key in keys)
    return same_values, same_shapes and wanted.attributes == got.attributes


def aligned(expected: Graph, found: Graph, places: dict[str, int]) -> dict[str, int]:
    """For each place the number of the node of `found` that gives its value, where there is one."""
    if places == expected.modules:
        modules = found.modules
        return {place: modules[place] for place in places if place in modules}
    partner = partners(expected, found)
    if len(partner) == len(expected.nodes):
        return {place: partner[index] for place, index in places.items()}
    partner = {}
    kinds = [node.kind for node in expected.nodes], [node.kind for node in found.nodes]
    for block in SequenceMatcher(None, *kinds, autojunk=False).get_matching_blocks():
        partner |= {block.a + step: block.b + step for step in range(block.size)}
    return {place: partner[index] for place, index in places.items() if index in partner}
