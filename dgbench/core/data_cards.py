"""Describe data sets without reading a file: their source, layout, labels, and advice before results are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name

GENERATED = "generated"
"""Trait of data sets that draw something (noise, membership of domains) by a seed."""
GOOGLE_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
"""Prefix of URLs at which Google Drive answers with the file itself, not with a page that asks for confirmation."""


@dataclass(frozen=True)
class Archive:
    """A file that a data set is published as."""

    name: str
    """File name, by which users' own copies are recognized; `.zip`, `.tar`, `.tar.gz` and `.tgz` are unpacked."""
    url: str = ""
    """URL for a plain HTTP request; empty where only a browser gets the file."""
    md5: str = ""
    """Hexadecimal MD5; empty where none is published."""
    into: str = ""
    """Folder to unpack into, where several archives make up one data set."""
    size: int = 0
    """Upper bound in bytes of the unpacked content, against archive bombs; 0: 100 times the archive's size."""


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """Properties of a data set: everything that planning needs before any file is read, and advice for users."""

    source: str
    """URL of the data's page, or a reference."""
    licence: str
    """Terms of use, in short."""
    input_shape: tuple[int, ...]
    """Shape of one input as the network sees it, without the batch; images are (channels, height, width)."""
    input_kind: str = "images"
    """A key of `INPUTS`. Networks accept some kinds only."""
    domains: tuple[str, ...] = ()
    """Names in the order of the tables; empty where the files decide."""
    classes: tuple[str, ...] = ()
    """Names in the order of the labels; empty where the files decide."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Domain -> number of examples that it must have; `verify` compares."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """For data published with a fixed split: part -> number of examples it must have in the first domain. `domains` are
    then the ways of splitting, each of them a fold. Empty: splits are drawn.
    """
    shared_identities: bool = False
    """Whether every domain shows the same identities (`Examples.groups`), so that some are kept for the test."""
    metric: str = "accuracy"
    """Score that selectors read and tables show: `accuracy`, or one that the data set computes."""
    task: str = "classification"
    """Form of the labels, a key of `TASKS`."""
    backbone: str = ""
    """The network that `auto` stands for; empty: the usual one for the kind of input."""
    normalised: bool = False
    """Whether images come normalized by the data set, so that the network must not normalize them."""
    unsupported: str = ""
    """Reason why sweeps refuse the data set although it is listed; empty: they don't."""
    domains_per_step: int = 0
    """Training domains that make up a step, drawn anew for each; 0: all of them."""
    generations: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Name of a published version -> its `counts`, where the data were published in several; `counts` is then empty."""
    duplicates: Mapping[str, int] = field(default_factory=dict)
    """Domain -> number of published files beyond `counts`, which a published list names as duplicates."""
    tested: tuple[str, ...] = ()
    """Domains that may be held out, where the others exist for training alone; empty: all."""
    known_bad: Mapping[str, str] = field(default_factory=dict)
    """File or files -> the fault. They are used as they are, because published results use them."""
    mirrors: tuple[str, ...] = ()
    """URLs of other copies, for when `source` is gone."""
    note: str = ""
    """Advice to read before comparing results."""
    paper: str = ""
    """Authors, title, venue and year."""
    link: str = ""
    """URL of the paper's page: arXiv where it has one, else the publisher."""
    folder: str = ""
    """Folder under the data directory; empty if the data set needs no files."""
    derived_from: str = ""
    """Folder of the data set that this one is computed from, which `download` then gets; empty: none."""
    features_of: str = ""
    """The network with pretrained weights that computed the inputs; empty: inputs are no features."""
    shares: Mapping[str, str] = field(default_factory=dict)
    """Key of `CORPORA` -> what the examples have in common with it, as a clause. Tables mark the data set where a
    network was pretrained on one of these.
    """
    path: bool = False
    """Whether the name carries a path: `folder:/data/PACS`."""
    traits: tuple[str, ...] = ()
    """`GENERATED`, and traits that vary hyperparameter spaces: `few_examples`, `from_scratch`, `sequences`, ..."""
    steps: int = 5001
    """Default number of steps: the one that papers on the data train for, so that results compare."""
    checkpoint_freq: int = 300
    """Default number of steps between evaluations."""
    of_domainbed: Mapping[str, int] = field(default_factory=dict)
    """`steps` and `checkpoint_freq` under the `domainbed-*` presets, where DomainBed's differ."""

    def __post_init__(self) -> None:
        if self.input_kind not in INPUTS:
            raise UserError(unknown_name("input_kind of a data set", self.input_kind, INPUTS))
        for corpus in self.shares:
            if corpus not in CORPORA:
                raise UserError(unknown_name("corpus that a data set shares examples with", corpus, CORPORA))
        if len(self.input_shape) != INPUTS[self.input_kind]:
            shape = " x ".join(map(str, self.input_shape))
            raise UserError(f"a data set's card says input_kind {self.input_kind!r}, and inputs of {shape} are none")


INPUTS: Mapping[str, int] = {"images": 3, "vectors": 1, "texts": 2, "sequences": 1, "graphs": 2}
"""Kind of input -> its number of axes.

Images are (channels, height, width). Texts are (tokens, 2): token ids, and a mask that is 1 up to the end and 0 after
it. Sequences are (tokens,), all of which count. Graphs are tables, described in `networks.graphs`.
"""
CORPORA: Mapping[str, str] = {
    "ImageNet-1k": "the 1,000 classes of ImageNet's challenge of 2012",
    "ImageNet-21k": "ImageNet's full release",
    "LVD-142M": "DINOv2's images: ImageNet's, and images of the web that resemble those of further data sets",
    "web": "images of the web with their captions or tags: those of CLIP, LAION, Instagram and the like",
    "text": "books, Wikipedia or pages of the web",
    "code": "public repositories of source code",
}
"""Kind of pretraining data -> its description, for the cards of weights and of data sets."""
TASKS: Mapping[str, str] = {
    "classification": "one class an example",
    "regression": "one real number an example",
    "tokens": "one class at each place of a sequence",
    "multilabel": "several yes-no questions an example, some of them unanswered",
}
"""Form of labels -> its description for messages."""
