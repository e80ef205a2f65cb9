"""Families: pieces that must share a split because they are one work, and the split of each family."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Node = tuple[str, str | int]


def folder_key(name: str) -> str:
    """The folder of a file two or more levels below the input: it holds one work.

    Empty for the others: they lie in the input itself or in a composer's own folder.
    """
    folder = name.rpartition("/")[0]
    return folder if "/" in folder else ""


class Families:
    """Groups pieces by shared keys and by similarity, and never joins groups that already lie in different splits.

    A key is anything that two pieces of one work have in common: a folder, a title, a path. A family's name is the
    smallest key in it, so that it does not depend on the order in which pieces came.
    """

    def __init__(self):
        self._parent: dict[Node, Node] = {}
        self._split: dict[Node, str] = {}
        self._name: dict[Node, str] = {}

    def add_known(self, family: str, split: str, keys: Iterable[str]) -> None:
        """Adds a family that has its split; a key that another split already holds is left to that one."""
        root = self._root(("family", family))
        self._split[root] = split
        self._name[root] = min(family, self._name.get(root, family))
        for key in keys:
            self._join([root, self._root(("key", key))])

    def add(self, piece: int, keys: Sequence[str], similar: Iterable[int]) -> bool:
        """Adds a piece with its keys (the first names the family, if it is new); False if it would bridge two splits.

        `similar` are pieces added before it, new or known; those that were refused are ignored.
        """
        nodes = [("key", key) for key in keys]
        nodes += [("piece", other) for other in similar if ("piece", other) in self._parent]
        root = self._root(("piece", piece))
        if not self._join([root, *(self._root(node) for node in nodes)]):
            del self._parent["piece", piece]
            return False
        root = self._root(root)
        if root not in self._split:
            self._name[root] = min(self._name.get(root, keys[0]), keys[0])
        return True

    def add_alias(self, piece: int, family: str) -> None:
        """Says that a known family holds `piece`."""
        self._parent["piece", piece] = self._root(("family", family))

    def family(self, piece: int) -> str:
        return self._name[self._root(("piece", piece))]

    def _root(self, node: Node) -> Node:
        parent = self._parent.setdefault(node, node)
        while parent != node:
            self._parent[node] = self._parent[parent]
            node, parent = parent, self._parent[parent]
        return node

    def _join(self, roots: list[Node]) -> bool:
        roots = list(dict.fromkeys(roots))
        splits = {self._split[root] for root in roots if root in self._split}
        if len(splits) > 1:
            return False
        # A known family keeps its name; among new ones the smallest wins.
        known = [root for root in roots if root in self._split]
        names = [self._name[root] for root in known or roots if root in self._name]
        first, *others = roots
        for root in others:
            self._parent[root] = first
            self._split.pop(root, None)
            self._name.pop(root, None)
        if splits:
            self._split[first] = splits.pop()
        if names:
            self._name[first] = min(names)
        return True


def assign_splits(
    families: Iterable[str], known: Mapping[str, str], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """The split of each family.

    Args:
      families: the family of each piece, so a family comes as often as it has pieces.
      known: families that have their split already.
      fractions: split -> its share of all families, for every split but train.
      seed: chooses among the ways to split.

    A family goes where a hash of its name says; one larger than its split's share of pieces goes to train, so that one
    giant does not become the test split. A split that stays empty gets the smallest family there is to give, if train
    keeps one.
    """
    sizes = Counter(families)
    total = sum(sizes.values())
    new = sorted((family for family in sizes if family not in known), key=lambda family: (_draw(seed, family), family))
    splits = dict(known)
    for family in new:
        splits[family], draw = "train", _draw(seed, family)
        for split, fraction in fractions.items():
            if 0 <= draw < fraction and sizes[family] <= max(1.0, fraction * total):
                splits[family] = split
            draw -= fraction
    if new and "train" not in splits.values():
        splits[max(new, key=lambda family: (sizes[family], family))] = "train"
    for split, fraction in fractions.items():
        filled = Counter(splits.values())
        if fraction > 0 and not filled[split]:
            givers = [family for family in new if filled[splits[family]] > 1]
            if givers and len(splits) > len([name for name in fractions if fractions[name] > 0]):
                # min keeps the first of equals, and `new` is in the order of the draw.
                splits[min(givers, key=lambda family: (splits[family] != "train", sizes[family]))] = split
    return splits


def _draw(seed: int, family: str) -> float:
    """A number in [0, 1) that is as good as random and the same for ever."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{family}".encode()).digest()[:8]) / 2**64
