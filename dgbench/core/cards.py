"""Describe catalogue entries without importing them: papers, costs, and needs of data, network and setting.

An author writes a card in the class body of a method or data set. `list` and the tables print it, planning refuses runs
that its needs rule out before anything starts, and `dgbench check` tests that the class keeps its word. Cards are read
with the catalogue's index, so this module needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.wording import unknown_name

MODELS = "models"
"""Number of models that a run of an analysis takes, in `AnalysisCard.passes`."""
TAGS: Mapping[str, str] = {
    "adversarial": "a discriminator or another adversary is trained against the model",
    "alignment": "features are distributed alike in all training domains",
    "augmentation": "inputs, styles or features are mixed or perturbed",
    "averaging": "weights of several steps or runs are averaged",
    "baseline": "plain training, which the others are compared with",
    "contrastive": "features of examples that belong together are pulled together",
    "disentanglement": "domain or style is separated from content",
    "distillation": "predictions of another model, or of the past, are the target",
    "distribution-robustness": "the loss of the worst domains, or the spread of the losses, is minimized",
    "domain-context": "a prediction also reads other inputs of its domain",
    "ensembling": "predictions of several models are averaged",
    "flat-minima": "the loss is kept low or flat around the weights",
    "gradient-matching": "gradients or curvatures of the domains are made to agree",
    "invariance": "one predictor must suit all training domains",
    "meta-learning": "steps on some examples or domains are made to help on others",
    "neighbors": "predictions are votes of the nearest examples or class prototypes",
    "pretraining": "the model is kept close to its pretrained start",
    "quantization": "weights take few values",
    "regularization": "logits or features are penalized or muted",
    "reweighting": "examples or domains are weighted, or copied",
    "test-time": "the model adapts to the inputs that it predicts",
    "training-recipe": "the course of training is changed, not its objective",
}
"""Tag of a method -> the idea in words. `dgbench list --tag` finds methods by it."""


class _Tagged:
    """Base of the cards of methods, which refuses unknown tags."""

    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        for tag in self.tags:
            if tag not in TAGS:
                raise UserError(unknown_name("tag on a card", tag, TAGS))


@dataclass(frozen=True, kw_only=True)
class AlgorithmCard(_Tagged):
    """Properties of an algorithm that a user should know before running it; `dgbench check` tests every one of them."""

    paper: str
    """Authors, venue and year."""
    link: str = ""
    """URL of the paper's page: arXiv where it has one, else the publisher."""
    tags: tuple[str, ...] = ()
    """Ideas that the method is built on, keys of `TAGS`."""
    forwards: float = 1.0
    """Examples passed forward through the featurizer in a step, divided by the examples of the minibatches; ERM has 1.

    Counted at default hyperparameters, in the phase that most steps belong to. Work in the classifier alone is left
    out.
    """
    backwards: float = 1.0
    """The same ratio for backward passes. A backward pass through a backward pass counts again."""
    min_domains: int = 1
    """Training domains below which the method is undefined, so that the run is refused."""
    transductive: bool = False
    """Whether a prediction depends on the other inputs of its batch. Such a method is evaluated in a seeded order, in
    batches of a domain's minibatch size.
    """
    baseline: bool = False
    """Whether averages, mergers and adapters without an algorithm apply to this one; true of exactly one in the
    catalogue.
    """
    penalties: tuple[str, ...] = ()
    """Hyperparameters that weigh the method's additions: each changes training, and with all at 0 `base` remains."""
    base: str | None = ""
    """The algorithm that remains, up to rounding, when all `penalties` are 0; empty: the baseline; None: none."""
    without: Mapping[str, Any] = field(default_factory=dict)
    """Further hyperparameters -> values they must have for `base` to remain (no weight of 1 before annealing)."""
    rehearsal: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters under which twenty steps show every phase of the method (schedules and warm-ups cut short)."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the setting that the method decides, whatever a sweep says of them (`classifier_init`)."""
    learns: bool = True
    """Whether steps change the model. One that doesn't learn is its initial weights, evaluated once in a run of one
    step, and its draws of hyperparameters are one.
    """
    followers: tuple[str, ...] = ()
    """Modules whose parameters have no gradient but follow others, such as moving averages."""
    needs: tuple[str | Need, ...] = ()
    """Requirements on inputs, labels, network or setting: keys of `NEEDS`, or `Need` where there is more to say."""
    draws: bool = False
    """Whether `loss` draws random numbers beside dropout's. The passes of a step rule then share its draws."""
    rule: str = ""
    """The step rule that takes its steps where its row names no other; empty: plain descent."""
    taught: bool = False
    """Whether the method learns from a teacher model. Its hyperparameters `teacher` (a row's name) and
    `teacher_backbone` (empty: the run's own) name runs of the same fold and trial. The best model of those by
    training-domain validation predicts each minibatch, and its logits are `Batch.taught`.
    """
    no_feedback: Mapping[str, str] = field(default_factory=dict)
    """Key of `FEEDBACK` that averages must leave alone under this algorithm -> the reason."""
    syncs: str = ""
    """The reason why a step waits for the device; empty if it doesn't."""
    unlike_domainbed: str = ""
    """How DomainBed's method of this name differs, where it departs from its paper."""
    experimental: str = ""
    """Choices that are dgbench's own, because no publication fixes them."""


