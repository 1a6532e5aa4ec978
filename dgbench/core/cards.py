"""What is known of a catalogue entry without running it: `list` prints it, planning checks it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name

GENERATED = "generated"
"""Trait of data sets that draw something (noise, membership of domains) by a seed."""


DOMAINS = "domains"
"""Need of so many training domains (`Need.least`)."""
EAGER = "eager"
"""Need of training without `compile`."""


@dataclass(frozen=True)
class Need:
    """One need of a method, on its card, where the name of the need is not all.

    `Need("images", when={"perturbation": "style"})`, `Need("domains", when={"form": "wilds"}, least="meta_steps")`,
    `Need("eager", why="takes gradients of gradients, which PyTorch has no compiled form of")`.
    """

    what: str
    """A key of `NEEDS`, `DOMAINS` or `EAGER`."""
    when: Mapping[str, Any] = field(default_factory=dict)
    """The values of hyperparameters with which that is needed; empty: any."""
    why: str = ""
    """Of `EAGER`: what the method does that can't be compiled, `takes gradients of gradients`."""
    least: int | str = 0
    """Of `DOMAINS`: how many, or the hyperparameter that says it. Where that hangs on no value, `min_domains` does."""

    def __post_init__(self) -> None:
        if self.what not in (known := (*NEEDS, DOMAINS, EAGER)):
            raise UserError(unknown_name("need on a card", self.what, known))


