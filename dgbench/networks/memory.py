"""Remember the features of evaluated inputs, for models of a run whose featurizers have the same weights.

A frozen featurizer gives a batch the same features at each evaluation, whether the live model, an average or a merged
model asks: these differ in the classifier alone. An adapter that reads the training examples anew for each view asks
for the same features, too. `Network.features` looks here before it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class FeatureMemory:
    """The features of batches under the latest weights of a featurizer; empty when other weights come.

    The engine names each batch that may come again (`preparing`), the network tells what it made of the batch
    (`prepared`), and features are remembered of that very tensor alone: what a method makes of its inputs has no name.

    Args:
        most: Most numbers held at once; features beyond them are computed each time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._next: Hashable | None = None
        self._shown: tuple[Hashable, Tensor] | None = None
        self._weights: list[tuple[Tensor, int]] = []
        """The tensors that the features are of, and the number of their changes in place then."""
        self._equal: list[tuple[Tensor, int]] = []
        """Those of the latest pass, which hold the same numbers."""
        self._known: dict[Hashable, tuple[Tensor, int]] = {}

    @contextmanager
    def preparing(self, *key: Hashable) -> Iterator[None]:
        """Name the batch that a network prepares within the block, by a key that no other inputs have."""
        self._next = key
        try:
            yield
        finally:
            self._next = None

    def prepared(self, x: Tensor) -> None:
        """Receive inputs (B, ...) as a network takes them, of the batch that was named, if one was."""
        self._shown = None if self._next is None else (self._next, x)

    def features(self, featurizer: nn.Module, x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the features of inputs, remembered or computed.

        Args:
            featurizer: In evaluation mode, with the weights in place that `compute` uses.
            x: Inputs (B, ...).
            compute: From inputs to features (B, num_features).
        """
        if self._shown is None or self._shown[1] is not x:
            return compute(x)
        key = self._shown[0]
        self._keep_if_of(featurizer)
        known = self._known.get(key)
        # A method may have changed them in place.
        if known is not None and known[0]._version == known[1]:
            return known[0]
        found = compute(x)
        self._known.pop(key, None)
        if found.numel() + sum(held.numel() for held, _ in self._known.values()) <= self.most:
            self._known[key] = (found, found._version)
        return found

    def _keep_if_of(self, featurizer: nn.Module) -> None:
        """Forget all features unless they are those of the weights in place."""
        weights = [*featurizer.parameters(), *featurizer.buffers()]
        if not _unchanged(self._weights):
            self._known, self._weights, self._equal = {}, _marked(weights), _marked(weights)
        elif not (_unchanged(self._equal) and _same([tensor for tensor, _ in self._equal], weights)):
            # The first weights stay, as averages change theirs in place while the live model's are frozen.
            if not _equal([tensor for tensor, _ in self._weights], weights):
                self._known, self._weights = {}, _marked(weights)
            self._equal = _marked(weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureMemory:
        """Return itself: copies of a network share what is remembered."""
        return self


def _marked(weights: list[Tensor]) -> list[tuple[Tensor, int]]:
    """Return tensors, each with the number of its changes in place so far."""
    return [(tensor, tensor._version) for tensor in weights]


def _unchanged(marked: list[tuple[Tensor, int]]) -> bool:
    """Return whether none of these tensors was changed in place since it was marked."""
    return all(tensor._version == version for tensor, version in marked)


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Return whether two lists hold the same objects."""
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Return whether two lists of tensors hold the same numbers."""
    if len(first) != len(second):
        return False
    pairs = zip(first, second, strict=True)
    return all(a is b or (a.shape == b.shape and a.device == b.device and a.equal(b)) for a, b in pairs)
