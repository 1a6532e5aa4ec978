"""Spawrious: four breeds of dogs before six backgrounds, which tell the breed in training and mislead in the test.

Six challenges are cut from the same 152,064 generated images. They have one test domain and two training domains, made
for each other: holding out another domain means nothing. Where a challenge takes a part of a folder it takes the first
files by name. Departures from DomainBed's code: that takes the first in the order in which the file system lists them,
so which images it uses differs from machine to machine; and which domains it holds out is up to its user.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from dgbench.core.cards import Archive, DatasetCard
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.archives import move_folder_of
from dgbench.data.dataset import Recipe
from dgbench.datasets._images import ImageDataset
from dgbench.datasets._tree import ImageFile, Tree, images_in, instead

_CLASSES = ("bulldog", "corgi", "dachshund", "labrador")
_ORDER = ("bulldog", "dachshund", "labrador", "corgi")  # in which challenges name their locations
_TEST, _FIRST, _SECOND = "Test", "SC_group_1", "SC_group_2"
_DRAWN = 3168  # images of each breed at each location, in each of the folders 0 and 1
_SHARES = (0.97, 0.87)  # of a breed's training images that have its background, in the two training domains

_CARD = DatasetCard(
    source="https://www.dropbox.com/s/e40j553480h3f3s/spawrious224.tar.gz?dl=1",
    licence="CC BY 4.0",
    paper="Lynch et al., Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases, arXiv:2303.05470",
    input_shape=(3, 224, 224),
    domains=(_TEST, _FIRST, _SECOND),
    classes=_CLASSES,
    counts={_TEST: 25_344, _FIRST: 12_672, _SECOND: 12_672},
    tested=(_TEST,),
    mirrors=(
        "https://www.dropbox.com/s/hofkueo8qvaqlp3/spawrious224__entire_dataset.tar.gz?dl=1",
        "https://github.com/aengusl/spawrious",
    ),
    note="as in DomainBed, training images are not cropped, and many-to-many backgrounds are not the paper's",
    folder="spawrious224",
    checkpoint_freq=100,
)


class _Portion(NamedTuple):
    """The first `limit` images of a breed at a location, in the folder 0 or 1."""

    folder: int
    location: str
    breed: str
    limit: int


class _Spawrious(ImageDataset):
    """Base of the challenges: images of 224 x 224. A subclass names the locations of its training and its test."""

    card = _CARD
    archives = (Archive("spawrious224.tar.gz", _CARD.source),)
    recipe = Recipe(crop=False)

    one_to_one: ClassVar[bool]
    group: ClassVar[tuple[str, str, str, str]]
    """Where the breeds are in training, in the order bulldog, dachshund, labrador, corgi."""
    test: ClassVar[tuple[str, str, str, str]]
    filler: ClassVar[str] = ""
    """One to one: where every breed is in the training images that do not have its background."""

    @classmethod
    def portions(cls) -> dict[str, list[_Portion]]:
        """What each domain is made of."""
        if cls.one_to_one:
            made = {_TEST: [_Portion(i, at, breed, _DRAWN) for i in (0, 1) for at, breed in cls._pairs(cls.test)]}
            for i, (domain, share) in enumerate(zip((_FIRST, _SECOND), _SHARES, strict=True)):
                limit = int(share * _DRAWN)
                made[domain] = [_Portion(i, at, breed, limit) for at, breed in cls._pairs(cls.group)]
                made[domain] += [_Portion(i, cls.filler, breed, _DRAWN - limit) for breed in _ORDER]
            return made
        first, second = cls.group, _crossed(cls.group)
        test = (*cls._pairs(cls.test), *cls._pairs(_crossed(cls.test)))
        return {
            _TEST: [_Portion(0, at, breed, _DRAWN) for at, breed in test],
            _FIRST: [_Portion(0, at, breed, _DRAWN) for at, breed in cls._pairs(first)],
            _SECOND: [_Portion(0, at, breed, _DRAWN) for at, breed in cls._pairs(second)],
        }

    @staticmethod
    def _pairs(locations: Sequence[str]) -> Iterator[tuple[str, str]]:
        return zip(locations, _ORDER, strict=True)

    def find(self) -> tuple[Path, Tree]:
        """The files of the three domains; raises `UserError` with every folder that is not there or not complete."""
        name = type(self).__name__
        if self.data_dir is None:
            raise UserError(f"{name} is read from {self.card.folder} under --data_dir, which is not given")
        root = self.data_dir / self.card.folder
        if not root.is_dir():
            raise UserError(f"{name} is expected in the folder {root}, which does not exist{instead(root.parent)}")
        problems = Problems()
        portions = self.portions()
        files = {
            folder: _complete(root, folder, problems)
            for folder in dict.fromkeys(_folder(portion) for of_domain in portions.values() for portion in of_domain)
        }
        problems.raise_if_any()
        return root, {
            domain: {
                breed: tuple(file for p in of_domain if p.breed == breed for file in files[_folder(p)][: p.limit])
                for breed in _CLASSES
            }
            for domain, of_domain in portions.items()
        }

    @classmethod
    def arrange(cls, unpacked: Path, folder: Path, progress: ReportProgress) -> None:
        """Move the folder that holds the folders 0 and 1."""
        move_folder_of(("0", "1") if cls.one_to_one else ("0",), unpacked, folder)


def _folder(portion: _Portion) -> str:
    return f"{portion.folder}/{portion.location}/{portion.breed}"


def _crossed(locations: tuple[str, str, str, str]) -> tuple[str, str, str, str]:
    """The locations of the other domain: bulldog and dachshund change places, so do labrador and corgi."""
    first, second, third, fourth = locations
    return second, first, fourth, third


def _complete(root: Path, folder: str, problems: Problems) -> Sequence[ImageFile]:
    if not (root / folder).is_dir():
        problems.add(f"{root} lacks the folder {folder}")
        return ()
    files = images_in(root, folder)
    if len(files) != _DRAWN:
        problems.add(f"{root / folder} has {len(files):,} images, expected {_DRAWN:,}")
    return files


class SpawriousO2O_easy(_Spawrious):
    """Four breeds of dogs, each before its background; in the test each is before another's."""

    one_to_one = True
    group = ("desert", "jungle", "dirt", "snow")
    test = ("dirt", "snow", "desert", "jungle")
    filler = "beach"


