"""Adapters that each break one rule, so that the conformance suite can be seen to notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dgbench.core.cards import AdapterCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.adapter import Adapter

CARD = AdapterCard(paper="nobody's")


class Drops(Adapter):
    """batches: the last input of a batch of several is not predicted."""

    card = CARD

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x)[: max(1, len(x) - 1)]  # type: ignore[no-any-return]


class Standard(Adapter):
    """one: a domain of one input has no deviation."""

    card = CARD

    def __init__(self, network: Any, hparams: Any) -> None:
        super().__init__(network, hparams)
        self._first: Tensor | None = None

    def predict(self, x: Tensor) -> Tensor:
        self._first = x if self._first is None else self._first
        return self.network(x) / self._first.double().flatten(1).std(dim=0).mean()  # type: ignore[no-any-return]


class Restless(Adapter):
    """rests: weights decay at any learning rate."""

    card = CARD

    @dataclass(frozen=True)
    class Hparams(Checked):
        lr: float = hparam(1e-3, help="learning rate", within="[0, inf)")

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        for parameter in self.network.parameters():
            parameter.mul_(0.9 - self.hparams.lr)
        return logits


class Remembers(Adapter):
    """anew: what an adapter saw is the next one's too."""

    card = CARD
    seen: ClassVar[list[int]] = []

    def predict(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.network(x) + len(self.seen)  # type: ignore[no-any-return]


class Asks(Adapter):
    """source: it reads training examples, and the card doesn't say so."""

    card = CARD

    def begin(self, source: Iterator[tuple[Tensor, Tensor]]) -> None:
        self.sizes = [len(x) for x, _ in source]

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


class Loses(Adapter):
    """json: a value that no JSON holds."""

    card = CARD

    @dataclass(frozen=True)
    class Hparams(Checked):
        share: float = hparam(0.5, help="of anything")

        def __post_init__(self) -> None:
            object.__setattr__(self, "share", object())

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


class Pictures(Adapter):
    """inputs: of images alone, which the card doesn't say."""

    card = CARD

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x.flip(3))  # type: ignore[no-any-return]


class Twice(Adapter):
    """cost: two passes, where the card says one."""

    card = CARD

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x) + self.network(x)  # type: ignore[no-any-return]
