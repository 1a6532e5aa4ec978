"""Declare the hyperparameters that every algorithm has, and learning rates for networks without pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass

from dgbench.core.space import Checked, Draw, Value, choice, hparam, power


def from_scratch(default: float, draw: Draw) -> dict[str, tuple[Value, Draw | None]]:
    """Return the variants of a learning rate for networks without pretrained weights, DomainBed's for small images.

    Args:
        default: The rate at hyperparameter seed 0.
        draw: The distribution at all other seeds.

    Returns:
        `variants` for `hparam`: trait -> (default, draw).
    """
    return dict.fromkeys(("small_images", "from_scratch"), (default, draw))


FROM_SCRATCH = from_scratch(1e-3, power(10, -4.5, -2.5))
"""Variants of the learning rate that most methods share."""


@dataclass(frozen=True)
class Hparams(Checked):
    """The hyperparameters that every algorithm has, with DomainBed's defaults and draws.

    A method with further ones declares a nested frozen dataclass `Hparams` that extends this class. A field that it
    declares again replaces the one given in this class.
    """

    lr: float = hparam(5e-5, power(10, -5, -3.5), variants=FROM_SCRATCH, within="[0, inf)")
    """Learning rate of every optimizer for which the method names no other."""
    lr_head: float = hparam(
        0.0, help="learning rate of the classifier; 0: that of the layers below", within="[0, inf)", optional=True
    )
    weight_decay: float = hparam(0.0, power(10, -6, -2), variants={"small_images": (0.0, None)}, within="[0, inf)")
    """Weight decay of every optimizer for which the method names no other."""
    batch_size: int = hparam(
        32,
        power(2, 3, 5.5, integer=True),
        help="examples of each domain in a step",
        variants={
            "few_examples": (32, power(2, 3, 5.5, integer=True)),
            "many_classes": (32, power(2, 3, 5, integer=True)),
            "small_images": (64, power(2, 3, 9, integer=True)),
            "sequences": (2, power(2, 0, 2, integer=True)),
        },
        within="[1, inf)",
    )
    resnet_dropout: float = hparam(
        0.0,
        choice(0.0, 0.1, 0.5),
        help="dropout between features and classifier, of any network; DomainBed's presets: of timm's networks alone",
        within="[0, 1]",
        streams={"domainbed_vit": "vit_dropout"},
    )
