"""Define `Setting`, all options of training and evaluation that results depend on, and read the presets that fix them.

A run's result is decided by its method and data, by its seeds, and by the setting: network, steps, augmentation,
optimizer, precision, evaluation. A setting starts from a preset and changes single fields (`setting`); planning then
fills in the values that the data set decides (`Setting.for_dataset`), and the result is part of every run of the sweep
and of its id. Tables print the preset's name with the fields that depart from it.

A preset never changes, since published tables name it: a new default is a new preset. `tests/core/test_setting.py`
holds a digest of each. Options that change no result (paths, device, workers) are in `core.site`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import orjson

from dgbench.core import schedules
from dgbench.core.errors import Problems
from dgbench.core.limits import Limit, find_problem, interval, one_of
from dgbench.core.optimizers import WITH_AMSGRAD, optimizer_problem
from dgbench.core.plain import Canonical, fields_of
from dgbench.core.presets import DEFAULT, preset_names, read_preset
from dgbench.core.stream import canonical, stream_problems
from dgbench.core.wording import unknown_name

_SHARE = Limit(lambda share: 0 < share < 1, "must lie between 0 and 1, so that both parts hold something")
_SIDE = Limit(lambda side: side == 0 or side >= 8, "must be at least 8")
PROMPTS = ("imagenet", "imagenet_simple")
"""Values of `prompt` that stand for sets of templates."""
_PROMPT = Limit(
    lambda prompt: prompt in PROMPTS or (prompt.count("{}") == 1 and "{" not in prompt.replace("{}", "")),
    "is a text with one {} for the name of a class, or 'imagenet' or 'imagenet_simple', sets of open_clip",
)
_SHA256 = Limit(
    lambda digits: bool(re.fullmatch("([0-9a-f]{64})?", digits)),
    "is the sha256 of a file, in 64 hexadecimal digits (--backbone_weights FILE says it for you)",
)


class Added:
    """The note, in a field's `Annotated`, that stored runs may be older than the field, so that their ids lack it."""


