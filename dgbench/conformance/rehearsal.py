"""A small world in which an algorithm can be watched: separable domains, a small network, and a short training loop.

Three classes of 8 x 8 images differ by pattern; domains differ by brightness and contrast. Everything is in double
precision, so that "equal" can mean equal to rounding. `Rehearsal` does for an algorithm what the engine's loop does
(step numbers, seeds, evaluation, `survey` and `validated`), without files or the data pipeline; a duty that the loop
gains must be added to it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.tiny_clip import tiny_clip
from dgbench.core.cards import AlgorithmCard
from dgbench.core.seeding import seed_everything
from dgbench.core.setting import Setting, setting
from dgbench.core.space import Value
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch, Task
from dgbench.methods.criteria import CRITERIA
from dgbench.networks.network import Network

SHAPE, CLASSES = (1, 8, 8), 3
"""Shape of an image, and number of classes."""
TRAITS = ("few_examples", "small_images")
"""Traits of the small world's data, by which hyperparameter spaces vary."""
CHANCE = 1 / CLASSES
"""Accuracy of guessing."""
LIKE = "Debug28"
"""Name of the small world where a data set's name is needed: DomainBed's data set of noise for tests."""
STEPS = 60
"""Length of the longest rehearsal; a setting's schedule is stretched over it."""
_EXAMPLES, _MINIBATCH, _EVALUATE_EVERY = 96, 12, 5
"""Examples of a domain, size of a minibatch, and steps between evaluations."""


@dataclass(frozen=True)
class Material:
    """Inputs and labels of each domain of a rehearsal, some to train on and some to evaluate on."""

    shape: tuple[int, ...]
    """Of one input."""
    outputs: int
    """Number of classes; of questions, or 1 for a number, where labels are not classes."""
    task: str
    """Kind of labels, a key of `data_cards.TASKS`."""
    seen: Sequence[tuple[Tensor, Tensor]]
    """Inputs and labels to train on, of each domain."""
    unseen: Sequence[tuple[Tensor, Tensor]]
    """Inputs and labels to evaluate on, of each domain."""


