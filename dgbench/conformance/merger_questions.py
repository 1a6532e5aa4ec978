"""Check any merger by eight questions, with two or more members (one, if it merges each run by itself).

A question is a function of a `MergerSubject`, a number of members and a hyperparameter seed, and returns the problem it
found, or an empty text. Mergers by weights are judged by the weights that they yield, ensembles by their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.examine import Question, format_error, survives_json
from dgbench.conformance.finished import Fleet, fleet, fleet_in, is_refused, resolved
from dgbench.conformance.worlds import World, worlds
from dgbench.core.cards import MergerCard
from dgbench.core.seeding import seed_everything
from dgbench.core.wording import group_values
from dgbench.methods.average import Weights
from dgbench.methods.merger import Member, Merged, Merger

MEMBERS = (1, 2, 3)
"""Numbers of members that most questions try."""
_ABOUT = ("merge", "candidates", "ensemble")
_MANY = 4
"""Members that are put in other orders."""
_ANY = (1, _MANY)
"""One number that each merger takes."""
_CLOSE = 1e-6
"""Largest difference, of weights in double precision, that counts as rounding."""


@dataclass(frozen=True)
class MergerSubject:
    """A merger under examination, on one device."""

    entry: CatalogueEntry
    device: torch.device

    @property
    def card(self) -> MergerCard:
        """The merger's card."""
        card: MergerCard = self.entry.card
        return card

    @property
    def noun(self) -> str:
        """Questions vary the number of members."""
        return "member"

    def allows(self, number: int) -> bool:
        """Return whether the merger takes so many members."""
        return number == 1 if self.card.each else number >= self.card.min_members

    def make(self, seed: int) -> Merger:
        """Return a merger with the hyperparameters of a seed."""
        cls = self.entry.load()
        merger: Merger = cls(cls.Hparams(**resolved(self.entry, seed)))
        return merger

    def merge(self, of: Fleet, members: Sequence[Member], seed: int) -> list[Merged]:
        """Return all candidates; of an ensemble one, whose `weights` are the logits of some inputs."""
        merger = self.make(seed)
        seed_everything(self.device, "merge")
        if not self.card.ensemble:
            return list(merger.candidates(members, of.tools()))
        chosen = merger.ensemble(members)
        x = of.rehearsal.algorithm.network.prepare(of.rehearsal.unseen[0][0].to(self.device))
        logits = torch.stack([of.logits(member.load(), x) for member in chosen or members]).mean(0)
        return [Merged({"logits": logits}, chosen)]


def keeps_form(subject: MergerSubject, number: int, seed: int) -> str:
    """Check that each candidate has the names, shapes and types of the members' tensors, and names given members."""
    return _wrong_form(subject, fleet(subject.device, number), seed)


def _wrong_form(subject: MergerSubject, of: Fleet, seed: int) -> str:
    """Return the problem with the form of the models that a merger yields, or an empty text."""
    members = of.members()
    found = subject.merge(of, members, seed)
    said = 1 if subject.card.ensemble else subject.make(seed).choices
    if len(found) != said:
        return f"it yields {len(found)} models, and `choices` is {said}"
    given = {member.run for member in members}
    for merged in found:
        named = [member.run for member in merged.members]
        if not named or not given.issuperset(named) or len(set(named)) < len(named):
            return f"it names the members {', '.join(named) or 'none'}, and was given {', '.join(sorted(given))}"
        if broken := [name for name, tensor in merged.weights.items() if not tensor.isfinite().all()]:
            return f"not finite: {', '.join(broken[:3])}"
        if not subject.card.ensemble and (wrong := _unlike(merged.weights, of.start)):
            return wrong
    return ""


def _unlike(weights: Weights, wanted: Weights) -> str:
    """Return how the form of weights differs from that of others, or an empty text."""
    if missing := sorted(wanted.keys() - weights.keys()):
        return f"it lacks {', '.join(missing[:3])}"
    if further := sorted(weights.keys() - wanted.keys()):
        return f"no member has {', '.join(further[:3])}"
    for name, tensor in weights.items():
        own, members = (f"{one.dtype} {tuple(one.shape)}" for one in (tensor, wanted[name]))
        if own != members:
            return f"{name} is {own}, and that of the members {members}"
    return ""


def stays_at_start(subject: MergerSubject, number: int, seed: int) -> str:
    """Check that members that are all as they started give that start, whatever the hyperparameters."""
    of = fleet(subject.device, number)
    still = replace(of, trained=[of.start] * number)
    alone = subject.merge(still, still.members(), seed)
    if subject.card.ensemble:
        x = of.rehearsal.algorithm.network.prepare(of.rehearsal.unseen[0][0].to(subject.device))
        return _off(alone[0].weights, {"logits": of.logits(of.start, x)}, "of members that never moved it is")
    return next(filter(None, (_off(one.weights, of.start, "of members that never moved it is") for one in alone)), "")


