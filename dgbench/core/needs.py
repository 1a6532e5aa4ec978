"""Name needs of methods: conditions on data, network and setting, which cards list and messages put in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name

DOMAINS = "domains"
"""Name of the need of a number of training domains (`Need.least`)."""
EAGER = "eager"
"""Name of the need of training without `compile`."""
WHOLE = "whole_batches"
"""Name of the need of training without `microbatch`."""
FULL = "full_weights"
"""Name of the need of training without `lora_rank`."""
INPUTS_THEMSELVES = "inputs"
"""Name of the need of training without `stored_features`, of methods whose other needs don't rule it out."""
DECLINED: Mapping[str, str] = {
    EAGER: "compile true",
    WHOLE: "a microbatch",
    FULL: "a lora_rank",
    INPUTS_THEMSELVES: "stored_features true",
}
"""Need of training without a setting -> that setting in words for messages."""


@dataclass(frozen=True)
class Need:
    """One need of a method, where a condition, a reason or a number belongs to its name.

    Example:
        `Need("images", when={"perturbation": "style"})`
        `Need("domains", when={"form": "wilds"}, least="meta_steps")`
        `Need("eager", why="takes gradients of gradients, which PyTorch has no compiled form of")`
    """

    what: str
    """Name of the need: a key of `NEEDS` or of `DECLINED`, or `DOMAINS`."""
    when: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameter -> value under which the need exists; empty: always."""
    why: str = ""
    """For keys of `DECLINED`: what the method does that rules the setting out, as a verb phrase for messages."""
    least: int | str = 0
    """For `DOMAINS`: the number of training domains, or the hyperparameter that holds it. A number that depends on no
    hyperparameter belongs in `AlgorithmCard.min_domains`.
    """

    def __post_init__(self) -> None:
        if self.what not in (known := (*NEEDS, *DECLINED, DOMAINS)):
            raise UserError(unknown_name("need on a card", self.what, known))


NEEDS: Mapping[str, str] = {
    "feature_maps": "images and a convolutional backbone",
    "inner_maps": "images and a convolutional backbone with maps of several positions before its last stage",
    "convolutions": "images and a backbone with convolutions",
    "stages": "a backbone whose features between stages are known",
    "stage_modules": "a backbone whose stages are known modules",
    "units": "a multilayer perceptron or a convolutional network, whose units can change places",
    "linear_classifier": "a linear classifier",
    "random_classifier": "a classifier that starts at random",
    "learning_features": "a featurizer that learns",
    "learning_classifier": "a classifier that learns",
    "batch_norm": "a network with batch norm",
    "norm": "a network with normalization layers",
    "classes": "labels that are classes",
    "every_class": "every class in every domain",
    "images": "inputs that are images",
    "real_inputs": "inputs that are images or vectors",
    "feature_vectors": "one vector of features an example",
    "own_classifier": "a classifier with weights of its own",
    "clip": "images and a backbone of CLIP ('clip:ViT-B-32.openai')",
    "text_tower": "images and a backbone of CLIP ('clip:ViT-B-32.openai'), with its text tower",
}
"""Name of a need -> the requirement in words for messages."""
HIDDEN_BY_FEATURES = frozenset(
    (
        "images",
        "real_inputs",
        "feature_maps",
        "inner_maps",
        "convolutions",
        "stages",
        "stage_modules",
        "batch_norm",
        "norm",
    )
)
"""Needs that stored features don't meet, as neither inputs nor what passes between a network's layers is there."""


def holds(condition: Mapping[str, Any], hparams: Mapping[str, Any]) -> bool:
    """Return whether `hparams` have all the values of `condition`; optional ones that a run lacks are at defaults."""
    return all(hparams.get(name) == value for name, value in condition.items())


def with_values(condition: Mapping[str, Any]) -> str:
    """Format a condition for a message, to follow a method's name: ` with form 'double'`; empty if it is empty."""
    return f" with {' and '.join(f'{name} {value!r}' for name, value in condition.items())}" if condition else ""
