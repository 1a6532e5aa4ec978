"""Any folder of images, domain/class/image, without writing code."""

from __future__ import annotations

from collections.abc import Iterator

from dgbench.datasets._own import OWN_CARD, OwnImages, split_problems
from dgbench.datasets._tree import Tree


class folder(OwnImages):
    """`folder:/path`: each sub-directory of the path is a domain, each of theirs a class, the same in all of them."""

    card = OWN_CARD

    def doubts(self, tree: Tree) -> Iterator[str]:
        """Yield splits in the place of domains or classes, and the problems of any own images."""
        yield from split_problems(self.path or self.root, tree)
        yield from super().doubts(tree)