def keeps_equal(subject: MergerSubject, number: int, seed: int) -> str:
    """Check that equal members give that member as one of the candidates, unless the card says why not."""
    if subject.card.changes_equal:
        return ""
    of = fleet(subject.device, number)
    equal = replace(of, trained=[of.trained[0]] * number)
    wanted = of.trained[0]
    if subject.card.ensemble:
        x = of.rehearsal.algorithm.network.prepare(of.rehearsal.unseen[0][0].to(subject.device))
        wanted = {"logits": of.logits(wanted, x)}
    wrong = [_off(one.weights, wanted, "of equal members it is") for one in subject.merge(equal, equal.members(), seed)]
    return "" if "" in wrong else f"{wrong[-1]}, and the card does not say why (`changes_equal`)"


def _off(weights: Weights, wanted: Weights, what: str) -> str:
    """Name the tensor in which weights differ most from others; return an empty text if only by rounding."""
    # Tensors that are missing, or of another form, are the first question's to find.
    found = {name: tensor for name, tensor in wanted.items() if name in weights and tensor.is_floating_point()}
    gaps = {name: _gap(weights[name], tensor) for name, tensor in found.items()}
    name = max(gaps, key=lambda name: gaps[name], default="")
    return f"{what} off by {gaps[name]:.1e} in {name}" if name and gaps[name] > _CLOSE else ""


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.numel() else 0.0


def ignores_order(subject: MergerSubject, number: int, seed: int) -> str:
    """Check that the order of members makes no difference, unless the card says why."""
    if subject.card.in_order:
        return ""
    of = fleet(subject.device, number)
    members = of.members()
    first, second = (subject.merge(of, some, seed) for some in (members, [*members[1:], members[0]]))
    for one, other in zip(first, second, strict=True):
        if wrong := _off(other.weights, one.weights, "with members in another order it is"):
            return f"{wrong}, and the card does not say why (`in_order`)"
    return ""


def repeats(subject: MergerSubject, number: int, seed: int) -> str:
    """Check that the same seed gives the same numbers, whatever was drawn before, and that members stay as they are."""
    of = fleet(subject.device, number)
    first = subject.merge(of, of.members(), seed)
    torch.rand(5)
    for one, other in zip(first, subject.merge(of, of.members(), seed), strict=True):
        different = [name for name, tensor in one.weights.items() if not torch.equal(tensor, other.weights[name])]
        if different:
            return f"two merges differ in {', '.join(different[:3])}"
    return ""


def reads_common_start(subject: MergerSubject, number: int, seed: int) -> str:
    """Check that initial weights are read only if the card says that members share them, or that each has its own."""
    if subject.card.shared_init or subject.card.each or subject.card.ensemble:
        return ""
    of, read = fleet(subject.device, number), list[bool]()

    def initial() -> Weights:
        read.append(True)
        return dict(of.start)

    seed_everything(subject.device, "merge")
    for _ in subject.make(seed).candidates(of.members(), replace(of.tools(), initial=initial)):
        pass
    return "it reads the weights that the first member started from, and the card says shared_init=False" * bool(read)


def takes_networks(subject: MergerSubject, number: int, seed: int) -> str:
    """Check that it merges models of each kind of input and label that its card lets in, each with its network."""
    found = list[tuple[str, str]]()
    with worlds() as all_worlds:
        for world in all_worlds:
            if not is_refused(subject.entry, world):
                found.append((_merged_in(subject, world, number, seed), world.name))
    wrong = group_values((what, where) for what, where in found if what)
    return "; ".join(f"on {', '.join(where)}: {what}" for what, where in wrong.items())


def _merged_in(subject: MergerSubject, world: World, number: int, seed: int) -> str:
    """Merge in a world; return the problem found, or an empty text."""
    try:
        return _wrong_form(subject, fleet_in(world, subject.device, number), seed)
    except Exception as error:
        return format_error(error, subject.entry)


QUESTIONS = (
    Question("form", "it yields what `choices` says, in the form of its members", keeps_form, MEMBERS, _ABOUT),
    Question("start", "of members that never moved it is their start", stays_at_start, MEMBERS, _ABOUT),
    Question("equal", "of equal members it is one of them, or the card says why not", keeps_equal, MEMBERS, _ABOUT),
    Question("order", "the order of members doesn't matter, or the card says why", ignores_order, (_MANY,), _ABOUT),
    Question("repeats", "the same seed gives the same numbers", repeats, MEMBERS, _ABOUT, drawn=False),
    Question(
        *("init", "it reads where members started only if the card says they share it", reads_common_start),
        *(MEMBERS, _ABOUT),
        drawn=False,
    ),
    Question("json", "hyperparameters survive JSON", survives_json, _ANY, ("Hparams",), drawn=False),
    Question(*("networks", "it merges every network that its card lets in", takes_networks, _ANY, _ABOUT), drawn=False),
)
"""The questions to mergers."""