@dataclass(frozen=True, kw_only=True)
class AlgorithmCard:
    """What a user should know of an algorithm before running it; `dgbench check` holds it to each word."""

    paper: str
    link: str = ""
    """Address of the paper's page: arXiv's where it is there, else its publisher's."""
    forwards: float = 1.0
    """Examples that pass forward through the featurizer in a step, by those of the minibatches; the baseline has 1.

    At default hyperparameters, in the phase that most steps belong to; work in the classifier alone does not count.
    """
    backwards: float = 1.0
    """The same of backward passes. A backward pass through a backward pass counts again."""
    min_domains: int = 1
    """Training domains below which the method says nothing, so the run is refused."""
    transductive: bool = False
    """A prediction depends on the other inputs that are predicted with it.

    Views are shown to it in a seeded order, as many inputs at a time as a minibatch of a domain has."""
    baseline: bool = False
    """The algorithm that a bare average, merger or adapter is "of"; exactly one in the catalogue."""
    penalties: tuple[str, ...] = ()
    """Hyperparameters that weigh what the method adds: each changes the training, and all at 0 leave `base`."""
    base: str | None = ""
    """The algorithm that remains, to rounding, when all `penalties` are 0; empty: the baseline; None: no other."""
    without: Mapping[str, Any] = field(default_factory=dict)
    """Other hyperparameters that must have these values for `base` to remain: no weight of 1 before an annealing."""
    rehearsal: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters under which twenty steps show all that the method does (schedules, warm-ups cut short)."""
    followers: tuple[str, ...] = ()
    """Modules whose parameters learn nothing by themselves but follow others: moving averages."""
    needs: tuple[str | Need, ...] = ()
    """What the inputs, the labels, the network or the setting must be or have: of `NEEDS`, or a `Need`."""
    taught: bool = False
    """Learns from another model: its hyperparameters `teacher` (a row's name) and `teacher_backbone` (empty: the
    run's own) name runs of the same fold and trial. The best of their models by training-domain validation is shown
    each minibatch, whose `Batch.taught` are its logits."""
    no_feedback: Mapping[str, str] = field(default_factory=dict)
    """What an average can't change of its training, of `FEEDBACK` -> why not."""
    syncs: str = ""
    """Why a step waits for the device, if it does."""
    unlike_domainbed: str = ""
    """What DomainBed's method of this name does instead, where that is not what its paper says."""
    experimental: str = ""
    """Which choices are ours because nothing published fixes them."""


NEEDS: Mapping[str, str] = {
    "feature_maps": "images and a convolutional backbone",
    "inner_maps": "images and a convolutional backbone with maps of several positions before its last stage",
    "convolutions": "images and a backbone with convolutions",
    "stages": "a backbone of which is known what passes between its stages",
    "stage_modules": "a backbone of which is known which modules are its stages",
    "linear_classifier": "a linear classifier",
    "random_classifier": "a classifier that starts at random",
    "learning_features": "a featurizer that learns",
    "batch_norm": "a network with batch norm",
    "norm": "a network with normalisation layers",
    "classes": "labels that are classes",
    "every_class": "every class in every domain",
    "images": "inputs that are images",
    "real_inputs": "inputs that are images or vectors",
    "feature_vectors": "one vector of features an example",
    "own_classifier": "a classifier with weights of its own",
}
"""What a method may need of the network, the labels or the inputs, in the user's words."""


FEEDBACK: Mapping[str, str] = {
    "weights": "the weights that training goes on from",
    "learning_rate": "the learning rate",
}
"""What an average may change of the training that it watches, in the user's words."""


def holds(condition: Mapping[str, Any], hparams: Mapping[str, Any]) -> bool:
    """Whether hyperparameters have the values of a condition."""
    return all(hparams[name] == value for name, value in condition.items())


def with_values(condition: Mapping[str, Any]) -> str:
    """A condition behind a method's name: ` with form 'double'`; nothing if there is none."""
    return f" with {' and '.join(f'{name} {value!r}' for name, value in condition.items())}" if condition else ""


@dataclass(frozen=True, kw_only=True)
class AverageCard:
    """What a user should know of an average along a run."""

    paper: str
    link: str = ""
    """Address of the paper's page: arXiv's where it is there, else its publisher's."""
    when: str = "always"
    """`always`: a predictor at every evaluation. `end`: one predictor, when training is over."""
    copies: float = 1.0
    """Copies of the model that it holds at most."""
    feeds_back: tuple[str, ...] = ()
    """What it changes of the training that it watches, of `FEEDBACK`; that is then a run of its own."""
    batch_norm: str = "measured"
    """Where batch norm is live: `measured` afresh for the averaged weights, or `averaged` like them."""


@dataclass(frozen=True, kw_only=True)
class MergerCard:
    """What a user should know of a merger of runs."""

    paper: str
    link: str = ""
    """Address of the paper's page: arXiv's where it is there, else its publisher's."""
    average: str = ""
    """The average whose models are merged where the name has none (EoA merges moving averages)."""
    ensemble: bool = False
    """The result is several networks whose logits are averaged, not one network."""
    shared_init: bool = True
    """Members must start from the same weights."""
    min_members: int = 2
    each: bool = False
    """Takes each run by itself, with the weights that it started from, not all runs of a trial together."""
    all_trials: bool = False
    """Takes the runs of all trials together. Each example of the training domains was trained on in some trial, so
    nothing can be validated on them: there is one model and no choice, and no error either."""
    needs: tuple[str | Need, ...] = ()
    """As on an algorithm's card."""


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """What a user should know of a test-time adapter."""

    paper: str
    link: str = ""
    """Address of the paper's page: arXiv's where it is there, else its publisher's."""
    forwards: float = 1.0
    backwards: float = 0.0
    needs: tuple[str | Need, ...] = ()
    """As on an algorithm's card; every adapter also needs labels that are classes."""
    needs_features: bool = True
    """Works on one network's features, so not on an ensemble."""
    needs_source: bool = False
    """Is shown the training examples before the first batch."""


GOOGLE_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
"""Where Google Drive answers with a file, not with a page that asks whether to go on."""


@dataclass(frozen=True)
class Archive:
    """A file that a data set is published as."""

    name: str
    """Its file name, by which users' copies are recognised; `.zip`, `.tar`, `.tar.gz` or `.tgz` is unpacked."""
    url: str = ""
    """Where a plain HTTP request gets it; empty where only a browser does."""
    md5: str = ""
    """Hexadecimal; empty where none is published."""
    into: str = ""
    """The folder that its content belongs into, where several archives make one data set."""
    size: int = 0
    """Upper bound of the bytes that it unpacks to; 0: 100 times its own."""


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What a user should know of a data set, and what planning needs before any file is read."""

    source: str
    licence: str
    input_shape: tuple[int, ...]
    """Shape of one input as the network sees it."""
    input_kind: str = "images"
    """What an input is, a key of `INPUTS`: a network takes some kinds and no others."""
    domains: tuple[str, ...] = ()
    """In the order of the tables; empty where the files decide."""
    classes: tuple[str, ...] = ()
    """In the order of the labels; empty where the files decide."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of examples that each domain must have."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """For data with splits of its own: the parts, and how many examples each must have in the first domain.

    Its `domains` are the ways in which it is split, each of them a fold. Empty: parts are drawn.
    """
    shared_identities: bool = False
    """Every domain shows the same identities (`Examples.groups`), so some of them are kept to be tested alone."""
    metric: str = "accuracy"
    """The score that selects and that tables show: `accuracy`, or one that the data set computes itself."""
    task: str = "classification"
    """What the labels are, a key of `TASKS`."""
    backbone: str = ""
    """The network that `auto` stands for; empty: the one that fits the inputs."""
    normalised: bool = False
    """Images come normalised in a way of their own, so that the network doesn't normalise them."""
    unsupported: str = ""
    """Why sweeps refuse it, of data that are listed all the same."""
    domains_per_step: int = 0
    """How many of its training domains make up a step, drawn anew each time; 0: all of them."""
    generations: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """What it is called -> counts, where one name was published with several; `counts` is then empty."""
    duplicates: Mapping[str, int] = field(default_factory=dict)
    """Number of files that a domain was published with beyond `counts`, and that a published list names."""
    tested: tuple[str, ...] = ()
    """The domains that may be held out, where the others are made to be trained on; empty: every domain."""
    known_bad: Mapping[str, str] = field(default_factory=dict)
    """File or files -> what is wrong with them. They are used all the same, as published results do."""
    mirrors: tuple[str, ...] = ()
    """Where else to look when `source` is dead."""
    note: str = ""
    """What a user should know before comparing results."""
    paper: str = ""
    link: str = ""
    """Address of the paper's page: arXiv's where it is there, else its publisher's."""
    folder: str = ""
    """Its place under the data directory; empty if it needs no files."""
    derived_from: str = ""
    """Folder of the data set that it is computed from; if it lies under the data directory, `download` gets it."""
    path: bool = False
    """Its name carries a path: `folder:/data/PACS`."""
    traits: tuple[str, ...] = ()
    """`GENERATED`, and what hyperparameter spaces may vary by: `few_examples`, `from_scratch`, `sequences`, ..."""
    steps: int = 5001
    """Those that papers on the data train for, which one may compare with."""
    checkpoint_freq: int = 300
    of_domainbed: Mapping[str, int] = field(default_factory=dict)
    """`steps` and `checkpoint_freq` under the `domainbed-*` presets, where DomainBed's are others."""

    def __post_init__(self) -> None:
        if self.input_kind not in INPUTS:
            raise UserError(unknown_name("input_kind of a data set", self.input_kind, INPUTS))
        if len(self.input_shape) != INPUTS[self.input_kind]:
            shape = " x ".join(map(str, self.input_shape))
            raise UserError(f"a data set's card says input_kind {self.input_kind!r}, and inputs of {shape} are none")


INPUTS: Mapping[str, int] = {"images": 3, "vectors": 1, "texts": 2, "sequences": 1, "graphs": 2}
"""What an input may be -> how many axes it then has.

Images are channels, height, width. Texts are tokens, and 1 below each that counts, 0 below those after the end.
Sequences are tokens that all count. Graphs are tables, see `networks.graphs`.
"""

TASKS: Mapping[str, str] = {
    "classification": "one class an example",
    "regression": "one real number an example",
    "tokens": "one class at each place of a sequence",
    "multilabel": "several yes-no questions an example, some of them unanswered",
}
"""What labels may be, in the user's words."""


Card = AlgorithmCard | AverageCard | MergerCard | AdapterCard | DatasetCard


def needs_of(card: Card) -> tuple[Need, ...]:
    """Return the needs of a card, those that are names alone made whole; averages have none."""
    needs = (*getattr(card, "needs", ()), *(("classes",) if isinstance(card, AdapterCard) else ()))
    return tuple(need if isinstance(need, Need) else Need(need) for need in needs)