@dataclass(frozen=True)
class Subject:
    """An algorithm under examination, on one device; makes the rehearsals that questions watch."""

    entry: CatalogueEntry
    device: torch.device

    @property
    def card(self) -> AlgorithmCard:
        """The algorithm's card."""
        card: AlgorithmCard = self.entry.card
        return card

    @property
    def noun(self) -> str:
        """Questions vary the number of training domains."""
        return "domain"

    def allows(self, number: int) -> bool:
        """Return whether the algorithm trains on so many domains."""
        return number >= self.card.min_domains

    def values(self, seed: int, fixed: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """Resolve hyperparameters for a short rehearsal.

        Args:
            seed: Hyperparameter seed; 0: the defaults.
            fixed: Values that override the draw, the card's `rehearsal` and the rehearsal's learning rate and batch
                size.
        """
        short = {"lr": 3e-3, "batch_size": _MINIBATCH, **self.card.rehearsal, **(fixed or {})}
        known = {name: value for name, value in short.items() if self.entry.takes(name)}
        return self.drawn(seed, TRAITS, known)

    def drawn(self, seed: int, traits: Sequence[str], fixed: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """Resolve hyperparameters as a sweep would.

        Args:
            seed: Hyperparameter seed; 0: the defaults.
            traits: Traits of the data.
            fixed: Values that override the draw.
        """
        return self.entry.resolve(LIKE, traits=traits, hparams_seed=seed, trial=0, fixed=fixed or {}, draws={})

    def rehearse(
        self,
        domains: int = 3,
        seed: int = 0,
        fixed: Mapping[str, Value] | None = None,
        *,
        uneven: bool = False,
        classes: int = CLASSES,
        **changes: Any,
    ) -> Rehearsal:
        """Make a rehearsal in the small world of images, before its first step.

        Args:
            domains: Number of training domains.
            seed: Hyperparameter seed; 0: the defaults.
            fixed: Hyperparameters that override the draw.
            uneven: Give minibatches different sizes, and let the last domain lack a class.
            classes: Number of classes.
            **changes: Fields of the setting that differ from the rehearsal's.
        """
        usual = {"steps": STEPS, "checkpoint_freq": _EVALUATE_EVERY, "backbone": "SmallCNN", **self.card.setting}
        if "text_tower" in self.card.needs:
            usual |= {"backbone": tiny_clip(), "pretrained": False}
        resolved = setting(**{**usual, **changes})
        sizes = [_MINIBATCH - 3 * i if uneven else _MINIBATCH for i in range(domains)]
        seen = [images_of(i, 0, classes, 0 if uneven and i == domains - 1 else None) for i in range(domains)]
        unseen = [images_of(i, 1, classes) for i in range(domains)]
        material = Material(SHAPE, classes, "classification", seen, unseen)
        return self.rehearse_on(material, self.values(seed, fixed), resolved, sizes)

    def rehearse_on(
        self, material: Material, values: Mapping[str, Any], resolved: Setting, sizes: Sequence[int]
    ) -> Rehearsal:
        """Make a rehearsal on given data, before its first step.

        Args:
            material: The data.
            values: All hyperparameters.
            resolved: The setting, with all of its values.
            sizes: Examples of each domain's minibatches.
        """
        return Rehearsal(self.entry.load(), values, resolved, material, sizes, self.device)


class Rehearsal:
    """One short training of an algorithm, with the duties of the engine's loop towards it; `Subject.rehearse` makes it.

    Each step's minibatches and random draws depend on the step alone, so that a rehearsal that is resumed, or run
    twice, sees the same.
    """

    def __init__(
        self,
        cls: type[Algorithm],
        values: Mapping[str, Any],
        resolved: Setting,
        material: Material,
        sizes: Sequence[int],
        device: torch.device,
    ) -> None:
        """Build the network and the algorithm, seeded alike each time.

        Args:
            cls: The algorithm.
            values: All of its hyperparameters.
            resolved: The setting, with all of its values.
            material: The data.
            sizes: Examples of each domain's minibatches.
            device: Where it trains.
        """
        self.device, self.sizes = device, sizes
        self.task, self.seen, self.unseen = material.task, material.seen, material.unseen
        self.copies = [torch.ones(len(y), dtype=torch.int64) for _, y in self.seen]
        counts = tuple(_counts(y, material) for _, y in self.seen)
        torch.manual_seed(0)
        hparams = cls.Hparams(**values)
        network = cls.make_network(material.shape, material.outputs, hparams, resolved).to(device)
        network.freeze(resolved.freeze)
        names = tuple(f"class {number}" for number in range(material.outputs))
        task = Task(material.shape, material.outputs, counts, material.task, classes=names)
        self.algorithm = cls(network, hparams, task, resolved).to(device)
        self.algorithm.train()
        self.step = 0

    def batches(self, step: int) -> list[Batch]:
        """Return the minibatches of a step, one for each training domain."""
        found = []
        for domain, ((x, y), size, copies) in enumerate(zip(self.seen, self.sizes, self.copies, strict=True)):
            generator = torch.Generator().manual_seed(1000 * step + domain)
            stock = torch.repeat_interleave(copies)
            chosen = stock[torch.randint(len(stock), (size,), generator=generator)]
            inputs, labels, positions = (tensor.to(self.device) for tensor in (x[chosen], y[chosen], chosen))
            # A teacher that is sure of the right class: logits 5 there, 0 elsewhere.
            taught = (
                5 * F.one_hot(labels, self.algorithm.task.num_classes).to(inputs.dtype)
                if self.algorithm.card.taught
                else None
            )
            found.append(Batch(inputs, labels, positions, domain, taught))
        return found

    def until(self, end: int) -> dict[str, Tensor]:
        """Take all steps before `end`, evaluating every few steps.

        Args:
            end: Number of the first step that is not taken.

        Returns:
            Logged values of the last step.
        """
        logged: Mapping[str, Tensor] = {}
        for step in range(self.step, end):
            self.pause(step)
            batches = self.batches(step)
            seed_everything(self.device, "rehearsal", step)
            self.algorithm.step = step
            logged = self.algorithm.logged_update(batches)
            self.step = step + 1
            if step % _EVALUATE_EVERY == 0:
                self.algorithm.validated(self.score()[1])
        return dict(logged)

    def pause(self, step: int) -> None:
        """Do the loop's work due before `step`: the algorithm's survey, and the validation at its `validate_at`."""
        if step == self.algorithm.survey_at:
            self._survey()
        if step == self.algorithm.validate_at and step > 0:
            self.algorithm.validated(self.score()[1])

    def _survey(self) -> None:
        """Predict all training examples and take the algorithm's new number of copies of each."""
        logits = [self.predict(x).cpu() for x, _ in self.seen]
        seed_everything(self.device, "rehearsal", "survey")
        self.copies = list(self.algorithm.survey(logits, [y for _, y in self.seen]))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return logits in evaluation mode, and set training mode again."""
        self.algorithm.eval()
        logits: Tensor = self.algorithm(x.to(self.device))
        self.algorithm.train()
        return logits

    def score(self) -> tuple[float, float]:
        """Evaluate on unseen examples of the training domains.

        Returns:
            Mean loss and accuracy; the negated loss in place of accuracy where labels are not classes.
        """
        losses, right = [], []
        for x, y in self.unseen:
            logits = self.predict(x).cpu()
            losses.append(CRITERIA[self.task].mean(logits, y).item())
            hit = (logits.argmax(1) == y).double().mean().item() if self.task == "classification" else -losses[-1]
            right.append(hit)
        return sum(losses) / len(losses), sum(right) / len(right)

    def save(self) -> bytes:
        """Return a checkpoint: the algorithm's training state, copies of examples and the step."""
        file = io.BytesIO()
        torch.save({"state": self.algorithm.training_state(), "copies": self.copies, "step": self.step}, file)
        return file.getvalue()

    def load(self, content: bytes) -> None:
        """Go on from a checkpoint, read as safely as the engine reads it."""
        state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        self.algorithm.load_training_state(state["state"])
        self.copies, self.step = state["copies"], state["step"]

    def parameters(self) -> dict[str, Tensor]:
        """Return copies of all parameters by name."""
        return {name: p.detach().clone() for name, p in self.algorithm.named_parameters()}


def _counts(y: Tensor, given: Material) -> tuple[int, ...]:
    """Return the number of examples of each class; of all examples where labels are not classes."""
    return tuple(torch.bincount(y, minlength=given.outputs).tolist()) if given.task == "classification" else (len(y),)


def images_of(number: int, split: int, classes: int = CLASSES, lacks: int | None = None) -> tuple[Tensor, Tensor]:
    """Return images and labels of a domain: the same patterns in all domains, in another light.

    Args:
        number: The domain's number, which sets brightness and contrast.
        split: 0 for examples to train on, 1 for others.
        classes: Number of classes.
        lacks: The class of which there is no example; None: there is none.
    """
    # One seed for all domains: classes are told apart by the same patterns everywhere.
    patterns = torch.randn(classes, *SHAPE, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(10 * number + split)
    kinds = [k for k in range(classes) if k != lacks]
    y = torch.tensor(kinds).repeat(_EXAMPLES // len(kinds))
    noise = torch.randn(len(y), *SHAPE, generator=generator)
    return (1 + 0.3 * number) * (patterns[y] + 0.5 * noise) + 0.3 * number, y


@contextmanager
def double_precision() -> Iterator[None]:
    """Make new floating-point tensors float64 within the block, on one thread, as the world is small."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


# -- counting passes ----------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Examples that passed through featurizers."""

    forwards: int = 0
    """Forward."""
    backwards: int = 0
    """Backward; a backward pass through a backward pass counts again."""


def count_passes(algorithm: nn.Module) -> Tally:
    """Count from now on the examples that pass through the featurizers of all networks that the algorithm holds."""
    tally = Tally()
    for module in algorithm.modules():
        if isinstance(module, Network):
            module.featurizer.register_forward_hook(lambda _, __, features: _Pass.apply(features, tally, "forwards"))
    return tally


class _Pass(torch.autograd.Function):
    """The identity on features, which counts examples that pass in one direction.

    Its backward pass is the identity too, as another `_Pass`, so that a gradient of a gradient is counted again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, tally: Tally, direction: str) -> Tensor:
        setattr(tally, direction, getattr(tally, direction) + len(x))
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
        ctx.tally = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Pass.apply(gradient, ctx.tally, "backwards"), None, None
