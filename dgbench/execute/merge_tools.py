"""Provide the tools of mergers: scores, initial weights, Fisher information and symmetries of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgbench.core.seeding import numpy_stream, torch_seed
from dgbench.core.stats import nan_as_worst
from dgbench.execute.batch_norm import with_statistics
from dgbench.execute.context import RunContext
from dgbench.execute.evaluate import score_views
from dgbench.execute.models import predict_with
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import Weights
from dgbench.methods.functional import fisher_information, unit_symmetries
from dgbench.methods.merger import Tools
from dgbench.networks.norms import statistics_of
from dgbench.networks.permutations import Symmetry
from dgbench.networks.weights import digest

_CHUNK = 16
"""Examples whose gradients are held at once."""


class _Measured(NamedTuple):
    """Batch-norm statistics and scores that were measured for weights."""

    statistics: Weights
    """They take the place of those among the weights."""
    scores: dict[str, dict[str, float]]
    """Validation view -> name -> value; empty before they are asked for."""


class MergeTools:
    """Implementation of `Tools` for one merge, on an algorithm whose own weights are not used."""

    def __init__(self, context: RunContext, algorithm: Algorithm) -> None:
        self.context = context
        self.algorithm = algorithm
        self._known: dict[str, _Measured] = {}
        """Digest of weights -> their measurements: a merger may ask again, and its choice is recorded."""

    def tools(self) -> Tools:
        """Return the tools as a merger takes them."""
        examples = sum(self.context.data.size(view) for view in self.context.data.train)
        statistics = statistics_of(self.algorithm)
        return Tools(self.score, self.initial, self.fisher, examples, statistics, self.symmetries)

    def initial(self) -> Weights:
        """Return the weights that the first member's training started from."""
        return self.context.algorithm(begin=True).predictor_tensors()

    def score(self, weights: Weights) -> float:
        """Return the accuracy (or other metric of the data set) of weights on all validation examples; -inf for NaN."""
        context, measured = self.context, self._measured(weights)
        if not measured.scores:
            predict = predict_with(self.algorithm, {**weights, **measured.statistics})
            batches_of = partial(context.predict_batches, predict)
            measured.scores.update(score_views(batches_of, context.data, context.run.validation))
        scores = measured.scores.values()
        total = sum(view[context.data.card.metric] * view["n"] for view in scores)
        return nan_as_worst(total / sum(view["n"] for view in scores))

    def finished(self, weights: Weights) -> tuple[Weights, Mapping[str, Mapping[str, float]]]:
        """Return weights with batch-norm statistics of their own, and view -> scores where they were scored before."""
        if not self._known:  # nothing was asked for, so that weights need not be told apart
            return with_statistics(self.context, self.algorithm, weights), {}
        measured = self._measured(weights)
        return {**weights, **measured.statistics}, measured.scores

    def _measured(self, weights: Weights) -> _Measured:
        """Return the measurements of weights; their batch-norm statistics are measured the first time."""
        key = digest(weights)
        if key not in self._known:
            found = with_statistics(self.context, self.algorithm, weights)
            names = statistics_of(self.algorithm) & found.keys()
            # Those that were measured only: a merger may change its own tensors in place.
            own = {name: found[name] for name in names if found[name] is not weights.get(name)}
            self._known[key] = _Measured(own, {})
        return self._known[key]

    def fisher(self, weights: Weights, examples: int) -> Weights:
        """Return, by parameter, the mean squared gradient of log p(y | x), y drawn from the model's predictions.

        Args:
            weights: Name -> tensor, on any device.
            examples: Training examples to use, as many of each domain.
        """
        device = self.context.device
        generator = torch.Generator(device).manual_seed(torch_seed(self.context.run.seed, "fisher"))
        here = {name: tensor.to(device) for name, tensor in weights.items()}
        batches = self.context.interruptible(self._examples(examples))
        return fisher_information(self.algorithm, here, batches, generator)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Return the permutations of units under which the algorithm's predictions stay the same."""
        x = torch.zeros(2, *self.context.data.input_shape, device=self.context.device)
        return unit_symmetries(self.algorithm, self.algorithm.network.prepare(x))

    def _examples(self, count: int) -> Iterator[Tensor]:
        """Yield `count` training examples in chunks, as many of each domain, drawn by the run's seed."""
        data = self.context.data
        views = data.train
        for view in views:
            order = numpy_stream(self.context.run.seed, "fisher", str(view)).permutation(data.size(view))
            chosen = order[: max(1, count // len(views))]
            batches = np.split(chosen, range(_CHUNK, len(chosen), _CHUNK))
            for inputs in self.context.reader.read(view, batches):
                yield self.algorithm.network.prepare(inputs.to(self.context.device, non_blocking=inputs.is_pinned()))