@dataclass(frozen=True)
class Setting(Canonical):
    """Options of training and evaluation that hold for every run of a sweep, made by `setting` and checked there.

    Bounds stand beside the types, as `Annotated` limits. A 0 or `auto` left by the user stands for the data set's or
    the network's value until planning fills it in (`for_dataset`). The first sentence below each field is a line of
    `list settings`, and the whole text is its description. A new field is `Added`, and its default keeps what was done
    before: ids of runs then stay what they are.
    """

    preset: str
    """Name of the preset that it started from, a key of `PRESETS`."""
    steps: Annotated[int, interval("[1, inf)")] = 0
    """Optimizer steps; 0 stands for the data set's number."""
    checkpoint_freq: Annotated[int, interval("[1, inf)")] = 0
    """Steps between evaluations; 0 stands for the data set's number. Models are evaluated at steps 0, f, 2f and so on,
    and at the last one.
    """
    holdout_fraction: Annotated[float, _SHARE] = 0.2
    """Share of each domain's examples that is its `out` part."""
    backbone: str = "auto"
    """Name of the network; `auto` is the one that fits the data set's inputs. `list backbones` shows all."""
    pretrained: bool = True
    """Whether timm's networks and language models start from pretrained weights; built-in networks never do."""
    weights: Annotated[str, _SHA256] = ""
    """Sha256 of the file that a pretrained network starts from; empty: the weights that its name stands for. Give the
    file by `--backbone_weights`, on each machine by its own path.
    """
    image_size: Annotated[int, _SIDE] = 0
    """Side in pixels of the square that images are resized to; 0 stands for the data set's size."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """Filter for resizing images: `auto` is the one that the backbone's weights were trained with. That is what timm's
    configuration says, and bilinear where it says nothing. Crops in augmentation are resized by the same filter.
    DomainBed's is bilinear for every network.
    """
    batch_norm: Literal["frozen", "live"] = "frozen"
    """Running statistics of batch norm: `frozen` as they were before training (DomainBed's paper), or `live`. Where
    they are frozen, the affine part still trains. A network that starts without statistics (`pretrained` false, `GIN`)
    is live under either.
    """
    nonlinear_classifier: bool = False
    """Replace the linear classifier by DomainBed's three-layer one."""
    augmentation: bool = True
    """Apply DomainBed's image augmentation to training views; data sets without one ignore it."""
    validation_augmented: bool = False
    """Evaluate the training domains' `out` parts on augmented images, as DomainBed does."""
    class_balanced: bool = False
    """Draw training examples so that the classes of a domain are equally likely."""
    domains_per_step: Annotated[int, interval("[0, inf)")] = 0
    """Number of training domains in a step, drawn anew for each; 0 stands for the data set's number. That is all of
    them, unless the data set has very many.
    """
    cache: Literal["auto", "off"] = "auto"
    """Source of pixels: `auto` decodes each image once, into a cache that all runs share; `off` decodes it each time.
    With `auto`, the bytes in the cache are augmented in batches. `off` decodes and augments each image by Pillow, as
    DomainBed does.
    """
    optimizer: str = "adam"
    """Optimizer of every algorithm that doesn't build its own; `list optimizers` shows all."""
    amsgrad: Annotated[bool, Added] = False
    """Divide the steps of `adam` and `adamw` by the largest second moment so far, not by the present one."""
    momentum: Annotated[float, interval("[0, 1)")] = 0.9
    """Momentum of `sgd` and of others that have a parameter of this name; the rest ignore it."""
    schedule: Literal["constant", "cosine", "linear", "step", "one_cycle"] = "constant"
    """Course of every learning rate, after warm-up, between its full value and 0. `cosine` and `linear` fall to 0 at
    the last step, `step` falls in stairs (`schedule_every`, `schedule_gamma`), and `one_cycle` rises from 1/25 in the
    first 30% of the steps and then falls to almost 0, as PyTorch's `OneCycleLR`, whose course of the momentum it lacks.
    """
    schedule_every: Annotated[float, interval("(0, 1]"), Added] = 0.8
    """Share of the steps after which learning rates fall, again and again, with schedule `step`."""
    schedule_gamma: Annotated[float, interval("(0, 1]"), Added] = 0.1
    """Factor on learning rates at each fall of schedule `step`."""
    warmup_steps: Annotated[int, interval("[0, inf)")] = 0
    """Steps in which learning rates rise linearly to their full value, before the schedule begins."""
    clip_norm: Annotated[float, interval("[0, inf]")] = 0.0
    """Largest Euclidean norm of an optimizer step's gradient; longer ones are scaled down; 0: no limit. All parameters
    of the optimizer count as one vector.
    """
    layer_decay: Annotated[float, interval("(0, 1]"), Added] = 1.0
    """Factor on the learning rate of a layer for each layer above it, the classifier's included; 1: one rate for all.
    Layers are those of timm's networks.
    """
    freeze: Literal["none", "embedding", "featurizer", "classifier"] = "none"
    """Layers that don't train: those that read the input (`embedding`), all but the classifier, or the classifier.
    A classifier that is frozen stays as `classifier_init` begins it, such as at the names of the classes.
    """
    lora_rank: Annotated[int, interval("[0, inf)"), Added] = 0
    """Rank of the changes B A that learn in place of the featurizer's weights (LoRA, by peft); 0: the weights learn.
    Everything else of the featurizer is fixed then, norms and biases included; the classifier learns as without. A run
    keeps the sums W + lora_alpha / lora_rank B A, as weights of the plain network.
    """
    lora_alpha: Annotated[float, interval("[0, inf)"), Added] = 0.0
    """Factor of the changes B A, divided by their rank; 0 stands for the rank, so that B A is added as it is."""
    lora_targets: Annotated[str, Added] = ""
    """Layers that change by B A: ends, parts or beginnings of their names, with `*` for any text; empty: the usual.
    Several are separated by spaces (`"qkv fc1"`, `blocks.11`). The usual are all linear layers, attention layers and
    convolutions without groups, but for those that read the input.
    """
    classifier_init: Literal["random", "linear_probe", "zero_shot"] = "random"
    """Start of the classifier: at random, fitted to the initial features (`linear_probe`), or CLIP's (`zero_shot`). The
    probe is a logistic regression. With `init` `sweep` it is fitted to the training examples of trial 0, some of which
    validate in other trials. `zero_shot` takes the embeddings of the class names by CLIP's text tower, and the
    embeddings of images are then scaled to length 1.
    """
    prompt: Annotated[str, _PROMPT, Added] = "a photo of a {}."
    """Text by which CLIP's text tower reads a class, `{}` standing for its name. `imagenet` and `imagenet_simple` are
    open_clip's sets of 80 and 7 such texts, the mean of whose embeddings counts.
    """
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the featurizer: `bf16` runs it under PyTorch's autocast, with weights in float32."""
    deterministic: Annotated[bool, Added] = True
    """Choose algorithms of cuDNN that repeat themselves, and multiply float32 in full; False: the fastest, with TF32.
    It matters on GPUs of NVIDIA alone.
    """
    channels_last: Literal["auto", True, False] = "auto"
    """Keep images and convolutions in the memory order that many processors convolve faster; `auto`: if it pays. `auto`
    does so where the whole network convolves. Rounding differs between the orders, so a run's id holds the choice;
    DomainBed's networks keep PyTorch's default order.
    """
    compile: bool = False
    """Train with a featurizer compiled by `torch.compile`; evaluation uses the one that was not compiled."""
    checkpoint_activations: Annotated[bool, Added] = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time (up to a third).
    Each residual block or layer of a transformer then keeps its input alone. Gradients are the same.
    """
    microbatch: Annotated[int, interval("[0, inf)"), Added] = 0
    """Most examples in one pass through the featurizer (gradient accumulation), for batches that don't fit; 0: all. The
    activations of one pass at a time are in memory, and computed again in the backward pass; losses and updates are
    those of the whole batch. It needs batch norm frozen, or a network without.
    """
    stored_features: Annotated[bool, Added] = False
    """Compute the features of a frozen featurizer once in a sweep, and train and evaluate on those. It needs `freeze`
    `featurizer` and no augmentation. Results are those without it, up to rounding.
    """
    init: Literal["trial", "run", "sweep"] = "trial"
    """Runs that start from the same weights: those of a `trial`, all of the `sweep`, or none (`run`, as in DomainBed).
    Averaging weights across runs requires that they start alike.
    """
    data_order: Literal["paired", "run"] = "paired"
    """Order of minibatches: `paired` is the same for runs that differ in the algorithm alone; `run` differs. The seed
    of `run` is DomainBed's, which mixes in the algorithm's name; the order drawn from it is not DomainBed's.
    """
    generated_data: Literal["trial", "run", "sweep"] = "trial"
    """Runs that share generated data: those of a `trial`, all of the `sweep`, or none (`run`, as in DomainBed). It
    matters for data sets that draw noise, or the membership of domains.
    """
    evaluate: Literal["selectors", "all"] = "selectors"
    """Views to evaluate: those that some `selectors` read, or `all`, which adds the training views."""
    stream: Annotated[str, Added] = ""
    """Way in which adapters are shown their inputs: `batch_size=N order=ORDER domains=DOMAINS`, or some of these words;
    empty: each view begins anew, in a random order, in batches of 32. `order` is `shuffled` or `by_class`, `domains` is
    `separate`, `continual` (views of several test domains follow each other) or `mixed`. Accuracy along a stream that
    is given is recorded.
    """
    ddof: Literal[0, 1] = 1
    """Delta degrees of freedom of the standard deviation in error bars: 1 is the usual, 0 is DomainBed's."""

    def __hash__(self) -> int:
        # Planning looks up the values of each run by its setting. Hashing these takes a tenth of the time of hashing
        # all fields, and a sweep has few settings that differ in none of them.
        return hash((self.preset, self.steps, self.backbone))

    def _write(self) -> bytes:
        return orjson.dumps(stored_fields(self))

    def for_dataset(self, steps: int, checkpoint_freq: int) -> Setting:
        """Return the setting with the data set's steps and evaluation interval where its own are 0."""
        return dataclasses.replace(
            self, steps=self.steps or steps, checkpoint_freq=self.checkpoint_freq or checkpoint_freq
        )

    def lr_factor(self, step: int) -> float:
        """Return the factor in [0, 1] by which warm-up and schedule scale every learning rate at a step.

        Args:
            step: Number of the optimizer step, counted from 0.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        since, steps = step - self.warmup_steps, self.steps - self.warmup_steps
        if self.schedule == "step":
            return schedules.stepped(since, steps, self.schedule_every, self.schedule_gamma)
        return _COURSES[self.schedule](since, steps)

    def departures(self, dataset: str = "") -> dict[str, Any]:
        """Return the fields whose values differ from the preset's: name -> value.

        Args:
            dataset: The data set that the setting holds for; empty: those without values of their own.
        """
        preset = preset_on(self.preset, dataset)
        own = {name: mine for name in FIELD_NAMES if (mine := getattr(self, name)) != getattr(preset, name)}
        # `channels_last` is resolved from `auto` to True or False before a run is made. False is PyTorch's default
        # order, which no reader of a table needs to be told about; True departs from it.
        return {name: mine for name, mine in own.items() if name not in LEFT_OPEN or mine}

    @property
    def of_domainbed(self) -> bool:
        """Whether the preset is DomainBed's, so that hyperparameters are drawn and act exactly as in DomainBed."""
        return self.preset.startswith("domainbed-")

    @property
    def evaluations(self) -> int:
        """Number of `evaluation_steps`, computed without listing them."""
        return -(-(self.steps - 1) // self.checkpoint_freq) + 1

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps after which models are evaluated, counted from 0 as DomainBed counts them."""
        last = self.steps - 1
        return tuple(dict.fromkeys((*range(0, self.steps, self.checkpoint_freq), last)))


_COURSES: Mapping[str, Callable[[int, int], float]] = {
    "constant": lambda step, steps: 1.0,
    "cosine": schedules.cosine,
    "linear": schedules.linear,
    "one_cycle": schedules.one_cycle,
}
"""Schedule -> its factor at a step since the end of warm-up, given the number of steps from there."""


class _Presets(Mapping[str, Setting]):
    """Settings of the presets by name, each read from its file at its first use."""

    def __init__(self) -> None:
        self._made: dict[str, Setting] = {}

    def __getitem__(self, name: str) -> Setting:
        if name not in self._made:
            self._made[name] = Setting(name, **read_preset(name).setting)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(preset_names())

    def __len__(self) -> int:
        return len(preset_names())


PRESETS: Mapping[str, Setting] = _Presets()
"""Name -> setting of the preset on data sets for which it has no values of their own (`preset_on`)."""

OF_DATASET = ("steps", "checkpoint_freq", "image_size", "domains_per_step")
"""Fields whose 0 stands for the data set's value."""
OF_SWEEP = ("cache", "data_order", "ddof", "generated_data", "init", "weights")
"""Fields that have one value for all data sets of a sweep."""
LEFT_OPEN = ("channels_last",)
"""Fields whose `auto` requests nothing: a relaunch that leaves them at it keeps the value the sweep began with."""
FIELD_NAMES = tuple(f.name for f in dataclasses.fields(Setting) if f.name != "preset")
"""All fields but the preset's name."""


_HINTS = get_type_hints(Setting, include_extras=True)
_ADDED = {
    f.name: f.default for f in dataclasses.fields(Setting) if Added in getattr(_HINTS[f.name], "__metadata__", ())
}
"""Field that is `Added` -> its default."""


def stored_fields(setting: Setting) -> dict[str, Any]:
    """Return field -> value as runs hold them in their ids and files: without `Added` fields at their defaults."""
    return {name: value for name, value in fields_of(setting).items() if name not in _ADDED or value != _ADDED[name]}


def preset_on(name: str, dataset: str) -> Setting:
    """Return the setting of a preset on a data set; an empty name stands for those without values of their own."""
    return dataclasses.replace(PRESETS[name], **read_preset(name).setting_on(dataset))


def _type_and_limits(hint: Any) -> tuple[str, Sequence[Limit]]:
    """Return the type's name and the limits of an annotated field."""
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    limits = [note for note in notes if isinstance(note, Limit)]
    if get_origin(kind) is Literal:
        return "any", [one_of(get_args(kind)), *limits]
    return kind.__name__, limits


_FIELDS = {name: _type_and_limits(_HINTS[name]) for name in FIELD_NAMES}


def setting(preset: str = DEFAULT, /, **changes: Any) -> Setting:
    """Make a setting from a preset and the fields that differ from it.

    Args:
        preset: A name in `PRESETS`.
        **changes: Field -> value. An int is accepted for a float.

    Raises:
        UserError: Unknown names, invalid values and contradictions, all problems at once.
    """
    problems, valid = Problems(), dict[str, Any]()
    if preset not in PRESETS:
        problems.add(unknown_name("preset", preset, PRESETS))
    for name, value in changes.items():
        if name not in _FIELDS:
            problems.add(unknown_name("setting", name, FIELD_NAMES))
        elif wrong := find_problem(value, *_FIELDS[name]):
            problems.add(f"setting {name!r} {wrong}")
        else:
            # 1 and 1.0 are the same value but hash to different run ids, so a float field always holds a float.
            valid[name] = float(value) if _FIELDS[name][0] == "float" else value
    found = dataclasses.replace(PRESETS.get(preset, Setting("dgbench")), **valid)
    for problem in _contradictions(found, valid):
        problems.add(problem)
    problems.raise_if_any()
    return dataclasses.replace(found, stream=canonical(found.stream))


def _contradictions(found: Setting, changes: Mapping[str, Any]) -> Iterator[str]:
    """Yield problems of a setting whose fields are fine by themselves; `changes` are those given by the user."""
    yield from stream_problems(found.stream)
    yield from _contradictions_of_low_rank(found, changes)
    if problem := optimizer_problem(found.optimizer):
        yield problem
    elif found.amsgrad and found.optimizer not in WITH_AMSGRAD:
        yield f"amsgrad changes {' and '.join(WITH_AMSGRAD)}, not optimizer {found.optimizer!r}: leave it out"
    for name in ("schedule_every", "schedule_gamma"):
        if name in changes and found.schedule != "step":
            yield f"{name} belongs to schedule 'step', not to {found.schedule!r}: leave it out"
    if found.schedule == "one_cycle" and found.warmup_steps:
        yield "schedule 'one_cycle' warms up by itself: leave out warmup_steps"
    if found.layer_decay < 1 and found.freeze == "featurizer":
        yield "freeze 'featurizer' leaves no layer that learns below the classifier: leave out layer_decay"
    if found.classifier_init != "random" and found.nonlinear_classifier:
        yield f"classifier_init {found.classifier_init!r} makes a linear classifier: leave out nonlinear_classifier"
    if found.compile and (twice := [name for name in ("checkpoint_activations", "microbatch") if getattr(found, name)]):
        yield f"compile is true, and {' and '.join(twice)} can't be followed by compiled code: leave out one"
    if found.stored_features:
        yield from _changing_features(found)
    if changes.get("weights") and changes.get("pretrained") is False:
        yield "a file of weights is given, and pretrained is false: leave out one of them"
    if changes.get("pretrained") is False and changes.get("batch_norm") == "frozen":
        yield "pretrained is false, so batch norm has no statistics to freeze: leave out batch_norm 'frozen'"


def _contradictions_of_low_rank(found: Setting, changes: Mapping[str, Any]) -> Iterator[str]:
    """Yield problems of the fields that `lora_rank` goes with, or rules out."""
    if found.lora_rank and found.freeze == "featurizer":
        yield "freeze 'featurizer' leaves nothing for lora_rank to change: leave out one of them"
    for name in ("lora_alpha", "lora_targets"):
        if changes.get(name) and not found.lora_rank:
            yield f"{name} belongs to lora_rank, which is 0: say --set lora_rank=8, or leave it out"


def _changing_features(found: Setting) -> Iterator[str]:
    """Yield the fields under which an example would not have the same features throughout."""
    if found.freeze != "featurizer":
        yield f"stored_features needs freeze 'featurizer', and it is {found.freeze!r}: features change as layers train"
    if found.augmentation:
        yield "stored_features needs augmentation false: an image augmented anew has other features each time"