FEEDBACK: Mapping[str, str] = {
    "weights": "the weights that training goes on from",
    "learning_rate": "the learning rate",
}
"""Part of training that an average may change while it watches -> that part in words for messages."""


@dataclass(frozen=True, kw_only=True)
class AverageCard(_Tagged):
    """Properties of an average of weights along a run."""

    paper: str
    """Authors, venue and year."""
    link: str = ""
    """URL of the paper's page: arXiv where it has one, else the publisher."""
    tags: tuple[str, ...] = ()
    """Ideas that the method is built on, keys of `TAGS`."""
    when: str = "always"
    """`always`: a predictor at every evaluation. `end`: one predictor, after the last step."""
    copies: float = 1.0
    """Copies of the model's weights held in memory at most."""
    feeds_back: tuple[str, ...] = ()
    """Keys of `FEEDBACK`: the parts of the watched training that it changes. It then needs a run to itself; other
    averages share one.
    """
    batch_norm: str = "measured"
    """Source of live batch-norm statistics: `measured` afresh for the averaged weights, or `averaged` like them."""


@dataclass(frozen=True, kw_only=True)
class MergerCard(_Tagged):
    """Properties of a merger, which combines models of finished runs."""

    paper: str
    """Authors, venue and year."""
    link: str = ""
    """URL of the paper's page: arXiv where it has one, else the publisher."""
    tags: tuple[str, ...] = ()
    """Ideas that the method is built on, keys of `TAGS`."""
    average: str = ""
    """The average whose models are merged if the row names none (EoA merges moving averages); empty: plain models."""
    ensemble: bool = False
    """Whether the result is several networks whose logits are averaged, not one network."""
    shared_init: bool = True
    """Whether members must start from the same weights."""
    min_members: int = 2
    """Fewest runs that can be merged."""
    each: bool = False
    """Whether it merges each run with the weights that run started from, not all runs of a trial with each other."""
    changes_equal: str = ""
    """Reason why members that are all equal give another model than each of them; empty: they don't."""
    in_order: str = ""
    """Reason why the order of members makes a difference; empty: it doesn't."""
    all_trials: bool = False
    """Whether it merges runs of all trials. Some trial trained on each example of the training domains, so nothing is
    left to validate on: there is one model, no choice, and no standard error.
    """
    needs: tuple[str | Need, ...] = ()
    """Requirements, as on an algorithm's card."""


@dataclass(frozen=True, kw_only=True)
class AdapterCard(_Tagged):
    """Properties of a test-time adapter."""

    paper: str
    """Authors, venue and year."""
    link: str = ""
    """URL of the paper's page: arXiv where it has one, else the publisher."""
    tags: tuple[str, ...] = ()
    """Ideas that the method is built on, keys of `TAGS`."""
    forwards: float = 1.0
    """Forward passes through the featurizer for each test example."""
    backwards: float = 0.0
    """Backward passes for each test example."""
    needs: tuple[str | Need, ...] = ()
    """Requirements, as on an algorithm's card. Every adapter also needs labels that are classes."""
    needs_features: bool = True
    """Whether it works on the features of one network, and so not on an ensemble."""
    needs_source: bool = False
    """Whether it sees the training examples before the first test batch."""


