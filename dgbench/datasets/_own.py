"""Base of the data sets of the user's own images, `folder:/path` and `csv:/path`: read them leniently, report oddities.

Published results fix which files of a published data set count and how they are decoded. Nothing fixes it for a user's
own images. So every format that Pillow reads is taken, transparent images are laid on white, images may be turned as
their EXIF says, and domains may lack classes where the user allows it. Oddities that could spoil a result (classes in
one domain only, the same file in two domains, folders called `train` and `test`) are refused or reported.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dgbench.core.data_cards import DatasetCard
from dgbench.core.wording import group_values
from dgbench.data.decoding import Decoding, is_turned, lacks_range
from dgbench.datasets._images import ImageDataset
from dgbench.datasets._tree import EXTENSIONS, Accepted, Tree, listed

_FURTHER = (".jpe", ".jfif", ".apng", ".gif", ".dib", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx", ".tga", ".qoi")
"""Extensions of formats that Pillow reads and torchvision doesn't take."""
_BEGINS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
"""First bytes of JPEG, PNG, GIF, BMP, TIFF and JPEG 2000 files; WebP and AVIF have their mark a few bytes later."""
_BEGIN = 16
"""Bytes that are read to recognize an image."""
_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "holdout")
"""Folder names, in lower case, that mean a split and not a domain or class."""
_MOST_COMPARED = 10_000
"""Files whose content is compared at a launch; more would take minutes on a slow disk."""
_PROBE = 4096
"""Bytes at the beginning of a file that are compared first."""

MAY_LACK = "--allow_missing_classes trains and scores on the classes that each domain has"
"""The way out, in the user's words, where a domain lacks a class."""
OWN_CARD = DatasetCard(source="your own files", licence="yours", path=True, input_shape=(3, 224, 224))
"""The card of every data set whose name carries a path: domains, classes and counts come from the files."""


class OwnImages(ImageDataset):
    """Base of the data sets whose name carries the path of the user's own images."""

    card = OWN_CARD

    def find(self) -> tuple[Path, Tree]:
        """Return the folder, and every file in it that Pillow reads."""
        self.accepted = Accepted((*EXTENSIONS, *_FURTHER), begins_as_image)
        return super().find()

    @property
    def decoding(self) -> Decoding:
        """How the files are decoded: transparent images on white, turned as EXIF says with `--exif turn`."""
        return replace(super().decoding, on_white=True, turn=self.exif == "turn")

    def further_problems(self, tree: Tree) -> Iterator[str]:
        """Yield names that are not UTF-8, the way out where a class is missing, and images of unknown range."""
        names = dict.fromkeys((*tree, *(name for classes in tree.values() for name in classes)))
        foreign = [name for name in names if _is_foreign(name)]
        if foreign:
            yield f"the name(s) {listed(foreign)} of domains or classes are no UTF-8: rename them"
        some = {name for classes in tree.values() for name in classes}
        if not self.allow_missing_classes and any(not classes.get(name) for name in some for classes in tree.values()):
            yield MAY_LACK
        yield from self._without_range(tree)

    def _without_range(self, tree: Tree) -> Iterator[str]:
        """Yield images of floats or wide integers among the first of each class; others are found when decoded."""
        files = [] if self.skip_bad_images else first_files(tree)
        if bad := [path for path in files if lacks_range(self.root / path)]:
            yield (
                f"{listed(bad)} hold floats, signed integers or integers of 32 bits, of which no range is known: save "
                "them with 8 or 16 bits"
            )

    def remarks(self) -> Sequence[str]:
        """List files left out, images that EXIF would turn, missing classes, and files with the same content."""
        return [*super().remarks(), *self._file_remarks(), *same_bytes(self.root, self.tree)]

    def _file_remarks(self) -> Iterator[str]:
        if self.accepted:
            yield from self.accepted.describe()
        files = [] if self.exif else first_files(self.tree)
        if turned := [path for path in files if is_turned(self.root / path)]:
            yield f"{listed(turned)} are used as they are stored; --exif turn turns images as their EXIF says"
        if len(self.classes) == 1:
            yield f"every image is of the one class {listed(self.classes)}: are images in domain/class/?"
        for domain, classes in self.missing_classes.items():
            yield f"domain {domain!r} has no example of the class(es) {listed(classes)}"
        for name in self.classes:
            if len(having := [domain for domain in self.domains if self.tree[domain].get(name)]) == 1:
                where = f"in domain {having[0]!r} alone: where that is tested, nothing has trained on it"
                yield f"class {name!r} is {where}"


