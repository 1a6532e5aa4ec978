"""See the loss of a network on fixed examples as a function of one vector, its weights.

Measures of sharpness, curvature and landscapes stand on this view: they move the vector, and ask for the loss, its
gradient, and products with its Hessian. The network stays in evaluation mode, so statistics of batch norm are
constants, and its own weights are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, classes), labels (B,)) -> the sum of the examples' losses."""


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the examples' cross-entropies."""
    return F.cross_entropy(logits, labels, reduction="sum")


class Surface:
    """The mean loss of a network on some examples, by its parameters as one vector.

    Every quantity is a mean over examples, whatever batches they come in, so the size of a batch changes nothing but
    memory and time.

    Args:
        network: Maps inputs (B, ...) to logits (B, classes). It is set to evaluation mode.
        batches: Inputs and labels, gone through once for each quantity.
        loss: Sums the losses of a batch.
        parameters: Names of the parameters that the vector holds; None: all. The others stay as they are.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]],
        loss: Loss = summed_cross_entropy,
        parameters: Iterable[str] | None = None,
    ) -> None:
        self._network = network.eval()
        self._batches = batches
        self._loss = loss
        named = dict(network.named_parameters())
        names = named if parameters is None else list(parameters)
        self.shapes: Mapping[str, torch.Size] = {name: named[name].shape for name in names}
        """Name of each parameter in the vector -> its shape, in order."""
        self.origin: Tensor = torch.cat([named[name].detach().flatten() for name in names])
        """The network's own weights (size,)."""
        self.examples = sum(len(labels) for _, labels in batches)
        """Number of examples."""

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return len(self.origin)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of a vector (size,) by the names of parameters, in their shapes."""
        parts = torch.split(vector, [shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def layers(self) -> dict[str, Tensor]:
        """Return the layers by the names of their modules, in order, each with ones (size,) at its weights.

        A layer is a module with weights of two or more axes; its biases belong to it. Norms are none.
        """
        held: dict[str, list[str]] = {}
        for name in self.shapes:
            held.setdefault(name.rpartition(".")[0], []).append(name)
        parts = self.named(torch.zeros_like(self.origin))
        layers = {name: own for name, own in held.items() if any(len(self.shapes[one]) > 1 for one in own)}
        return {
            layer: torch.cat([(part + (name in own)).flatten() for name, part in parts.items()])
            for layer, own in layers.items()
        }

    def part(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Surface:
        """Return the surface of the same network on other examples."""
        return Surface(self._network, batches, self._loss, self.shapes)

    def loss(self, at: Tensor | None = None) -> float:
        """Return the mean loss at a point (size,); None: at the origin, where it is known once `start` was taken."""
        if at is None and "start" in vars(self):
            return self.start[0]
        point = self.origin if at is None else at
        with torch.no_grad():
            return float(sum(self._of_batch(point, x, y) for x, y in self._batches)) / self.examples

    def correct(self, at: Tensor | None = None) -> float:
        """Return the share of examples whose largest logit is the label's, at a point (size,)."""
        point = self.origin if at is None else at
        with torch.no_grad():
            return sum(int((self._logits(point, x).argmax(1) == y).sum()) for x, y in self._batches) / self.examples

    def gradient(self, at: Tensor | None = None) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient (size,) at a point."""
        point = self.origin if at is None else at
        total, summed = 0.0, torch.zeros_like(point)
        for loss, leaf in self._tracked(point):
            total += float(loss.detach())
            summed += torch.autograd.grad(loss, leaf)[0]
        return total / self.examples, summed / self.examples

    @cached_property
    def start(self) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient at the origin, which searches share."""
        return self.gradient()

    def products(self, vectors: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the products of the Hessian at a point with vectors.

        Args:
            vectors: (K, size); all K products share one forward and one backward pass of each batch.
            at: The point (size,); None: the origin.

        Returns:
            (K, size).
        """
        total = torch.zeros_like(vectors)
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            for loss, leaf in self._tracked(self.origin if at is None else at):
                (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
                total += torch.autograd.grad(slope, leaf, vectors, is_grads_batched=True)[0]
        return total / self.examples

    def _tracked(self, point: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the summed loss of each batch with the vector that its graph starts from."""
        for x, y in self._batches:
            leaf = point.detach().requires_grad_()
            yield self._of_batch(leaf, x, y), leaf

    def _of_batch(self, point: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self._loss(self._logits(point, x), y)

    def _logits(self, point: Tensor, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._network, self.named(point), (x,), tie_weights=False)
        return logits
