"""A small world in which an algorithm can be watched: separable domains, a small network, and what the loop does.

Everything is in double precision, so that equal means equal to rounding. Three classes of 8 x 8 images differ by
pattern; domains differ by brightness and contrast.
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
from dgbench.core.cards import AlgorithmCard
from dgbench.core.seeding import seed_everything
from dgbench.core.setting import Setting, setting
from dgbench.core.space import Value
from dgbench.methods.algorithm import Algorithm, Batch, Task
from dgbench.methods.criteria import CRITERIA
from dgbench.networks.network import Network

SHAPE, CLASSES = (1, 8, 8), 3
TRAITS = ("few_examples", "small_images")
CHANCE = 1 / CLASSES
_LIKE = "Debug28"
"""What the small world is called where a name is asked for: DomainBed's data set of noise for tests."""
STEPS = 60
"""Length of the longest rehearsal; what a setting's schedule is stretched over."""
_EXAMPLES, _MINIBATCH, _EVALUATE_EVERY = 96, 12, 5


@dataclass(frozen=True)
class Material:
    """Inputs and labels of each domain of a rehearsal, some to learn from and some to evaluate on."""

    shape: tuple[int, ...]
    """Of one input."""
    outputs: int
    """Classes; questions, or 1 number, where labels are no classes."""
    task: str
    """What labels are, a key of `cards.TASKS`."""
    seen: Sequence[tuple[Tensor, Tensor]]
    unseen: Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Subject:
    """An algorithm under examination, on one device."""

    entry: CatalogueEntry
    device: torch.device

    @property
    def card(self) -> AlgorithmCard:
        """What it says of itself."""
        card: AlgorithmCard = self.entry.card
        return card

    def values(self, seed: int, fixed: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """Hyperparameters of a seed for a short rehearsal; `fixed` have the last word."""
        short = {"lr": 3e-3, "batch_size": _MINIBATCH, **self.card.rehearsal, **(fixed or {})}
        known = {name: value for name, value in short.items() if self.entry.takes(name)}
        return self.drawn(seed, TRAITS, known)

    def drawn(self, seed: int, traits: Sequence[str], fixed: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """Hyperparameters of a seed on data with these traits, as a sweep would have them."""
        return self.entry.resolve(_LIKE, traits=traits, hparams_seed=seed, trial=0, fixed=fixed or {}, draws={})

    def rehearse(
        self,
        domains: int = 3,
        seed: int = 0,
        fixed: Mapping[str, Value] | None = None,
        *,
        uneven: bool = False,
        **changes: Any,
    ) -> Rehearsal:
        """Make a rehearsal in the small world of images that has not begun.

        Args:
            domains: How many train.
            seed: The hyperparameter seed.
            fixed: Hyperparameters that have the last word.
            uneven: Minibatches of different sizes, and a domain without one of the classes.
            **changes: Fields of the setting.
        """
        how = setting(**{"steps": STEPS, "checkpoint_freq": _EVALUATE_EVERY, "backbone": "SmallCNN", **changes})
        sizes = [_MINIBATCH - 3 * i if uneven else _MINIBATCH for i in range(domains)]
        seen = [_domain(i, 0, lacks=0 if uneven and i == domains - 1 else None) for i in range(domains)]
        given = Material(SHAPE, CLASSES, "classification", seen, [_domain(i, 1) for i in range(domains)])
        return self.rehearse_on(given, self.values(seed, fixed), how, sizes)

    def rehearse_on(self, given: Material, values: Mapping[str, Any], how: Setting, sizes: Sequence[int]) -> Rehearsal:
        """Make a rehearsal that has not begun.

        Args:
            given: What it trains on.
            values: All hyperparameters.
            how: The setting, resolved.
            sizes: Examples of each domain's minibatches.
        """
        return Rehearsal(self.entry.load(), values, how, given, sizes, self.device)


class Rehearsal:
    """An algorithm in the small world, and the loop's duties towards it."""

    def __init__(
        self,
        cls: type[Algorithm],
        values: Mapping[str, Any],
        how: Setting,
        given: Material,
        sizes: Sequence[int],
        device: torch.device,
    ) -> None:
        self.device, self.sizes = device, sizes
        self.task, self.seen, self.unseen = given.task, given.seen, given.unseen
        self.copies = [torch.ones(len(y), dtype=torch.int64) for _, y in self.seen]
        counts = tuple(_counts(y, given) for _, y in self.seen)
        torch.manual_seed(0)
        hparams = cls.Hparams(**values)
        network = cls.make_network(given.shape, given.outputs, hparams, how).to(device)
        network.freeze(how.freeze)
        task = Task(given.shape, given.outputs, counts, given.task)
        self.algorithm = cls(network, hparams, task, how).to(device)
        self.algorithm.train()
        self.step = 0

    def batches(self, step: int) -> list[Batch]:
        """The minibatches of a step."""
        found = []
        for domain, ((x, y), size, copies) in enumerate(zip(self.seen, self.sizes, self.copies, strict=True)):
            generator = torch.Generator().manual_seed(1000 * step + domain)
            stock = torch.repeat_interleave(copies)
            chosen = stock[torch.randint(len(stock), (size,), generator=generator)]
            inputs, labels, positions = (tensor.to(self.device) for tensor in (x[chosen], y[chosen], chosen))
            taught = (
                5 * F.one_hot(labels, self.algorithm.task.num_classes).to(inputs.dtype)
                if self.algorithm.card.taught
                else None
            )
            found.append(Batch(inputs, labels, positions, domain, taught))
        return found

    def until(self, end: int) -> dict[str, Tensor]:
        """Take all steps before `end`, evaluating now and then; returns what the last one logged."""
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
        """Do the loop's work that precedes the algorithm's `survey_at` and `validate_at`."""
        if step == self.algorithm.survey_at:
            self._survey()
        if step == self.algorithm.validate_at and step > 0:
            self.algorithm.validated(self.score()[1])

    def _survey(self) -> None:
        logits = [self.predict(x).cpu() for x, _ in self.seen]
        seed_everything(self.device, "rehearsal", "survey")
        self.copies = list(self.algorithm.survey(logits, [y for _, y in self.seen]))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Logits in evaluation mode; training mode comes back."""
        self.algorithm.eval()
        logits: Tensor = self.algorithm(x.to(self.device))
        self.algorithm.train()
        return logits

    def score(self) -> tuple[float, float]:
        """Mean loss and accuracy on unseen examples of the training domains; of labels that are no classes, -loss."""
        losses, right = [], []
        for x, y in self.unseen:
            logits = self.predict(x).cpu()
            losses.append(CRITERIA[self.task].mean(logits, y).item())
            hit = (logits.argmax(1) == y).double().mean().item() if self.task == "classification" else -losses[-1]
            right.append(hit)
        return sum(losses) / len(losses), sum(right) / len(right)

    def save(self) -> bytes:
        """What a checkpoint would hold."""
        file = io.BytesIO()
        torch.save({"state": self.algorithm.training_state(), "copies": self.copies, "step": self.step}, file)
        return file.getvalue()

    def load(self, content: bytes) -> None:
        """Go on from a checkpoint, read as safely as the engine reads it."""
        state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        self.algorithm.load_training_state(state["state"])
        self.copies, self.step = state["copies"], state["step"]

    def parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters by name."""
        return {name: p.detach().clone() for name, p in self.algorithm.named_parameters()}


def _counts(y: Tensor, given: Material) -> tuple[int, ...]:
    return tuple(torch.bincount(y, minlength=given.outputs).tolist()) if given.task == "classification" else (len(y),)


def _domain(number: int, split: int, lacks: int | None = None) -> tuple[Tensor, Tensor]:
    """Images and labels of a domain: the same patterns in all of them, under another light."""
    patterns = torch.randn(CLASSES, *SHAPE, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(10 * number + split)
    kinds = [k for k in range(CLASSES) if k != lacks]
    y = torch.tensor(kinds).repeat(_EXAMPLES // len(kinds))
    noise = torch.randn(len(y), *SHAPE, generator=generator)
    return (1 + 0.3 * number) * (patterns[y] + 0.5 * noise) + 0.3 * number, y


@contextmanager
def double_precision() -> Iterator[None]:
    """Within the block new floating-point tensors are float64; one thread, since the world is small."""
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
    """Examples that went through featurizers, forward and backward."""

    forwards: int = 0
    backwards: int = 0


def count_passes(algorithm: nn.Module) -> Tally:
    """From now on, count what passes through the featurizers of all networks that the algorithm holds."""
    tally = Tally()
    for module in algorithm.modules():
        if isinstance(module, Network):
            module.featurizer.register_forward_hook(lambda _, __, features: _Pass.apply(features, tally, "forwards"))
    return tally


class _Pass(torch.autograd.Function):
    """The identity; notes what passes, in one direction. A gradient of a gradient passes backward again."""

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
