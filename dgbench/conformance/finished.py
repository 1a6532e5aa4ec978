"""Finished models of the small world, for entries that train nothing: mergers and adapters.

They are models of the baseline after a few steps. Nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.rehearsal import LIKE, TRAITS, Rehearsal, Subject
from dgbench.conformance.worlds import EXAMPLES, World
from dgbench.core.cards import needs_of
from dgbench.methods.average import Weights
from dgbench.methods.criteria import CRITERIA
from dgbench.methods.functional import fisher_information, unit_symmetries
from dgbench.methods.merger import Member, Tools
from dgbench.networks.norms import statistics_of

STEPS = 12
"""Steps after which a model counts as finished."""
_DOMAINS = 2
_FISHER = 8
"""Most examples that Fisher information is estimated on."""


@cache
def baseline(device: torch.device) -> Subject:
    """Return the algorithm whose models are merged and adapted."""
    catalogue = Catalogue()
    return Subject(catalogue.get("algorithm", catalogue.baseline), device)


def resolved(entry: CatalogueEntry, seed: int, **fixed: Any) -> dict[str, Any]:
    """Return the hyperparameters of an entry at a seed; 0: the defaults. `fixed` override them."""
    return entry.resolve(LIKE, traits=TRAITS, hparams_seed=seed, trial=0, fixed=fixed, draws={})


def is_refused(entry: CatalogueEntry, world: World) -> bool:
    """Return whether the entry's card rules a world out, with its default hyperparameters."""
    values = resolved(entry, 0)
    return any(need.what in world.lacks and holds_for(need.when, values) for need in needs_of(entry.card))


def holds_for(condition: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return whether hyperparameters meet the condition of a need."""
    return all(values.get(name) == value for name, value in condition.items())


@dataclass(frozen=True)
class Fleet:
    """Members of one merge, and the tools that it computes with."""

    rehearsal: Rehearsal
    """Computes with weights; its own are not used."""
    start: Weights
    """The weights that the members' training began with."""
    trained: Sequence[Weights]
    """Those of each member."""

    def members(self, weights: Sequence[Weights] = ()) -> list[Member]:
        """Return members with their own weights, or with others."""
        return [_member(number, own) for number, own in enumerate(weights or self.trained)]

    def tools(self) -> Tools:
        """Return the tools of a merger, each of which computes anew at each call."""
        algorithm, examples = self.rehearsal.algorithm, sum(len(y) for _, y in self.rehearsal.seen)
        x = self.rehearsal.seen[0][0][:_FISHER].to(self.rehearsal.device)
        prepared = algorithm.network.prepare(x)

        def fisher(weights: Weights, count: int) -> Weights:
            generator = torch.Generator(self.rehearsal.device).manual_seed(0)
            return fisher_information(algorithm, weights, [prepared[:count]], generator)

        symmetries = partial(unit_symmetries, algorithm, prepared[:2])
        return Tools(self.score, lambda: copied(self.start), fisher, examples, statistics_of(algorithm), symmetries)

    @torch.no_grad()
    def score(self, weights: Weights) -> float:
        """Return a score of weights on unseen examples of the training domains, in (0, 1]; hardly any two tie."""
        losses = [CRITERIA[self.rehearsal.task].mean(self.logits(weights, x), y) for x, y in self._unseen()]
        return float(torch.stack(losses).mean().neg().exp())

    @torch.no_grad()
    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Return the logits that weights give for inputs."""
        found: Tensor = functional_call(self.rehearsal.algorithm.eval(), weights, (x,), tie_weights=False)
        return found

    def _unseen(self) -> list[tuple[Tensor, Tensor]]:
        prepare, device = self.rehearsal.algorithm.network.prepare, self.rehearsal.device
        return [(prepare(x.to(device)), y.to(device)) for x, y in self.rehearsal.unseen]


def _member(number: int, weights: Weights) -> Member:
    """Return a member that reads copies of weights; the accuracies of any two differ."""
    return Member(f"run {number}", 0.9 - 0.1 * number, lambda: copied(weights), lambda name: weights[name].clone())


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """Return copies of weights."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


@cache
def fleet(device: torch.device, number: int) -> Fleet:
    """Return so many members of the small world of images, from one start; each saw other minibatches than the rest."""
    started = baseline(device).rehearse(_DOMAINS)
    start = copied(started.algorithm.predictor_tensors())
    trained = []
    for member in range(number):
        rehearsal = baseline(device).rehearse(_DOMAINS)
        # Minibatches depend on the number of the step.
        rehearsal.step = 100 * member
        rehearsal.until(100 * member + STEPS)
        trained.append(copied(rehearsal.algorithm.predictor_tensors()))
    return Fleet(started, start, trained)


def fleet_in(world: World, device: torch.device, number: int) -> Fleet:
    """Return so many members in a world: its network, and weights a little off the start."""
    subject = baseline(device)
    rehearsal = subject.rehearse_on(
        world.material(_DOMAINS), subject.values(0), world.setting, [EXAMPLES // 2] * _DOMAINS
    )
    start = copied(rehearsal.algorithm.predictor_tensors())
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        return tensor * (1 + 0.1 * torch.rand(tensor.shape, generator=generator).to(tensor))

    return Fleet(rehearsal, start, [{name: moved(tensor) for name, tensor in start.items()} for _ in range(number)])


def trained_model(device: torch.device, classes: int, *, batch_norm: bool) -> Rehearsal:
    """Return a finished model of some classes, to be adapted.

    Args:
        device: Where it computes.
        classes: Number of classes.
        batch_norm: Whether its norms are batch norms, with statistics of the training examples.
    """
    rehearsal = baseline(device).rehearse(_DOMAINS, classes=classes)
    rehearsal.until(STEPS)
    rehearsal.algorithm.eval().requires_grad_(True)
    if batch_norm:
        network = rehearsal.algorithm.network
        _normalize_by_batch(network.featurizer)
        network.featurizer.train()
        with torch.no_grad():
            for x, _ in rehearsal.seen:
                network.features(network.prepare(x.to(device)))
        network.eval()
    return rehearsal


def _normalize_by_batch(module: nn.Module) -> None:
    """Put a batch norm with the same scale and shift in the place of each group norm."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            norm = nn.BatchNorm2d(child.num_channels, momentum=None).to(child.weight)
            norm.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, norm)
        else:
            _normalize_by_batch(child)
