"""Check any test-time adapter by eight questions, with two, three and five classes.

A question is a function of an `AdapterSubject`, a number of classes and a hyperparameter seed, and returns the problem
it found, or an empty text. Adapters predict a domain that the model was not trained on.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.examine import Question, format_error, survives_json
from dgbench.conformance.finished import baseline, is_refused, resolved, trained_model
from dgbench.conformance.rehearsal import Rehearsal, count_passes, images_of
from dgbench.conformance.worlds import EXAMPLES, World, worlds
from dgbench.core.cards import AdapterCard, needs_of
from dgbench.core.seeding import seed_everything
from dgbench.core.wording import group_values
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network

CLASSES = (2, 3, 5)
"""Numbers of classes that most questions try."""
_TYPICAL = (3,)
_ABOUT = ("predict", "begin", "__init__")
_TEST_DOMAIN = 4
"""Number of the domain to be predicted, lighter than those of training."""
_SIZES = (8, 1, 7)
"""Inputs of each batch."""


@dataclass(frozen=True)
class AdapterSubject:
    """An adapter under examination, on one device."""

    entry: CatalogueEntry
    device: torch.device

    @property
    def card(self) -> AdapterCard:
        """The adapter's card."""
        card: AdapterCard = self.entry.card
        return card

    @property
    def noun(self) -> str:
        """Questions vary the number of classes."""
        return "class"

    def allows(self, number: int) -> bool:
        """Return whether the adapter takes so many classes, which may be any number."""
        return True

    def model(self, classes: int) -> Rehearsal:
        """Return the trained model, with batch norm if the card needs it."""
        return _model(self.device, classes, any(need.what == "batch_norm" for need in needs_of(self.card)))

    def adapter(self, model: Rehearsal, seed: int, **fixed: Any) -> Adapter:
        """Return a new adapter of a copy of the model, which has begun.

        Args:
            model: The trained model.
            seed: Hyperparameter seed; 0: the defaults.
            **fixed: Hyperparameters that override the draw.
        """
        cls = self.entry.load()
        seed_everything(self.device, "adapt")
        adapter: Adapter = cls(
            copy.deepcopy(model.algorithm.network), cls.Hparams(**resolved(self.entry, seed, **fixed))
        )
        if self.card.needs_source:
            adapter.begin(_source(model, adapter.network))
        return adapter


@cache
def _model(device: torch.device, classes: int, batch_norm: bool) -> Rehearsal:
    return trained_model(device, classes, batch_norm=batch_norm)


def _source(model: Rehearsal, network: Network) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the training examples, one batch a domain."""
    for x, y in model.seen:
        yield network.prepare(x.to(model.device)), y.to(model.device)


def predict(adapter: Adapter, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return the logits of batches of these sizes, as the engine reads them."""
    batches = torch.split(x[: sum(sizes)], list(sizes))
    with torch.enable_grad():
        return [adapter.predict(adapter.network.prepare(batch)).detach() for batch in batches]


def _inputs(subject: AdapterSubject, classes: int) -> Tensor:
    return images_of(_TEST_DOMAIN, 0, classes)[0][: sum(_SIZES)].to(subject.device)


def _misshapen(found: Sequence[Tensor], sizes: Sequence[int], outputs: int) -> str:
    """Return the problem with the logits of batches, or an empty text."""
    for logits, size in zip(found, sizes, strict=True):
        if tuple(logits.shape) != (size, outputs):
            return f"logits of a batch of {size} with {outputs} classes are {tuple(logits.shape)}"
        if not logits.isfinite().all():
            return f"logits of a batch of {size} are not finite"
    return ""


def takes_batches(subject: AdapterSubject, classes: int, seed: int) -> str:
    """Check that each batch gets finite logits (B, classes), also a batch of one among others."""
    adapter = subject.adapter(subject.model(classes), seed)
    return _misshapen(predict(adapter, _inputs(subject, classes), _SIZES), _SIZES, classes)


def takes_one(subject: AdapterSubject, classes: int, seed: int) -> str:
    """Check that a domain of a single input, and one whose inputs come one by one, get finite logits."""
    ones = (1, 1, 1)
    adapter = subject.adapter(subject.model(classes), seed)
    return _misshapen(predict(adapter, _inputs(subject, classes), ones), ones, classes)


