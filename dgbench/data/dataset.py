"""Define data sets: domains of labeled examples, which an author describes by a card and one class.

A data set in `datasets/` extends `Dataset`, declares a `card`, and answers three questions: `counts` and `fingerprint`,
which planning reads, and `examples`, which a run reads. Its examples of a domain are an `Examples`: labels in memory,
and inputs that `batch` reads on demand. A data set that was published with its own splits returns `SplitExamples`.

    dataset = Cls(data_dir=...)               open(): read names and counts, refuse wrong files
    dataset.preload()                         once, before runs are forked
    examples = dataset.examples("photo", 0)   in each run
    x = examples.batch(indices, rng)          (B, *input_shape); rng None: without augmentation

Neither this module nor a file in `datasets/` imports torch at its top, so that planning, `list` and `--help` stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import Archive, DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress

NOT_ASKED = -100
"""Label of a place in a sequence that is neither trained on nor scored; it is also torch's default `ignore_index`."""


@dataclass(frozen=True)
class Recipe:
    """The choice of augmentations of training images: crop, flip, color jitter and now and then gray, all at random."""

    crop: bool = True
    """Crop at random; False: inputs show whole images."""
    resize_first: bool = False
    """Squash images to the size of inputs before the crop is drawn, not after."""


DOMAINBED = Recipe()
"""DomainBed's augmentation of image folders."""


class Examples(Protocol):
    """The examples of one domain, in a fixed order that each run of the data set sees."""

    labels: NDArray[Any]
    """(n,), or (n, answers) where the card's task has several an example: int64 classes, or float32, NaN where unknown.
    Known without decoding any input."""
    groups: NDArray[np.int64] | None
    """(n,) identities that must not be in two parts at once, numbered alike in every domain; None: any example may be
    in any part."""

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[Any]:
        """Return the inputs at `indices`, as an array (B, *input_shape).

        Several threads, and processes forked from this one, may call it at once. The result must not depend on earlier
        calls: runs repeat each other only because `rng` is the one source of chance.

        Args:
            indices: (B,) positions of examples.
            rng: Draws the augmentation; None: inputs come as they are, for evaluation.

        Returns:
            Images as uint8, or as float32 in [0, 1] unless the card says `normalised`; vectors as float32; texts and
            sequences as int64 tokens; graphs as int16 tables (`networks.graphs`).

        Raises:
            UserError: An input can't be read; the message names it.
        """
        ...


@runtime_checkable
class SplitExamples(Examples, Protocol):
    """The examples of a data set that was published with its own splits: all that one way of splitting it uses.

    `card.parts` names the parts. Such a data set has one pseudo-domain for each way of splitting.
    """

    parts: Mapping[str, NDArray[np.int64]]
    """Part -> (m,) positions of its examples."""
    domains: NDArray[np.int64]
    """(n,), int64: number of the domain (hospital, user, repository) that each example is from; equal numbers in two
    parts mean the same domain."""

    def score(self, predicted: NDArray[Any], indices: NDArray[np.int64]) -> dict[str, float]:
        """Return the data set's own scores of predictions, by name; `card.metric` is one of them.

        Args:
            predicted: Shaped as the labels at `indices`: classes, numbers, or the logits of yes-no questions.
            indices: Positions of the examples predicted.
        """
        ...


@runtime_checkable
class Named(Protocol):
    """Examples that are files, so that messages and saved predictions can name them."""

    files: Sequence[str]
    """(n,) paths below the folder of the data set."""


@runtime_checkable
class Described(Protocol):
    """Examples with attributes beside label and domain, such as color, sex or hospital, for metrics of groups."""

    attributes: Mapping[str, Sequence[Any] | NDArray[Any]]
    """Name -> (n,) value of each example: texts or whole numbers. Those of few values group the examples."""


def _is_whole(numbers: NDArray[Any]) -> bool:
    return bool((np.isfinite(numbers) & (np.trunc(numbers) == numbers)).all())


class ArrayExamples:
    """Examples that are in memory whole, and are never augmented.

    Args:
        inputs: (n, *input_shape), uint8 or float32.
        labels: (n,) whole numbers, stored as int64.
        groups: As `Examples.groups`.
        attributes: As `Described.attributes`; None: there are none.

    Raises:
        UserError: Labels are not whole numbers.
    """

    def __init__(
        self,
        inputs: NDArray[Any],
        labels: NDArray[Any],
        groups: NDArray[Any] | None = None,
        attributes: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    ) -> None:
        self.inputs = inputs
        labels = np.asarray(labels)
        # The cast would turn NaN into a huge number, and cut 0.5 to 0.
        if labels.dtype.kind not in "biu" and not (labels.dtype.kind == "f" and _is_whole(labels)):
            raise UserError(f"the labels of ArrayExamples are whole numbers; those of type {labels.dtype} are not all")
        self.labels = labels.astype(np.int64)
        self.groups = groups
        self.attributes = attributes or {}

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[Any]:
        """Return the inputs at `indices`; `rng` is not used."""
        return self.inputs[indices]


