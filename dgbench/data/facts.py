"""Collect the facts of a data set that planning, selection and tables need, and fill in a setting by them.

A `DatasetFacts` is plain data: it goes into a sweep's folder, so that tables can be made where the data are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dgbench.core.errors import UserError
from dgbench.core.needs import EAGER, FULL, HIDDEN_BY_FEATURES, INPUTS_THEMSELVES, WHOLE
from dgbench.core.protocol import NEW, OUT, TRAIN, Fold, Protocol, View
from dgbench.core.setting import Setting
from dgbench.data.contract import check_contract
from dgbench.data.dataset import Dataset, SplitExamples
from dgbench.networks.backbones import (
    BUILTIN_BACKBONES,
    drops_features,
    interpolation_of,
    resolve_backbone,
    starts_random,
    starts_without_statistics,
    takes,
)
from dgbench.networks.backbones import lacking as backbone_lacks
from dgbench.networks.clip_names import is_clip


def facts_of(name: str, dataset: Dataset) -> DatasetFacts:
    """Collect the facts of an open data set that planning needs; raise UserError if a user's own class is wrong."""
    check_contract(name, dataset)
    # Inside the function: `splits` imports fractions, which tables, that read facts too, do without.
    from dgbench.data.splits import by_domain

    card, parts, pools = dataset.card, dict[str, int](), dict[str, int]()
    for domain in dataset.domains if card.parts else ():
        examples = dataset.examples(domain, 0)
        assert isinstance(examples, SplitExamples)
        parts |= {str(View(domain, part)): len(indices) for part, indices in examples.parts.items()}
        pools[domain] = len(by_domain(examples, examples.parts[TRAIN]))
    return DatasetFacts(
        name=name,
        domains=dataset.domains,
        counts=tuple(map(int, dataset.counts())),
        num_classes=len(dataset.classes),
        input_shape=dataset.input_shape,
        input_kind=dataset.input_kind,
        traits=card.traits,
        steps=card.steps,
        checkpoint_freq=card.checkpoint_freq,
        of_domainbed=card.of_domainbed,
        fingerprint=dataset.fingerprint(),
        tested=card.tested,
        shared_identities=card.shared_identities,
        parts=parts,
        pools=pools,
        domains_per_step=card.domains_per_step,
        metric=card.metric,
        task=card.task,
        outputs=dataset.outputs,
        backbone=card.backbone,
        missing_classes={domain: tuple(classes) for domain, classes in dataset.missing_classes.items()},
        shares=card.shares,
        features_of=card.features_of,
        classes=tuple(dataset.classes) if card.task == "classification" else (),
    )


@dataclass(frozen=True)
class DatasetFacts:
    """The facts of a data set, read from its card and files: all that planning, selection and tables know of it."""

    name: str
    """Name as the user gave it, with a path where it carries one."""
    domains: tuple[str, ...]
    """In the order of the tables."""
    counts: tuple[int, ...]
    """Examples of each domain, in the order of `domains`."""
    num_classes: int
    """Classes, or questions of an example."""
    input_shape: tuple[int, ...]
    """Shape of one input, without the batch axis."""
    traits: tuple[str, ...]
    """Names by which hyperparameter spaces vary (`small_images`, `few_examples`, ...)."""
    steps: int
    """Default length of a run."""
    checkpoint_freq: int
    """Default number of steps between two evaluations."""
    fingerprint: str
    """Hash of the data (`Dataset.fingerprint`)."""
    tested: tuple[str, ...] = ()
    """Domains that may be held out; empty: every domain."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """View -> number of examples, for data published with splits; empty: parts are drawn."""
    pools: Mapping[str, int] = field(default_factory=dict)
    """Way of splitting -> number of domains that its training examples are from."""
    domains_per_step: int = 0
    """Training domains that make up a step; 0: all."""
    shared_identities: bool = False
    """Every domain shows the same identities, so some are kept for the test alone."""
    metric: str = "accuracy"
    """Score that selects and that tables show."""
    task: str = "classification"
    """Kind of the labels, a key of `data_cards.TASKS`."""
    input_kind: str = "images"
    """Kind of the inputs, a key of `data_cards.INPUTS`."""
    of_domainbed: Mapping[str, int] = field(default_factory=dict)
    """`steps` and `checkpoint_freq` under DomainBed's presets, where those differ."""
    outputs: int = 1
    """Logits of an example."""
    backbone: str = ""
    """Network that `auto` stands for; empty: the one that fits the inputs."""
    missing_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Domain -> classes without an example in it, where the user allowed that."""
    shares: Mapping[str, str] | None = None
    """Key of `data_cards.CORPORA` -> what the examples have in common with it; None in plans of earlier versions."""
    features_of: str = ""
    """Network that computed the inputs; empty: they are no features."""
    classes: tuple[str, ...] = ()
    """Names of the classes; empty where labels are no classes, and in plans of earlier versions."""

    def network(self, backbone: str) -> str:
        """Resolve the name of a backbone, which may be an alias such as `auto`, for these inputs."""
        return (backbone == "auto" and self.backbone) or resolve_backbone(backbone, self.input_kind, self.input_shape)

    def folds(self, protocol: Protocol) -> list[Fold]:
        """Return the folds of a protocol; raise `UserError` if the data set can't follow it."""
        try:
            parts = tuple(dict.fromkeys(View.parse(view).part for view in self.parts))
            found = list(protocol.folds(self.domains, parts=parts, tested=self.tested))
        except UserError as error:
            raise UserError(*(f"{self.name}: {problem}" for problem in error.problems)) from None
        return [_without_known_identities(fold) for fold in found] if self.shared_identities else found

    def training_domains(self, fold: Fold) -> int:
        """Return the number of domains that an algorithm sees in training, of which a pool mixes many."""
        return sum(self.pools.get(view.domain, 1) for view in fold.train)

    def convolves(self, backbone: str) -> bool:
        """Return whether a network (by its own name) takes the inputs, and convolves beyond its first layers."""
        return self.input_kind in takes(backbone) and "convolutions" not in backbone_lacks(backbone, self.input_shape)

    def lacking(self, setting: Setting) -> frozenset[str]:
        """Return the needs of methods that the data set, the network on it and the resolved setting don't meet."""
        found = lacking(self.input_kind, self.input_shape, self.task, setting)
        return found | {"every_class"} if self.missing_classes else found

    def domains_in_step(self, fold: Fold, setting: Setting) -> int:
        """Return the number of training domains that make up a step under a resolved setting."""
        found = self.training_domains(fold)
        return min(found, setting.domains_per_step or found)