class SpawriousO2O_medium(_Spawrious):
    """Four breeds of dogs, each before its background; in the test each is before another, one of them new."""

    one_to_one = True
    group = ("mountain", "beach", "dirt", "jungle")
    test = ("jungle", "dirt", "beach", "snow")
    filler = "desert"


class SpawriousO2O_hard(_Spawrious):
    """Four breeds of dogs, each before its background; in the test they have changed places in a circle."""

    one_to_one = True
    group = ("jungle", "mountain", "snow", "desert")
    test = ("mountain", "snow", "desert", "jungle")
    filler = "beach"


class SpawriousM2M_easy(_Spawrious):
    """Two pairs of dog breeds, each before two backgrounds; in the test before the other pair's."""

    one_to_one = False
    group = ("desert", "mountain", "dirt", "jungle")
    test = ("dirt", "jungle", "mountain", "desert")


class SpawriousM2M_medium(_Spawrious):
    """Two pairs of dog breeds, each before two backgrounds; in the test before the other pair's."""

    one_to_one = False
    group = ("beach", "snow", "mountain", "desert")
    test = ("desert", "mountain", "beach", "snow")


class SpawriousM2M_hard(_Spawrious):
    """Two pairs of dog breeds, each before two backgrounds; in the test before the other pair's."""

    one_to_one = False
    group = ("dirt", "jungle", "snow", "beach")
    test = ("snow", "beach", "dirt", "jungle")
