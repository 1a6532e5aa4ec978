"""Fetch a data set, organize files that you have, or check those in its folder.

    dgbench download PACS --data_dir data
    dgbench download PACS --data_dir data --from PACS.zip
    dgbench download PACS --data_dir data --verify

A folder appears under DIR only when it is whole and has passed the checks that opening it makes. Fetching that was
interrupted goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress, shown_progress
from dgbench.core.site import Site
from dgbench.data.cache import verify_caches
from dgbench.data.dataset import Dataset
from dgbench.data.downloads import Unreachable
from dgbench.data.duplicates import read_list, remove
from dgbench.data.verify import bad_examples
from dgbench.flags import add_options
from dgbench.plan.options import OPTIONS
from dgbench.store.files import refuse_links

_READING = ("allow_missing_classes", "exif", "max_image_pixels")
"""Options of reading that apply to the check; images that can't be decoded are its findings."""


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench download", doc=__doc__)
    found.add_argument("name", metavar="NAME", help="a data set, as `dgbench list datasets` prints it")
    found.add_argument("--data_dir", type=Path, help="folder that holds the data sets")
    how = found.add_mutually_exclusive_group()
    how.add_argument(
        "--from", dest="sources", nargs="+", type=Path, metavar="FILE", help="archives or folders that you have"
    )
    how.add_argument("--verify", action="store_true", help="only check what is there: layout, counts, every image")
    how.add_argument(
        "--remove_duplicates", type=Path, metavar="LIST", help="delete the files that the published list names"
    )
    found.add_argument("--cache_dir", type=Path, help="with --verify: where decoded images are kept, if not beside")
    found.add_argument("--include", nargs="+", metavar="FILE", help="Python files with further data sets")
    add_options(found, {"how files are read": tuple(OPTIONS[name] for name in _READING)})
    return found


def main(argv: Sequence[str]) -> int:
    """Fetch, organize, check or mend a data set; return 0, or 1 if images can't be decoded."""
    args = parser().parse_args(argv)
    catalogue = Catalogue(args.include or ())
    [(name, path)] = split_datasets([args.name], catalogue).items()
    cls = catalogue.get("dataset", name.partition(":")[0]).load()
    reading = {name: value for name in _READING if (value := getattr(args, name))}
    paths = {name: path} if path else {}
    site = Site(data_dir=str(args.data_dir or ""), cache_dir=str(args.cache_dir or ""), paths=paths, **reading)
    with shown_progress() as progress:
        if args.verify:
            return _verify(open_dataset(name, site, catalogue), progress)
        _check(cls, args)
        if args.remove_duplicates:
            return _remove_duplicates(cls, args.data_dir, args.remove_duplicates)
        return _provide(cls, args.data_dir, args.sources or (), progress)


def _check(cls: type[Dataset], args: Any) -> None:
    """Raise UserError for a request that can't be met, before any file is touched."""
    problems = Problems()
    if cls.card.path:
        problems.add(f"{cls.__name__} reads your own files; there is nothing to download")
    elif not cls.card.folder:
        problems.add(f"{cls.__name__} needs no files; there is nothing to download")
    elif args.data_dir is None:
        problems.add(f"--data_dir is needed: {cls.__name__} belongs into its folder {cls.card.folder}")
    if args.remove_duplicates and not cls.card.duplicates:
        problems.add(f"{cls.__name__} was not published with duplicates")
    for source in args.sources or ():
        if not source.exists():
            problems.add(f"--from {source}: there is no such file or folder")
    problems.raise_if_any()


