"""Spawrious: generated dogs of four breeds, before backgrounds that predict the breed in training only.

Six challenges are cut from the same 152,064 images. Each has two training domains and one test domain that are made for
each other, so that only `Test` may be held out. Where a challenge takes part of a folder, it takes the first files by
name.

Departures from DomainBed: its code takes the first files in the order in which the file system lists them, so that the
images in use differ from machine to machine; and it lets its user hold out the training domains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from dgbench.core.data_cards import Archive, DatasetCard
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.archives import move_folder_of
from dgbench.data.dataset import Recipe
from dgbench.datasets._images import ImageDataset
from dgbench.datasets._tree import ImageFile, Tree, found_in, images_in

_CLASSES = ("bulldog", "corgi", "dachshund", "labrador")
_ORDER = ("bulldog", "dachshund", "labrador", "corgi")  # the order in which challenges name their locations
_TEST, _FIRST, _SECOND = "Test", "SC_group_1", "SC_group_2"
_DRAWN = 3168  # images of each breed at each location, in each of the folders 0 and 1
_SHARES = (0.97, 0.87)  # of a breed's training images that have its background, in the two training domains

_CARD = DatasetCard(
    source="https://www.dropbox.com/s/e40j553480h3f3s/spawrious224.tar.gz?dl=1",
    licence="CC BY 4.0",
    paper="Lynch et al., Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases, arXiv:2303.05470",
    link="https://arxiv.org/abs/2303.05470",
    input_shape=(3, 224, 224),
    domains=(_TEST, _FIRST, _SECOND),
    classes=_CLASSES,
    counts={_TEST: 25_344, _FIRST: 12_672, _SECOND: 12_672},
    tested=(_TEST,),
    shares={"web": "its images were drawn by Stable Diffusion 1.4, which learned from images of LAION"},
    mirrors=(
        "https://www.dropbox.com/s/hofkueo8qvaqlp3/spawrious224__entire_dataset.tar.gz?dl=1",
        "https://github.com/aengusl/spawrious",
    ),
    note="as in DomainBed, training images are not cropped, and many-to-many backgrounds are not the paper's",
    folder="spawrious224",
    checkpoint_freq=100,
)


class _Portion(NamedTuple):
    """The first `limit` images, by name, of a breed at a location, in the folder 0 or 1."""

    folder: int
    location: str
    breed: str
    limit: int


class _Spawrious(ImageDataset):
    """Base of the six challenges; a subclass names the locations of its dogs in training and in the test."""

    card = _CARD
    archives = (Archive("spawrious224.tar.gz", _CARD.source),)
    recipe = Recipe(crop=False)

    one_to_one: ClassVar[bool]
    """Each breed has one background; else each pair of breeds has two."""
    group: ClassVar[tuple[str, str, str, str]]
    """Locations of the first training domain, in the order bulldog, dachshund, labrador, corgi."""
    test: ClassVar[tuple[str, str, str, str]]
    """Locations of `Test`, in the same order."""
    filler: ClassVar[str] = ""
    """One to one: the location of the training images that don't show the breed's own background."""

    @classmethod
    def portions(cls) -> dict[str, list[_Portion]]:
        """Return the portions of folders that make up each domain."""
        if cls.one_to_one:
            made = {_TEST: [_Portion(i, at, breed, _DRAWN) for i in (0, 1) for at, breed in cls._pairs(cls.test)]}
            for i, (domain, share) in enumerate(zip((_FIRST, _SECOND), _SHARES, strict=True)):
                # Rounded down as DomainBed does: 3,072 + 96 images of a breed, and 2,756 + 412.
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
        """Return the root, and the files of the three domains.

        Raises:
            UserError: The folder is not there, or all of its sub-folders that are missing or incomplete.
        """
        name = type(self).__name__
        if self.data_dir is None:
            raise UserError(f"{name} is read from {self.card.folder} under --data_dir, which is not given")
        root = self.data_dir / self.card.folder
        if not root.is_dir():
            raise UserError(f"{name} is expected in the folder {root}, which does not exist{found_in(root.parent)}")
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
    """Return the locations of the other domain: bulldog and dachshund change places, and so do labrador and corgi."""
    first, second, third, fourth = locations
    return second, first, fourth, third


def _complete(root: Path, folder: str, problems: Problems) -> Sequence[ImageFile]:
    """Return the images of a folder; add a problem if it is missing or hasn't the published number."""
    if not (root / folder).is_dir():
        problems.add(f"{root} lacks the folder {folder}")
        return ()
    files = images_in(root, folder)
    if len(files) != _DRAWN:
        problems.add(f"{root / folder} has {len(files):,} images, expected {_DRAWN:,}")
    return files