def rests(subject: AdapterSubject, classes: int, seed: int) -> str:
    """Check that with a learning rate of 0 a batch is predicted as if it were the first.

    Not asked of adapters without a hyperparameter `lr`.
    """
    if not subject.entry.takes("lr"):
        return ""
    x, model = _inputs(subject, classes), subject.model(classes)
    later, first = (subject.adapter(model, seed, lr=0.0) for _ in range(2))
    predict(later, x[8:], (8,))
    found = []
    for adapter in (later, first):
        seed_everything(subject.device, "again")
        found += predict(adapter, x, (8,))
    gap = float((found[0] - found[1]).abs().max())
    return f"with lr 0 a batch is predicted otherwise after another, by {gap:.1e}" if gap > 1e-9 else ""


def begins_anew(subject: AdapterSubject, classes: int, seed: int) -> str:
    """Check that a new adapter of the model predicts as the first did, bit for bit."""
    x, model = _inputs(subject, classes), subject.model(classes)
    first, again = (predict(subject.adapter(model, seed), x, _SIZES) for _ in range(2))
    if all(torch.equal(one, other) for one, other in zip(first, again, strict=True)):
        return ""
    return "a new adapter of the same model predicts otherwise than the first, with the same seed"


def reads_source(subject: AdapterSubject, classes: int, seed: int) -> str:
    """Check that training examples are read if, and only if, the card says so."""
    own = inspect.getattr_static(subject.entry.load(), "begin") is not inspect.getattr_static(Adapter, "begin")
    if own != subject.card.needs_source:
        return "the card says needs_source, and there is no `begin`" if not own else "the card lacks needs_source"
    return ""


def costs_at_most(subject: AdapterSubject, classes: int, seed: int) -> str:
    """Check that passes through the featurizer are at most those on the card; some inputs may teach nothing."""
    model, batch = subject.model(classes), 8
    adapter = subject.adapter(model, seed)
    tally = count_passes(adapter.network)
    # Hooks are copied with networks, but not to copies that the adapter has made already.
    for value in vars(adapter).values():
        if isinstance(value, Network) and value is not adapter.network:
            value.featurizer.register_forward_hook(next(reversed(adapter.network.featurizer._forward_hooks.values())))
    predict(adapter, _inputs(subject, classes), (batch, batch))
    return ", ".join(
        f"{counted / (2 * batch):.2f} {what} passes an input, the card says {said:g}"
        for what, counted, said in (
            ("forward", tally.forwards, subject.card.forwards),
            ("backward", tally.backwards, subject.card.backwards),
        )
        if counted / (2 * batch) > said + 0.051
    )


def takes_inputs(subject: AdapterSubject, classes: int, seed: int) -> str:
    """Check that it adapts models of each kind of input that its card lets in, each with its network."""
    found = list[tuple[str, str]]()
    with worlds() as all_worlds:
        for world in all_worlds:
            if world.task == "classification" and not is_refused(subject.entry, world):
                found.append((_adapted_in(subject, world, seed), world.name))
    wrong = group_values((what, where) for what, where in found if what)
    return "; ".join(f"on {', '.join(where)}: {what}" for what, where in wrong.items())


def _adapted_in(subject: AdapterSubject, world: World, seed: int) -> str:
    """Adapt in a world; return the problem found, or an empty text."""
    try:
        algorithm, material = baseline(subject.device), world.material(2)
        model = algorithm.rehearse_on(material, algorithm.values(0), world.setting, [EXAMPLES // 2] * 2)
        model.algorithm.eval()
        adapter = subject.adapter(model, seed)
        return _misshapen(predict(adapter, material.seen[0][0].to(subject.device), (6, 1)), (6, 1), world.outputs)
    except Exception as error:
        return format_error(error, subject.entry)


QUESTIONS = (
    Question("batches", "every batch gets finite logits, also one of a single input", takes_batches, CLASSES, _ABOUT),
    Question("one", "a domain of one input is predicted, and one shown one by one", takes_one, CLASSES, _ABOUT),
    Question("rests", "with a learning rate of 0 nothing is learned", rests, _TYPICAL, _ABOUT),
    Question("anew", "the same seed predicts the same, whatever other adapters learned", begins_anew, _TYPICAL, _ABOUT),
    Question(
        *("source", "training examples are read if the card says so", reads_source, _TYPICAL, ("begin",)), drawn=False
    ),
    Question("json", "hyperparameters survive JSON", survives_json, _TYPICAL, ("Hparams",), drawn=False),
    Question(
        "inputs", "it takes every kind of input that its card lets in", takes_inputs, _TYPICAL, _ABOUT, drawn=False
    ),
    Question("cost", "passes are at most those on the card", costs_at_most, _TYPICAL, _ABOUT, drawn=False),
)
"""The questions to adapters."""
