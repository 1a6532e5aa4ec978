"""Read any folder of images, domain/class/image, as a data set, without writing code."""

from __future__ import annotations

from collections.abc import Iterator

from dgbench.datasets._own import OWN_CARD, OwnImages, split_problems
from dgbench.datasets._tree import Tree


class folder(OwnImages):
    """Your own images in folders, `folder:/path`: each sub-directory is a domain, and each folder in it a class.

    Every domain must have the same classes, unless `--allow_missing_classes` is given. Sub-directories of classes are
    read too. Folders called `train`, `test` and the like in the place of domains or classes are refused: dgbench splits
    domains itself. Files left out, and files that lie in two domains or classes, are reported at each launch.
    """

    card = OWN_CARD

    def further_problems(self, tree: Tree) -> Iterator[str]:
        """Yield folders named after splits, and the problems of any own images."""
        yield from split_problems(self.path or self.root, tree)
        yield from super().further_problems(tree)