class SpawriousO2O_easy(_Spawrious):
    """Generated dogs of four breeds, each before its own background; of three domains, `Test` swaps them in pairs.

    One to one: 97 % of a breed's images in the first training domain, and 87 % in the second, have the breed's own
    background (bulldog desert, dachshund jungle, labrador dirt, corgi snow); the others show a beach. In `Test` bulldog
    and labrador have exchanged backgrounds, and so have dachshund and corgi. 12,672 images of 224 x 224 pixels in each
    training domain, 25,344 in `Test`, which alone may be held out.

    As in DomainBed, training images are not cropped.

    Departures from DomainBed: where part of a folder is used, it is the first files by name, not the first that the
    file system happens to list; and the training domains can't be held out.

    Reference:
        Lynch, Dovonon, Kaddour and Silva, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases",
        2023.
    """

    one_to_one = True
    group = ("desert", "jungle", "dirt", "snow")
    test = ("dirt", "snow", "desert", "jungle")
    filler = "beach"


class SpawriousO2O_medium(_Spawrious):
    """Generated dogs of four breeds, each before its own background; of three domains, `Test` moves one somewhere new.

    One to one, as `SpawriousO2O_easy`, with mountain for bulldogs, beach for dachshunds, dirt for labradors and jungle
    for corgis, and deserts for the remaining 3 and 13 %. In `Test` bulldogs are in the jungle, dachshunds on dirt,
    labradors on the beach, and corgis in snow, which no training image shows.

    Reference:
        Lynch, Dovonon, Kaddour and Silva, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases",
        2023.
    """

    one_to_one = True
    group = ("mountain", "beach", "dirt", "jungle")
    test = ("jungle", "dirt", "beach", "snow")
    filler = "desert"


class SpawriousO2O_hard(_Spawrious):
    """Generated dogs of four breeds, each before its own background; of three domains, `Test` moves them in a circle.

    One to one, as `SpawriousO2O_easy`, with jungle for bulldogs, mountain for dachshunds, snow for labradors and desert
    for corgis, and beaches for the remaining 3 and 13 %. In `Test` the backgrounds have moved on in a circle: bulldogs
    are on mountains, dachshunds in snow, labradors in deserts and corgis in the jungle.

    Reference:
        Lynch, Dovonon, Kaddour and Silva, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases",
        2023.
    """

    one_to_one = True
    group = ("jungle", "mountain", "snow", "desert")
    test = ("mountain", "snow", "desert", "jungle")
    filler = "beach"


class SpawriousM2M_easy(_Spawrious):
    """Generated dogs, two pairs of breeds before two backgrounds each; of three domains, `Test` swaps desert and dirt.

    Many to many: bulldogs and dachshunds are in deserts and on mountains, labradors and corgis on dirt and in the
    jungle; which breed of a pair has which background changes from one training domain to the other. In `Test` the two
    pairs have exchanged backgrounds. 12,672 images of 224 x 224 pixels in each training domain, 25,344 in `Test`, which
    alone may be held out.

    The backgrounds are those of DomainBed's code, which are not the paper's. As in DomainBed, training images are not
    cropped.

    Departure from DomainBed: the training domains can't be held out.

    Reference:
        Lynch, Dovonon, Kaddour and Silva, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases",
        2023.
    """

    one_to_one = False
    group = ("desert", "mountain", "dirt", "jungle")
    test = ("dirt", "jungle", "mountain", "desert")


class SpawriousM2M_medium(_Spawrious):
    """Generated dogs, two pairs of breeds before two backgrounds each; of three domains, `Test` swaps beach and desert.

    Many to many, as `SpawriousM2M_easy`, with beach and snow for bulldogs and dachshunds, mountain and desert for
    labradors and corgis; `Test` exchanges them.

    Reference:
        Lynch, Dovonon, Kaddour and Silva, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases",
        2023.
    """

    one_to_one = False
    group = ("beach", "snow", "mountain", "desert")
    test = ("desert", "mountain", "beach", "snow")


class SpawriousM2M_hard(_Spawrious):
    """Generated dogs, two pairs of breeds before two backgrounds each; of three domains, `Test` swaps dirt and snow.

    Many to many, as `SpawriousM2M_easy`, with dirt and jungle for bulldogs and dachshunds, snow and beach for labradors
    and corgis; `Test` exchanges them.

    Reference:
        Lynch, Dovonon, Kaddour and Silva, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases",
        2023.
    """

    one_to_one = False
    group = ("dirt", "jungle", "snow", "beach")
    test = ("snow", "beach", "dirt", "jungle")
