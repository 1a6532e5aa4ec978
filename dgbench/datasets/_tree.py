"""Which image files lie in folders, domain/class/image, and whether they are what they should be.

Sub-directories of a class folder are read too, each once, however many links lead to it. Names that begin with a dot,
what file managers and archivers leave behind, and files without an image's extension are not looked at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dgbench.core.errors import UserError
from dgbench.core.wording import printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision, and so of DomainBed: published data sets are the files that have them."""
_CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
_CLUTTER_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_NAMES_SHOWN = 5


class ImageFile(NamedTuple):
    """An image file: its path below the root of the data set, and its size in bytes, 0 if it can't be read."""

    path: str
    size: int


Tree = Mapping[str, Mapping[str, Sequence[ImageFile]]]
"""Domain -> class -> files, each sorted by name; a class folder without images is there too."""


@dataclass
class Accepted:
    """Decide which files of folders are images, and count the others."""

    extensions: Sequence[str] = EXTENSIONS
    """In lower case."""
    by_content: Callable[[str], bool] | None = None
    """Decides about a file without an extension; None: it is no image."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Extension -> files that have been left out, but for those that no user put there."""
    outside: list[str] = field(default_factory=list)
    """Files with an image's extension that lie in no class."""

    def __call__(self, place: str, name: str) -> bool:
        """Decide about a file, and count it if it is left out."""
        if name.startswith(".") or name.lower() in _CLUTTER_FILES:
            return False
        if name.lower().endswith(tuple(self.extensions)):
            return True
        extension = os.path.splitext(name)[1].lower()
        if not extension and self.by_content and self.by_content(os.path.join(place, name)):
            return True
        self.left_out[extension] += 1
        return False

    def told(self) -> Iterator[str]:
        """Report the files that were left out: `left out 5 file(s) that can't be read as images: 3 .heic, 2 .npy`."""
        counts = sorted(self.left_out.items(), key=lambda pair: (-pair[1], pair[0]))
        kinds = ", ".join(f"{n:,} {printable(extension) or 'without an extension'}" for extension, n in counts)
        if counts:
            yield f"left out {sum(n for _, n in counts):,} file(s) that can't be read as images: {kinds}"
        if self.outside:
            yield f"left out {len(self.outside):,} image(s) that lie in no class, domain/class/: {listed(self.outside)}"


def read_tree(root: Path, domains: Sequence[str], accepted: Accepted | None = None) -> Tree:
    """The files under root/domain/class of the named domains that exist, of all folders in `root` if none is named.

    A folder that should not be there is a domain without a class.
    """
    accepted = accepted or Accepted()
    try:
        present = _folders(root)
        known = [domain for domain in domains if domain in present] if domains else present
        tree: dict[str, dict[str, Sequence[ImageFile]]] = {
            domain: {name: images_in(root, f"{domain}/{name}", accepted) for name in _folders(root / domain)}
            for domain in known
        }
        for folder in ("", *known):
            names = [entry.name for entry in os.scandir(root / folder) if entry.is_file()]
            images = sorted(name for name in names if name.lower().endswith(tuple(accepted.extensions)))
            accepted.outside += [os.path.join(folder, name) for name in images if not name.startswith(".")]
        return tree | {folder: {} for folder in present if folder not in tree}
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from error


def images_in(root: Path, folder: str, accepted: Accepted | None = None) -> tuple[ImageFile, ...]:
    """The images below `folder`, which is relative to the root, sorted by path; raises `OSError` if it is not there."""
    return tuple(_images(root, root / folder, accepted or Accepted()))


def domain_problems(place: Path, tree: Tree, expected: Sequence[str]) -> Iterator[str]:
    """Domains that are not there or hold nothing, folders that are none; fewer than two, where the files decide."""
    missing = [domain for domain in expected if domain not in tree]
    surplus = [folder for folder in tree if folder not in expected] if expected else []
    if missing:
        yield f"{place} lacks the domain(s) {listed(missing)}{instead(place)}"
    if surplus:
        yield f"{place} has the unexpected folder(s) {listed(surplus)}: move them away"
    for domain in expected:
        if domain in tree and not tree[domain]:
            yield f"domain {domain!r} has no folders: images are expected in {place / domain}/CLASS/"
    if not expected and len(tree) < 2:
        yield f"{place} has {len(tree)} domain(s), there must be at least 2{instead(place)}"