class Dataset:
    """Base class of data sets. One instance is a data set opened on this machine: names and counts, not examples.

    `catalogue.sources.open_dataset` makes it, for planning and again in each run's process or its parent. A subclass
    declares `card` and writes `examples`, `counts` and `fingerprint`. Where the files decide the domains or the
    classes, it sets `domains` and `classes` in `open`, and refuses wrong files there, with all problems in one
    `UserError`.
    """

    card: DatasetCard
    """Facts that planning, `list` and tables read before any file is opened; `open` may complete an instance's own."""
    interpolation: str = "bilinear"
    """`bilinear` or `bicubic`: how image files are resized; `open_dataset` sets it to suit the backbone."""
    missing_classes: Mapping[str, Sequence[str]] = {}
    """Domain -> classes without an example in it, where the user allowed that."""
    archives: ClassVar[tuple[Archive, ...]] = ()
    """The files that the data set is published as, for `download`; empty: users get them by themselves."""

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
        """Open a data set: store the arguments, set `domains`, `classes` and `input_shape` by the card, call `open`.

        Args:
            data_dir: The folder that holds the data sets; None: not given.
            path: The path that follows the name (`folder:/data/mine`), for a card with `path`.
            image_size: Side in pixels of square images in place of the card's; 0: the card's.
            skip_bad_images: Leave out images that can't be decoded, and log their names.
            backbone: Name of the network that texts are tokenized for.
            allow_missing_classes: Accept a domain of the user's own data that lacks a class.
            exif: `turn`: turn the user's own images as their EXIF says; empty: leave them.
            max_image_pixels: Largest image that is decoded; 0: Pillow's limit.
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
        self.kept: dict[Any, Any] = {}
        """Domains that runs share, as `data.views.keep_domains` has opened them."""
        self.open()

    @property
    def outputs(self) -> int:
        """Return the logits of an example: one a class or question, at each place of a sequence; 1 for a number."""
        places = self.input_shape[-1] if self.card.task == "tokens" else 1
        return places * max(1, len(self.classes))

    def open(self) -> None:
        """Read names and counts of the files, and refuse wrong files with all problems in one `UserError`.

        Called at the end of `__init__`. It must be fast: every command that plans opens the data set. The default reads
        nothing, as suits data that are generated.
        """

    def ensure_vocabulary(self) -> None:
        """Download the vocabulary that texts are tokenized by, unless this machine has it; called before runs start.

        Raises:
            UserError: It can't be had; with the ways out.
        """

    def preload(self) -> None:
        """Load the data that all runs share, in the process that they are forked from.

        It must start no threads: a fork copies only the thread that calls it, and locks that others hold stay locked.
        """

    def examples(self, domain: str, seed: int) -> Examples:
        """Return the examples of a domain, without decoding inputs yet.

        Args:
            domain: One of `domains`.
            seed: Decides all that the data set draws (label noise, membership of domains); most draw nothing.
        """
        raise NotImplementedError

    def counts(self) -> Sequence[int]:
        """Return the number of examples of each domain, in the order of `domains`."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Return a hash of the data: equal on two machines if and only if results on them may be compared."""
        raise NotImplementedError

    def remarks(self) -> Sequence[str]:
        """Return sentences about these files that the user should read and that are no reason to refuse them.

        For example which of several published generations they are, or that some are duplicates.
        """
        return ()

    @classmethod
    def download(cls, data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        """Make the folder `data_dir / card.folder`, from the user's files or, if there are none, by downloading.

        The default downloads, checks and unpacks `archives`, then calls `arrange`; override it where the data come in
        another way. It neither locks nor cleans up: the command `download` calls it with a temporary folder as
        `data_dir`, opens the data set there, and only then moves `card.folder` to its place. When it fails, the command
        keeps `data_dir / "downloads"` for the next try and removes the rest. Nothing may hang, and downloads are
        checked by hash wherever one is published.

        Args:
            data_dir: The folder to write below.
            sources: Files or folders of the user's to make the data set from; where the user gave none and has the
                folder of `card.derived_from`, that one.
            progress: Called with what is being done, how much of it, and of how much.

        Raises:
            UserError: The sources are wrong.
            Unreachable: The network or a host fails.
        """
        # Not at the top: HTTP, zip and tar are slow to import, and planning does without them.
        from dgbench.data.archives import unpack_archives

        cls.arrange(unpack_archives(cls.archives, data_dir, sources, progress), data_dir / cls.card.folder, progress)

    @classmethod
    def arrange(cls, unpacked: Path, folder: Path, progress: ReportProgress) -> None:
        """Move the content of unpacked archives to a new folder, in the layout that `open` reads.

        The default moves the one folder that holds a folder for each domain, up to a few folders deep.

        Args:
            unpacked: The folder that the archives were unpacked to.
            folder: The path to move to, which doesn't exist yet.
            progress: As for `download`.
        """
        from dgbench.data.archives import move_folder_of  # as in `download`

        move_folder_of(cls.card.domains, unpacked, folder)
