"""What a data set is: domains of labelled examples. Files in `datasets/` need no torch, so that planning stays fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dgbench.core.cards import Archive, DatasetCard
from dgbench.core.progress import ReportProgress

NOT_ASKED = -100
"""Label of a place in a sequence at which nothing is asked."""


@dataclass(frozen=True)
class Recipe:
    """How training images are augmented: a crop at random, a flip, colour jitter, now and then gray."""

    crop: bool = True
    """Else inputs show whole images."""
    resize_first: bool = False
    """Images are squashed to the size of inputs before a box is drawn, not after."""


DOMAINBED = Recipe()
"""As DomainBed augments its folders of images."""


class Examples(Protocol):
    """The examples of one domain, in a fixed order."""

    labels: NDArray[Any]
    """(n,), or (n, answers) where the card's task asks for several; known without decoding anything."""
    groups: NDArray[np.int64] | None
    """(n,) identities that must not lie in two parts, numbered alike in every domain; None if there are none."""

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[Any]:
        """The inputs at `indices`, (B, *input_shape); augmented if `rng` is given.

        Bytes are pixels, and so are float32 in [0, 1] unless the card says `normalised`; of texts and sequences, int64
        are tokens; graphs are int16, as `networks.graphs` has them.
        """
        ...


@runtime_checkable
class SplitExamples(Examples, Protocol):
    """The examples of a data set whose card has `parts`: all that one way of splitting it uses."""

    parts: Mapping[str, NDArray[np.int64]]
    """Part -> indices of its examples."""
    domains: NDArray[np.int64]
    """(n,), which of many small domains each example is from; equal numbers in two parts are the same domain."""

    def score(self, predicted: NDArray[Any], indices: NDArray[np.int64]) -> dict[str, float]:
        """The data set's own scores of what is predicted for the examples at `indices`; `card.metric` is one.

        `predicted` is shaped as their labels: classes, numbers, or the logits of yes-no questions, as `card.task` says.
        """
        ...


@runtime_checkable
class Named(Protocol):
    """Examples that are files: by their names others know which they are."""

    files: Sequence[str]
    """(n,), their paths below the folder of the data set."""


class ArrayExamples:
    """Examples that lie in memory: `inputs` (n, *shape) uint8 or float32, `labels` (n,)."""

    def __init__(self, inputs: NDArray[Any], labels: NDArray[Any], groups: NDArray[Any] | None = None) -> None:
        self.inputs = inputs
        self.labels = labels.astype(np.int64)
        self.groups = groups

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[Any]:
        """The inputs at `indices`; there is no augmentation."""
        return self.inputs[indices]


class Dataset:
    """Base of every data set. Opening one reads what planning must check (names, counts), not the examples.

    A subclass declares `card` and writes `examples`; where the files decide the domains or classes, it sets them
    when it is opened, and raises `UserError` with everything that is wrong with the files.
    """

    card: ClassVar[DatasetCard]
    interpolation: str = "bilinear"
    """How image files are resized, `bilinear` or `bicubic`; whoever opens a data set for a run says it."""
    missing_classes: Mapping[str, Sequence[str]] = {}
    """Domain -> the classes of which it has no example, where the user allowed that."""
    archives: ClassVar[tuple[Archive, ...]] = ()
    """The files that it is published as, from which `download` makes its folder."""

    def __init__(
        self,
        data_dir: Path | None = None,
        path: Path | None = None,
        image_size: int = 0,
        skip_bad_images: bool = False,
        backbone: str = "auto",
        allow_missing_classes: bool = False,
        exif: str = "",
        max_image_pixels: int = 0,
    ) -> None:
        """Open a data set.

        Args:
            data_dir: The folder that holds the data sets.
            path: The path that its name carries, for a card with `path`.
            image_size: Side of the square that replaces the card's; 0: the card's.
            skip_bad_images: Whether images that can't be decoded are left out, and logged by name.
            backbone: The network that the inputs are for, as a setting says it: texts become its tokens.
            allow_missing_classes: Whether a domain of the user's own data may lack a class.
            exif: `turn`: turn the user's own images as their EXIF says.
            max_image_pixels: Largest image that is decoded; 0: as Pillow says.
        """
        self.data_dir = data_dir
        self.path = path
        self.skip_bad_images = skip_bad_images
        self.backbone = backbone
        self.allow_missing_classes = allow_missing_classes
        self.exif = exif
        self.max_image_pixels = max_image_pixels
        self.domains: tuple[str, ...] = self.card.domains
        self.classes: tuple[str, ...] = self.card.classes
        shape = self.card.input_shape
        self.input_shape = (shape[0], image_size, image_size) if image_size else shape
        self.input_kind = self.card.input_kind
        self.open()

    @property
    def outputs(self) -> int:
        """How many logits an example has: one a class or question, at each place of a sequence; 1 for a number."""
        places = self.input_shape[-1] if self.card.task == "tokens" else 1
        return places * max(1, len(self.classes))

    def open(self) -> None:
        """Read names and counts; refuse what is wrong with the files, all at once."""

    def ensure_vocabulary(self) -> None:
        """Have on this machine what inputs are made with and a hub has: a vocabulary. Called before runs start.

        What is here is not asked for; raises `UserError` with the ways out if it can't be had.
        """

    def preload(self) -> None:
        """Read what every run needs, once, in the process that runs are forked from; starts no threads."""

    def examples(self, domain: str, seed: int) -> Examples:
        """The examples of a domain; `seed` decides whatever the data set draws (noise, membership)."""
        raise NotImplementedError

    def counts(self) -> Sequence[int]:
        """Number of examples of each domain, in the order of `domains`."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash of what the data are: equal on two machines exactly if results may be compared."""
        raise NotImplementedError

    def remarks(self) -> Sequence[str]:
        """What a user should know of just these files, which is no reason to refuse them: their generation, doubles."""
        return ()

    @classmethod
    def download(cls, data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        """Make `data_dir / card.folder` from `sources`, files or folders of the user's; if there are none, fetch them.

        Where the user names no sources and has the folder of `card.derived_from`, that is the source.
        By default `archives` are fetched, checked and unpacked, and `arrange` is called; override it where the data
        come in another way. The command `download` calls it with a folder of its own as `data_dir`, opens the data set
        there, and only then moves `card.folder` to where the user wants it: so this neither locks nor cleans up. Of
        what it leaves when it fails, `data_dir / "downloads"` is kept for the next try, and all else is removed.
        Raises `UserError` with what is wrong with the sources, `dgbench.data.downloads.Unreachable` if the network or a
        host fails; nothing may hang, and what was fetched is checked by hash wherever one is published.
        """
        from dgbench.data.archives import unpack_archives  # imports HTTP, zip and tar, which planning does without

        cls.arrange(unpack_archives(cls.archives, data_dir, sources, progress), data_dir / cls.card.folder, progress)

    @classmethod
    def arrange(cls, unpacked: Path, folder: Path, progress: ReportProgress) -> None:
        """Move what lies in `unpacked` to the new `folder`, in the layout that `open` reads.

        By default that is the one folder which holds a folder for each domain, wherever an archive has it.
        """
        from dgbench.data.archives import move_folder_of  # as above

        move_folder_of(cls.card.domains, unpacked, folder)
