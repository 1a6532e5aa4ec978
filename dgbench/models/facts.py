"""Describe a trained model by all that is needed to use it without its sweep: `ModelFacts`, part of each weights file.

Imports no torch, so that commands can read the facts of a file before they load anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image file to an input of a network; numbers are those of the run that trained it."""

    channels: int
    """3 for RGB, 1 for gray."""
    height: int
    """Of an input, in pixels; images are squashed to this size, whatever their shape."""
    width: int
    """Of an input, in pixels."""
    interpolation: str
    """`bilinear` or `bicubic`, with antialiasing where an image shrinks."""
    mean: tuple[float, ...]
    """Mean of each channel, which is subtracted from values in [0, 1]; 0 where they are not normalized."""
    std: tuple[float, ...]
    """Deviation of each channel, by which the difference is divided; 1 where they are not normalized."""
    on_white: bool = False
    """Whether transparent images are laid on white; else the colors below the transparency count."""
    turn: bool = False
    """Whether images are turned as their EXIF orientation says."""
    resize: Literal["pillow", "opencv"] = "pillow"
    """Library that resized the images of the run, where they grow; `opencv` for a cache of images in their own size."""


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a trained model that its weights don't hold; made by `execute.describe`, stored beside them."""

    row: str
    """Name of its row in tables: `ERM+SWAD`."""
    dataset: str
    """Name of the data set."""
    held_out: tuple[str, ...]
    """Domains that it was not trained on, in the order of the data set."""
    training_domains: tuple[str, ...]
    """Domains that it was trained on."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits; empty where labels are no classes."""
    task: str
    """Kind of the labels, a key of `core.data_cards.TASKS`."""
    backbone: str
    """Name of the network: timm's, or one of dgbench's own."""
    input_shape: tuple[int, ...]
    """Shape of one input, without the batch axis."""
    preprocessing: Preprocessing | None
    """The way from an image file to an input; None where inputs are no images of one or three channels."""
    precision: str
    """`fp32` or `bf16`."""
    run: str
    """Id of the run."""
    predictor: str
    """Name of the predictor in its run."""
    trial: int
    """Number of the trial."""
    hparams_seed: int
    """Hyperparameter seed."""
    hparams: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameter -> value, of the algorithm that trained it."""
    weights: str = ""
    """Origin of the weights that training started from; empty: random ones."""
    weights_hash: str = ""
    """Digest of these weights; empty for random ones, and where the run doesn't know."""
    weights_data: str = ""
    """Data sets that these weights were trained on; empty where that isn't known."""
    weights_licence: str = ""
    """Licence of these weights, as timm states it; empty where that isn't known."""
    dataset_licence: str = ""
    """Licence of the data set, as its card states it."""
    together: int = 0
    """Inputs that it predicts together, as the prediction of one depends on the others; 0: it predicts each alone."""
    normalised: bool = False
    """Whether inputs arrive normalized."""
    outputs: int = 0
    """Logits of an example."""
    class_counts: tuple[tuple[int, ...], ...] = ()
    """Training examples by domain and class; where labels are no classes, one number for each domain."""
