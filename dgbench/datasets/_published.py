"""Image data sets of which more is known than a number of images for each domain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dgbench.datasets._images import ImageDataset
from dgbench.datasets._tree import Tree
from dgbench.errors import Problems


class PublishedImages(ImageDataset):
    """Base of the data sets that must pass checks of their own. A subclass declares `card` and writes `doubts`."""

    found: Tree = {}

    def doubts(self, tree: Tree) -> Iterator[str]:
        """What else is wrong with the files, in the user's words."""
        raise NotImplementedError

    def find(self) -> tuple[Path, Tree]:
        """The folder and its files."""
        root, self.found = super().find()
        return root, self.found

    def open(self) -> None:
        """List the files and refuse, all at once, what is wrong, these checks included."""
        problems = Problems()
        with problems.collecting():
            super().open()
        if self.found:
            for doubt in self.doubts(self.found):
                problems.add(doubt)
        problems.raise_if_any()