def _provide(cls: type[Dataset], data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> int:
    """Make the data set's folder, unless it is there."""
    folder, derived_from = data_dir / cls.card.folder, data_dir / cls.card.derived_from
    if cls.card.derived_from and not sources and derived_from.is_dir():
        sources = [derived_from]
    if folder.exists():
        try:
            dataset = cls(data_dir=data_dir)
        except UserError as error:
            raise UserError(*error.problems, f"{folder} is there already and was not changed: move it away") from error
        print(f"{cls.__name__} is there already")
    else:
        print(f"{cls.__name__}, from {cls.card.source}; licence: {cls.card.licence}", flush=True)
        with _staging(data_dir, cls.card.folder) as staging:
            dataset = _staged(cls, data_dir, staging, sources, progress)
    _tell(dataset, folder)
    return 0


def _staged(
    cls: type[Dataset], data_dir: Path, staging: Path, sources: Sequence[Path], progress: ReportProgress
) -> Dataset:
    """Make a data set's folder in `staging`, check it there, and move it to its place in one step."""
    folder = data_dir / cls.card.folder
    try:
        cls.download(staging, [source.resolve() for source in sources], progress)
        cls(data_dir=staging)
    except Unreachable as error:
        raise UserError(*error.problems, *_elsewhere(cls, data_dir)) from error
    except UserError as error:
        kept = staging / "downloads"
        told = [problem.replace(f"{staging}{os.sep}", f"{data_dir}{os.sep}") for problem in error.problems]
        rest = f"; what was fetched is kept in {kept}" if kept.is_dir() and any(kept.iterdir()) else ""
        raise UserError(*told, f"nothing was put into {folder}{rest}") from error
    os.sync()
    folder.parent.mkdir(parents=True, exist_ok=True)
    (staging / cls.card.folder).rename(folder)
    shutil.rmtree(staging / "downloads", ignore_errors=True)
    return cls(data_dir=data_dir)


def _elsewhere(cls: type[Dataset], data_dir: Path) -> Iterator[str]:
    """Yield other places of the data, and the command that organizes files from there."""
    card: DatasetCard = cls.card
    files = " ".join(archive.name for archive in cls.archives) or "FILE"
    yield f"{cls.__name__} is published at {card.source}"
    if card.mirrors:
        yield f"other places: {', '.join(card.mirrors)}"
    yield f"with the files at hand: python -m dgbench.download {cls.__name__} --data_dir {data_dir} --from {files}"


@contextmanager
def _staging(data_dir: Path, folder: str) -> Iterator[Path]:
    """Lock a folder beside the data sets, to which only this process writes.

    It is gone afterwards, but for what was fetched, if there is anything, when something went wrong. The lock is on
    the folder itself, so that it leaves no file behind.
    """
    new = [parent for parent in (data_dir, *data_dir.parents) if not parent.exists()]
    staging = data_dir / f".{folder.replace('/', '-')}.download"
    refuse_links(staging)
    staging.mkdir(parents=True, exist_ok=True)
    handle = os.open(staging, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is making {data_dir / folder} right now; wait for it to end") from error
        if not staging.exists() or not os.path.samestat(os.fstat(handle), staging.stat()):
            raise UserError(f"another process has just made or given up {data_dir / folder}: try again")
        _clear(staging)
        try:
            yield staging
        finally:
            _clear(staging)
            for place in (staging / "downloads", staging, *new):
                with suppress(OSError):  # it holds something, and stays
                    place.rmdir()
    finally:
        os.close(handle)


def _clear(staging: Path) -> None:
    """Remove everything but downloaded files."""
    for path in staging.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name != "downloads":
            shutil.rmtree(path)


def _remove_duplicates(cls: type[Dataset], data_dir: Path, listed: Path) -> int:
    """Delete the listed files, print how many there were, and open the data set without them."""
    folder = data_dir / cls.card.folder
    if not folder.is_dir():
        raise UserError(f"{cls.__name__} is expected in the folder {folder}, which does not exist")
    read_list(listed, cls.card.duplicates)
    with _staging(data_dir, cls.card.folder):
        named, there = remove(folder, listed, cls.card.duplicates)
    print(f"deleted {there:,} of the {named:,} files that {listed} names; {named - there:,} were not there")
    _tell(cls(data_dir=data_dir), folder)
    return 0


def _verify(dataset: Dataset, progress: ReportProgress) -> int:
    """Decode every example, and check the caches, of a data set that opened without a problem."""
    bad = list(bad_examples(dataset, progress))
    caches, damaged = verify_caches(dataset)
    _tell(dataset, dataset.path or (dataset.data_dir or Path()) / dataset.card.folder)
    if caches:
        print(f"{caches} caches of decoded images, {len(damaged)} of them damaged: these are removed, and built again")
    for file, why in dataset.card.known_bad.items():
        print(f"known: {file}: {why}")
    for problem in bad:
        print(problem, file=sys.stderr)
    print("everything can be decoded" if not bad else f"{len(bad):,} can't be decoded: get them again")
    return 1 if bad else 0


def _tell(dataset: Dataset, place: Path) -> None:
    """Print counts, fingerprint and remarks of a data set."""
    counts = ", ".join(f"{domain} {n:,}" for domain, n in zip(dataset.domains, dataset.counts(), strict=True))
    print(f"{type(dataset).__name__} in {place}: {sum(dataset.counts()):,} examples ({counts})")
    print(f"fingerprint {dataset.fingerprint()}")
    for remark in dataset.remarks():
        print(remark)
    if dataset.card.note:
        print(f"note: {dataset.card.note}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
