"""Mergers that each break one rule, so that the conformance suite can be seen to notice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merged, Merger, Tools

CARD = MergerCard(paper="nobody's")
_CALLS = itertools.count()


def mean_of(members: Sequence[Member]) -> Weights:
    mean = RunningMean()
    for member in members:
        mean.add(member.load())
    return mean.mean


def mixed(one: Weights, other: Weights, share: float) -> Weights:
    return {
        name: torch.lerp(tensor, other[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in one.items()
    }


class Halves(Merger):
    """form: a tensor in half the digits."""

    card = CARD

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        return {name: tensor.float() for name, tensor in mean_of(members).items()}


class Forgetful(Merger):
    """form: some tensors are left out."""

    card = CARD

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        return {name: tensor for name, tensor in mean_of(members).items() if "classifier" not in name}


class Plenty(Merger):
    """form: more models than it says."""

    card = CARD

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        yield Merged(mean_of(members), members)
        yield Merged(mean_of(members), members)


class Lonely(Merger):
    """form: an ensemble of nothing."""

    card = MergerCard(paper="nobody's", ensemble=True)

    def ensemble(self, members: Sequence[Member]) -> Sequence[Member]:
        return []


class Grows(Merger):
    """start: weights grow although no member moved."""

    card = MergerCard(paper="nobody's", changes_equal="it grows")

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        mean = mean_of(members)
        return mixed(mean, {name: 2 * tensor for name, tensor in mean.items()}, 0.1)


class Shrinks(Merger):
    """equal: halfway back to the start."""

    card = CARD

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        return mixed(mean_of(members), tools.initial(), 0.5)


class Favors(Merger):
    """order: the first member counts more."""

    card = CARD

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        return mean_of([members[0], *members])


class Moody(Merger):
    """repeats: another share at each call."""

    card = MergerCard(paper="nobody's", in_order="of its mood")

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        return mixed(mean_of(members), members[0].load(), 0.1 * (next(_CALLS) % 7))


class Peeks(Merger):
    """init: the first member's start counts for all."""

    card = MergerCard(paper="nobody's", shared_init=False, changes_equal="it goes back", in_order="of the start")

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        return mixed(mean_of(members), tools.initial(), 0.5)


class Loses(Merger):
    """json: a tuple comes back as a list."""

    card = CARD

    @dataclass(frozen=True)
    class Hparams(Checked):
        share: float = hparam(0.5, help="of anything")

        def __post_init__(self) -> None:
            object.__setattr__(self, "share", object())

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        return mean_of(members)


class Picky(Merger):
    """networks: of convolutions alone, which the card doesn't say."""

    card = CARD

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        assert any(tensor.dim() == 4 for tensor in members[0].load().values())
        return mean_of(members)