def lacking(kind: str, input_shape: Sequence[int], task: str, setting: Setting) -> frozenset[str]:
    """Return the needs of methods that such inputs and labels, and the setting with its network, don't meet.

    Args:
        kind: Kind of the inputs, a key of `data_cards.INPUTS`.
        input_shape: Shape of one input.
        task: Kind of the labels, a key of `data_cards.TASKS`.
        setting: Resolved; its backbone takes such inputs.

    Returns:
        Keys of `needs.NEEDS` and of `needs.DECLINED`.
    """
    has = {
        "classes": task == "classification",
        "images": kind == "images",
        "feature_maps": kind == "images",
        "real_inputs": kind in ("images", "vectors"),
        "feature_vectors": kind != "sequences",
        "own_classifier": kind != "sequences" or setting.nonlinear_classifier,
        "linear_classifier": not setting.nonlinear_classifier,
        "random_classifier": setting.classifier_init == "random",
        "learning_features": setting.freeze != "featurizer",
        "learning_classifier": setting.freeze != "classifier",
        "clip": is_clip(setting.backbone),
        "text_tower": is_clip(setting.backbone),
        EAGER: not setting.compile,
        WHOLE: not setting.microbatch,
        FULL: not setting.lora_rank,
        INPUTS_THEMSELVES: not setting.stored_features,
    }
    of_network = backbone_lacks(setting.backbone, input_shape)
    hidden = HIDDEN_BY_FEATURES if setting.stored_features else frozenset[str]()
    return of_network.union(hidden, (what for what, is_there in has.items() if not is_there))


def _without_known_identities(fold: Fold) -> Fold:
    """Restrict the test to identities that no training view shows, where all domains share theirs."""
    return dataclasses.replace(
        fold,
        test=tuple(View(view.domain, NEW) for view in fold.test),
        target_val=tuple(view for view in fold.target_val if view.part == OUT),
    )


def traits_of(facts: DatasetFacts, setting: Setting) -> tuple[str, ...]:
    """Return the traits by which hyperparameter spaces may vary: the data set's, and the network's under the setting.

    Args:
        facts: The data set's.
        setting: Resolved.

    Returns:
        The data set's own traits; `from_scratch` if a network that could have trained weights starts without;
        `domainbed_vit` if a DomainBed preset trains a network in the way of its ViT.
    """
    name, found = setting.backbone, dict.fromkeys(facts.traits)
    random = not setting.weights and starts_random(name, facts.input_shape, pretrained=setting.pretrained)
    if random and name not in BUILTIN_BACKBONES:
        found["from_scratch"] = None
    if setting.of_domainbed and drops_features(name) and "feature_maps" in backbone_lacks(name, facts.input_shape):
        found["domainbed_vit"] = None
    return tuple(found)


def resolve_batch_norm(setting: Setting, facts: DatasetFacts) -> Setting:
    """Make batch norm live in a setting (with its backbone resolved) if the network has no statistics to freeze."""
    name, known = setting.backbone, bool(setting.weights)
    # A network that doesn't take the inputs is refused later, with the reason.
    fits = facts.input_kind in takes(name)
    if known or not fits or not starts_without_statistics(name, facts.input_shape, pretrained=setting.pretrained):
        return setting
    return dataclasses.replace(setting, batch_norm="live")


def length_and_network(setting: Setting, facts: DatasetFacts) -> Setting:
    """Fill in the steps, the evaluation interval and the backbone's own name, which tables need; imports no timm."""
    length = {"steps": facts.steps, "checkpoint_freq": facts.checkpoint_freq}
    resolved = setting.for_dataset(**length | (dict(facts.of_domainbed) if setting.of_domainbed else {}))
    return dataclasses.replace(resolved, backbone=facts.network(setting.backbone))


def resolve_setting(setting: Setting, facts: DatasetFacts) -> Setting:
    """Fill in all that a setting leaves open, by the data set and the network.

    These are steps, evaluation interval, domains in a step, the backbone's own name, and how images are resized for it
    and lie in memory. Batch norm becomes live where there are no statistics to freeze.
    """
    resolved = length_and_network(setting, facts)
    backbone = resolved.backbone
    domains = setting.domains_per_step or facts.domains_per_step
    own = interpolation_of(backbone) if setting.interpolation == "auto" else setting.interpolation
    last = facts.convolves(backbone) if setting.channels_last == "auto" else setting.channels_last
    changes = {"domains_per_step": domains, "interpolation": own, "channels_last": last}
    return resolve_batch_norm(dataclasses.replace(resolved, **changes), facts)  # type: ignore[arg-type]
