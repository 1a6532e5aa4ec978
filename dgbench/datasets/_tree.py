"""List the image files of a folder laid out as domain/class/image, and check that layout against a data set's card.

`read_tree` returns a `Tree`; the functions called `..._problems` take one and yield the problems they find as sentences
for the user, so that a data set can report all of them at once. Nothing is decoded and no file is opened: names and
sizes are enough, and a launch has to list hundreds of thousands of files.

Sub-directories of a class folder are read too, each once, however many links lead to it. Hidden names, the leftovers of
file managers and archivers, and files without an image's extension are skipped.
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
"""The extensions that torchvision, and so DomainBed, takes for images; published data sets consist of such files."""
_CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
"""Folders that file managers, archivers and file systems leave behind."""
_CLUTTER_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_NAMES_SHOWN = 5
"""Names that a message lists before "and N more"."""


class ImageFile(NamedTuple):
    """An image file, as far as its directory entry describes it."""

    path: str
    """Path below the root of the data set, with forward slashes."""
    size: int
    """Bytes; 0 if the file is empty or can't be read."""


Tree = Mapping[str, Mapping[str, Sequence[ImageFile]]]
"""Domain -> class -> files sorted by path. A class folder without images is present, with no files."""


@dataclass
class Accepted:
    """The rule that decides which files count as images, and a record of the files it left out.

    One instance is used for one reading of a folder: `read_tree` calls it for each file, and `describe` then reports.
    """

    extensions: Sequence[str] = EXTENSIONS
    """In lower case, with their dot."""
    by_content: Callable[[str], bool] | None = None
    """Decides about a file without an extension, given its path; None: such a file is no image."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Extension -> number of files left out. Hidden files and clutter are not counted: no user put them there."""
    outside: list[str] = field(default_factory=list)
    """Paths below the root of files that have an image's extension but lie in no class folder."""

    def __call__(self, place: str, name: str) -> bool:
        """Return whether the file `name` in the folder `place` is an image; count it in `left_out` if it isn't."""
        if name.startswith(".") or name.lower() in _CLUTTER_FILES:
            return False
        if name.lower().endswith(tuple(self.extensions)):
            return True
        extension = os.path.splitext(name)[1].lower()
        if not extension and self.by_content and self.by_content(os.path.join(place, name)):
            return True
        self.left_out[extension] += 1
        return False

    def describe(self) -> Iterator[str]:
        """Report the files left out: `left out 5 file(s) that can't be read as images: 3 .heic, 2 .npy`."""
        counts = sorted(self.left_out.items(), key=lambda pair: (-pair[1], pair[0]))
        kinds = ", ".join(f"{n:,} {printable(extension) or 'without an extension'}" for extension, n in counts)
        if counts:
            yield f"left out {sum(n for _, n in counts):,} file(s) that can't be read as images: {kinds}"
        if self.outside:
            yield f"left out {len(self.outside):,} image(s) that lie in no class, domain/class/: {listed(self.outside)}"


