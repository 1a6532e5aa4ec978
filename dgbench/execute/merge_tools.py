"""Provide the tools of mergers: scores, initial weights, Fisher information and symmetries of the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from dgbench.core.seeding import numpy_stream, torch_seed
from dgbench.core.stats import nan_as_worst
from dgbench.execute.batch_norm import with_statistics
from dgbench.execute.context import RunContext
from dgbench.execute.evaluate import score_views
from dgbench.execute.models import predict_with
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import Weights
from dgbench.methods.merger import Tools
from dgbench.networks.network import Network
from dgbench.networks.norms import statistics_of
from dgbench.networks.permutations import Symmetry, find_symmetries

_CHUNK = 16
"""Examples whose gradients are held at once."""


class MergeTools:
    """Implementation of `Tools` for one merge, on an algorithm whose own weights are not used."""

    def __init__(self, context: RunContext, algorithm: Algorithm) -> None:
        self.context = context
        self.algorithm = algorithm

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
        context = self.context
        predict = predict_with(self.algorithm, with_statistics(context, self.algorithm, weights))
        scores = score_views(partial(context.predict_batches, predict), context.data, context.run.validation)
        total = sum(view[context.data.card.metric] * view["n"] for view in scores.values())
        return nan_as_worst(total / sum(view["n"] for view in scores.values()))

    def fisher(self, weights: Weights, examples: int) -> Weights:
        """Return, by parameter, the mean squared gradient of log p(y | x), y drawn from the model's predictions.

        Frozen parameters are included, as those that follow others (an average of them, say) differ between members
        too. Gradients are computed in full precision whatever the setting.

        Args:
            weights: Name -> tensor, on any device.
            examples: Training examples to use, as many of each domain.
        """
        algorithm, device = self.algorithm.eval(), self.context.device
        parameters = {name for name, _ in algorithm.named_parameters()}
        moving = {name: tensor.to(device) for name, tensor in weights.items() if name in parameters}
        fixed = {name: tensor.to(device) for name, tensor in weights.items() if name not in parameters}
        generator = torch.Generator(device).manual_seed(torch_seed(self.context.run.seed, "fisher"))

        def logits_of(moving: Weights, x: Tensor) -> Tensor:
            logits: Tensor = functional_call(algorithm, {**fixed, **moving}, (x,), tie_weights=False)
            return logits

        def loss(moving: Weights, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(logits_of(moving, x[None]), y[None])

        per_example = vmap(grad(loss), in_dims=(None, 0, 0))
        total, count = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}, 0
        with _in_full_precision(algorithm):
            for x in self.context.interruptible(self._examples(examples)):
                with torch.no_grad():
                    y = torch.multinomial(logits_of(moving, x).softmax(dim=1), 1, generator=generator).squeeze(1)
                # Squares of each example's gradient: the square of a batch's mean gradient would be another quantity.
                for name, gradient in per_example(moving, x, y).items():
                    total[name] += gradient.square().sum(dim=0)
                count += len(x)
        return {name: square / count for name, square in total.items()}

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Return the permutations of units under which the algorithm's predictions stay the same."""
        algorithm = self.algorithm.eval()
        x = torch.zeros(2, *self.context.data.input_shape, device=self.context.device)
        weights = {**dict(algorithm.named_parameters()), **dict(algorithm.named_buffers())}

        def predict(weights: Weights, x: Tensor) -> Tensor:
            logits: Tensor = functional_call(algorithm, weights, (x,), tie_weights=False)
            return logits

        with _in_full_precision(algorithm):
            return find_symmetries(predict, weights, algorithm.network.prepare(x))

    def _examples(self, count: int) -> Iterator[Tensor]:
        """Yield `count` training examples in chunks, as many of each domain, drawn by the run's seed."""
        data = self.context.data
        views = data.train
        for view in views:
            order = numpy_stream(self.context.run.seed, "fisher", str(view)).permutation(data.size(view))
            chosen = order[: max(1, count // len(views))]
            for positions in np.split(chosen, range(_CHUNK, len(chosen), _CHUNK)):
                yield self.algorithm.network.prepare(data.inputs(view, positions).to(self.context.device))


@contextmanager
def _in_full_precision(algorithm: Algorithm) -> Iterator[None]:
    """Switch an algorithm's networks to float32 for a while.

    Half precision would spoil squared gradients, and PyTorch has no half-precision batch norm for gradients by example.
    """
    networks = [module for module in algorithm.modules() if isinstance(module, Network)]
    before = [network.precision for network in networks]
    try:
        for network in networks:
            network.precision = "fp32"
        yield
    finally:
        for network, precision in zip(networks, before, strict=True):
            network.precision = precision