DRAWINGS: Mapping[str, str] = {
    "lines": "each of `values` over `x`, a line for each value of `by`",
    "map": "each of `values` as color over the plane of `x` and `y`; points that `by` names are marked",
    "points": "a point at each `x` and `y`, colored by each of `by`",
}
"""Form in which a series is drawn -> the form in words."""


@dataclass(frozen=True, kw_only=True)
class SeriesCard:
    """Data that an analysis finds to be drawn: named columns of equal length, and the figure that they make.

    Example:
        `SeriesCard(title="Spectral density", drawing="lines", x="eigenvalue", values=("density",), labels={...})`
    """

    title: str
    """What stands above the figure."""
    drawing: str
    """The form of the figure, a key of `DRAWINGS`."""
    labels: Mapping[str, str]
    """Name of each column -> its label on an axis, with its unit."""
    x: str
    """The column of the horizontal axis."""
    y: str = ""
    """The column of the vertical axis, of maps and points."""
    values: tuple[str, ...] = ()
    """The columns that are drawn, of lines and maps: each has panels and a scale of its own."""
    by: tuple[str, ...] = ()
    """Columns of text that tell lines or points apart; of a map, the column that names marked points."""
    logarithmic: tuple[str, ...] = ()
    """Columns that are shown on a logarithmic scale."""
    caption: str = ""
    """How to read the figure."""

    def __post_init__(self) -> None:
        if self.drawing not in DRAWINGS:
            raise UserError(unknown_name("drawing on the card of a series", self.drawing, DRAWINGS))
        used = (self.x, *(self.y for _ in self.y[:1]), *self.values, *self.by, *self.logarithmic)
        for name in (name for name in used if name not in self.labels):
            raise UserError(unknown_name("column on the card of a series", name, self.labels))
        lacking = "y" if self.drawing != "lines" and not self.y else "values"
        if lacking == "y" or (self.drawing != "points" and not self.values):
            raise UserError(f"the card of the series {self.title!r} lacks {lacking}, which {self.drawing} need")


TAKES: Mapping[str, str] = {
    "model": "the best model of each run by itself",
    "trial": "all runs of a trial together",
    "rows": "a model of each row that is asked for, of the same trial and draw, together",
}
"""Models that a run of an analysis measures together -> the same in words."""


@dataclass(frozen=True, kw_only=True)
class AnalysisCard(_Tagged):
    """Properties of an analysis, which measures finished models beyond their scores."""

    paper: str
    """Authors, venue and year."""
    measures: Mapping[str, str]
    """Name of each number that it finds -> its meaning, in words that fit into a table's legend. Names that end in
    `_error` are errors of estimates, which are not compared with accuracy.
    """
    series: Mapping[str, SeriesCard] = field(default_factory=dict)
    """Name of each series that it finds -> the figure that it makes."""
    link: str = ""
    """URL of the paper's page: arXiv where it has one, else the publisher."""
    tags: tuple[str, ...] = ()
    """Ideas that the measures belong to, keys of `TAGS`."""
    takes: str = "model"
    """The models that it measures together, a key of `TAKES`."""
    models: int = 0
    """Number of models that it takes; 0: any number, and where it compares models two or more."""
    min_domains: int = 1
    """Training domains below which it is undefined, so that the run is refused."""
    needs: tuple[str | Need, ...] = ()
    """Requirements, as on an algorithm's card."""
    needs_features: bool = False
    """Whether it reads features and classifier of a network apart, which a class for DomainBed doesn't show."""
    examples: str = ""
    """Hyperparameter that bounds the examples that it reads of each view; empty: it reads all."""
    passes: tuple[tuple[float | str, ...], ...] = ((1, MODELS),)
    """Forward passes over these examples, about, as a sum of products of numbers, hyperparameters and `MODELS`; a
    backward pass counts as two, a product with the Hessian as six. `--dry_run` and estimates of time count with them.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.takes not in TAKES:
            raise UserError(unknown_name("value of takes on a card", self.takes, TAKES))


Card = AlgorithmCard | AverageCard | MergerCard | AdapterCard | DatasetCard


def needs_of(card: Card) -> tuple[Need, ...]:
    """Return the needs of a card, bare names as `Need`; averages have none."""
    needs = (*getattr(card, "needs", ()), *(("classes",) if isinstance(card, AdapterCard) else ()))
    return tuple(need if isinstance(need, Need) else Need(need) for need in needs)
