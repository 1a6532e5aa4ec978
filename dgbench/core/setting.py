"""Everything but the method, the data and the luck that decides a result, and the presets that fix it.

A preset never changes: a new default is a new preset. `tests/core/test_setting.py` holds the digest of each.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from dgbench.core.errors import Problems
from dgbench.core.limits import Limit, find_problem, interval, one_of
from dgbench.core.wording import unknown_name

_SHARE = Limit(lambda share: 0 < share < 1, "must lie between 0 and 1, so that both parts hold something")
_SIDE = Limit(lambda side: side == 0 or side >= 8, "must be at least 8")
_SHA256 = Limit(
    lambda digits: bool(re.fullmatch("([0-9a-f]{64})?", digits)),
    "is the sha256 of a file, in 64 hexadecimal digits (--backbone_weights FILE says it for you)",
)


@dataclass(frozen=True)
class Setting:
    """How every run of a sweep is trained and evaluated."""

    preset: str
    steps: Annotated[int, interval("[1, inf)")] = 0
    """Optimizer steps; 0 stands for the data set's own number until `for_dataset` fills it in."""
    checkpoint_freq: Annotated[int, interval("[1, inf)")] = 0
    """Steps between evaluations (at 0, f, 2f, ... and the last step); 0 stands for the data set's own."""
    holdout_fraction: Annotated[float, _SHARE] = 0.2
    """Share of each domain that is its `out` part."""
    backbone: str = "auto"
    """A network's name; `auto` is the one that fits the data set's inputs."""
    pretrained: bool = True
    """False: timm's networks and language models start from random weights too, as ours always do."""
    weights: Annotated[str, _SHA256] = ""
    """What a pretrained network starts from: empty for what its name stands for, or the sha256 of a file, whose place
    on this machine `--backbone_weights` says."""
    image_size: Annotated[int, _SIDE] = 0
    """Side of the square that images are resized to; 0 stands for the data set's own."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """How image files, and crops of them in augmentation, are resized: `auto` is what timm's configuration says for
    the backbone's weights, bilinear where it says nothing; DomainBed's is bilinear whatever the network."""
    batch_norm: Literal["frozen", "live"] = "frozen"
    """`frozen`: running statistics stay as they are, the affine part trains (DomainBed's paper). Those of a network
    that starts without any (`pretrained` false, `GIN`) are live whatever the preset says."""
    nonlinear_classifier: bool = False
    augmentation: bool = True
    """DomainBed's image augmentation on training views; data sets without one ignore it."""
    validation_augmented: bool = False
    """Evaluate the training domains' `out` parts on augmented images, as DomainBed does."""
    class_balanced: bool = False
    """Draw training examples so that each class of a domain is as likely."""
    domains_per_step: Annotated[int, interval("[0, inf)")] = 0
    """Training domains whose minibatches make up a step, drawn anew each time; 0 stands for the data set's own number,
    which is all unless it has very many."""
    cache: Literal["auto", "off"] = "auto"
    """Where the pixels of image files come from: `auto` decodes each image once into a cache that all runs share, and
    augments its bytes; `off` decodes and augments each image by Pillow each time, as DomainBed does."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: Annotated[float, interval("[0, 1)")] = 0.9
    """Momentum of `sgd`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of every learning rate: `cosine` falls from its full value to 0 at the last step."""
    warmup_steps: Annotated[int, interval("[0, inf)")] = 0
    """Steps in which learning rates rise linearly to their full value, before the schedule."""
    clip_norm: Annotated[float, interval("[0, inf]")] = 0.0
    """Longest gradient that an optimizer step takes, all its parameters as one vector; longer ones are scaled down.
    0: any."""
    freeze: Literal["none", "embedding", "featurizer"] = "none"
    """What stays as it was initialised: the layers that read the input, or all but the classifier."""
    classifier_init: Literal["random", "linear_probe"] = "random"
    """`linear_probe`: before the first step the classifier is fitted to the initial features, by logistic
    regression. One that all trials share (`init` `sweep`) is fitted to the training examples of trial 0;
    other trials validate on some of these."""
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: Literal["auto", True, False] = "auto"
    """Keep images and convolutions in the memory order that many processors and GPUs convolve faster: `auto` does where
    the network convolves throughout, so that it pays. Rounding differs, so runs say which of both they were made in;
    DomainBed's networks keep PyTorch's own order."""
    compile: bool = False
    """Train with a featurizer that `torch.compile` has compiled; it is evaluated as it is."""
    init: Literal["trial", "run", "sweep"] = "trial"
    """`trial`: all runs of a trial start from the same weights, which is what averaging across runs needs.
    `run`: each run draws its own, as in DomainBed. `sweep`: all trials start from the same weights too."""
    data_order: Literal["paired", "run"] = "paired"
    """`paired`: runs that differ in the algorithm alone see the same minibatches. `run`: they don't, as the seed is
    DomainBed's, which mixes in the algorithm's name; what is drawn from it is not DomainBed's order."""
    generated_data: Literal["trial", "run", "sweep"] = "trial"
    """What the draws of data sets depend on that draw noise or membership; DomainBed's depend on the run.
    `sweep`: on nothing, so that all trials see the same data."""
    evaluate: Literal["selectors", "all"] = "selectors"
    """`selectors`: only views that some selector may read. `all`: the training views too."""
    ddof: Literal[0, 1] = 1
    """Of the standard deviation in error bars: 1 is the usual standard error, DomainBed divides by n."""

    def for_dataset(self, steps: int, checkpoint_freq: int) -> Setting:
        """Fill in the data set's own number of steps and evaluation interval where the setting leaves them at 0."""
        return dataclasses.replace(
            self, steps=self.steps or steps, checkpoint_freq=self.checkpoint_freq or checkpoint_freq
        )

    def lr_factor(self, step: int) -> float:
        """Return the share of its full value that a learning rate has at a step, by warm-up and schedule."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))) / 2

    def departures(self) -> dict[str, Any]:
        """List the fields whose values are not the preset's: name -> value."""
        preset = PRESETS[self.preset]
        own = {name: mine for name in FIELD_NAMES if (mine := getattr(self, name)) != getattr(preset, name)}
        return {name: mine for name, mine in own.items() if name not in LEFT_OPEN or mine}  # False is PyTorch's own way

    @property
    def of_domainbed(self) -> bool:
        """Whether hyperparameters act where DomainBed's do, and are drawn as they are there."""
        return self.preset.startswith("domainbed-")

    @property
    def evaluations(self) -> int:
        """Count `evaluation_steps`, however many they are."""
        return -(-(self.steps - 1) // self.checkpoint_freq) + 1

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """List the steps after which models are evaluated, counted from 0 as DomainBed counts."""
        last = self.steps - 1
        return tuple(dict.fromkeys((*range(0, self.steps, self.checkpoint_freq), last)))


_DOMAINBED_2020 = Setting(
    preset="domainbed-2020",
    cache="off",
    backbone="domainbed-2020",
    channels_last=False,
    interpolation="bilinear",
    validation_augmented=True,
    init="run",
    data_order="run",
    generated_data="run",
    ddof=0,
)
_DOMAINBED_2024 = dataclasses.replace(
    _DOMAINBED_2020, preset="domainbed-2024", backbone="domainbed-2024", batch_norm="live"
)
PRESETS: Mapping[str, Setting] = {
    preset.preset: preset for preset in (Setting("dgbench"), _DOMAINBED_2020, _DOMAINBED_2024)
}

OF_DATASET = ("steps", "checkpoint_freq", "image_size", "domains_per_step")
"""Fields whose 0 stands for the data set's own value."""
LEFT_OPEN = ("channels_last",)
"""Fields whose `auto` asks for nothing: a launch that leaves them at it goes on as a sweep was begun."""
FIELD_NAMES = tuple(f.name for f in dataclasses.fields(Setting) if f.name != "preset")


def _type_and_limits(hint: Any) -> tuple[str, Sequence[Limit]]:
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    limits = [note for note in notes if isinstance(note, Limit)]
    if get_origin(kind) is Literal:
        return "any", [one_of(get_args(kind)), *limits]
    return kind.__name__, limits


_HINTS = get_type_hints(Setting, include_extras=True)
_FIELDS = {name: _type_and_limits(_HINTS[name]) for name in FIELD_NAMES}


def setting(preset: str = "dgbench", /, **changes: Any) -> Setting:
    """Make a setting from a preset and some changed fields.

    Args:
        preset: A name in `PRESETS`.
        **changes: Field -> its value; an int is a fine float.

    Raises:
        UserError: Unknown names and wrong values, all problems at once.
    """
    problems = Problems()
    if preset not in PRESETS:
        problems.add(unknown_name("preset", preset, PRESETS))
    for name, value in changes.items():
        if name not in _FIELDS:
            problems.add(unknown_name("setting", name, FIELD_NAMES))
        elif wrong := find_problem(value, *_FIELDS[name]):
            problems.add(f"setting {name!r} {wrong}")
    if changes.get("classifier_init") == "linear_probe" and changes.get("nonlinear_classifier"):
        problems.add("classifier_init 'linear_probe' fits a linear classifier: leave out nonlinear_classifier")
    if changes.get("weights") and changes.get("pretrained") is False:
        problems.add("a file of weights is given, and pretrained is false: leave out one of them")
    if changes.get("pretrained") is False and changes.get("batch_norm") == "frozen":
        problems.add("pretrained is false, so batch norm has no statistics to freeze: leave out batch_norm 'frozen'")
    problems.raise_if_any()
    changes = {name: float(value) if _FIELDS[name][0] == "float" else value for name, value in changes.items()}
    return dataclasses.replace(PRESETS[preset], **changes)