def first_files(tree: Tree) -> list[str]:
    """Return the path of the first image of each class in each domain: few enough to be opened at each launch."""
    return [files[0].path for classes in tree.values() for files in classes.values() if files]


def begins_as_image(path: str) -> bool:
    """Return whether a file begins with the mark of a common image format."""
    if not os.path.isfile(path):  # opening a pipe may block for ever
        return False
    try:
        with open(path, "rb") as file:
            begin = file.read(_BEGIN)
    except OSError:
        return False
    return begin.startswith(_BEGINS) or begin[8:12] == b"WEBP" or begin[4:12] in (b"ftypavif", b"ftypavis")


def split_problems(place: Path, tree: Tree) -> Iterator[str]:
    """Yield a message for folders named after splits (`train`, `test`) where domains or classes are expected."""
    places = {"domains (in the folder itself)": [list(tree)], "classes": [list(classes) for classes in tree.values()]}
    for what, groups in places.items():
        splits = [names for names in groups if names and all(name.lower() in _SPLITS for name in names)]
        if splits:
            folders = listed(sorted({name for names in splits for name in names}))
            yield (
                f"{place} has the folders {folders} where {what} are expected (domain/class/image). dgbench splits "
                "domains itself: merge these folders, class by class, or list the images in a CSV file with the "
                "columns path, domain and label, and give csv:/path/to/it"
            )


def same_bytes(root: Path, tree: Tree) -> Iterator[str]:
    """Report files of the same content in two domains or two classes: a test image may be a training image.

    Sizes are compared first, then the first bytes of files of one size, then whole files. Copies within one class of
    one domain are not reported.

    Args:
        root: The folder that paths in the tree are relative to.
        tree: The files to compare.
    """
    sizes = group_values(
        (file.size, ((domain, name), file.path))
        for domain, classes in tree.items()
        for name, files in classes.items()
        for file in files
    )
    alike = [of_size for of_size in sizes.values() if len({place for place, _ in of_size}) > 1]
    if sum(map(len, alike)) > _MOST_COMPARED:
        yield f"more than {_MOST_COMPARED:,} files have the size of another: none was compared with the others"
        return
    for length in (_PROBE, -1):  # few different files of one size begin alike, so few are read as a whole
        alike = [
            twins
            for of_size in alike
            for twins in group_values((_digest(root / path, length), (place, path)) for place, path in of_size).values()
            if len({place for place, _ in twins}) > 1
        ]
    if alike:
        pairs = [f"{_quoted(twins[0][1])} and {_quoted(_elsewhere(twins))}" for twins in alike]
        more = f", and {len(pairs) - 3:,} more" if len(pairs) > 3 else ""
        yield (
            f"the same bytes lie in two domains or classes, {len(alike):,} time(s), so that what is tested may have "
            f"been trained on: {', '.join(pairs[:3])}{more}"
        )


def _elsewhere(twins: Sequence[tuple[tuple[str, str], str]]) -> str:
    """Return the path of the first twin that lies in another domain or class than the first of all."""
    return next(path for place, path in twins if place != twins[0][0])


def _digest(path: Path, length: int) -> bytes:
    """Hash the first `length` bytes of a file (-1: all); hash nothing and return the path if it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.blake2b(file.read(length)).digest()
    except OSError:
        return bytes(path)


def _quoted(name: str) -> str:
    return listed([name])


def _is_foreign(name: str) -> bool:
    """Return whether a name has bytes that are not UTF-8, which Python keeps as lone surrogates."""
    return any("\udc80" <= char <= "\udcff" for char in name)
