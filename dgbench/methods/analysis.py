"""Define analyses: each measures finished models beyond their scores, such as how sharp the loss around them is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dgbench.core.cards import AnalysisCard
from dgbench.core.protocol import View
from dgbench.methods.average import NoHparams, Weights
from dgbench.methods.surface import Surface
from dgbench.networks.network import Network

Batches = list[tuple[Tensor, Tensor]]
"""Prepared inputs (B, ...) and labels (B,), on the device."""


@dataclass(frozen=True)
class FinishedModel:
    """The model of one finished run: of its evaluated steps, that with the best training-domain validation accuracy."""

    run: str
    """Id of the run."""
    row: str
    """Name of the row that it is of, as in tables."""
    hparams_seed: int
    """The draw of hyperparameters; 0 for the defaults, and for a model that is merged from several."""
    step: int
    """The step after which it was taken."""
    load: Callable[[], nn.Module]
    """Return the network with the model's weights, in evaluation mode: inputs to logits. All models of a run share one
    module, so a call ends the life of what the call before returned."""
    weights: Callable[[], Weights]
    """Read the weights by the names of parameters and buffers; nothing is kept in memory between calls."""
    initial: Callable[[], Weights]
    """Return the weights that the run's training started from."""


@dataclass(frozen=True)
class Views:
    """The data of a fold, as an analysis reads it."""

    training: tuple[View, ...]
    """One of each training domain."""
    evaluated: tuple[View, ...]
    """All that are scored: validation parts, and the held-out domains."""
    examples: Callable[[View, int, int], Batches]
    """(view, most examples, batch size) -> that many examples without augmentation, drawn by the run's seed; all if
    the view has no more. The same for every model of a fold and trial."""
    statistics: Callable[[Weights, int], Weights] = lambda weights, minibatches: weights
    """(weights, most minibatches) -> the weights with statistics of batch norm measured for them on that many
    minibatches of training, where batch norm is live; else as they are."""

    @property
    def contrasted(self) -> tuple[View, ...]:
        """Return the training views and the held-out ones, which figures show side by side."""
        return tuple(dict.fromkeys((*self.training, *self.held_out)))

    @property
    def all(self) -> tuple[View, ...]:
        """Return training and evaluated views, each once."""
        return tuple(dict.fromkeys((*self.training, *self.evaluated)))

    @property
    def held_out(self) -> tuple[View, ...]:
        """Return one view of each domain that doesn't train, the first that is evaluated."""
        trained = {view.domain for view in self.training}
        first: dict[str, View] = {}
        for view in self.evaluated:
            if view.domain not in trained:
                first.setdefault(view.domain, view)
        return tuple(first.values())


Columns = Mapping[str, Sequence[float] | Sequence[str] | NDArray[Any]]
"""Column of a series -> its values (N,), numbers or texts; all columns of a series are equally long."""
Finding = tuple[View | None, Mapping[str, float | Columns]]
"""The view that was measured on, or None for all of them together; measure -> its value, series -> its columns."""


class Analysis:
    """Base class of analyses. One instance measures the models of one run.

    A subclass declares `card`, if need be `Hparams`, and writes `measure`. Models are never changed, and no number of
    an analysis can reach a table of results: selectors don't read them.

    Args:
        hparams: An instance of the class's `Hparams`.
        generator: Draws, on the device, whatever the analysis draws.
    """

    card: ClassVar[AnalysisCard]
    """Facts that planning and `list` read."""
    Hparams: ClassVar[type] = NoHparams
    """The class of the hyperparameters, a frozen dataclass."""

    def __init__(self, hparams: Any, generator: torch.Generator) -> None:
        self.hparams = hparams
        self.generator = generator

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the numbers, and the data to be drawn, a view at a time.

        Args:
            models: Those that the card says it `takes`: one, or all of a trial in the order of their hyperparameter
                seeds, or one of each row in the order in which they were asked for.
            data: The views of the fold.

        Yields:
            Findings. Those of one view are joined, and columns of a series that comes in parts grow; a stop between two
            findings loses what came before.
        """
        raise NotImplementedError


def surface_of(model: nn.Module, batches: Batches) -> Surface:
    """Return the loss of a model on examples by its weights: those that learn and that logits depend on.

    Args:
        model: In evaluation mode.
        batches: At least one.
    """
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    x, _ = batches[0]
    with torch.enable_grad():
        reached = torch.autograd.grad(model(x[:1]).sum(), list(learning.values()), allow_unused=True)
    return Surface(
        model, batches, parameters=[name for name, g in zip(learning, reached, strict=True) if g is not None]
    )


def network_of(model: nn.Module) -> Network:
    """Return the network of a model that was loaded, with `features` and `classifier`; the card says `needs_features`.

    Args:
        model: As of `FinishedModel.load`.
    """
    found = model if isinstance(model, Network) else model.network
    assert isinstance(found, Network), "planning refuses algorithms without features"
    return found


@torch.no_grad()
def features_of(network: Network, batches: Batches) -> Batches:
    """Return the features (B, num_features) of each batch, with its labels."""
    return [(network.features(x), y) for x, y in batches]
