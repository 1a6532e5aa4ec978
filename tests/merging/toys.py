"""Members whose weights are made up, and tools that answer only what a test expects to be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dgbench.methods.average import Weights
from dgbench.methods.merger import Member, Merged, Merger, Tools
from dgbench.networks.permutations import Symmetry


def made(run: str, accuracy: float, load: Callable[[], Weights]) -> Member:
    """A member whose weights come from nowhere else."""
    return Member(run, accuracy, load, lambda name: load()[name])


def member(i: int, accuracy: float = 0.5, size: int = 5) -> Member:
    """Weights that are 1 at place i, so that a mean is its own list of weights; a count of i."""

    def load() -> Weights:
        weights = torch.zeros(size, dtype=torch.float64)
        weights[i] = 1.0
        return {"w": weights, "count": torch.tensor(i)}

    return made(f"run{i}", accuracy, load)


def drawn_model(seed: int) -> Weights:
    """A model of two layers and a norm in double precision, whose count is the seed."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (4, 3), "a.bias": (4,), "norm.weight": (4,), "norm.running_mean": (4,), "b.weight": (2, 4)}
    drawn = {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}
    return {**drawn, "count": torch.tensor(seed)}


def of(*weights: Weights) -> list[Member]:
    """Members with these weights."""

    def named(i: int, content: Weights) -> Member:
        return made(f"run{i}", 0.5, lambda: {name: tensor.clone() for name, tensor in content.items()})

    return [named(i, content) for i, content in enumerate(weights)]


def tools(
    score: Callable[[Weights], float] | None = None,
    initial: Weights | None = None,
    fisher: Callable[[Weights, int], Weights] | None = None,
    examples: int = 1,
    statistics: frozenset[str] = frozenset(),
    symmetries: Sequence[Symmetry] | None = None,
) -> Tools:
    """What is not given must not be asked for."""

    def refuse(*_: object) -> Weights:
        raise AssertionError("nobody asks for that")

    def begin() -> Weights:
        assert initial is not None, "nobody asks for that"
        return {name: tensor.clone() for name, tensor in initial.items()}

    def permute() -> Sequence[Symmetry]:
        assert symmetries is not None, "nobody asks for that"
        return symmetries

    return Tools(score or refuse, begin, fisher or refuse, examples, statistics, permute)  # type: ignore[arg-type]


def one(merger: Merger, members: Sequence[Member], given: Tools) -> Merged:
    """The one model that a merger makes."""
    assert merger.choices == 1
    (merged,) = merger.candidates(members, given)
    return merged


def scores(table: dict[frozenset[int], float]) -> Callable[[Weights], float]:
    """The score of a mean, by which one-hot members are in it."""
    return lambda weights: table[frozenset(weights["w"].nonzero().flatten().tolist())]


def near(found: Tensor, expected: Tensor, within: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=within)
