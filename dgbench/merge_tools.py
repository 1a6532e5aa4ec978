"""What mergers are given beside their members, made from a run's workbench."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from dgbench.algorithm import Algorithm
from dgbench.average import Weights
from dgbench.batch_norm import inputs_for, is_live, measured
from dgbench.evaluate import evaluate_views
from dgbench.merger import Tools
from dgbench.predictor import predict_with
from dgbench.seeding import numpy_stream
from dgbench.workbench import Workbench

_CHUNK = 16
"""Examples whose gradients are held at a time."""


class MergeTools:
    """The tools of one merge, on one algorithm whose own weights nobody needs."""

    def __init__(self, bench: Workbench, algorithm: Algorithm) -> None:
        self.bench = bench
        self.algorithm = algorithm

    def tools(self) -> Tools:
        """As a merger takes them."""
        return Tools(self.score, self.initial, self.fisher)

    def initial(self) -> Weights:
        """What the first member's training began with."""
        return self.bench.algorithm(begin=True).predictor_tensors()

    def with_statistics(self, weights: Weights) -> Weights:
        """The weights with batch-norm statistics of their own, where batch norm is live."""
        self.algorithm.train()
        if not is_live(self.algorithm):
            return weights
        return measured(self.algorithm, weights, inputs_for(self.algorithm, self.bench.data, self.bench.trained))

    def score(self, weights: Weights) -> float:
        """Accuracy on the pooled `out` parts of the training domains."""
        predict = predict_with(self.algorithm, self.with_statistics(weights))
        scores, _ = evaluate_views(predict, self.bench.data, self.bench.run.fold.source_val, self.bench.device)
        correct = sum(view["accuracy"] * view["n"] for view in scores.values())
        return correct / sum(view["n"] for view in scores.values())

    def fisher(self, weights: Weights, examples: int) -> Weights:
        """By floating-point tensor, the mean square of an example's gradient; labels from the model's predictions."""
        algorithm, device = self.algorithm.eval(), self.bench.device
        learning = {name for name, p in algorithm.named_parameters() if p.requires_grad and name in weights}
        moving = {name: weights[name].to(device) for name in learning}
        fixed = {name: tensor.to(device) for name, tensor in weights.items() if name not in learning}

        def loss(moving: Weights, x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(algorithm, {**fixed, **moving}, (x[None],), tie_weights=False)
            return F.cross_entropy(logits, y[None])

        per_example = vmap(grad(loss), in_dims=(None, 0, 0))
        total = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}
        inputs = self._examples(examples)
        with torch.no_grad():
            logits = functional_call(algorithm, {**fixed, **moving}, (inputs,), tie_weights=False)
            labels = torch.multinomial(logits.softmax(dim=1), 1).squeeze(1)
        for x, y in zip(torch.split(inputs, _CHUNK), torch.split(labels, _CHUNK), strict=True):
            for name, gradient in per_example(moving, x, y).items():
                total[name] += gradient.square().sum(dim=0)
        return {name: square / len(inputs) for name, square in total.items()}

    def _examples(self, count: int) -> Tensor:
        """So many training examples as the network takes them, as many of each domain, drawn by the run's seed."""
        views, data = self.bench.run.fold.train, self.bench.data
        parts = []
        for view in views:
            rng = numpy_stream(self.bench.run.seed, "fisher", str(view))
            chosen = rng.permutation(data.size(view))[: max(1, count // len(views))]
            parts.append(self.algorithm.network.prepare(data.inputs(view, chosen).to(self.bench.device)))
        return torch.cat(parts)