def read_tree(root: Path, domains: Sequence[str], accepted: Accepted | None = None) -> Tree:
    """List the image files below root/domain/class.

    Args:
        root: The data set's folder.
        domains: The folders to read, of which those that exist are read; empty: every folder in `root`.
        accepted: Decides which files are images and records the others; None: `Accepted()`.

    Returns:
        The files of each domain. A folder in `root` that is none of `domains` is present without a class, for
        `domain_problems` to report.

    Raises:
        UserError: A folder can't be listed.
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
        # Folders that are none of `domains` are not descended into: an aborted extraction may have left a whole archive
        # there.
        return tree | {folder: {} for folder in present if folder not in tree}
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from error


def images_in(root: Path, folder: str, accepted: Accepted | None = None) -> tuple[ImageFile, ...]:
    """List the images below one folder.

    Args:
        root: The folder that the paths in the result are relative to.
        folder: Path of the folder below `root`.
        accepted: Decides which files are images and records the others; None: `Accepted()`.

    Returns:
        The files, sorted by path.

    Raises:
        OSError: The folder doesn't exist or can't be listed.
    """
    return tuple(_images(root, root / folder, accepted or Accepted()))


def domain_problems(place: Path, tree: Tree, expected: Sequence[str]) -> Iterator[str]:
    """Yield the problems with a tree's domains: missing, unexpected or empty ones, or fewer than two of them.

    Args:
        place: The folder or file that messages name.
        tree: The files found.
        expected: The card's domains; empty: the folders are the domains, and there must be at least two.
    """
    missing = [domain for domain in expected if domain not in tree]
    surplus = [folder for folder in tree if folder not in expected] if expected else []
    if missing:
        yield f"{place} lacks the domain(s) {listed(missing)}{found_in(place)}"
    if surplus:
        yield f"{place} has the unexpected folder(s) {listed(surplus)}: move them away"
    for domain in expected:
        if domain in tree and not tree[domain]:
            yield f"domain {domain!r} has no folders: images are expected in {place / domain}/CLASS/"
    if not expected and len(tree) < 2:
        yield f"{place} has {len(tree)} domain(s), there must be at least 2{found_in(place)}"


def class_problems(place: Path, tree: Tree, expected: Sequence[str]) -> Iterator[str]:
    """Yield the problems with a tree's classes: domains that lack one, and classes that are not expected.

    Args:
        place: The folder or file that messages name.
        tree: The files found.
        expected: The card's classes; empty: every class of any domain is expected in all of them.
    """
    names = expected or sorted({name for classes in tree.values() for name in classes})
    if expected:  # a folder without any class is no domain, and `domain_problems` reports it
        tree = {domain: classes for domain, classes in tree.items() if classes}
    if tree and not names:
        yield f"no domain in {place} has a class: images are expected in domain/class/"
    by_lacking = dict[tuple[str, ...], list[str]]()
    # Classes that the same domains lack share one message, which names the shorter list: the domains that lack or have
    # them.
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
    """Yield domains whose number of images differs from the `expected` one; only domains in `expected` are checked."""
    for domain, classes in tree.items():
        found = count(classes)
        if domain in expected and found != expected[domain]:
            yield f"domain {domain!r} has {found:,} images, expected {expected[domain]:,}"


def matching(tree: Tree, generations: Mapping[str, Mapping[str, int]]) -> str:
    """Return the name of the generation whose counts the files have in every domain; empty if there is none.

    Args:
        tree: The files found.
        generations: Name -> domain -> number of images, from the card.
    """
    found = {domain: count(classes) for domain, classes in tree.items() if classes}
    return next((name for name, counts in generations.items() if found == dict(counts)), "")


def generation_problems(tree: Tree, generations: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield the counts found and those of each generation, if the files are of no published generation."""
    if not matching(tree, generations):
        found = ", ".join(f"{domain} {count(classes):,}" for domain, classes in tree.items())
        yield f"the numbers of images are those of no published generation: {found}"
        for name, counts in generations.items():
            yield f"{name} has {', '.join(f'{domain} {n:,}' for domain, n in counts.items())}"


def in_two_classes(tree: Tree) -> Iterator[str]:
    """Yield file names that occur in two class folders of a domain: where names are ids, one image with two labels."""
    for domain, classes in tree.items():
        places = dict[str, list[str]]()
        for name, files in classes.items():
            for file in files:
                places.setdefault(file.path.rpartition("/")[2], []).append(name)
        for file_name, names in places.items():
            if len(names) > 1:
                yield f"{domain}: {file_name} lies in {' and '.join(names)}"


def file_problems(tree: Tree, *, may_lack: bool = False) -> Iterator[str]:
    """Yield classes without an image, and files of zero bytes.

    Args:
        tree: The files found.
        may_lack: Domains may lack classes; then only domains without any image are reported.
    """
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
    """Map each domain that lacks classes to those classes: it has no image of them and another domain has."""
    names = sorted({name for classes in tree.values() for name, files in classes.items() if files})
    lacking = {domain: tuple(name for name in names if not classes.get(name)) for domain, classes in tree.items()}
    return {domain: classes for domain, classes in lacking.items() if classes}


def listed(names: Iterable[str]) -> str:
    """Join the first few names, quoted, and the number of those left out: `'a', 'b' and 3 more`."""
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:_NAMES_SHOWN]) + more


def size_of(path: Path | str) -> int:
    """Return a file's size in bytes; 0 if it doesn't exist, as behind a dangling link."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _images(root: Path, folder: Path, accepted: Accepted) -> Iterator[ImageFile]:
    """Yield the images below a folder, sorted by folder and then name, each real folder visited once."""
    found = list[tuple[str, str]]()
    real = os.path.realpath(folder)
    # A link to a folder above it would lead to all images there, and on to itself, for ever.
    seen = {real, *map(str, Path(real).parents), *map(str, Path(os.path.realpath(root)).parents)}
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        below = {name: os.path.realpath(os.path.join(place, name)) for name in sorted(folders) if _is_data(name)}
        # `set.add` returns None, so a folder is kept if it is new and is marked as seen by the same expression.
        # `os.walk` descends into the names that are left in `folders`.
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


def found_in(folder: Path) -> str:
    """Return `; FOLDER has 'a', 'b'`, listing a folder's sub-folders; empty if the folder doesn't exist."""
    if not folder.is_dir():
        return ""
    names = _folders(folder)
    return f"; {folder} has {listed(names)}" if names else f"; {folder} has no folders"


def count(classes: Mapping[str, Sequence[ImageFile]]) -> int:
    """Return the number of files in all classes of a domain."""
    return sum(map(len, classes.values()))