def class_problems(place: Path, tree: Tree, expected: Sequence[str]) -> Iterator[str]:
    """Domains that lack a class which is expected (by default: which another domain has), and classes unexpected."""
    names = expected or sorted({name for classes in tree.values() for name in classes})
    if expected:  # what lacks all of them is not a domain, and told as such
        tree = {domain: classes for domain, classes in tree.items() if classes}
    if tree and not names:
        yield f"no domain in {place} has a class: images are expected in domain/class/"
    by_lacking = dict[tuple[str, ...], list[str]]()
    for name in names:
        lacking = tuple(domain for domain in tree if name not in tree[domain])
        by_lacking.setdefault(lacking, []).append(name)
    for lacking, of_names in by_lacking.items():
        having = [domain for domain in tree if domain not in lacking]
        if lacking and (expected or len(having) >= len(lacking)):
            yield f"domain(s) {listed(lacking)} lack the class(es) {listed(of_names)}"
        elif lacking:
            yield f"only domain(s) {listed(having)} have the class(es) {listed(of_names)}, {listed(lacking)} lack them"
    for domain, classes in tree.items():
        extra = [name for name in classes if name not in names]
        if extra:
            yield f"domain {domain!r} has the unexpected class(es) {listed(extra)}"


def count_problems(tree: Tree, expected: Mapping[str, int]) -> Iterator[str]:
    """Domains whose number of images is not the one that the card states."""
    for domain, classes in tree.items():
        found = count(classes)
        if domain in expected and found != expected[domain]:
            yield f"domain {domain!r} has {found:,} images, expected {expected[domain]:,}"


def matching(tree: Tree, generations: Mapping[str, Mapping[str, int]]) -> str:
    """The generation whose counts the files have in every domain; empty if there is none."""
    found = {domain: count(classes) for domain, classes in tree.items() if classes}
    return next((name for name, counts in generations.items() if found == dict(counts)), "")


def generation_problems(tree: Tree, generations: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Counts that no generation has."""
    if not matching(tree, generations):
        found = ", ".join(f"{domain} {count(classes):,}" for domain, classes in tree.items())
        yield f"the numbers of images are those of no published generation: {found}"
        for name, counts in generations.items():
            yield f"{name} has {', '.join(f'{domain} {n:,}' for domain, n in counts.items())}"


def in_two_classes(tree: Tree) -> Iterator[str]:
    """Files of the same name in two class folders of a domain: where names are ids, one image with two labels."""
    for domain, classes in tree.items():
        places = dict[str, list[str]]()
        for name, files in classes.items():
            for file in files:
                places.setdefault(file.path.rpartition("/")[2], []).append(name)
        for file_name, names in places.items():
            if len(names) > 1:
                yield f"{domain}: {file_name} lies in {' and '.join(names)}"


def file_problems(tree: Tree, *, may_lack: bool = False) -> Iterator[str]:
    """Yield classes without an image, or where domains may lack them, domains without one; and files without a byte."""
    files = dict.fromkeys(file for classes in tree.values() for of_class in classes.values() for file in of_class)
    for domain, classes in tree.items():
        if may_lack and not count(classes):
            yield f"domain {domain!r} has no image: move it away"
        for name, of_class in classes.items():
            if not of_class and not may_lack:
                yield f"class {name!r} of domain {domain!r} has no image"
    empty = [file.path for file in files if file.size == 0]
    if empty:
        yield f"{len(empty)} image(s) hold nothing: {listed(empty)}; --skip_bad_images leaves them out"


def missing_classes(tree: Tree) -> dict[str, tuple[str, ...]]:
    """Map each domain to the classes that others have an image of and it has not; leave out those that lack none."""
    names = sorted({name for classes in tree.values() for name, files in classes.items() if files})
    lacking = {domain: tuple(name for name in names if not classes.get(name)) for domain, classes in tree.items()}
    return {domain: classes for domain, classes in lacking.items() if classes}


def listed(names: Iterable[str]) -> str:
    """Quoted, the first few of many."""
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:_NAMES_SHOWN]) + more


def size_of(path: Path | str) -> int:
    """In bytes; 0 for what is not there, such as the end of a dangling link."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _images(root: Path, folder: Path, accepted: Accepted) -> Iterator[ImageFile]:
    found = list[tuple[str, str]]()
    real = os.path.realpath(folder)
    # A link to a folder above it would lead to all images there, and on to itself, for ever.
    seen = {real, *map(str, Path(real).parents), *map(str, Path(os.path.realpath(root)).parents)}
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        below = {name: os.path.realpath(os.path.join(place, name)) for name in sorted(folders) if _is_data(name)}
        folders[:] = [name for name, real in below.items() if real not in seen and not seen.add(real)]  # type: ignore[func-returns-value]
        found += [(place, name) for name in names if accepted(place, name)]
    for place, name in sorted(found):
        path = os.path.join(place, name)
        yield ImageFile(os.path.relpath(path, root).replace(os.sep, "/"), size_of(path))


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and _is_data(entry.name))


def _is_data(folder: str) -> bool:
    return not folder.startswith(".") and folder not in _CLUTTER


def _raise(error: OSError) -> None:
    raise error


def instead(folder: Path) -> str:
    """What a folder that lacks something has instead."""
    if not folder.is_dir():
        return ""
    names = _folders(folder)
    return f"; {folder} has {listed(names)}" if names else f"; {folder} has no folders"


def count(classes: Mapping[str, Sequence[ImageFile]]) -> int:
    return sum(map(len, classes.values()))
