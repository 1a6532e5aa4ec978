"""LiNeS: move shallow layers less than deep ones, by a line over depth whose slope the selector chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import MergerCard
from dgbench.merging._grid import AlphaGrid
from dgbench.merging._task_vectors import TaskVectors
from dgbench.methods.merger import Member, Merged, Merger, Tools


class LiNeS(Merger):
    r"""Add the mean displacement of all runs of a trial to their start, scaled by a line over the depth of layers.

    $$
    \theta^{(\ell)} = \theta_0^{(\ell)} + \Big( \alpha + (1 - \alpha) \frac{\ell - 1}{L - 1} \Big)
    \frac1M \sum_{m=1}^{M} \big( \theta_m^{(\ell)} - \theta_0^{(\ell)} \big)
    $$

    $\ell = 1, \dots, L$ counts the modules that hold weights, in their order in the network; $\theta_0$ are the weights
    that the $M$ members started from. The deepest layer moves all the way, the first one the share $\alpha$. The values
    of $\alpha$ are a grid of `points` from 0 to 1, and are candidates as the steps of a run are; the `recommended` one
    comes last. $\alpha = 1$ is `DiWA`.

    Reference:
        Wang, Dimitriadis, Favero, Ortiz-Jimenez, Fleuret and Frossard, "LiNeS: Post-training Layer Scaling Prevents
        Forgetting and Enhances Model Merging", ICLR 2025.

    Departures from the authors' code:

    - Members of a sweep learn one task, so the line ends at 1, as theirs does for a single task; for several they
      search its slope.
    - Layers are modules of any network; theirs are the blocks of a transformer, and all else moves by $\alpha$. A block
      that has several modules is several layers here, and a shortcut counts as deeper than the layers that it skips.
    - Batch-norm statistics are averaged uniformly.
    """

    card = MergerCard(
        paper="Wang et al., ICLR 2025", link="https://arxiv.org/abs/2410.17146", tags=("averaging", "pretraining")
    )

    @dataclass(frozen=True)
    class Hparams(AlphaGrid):
        """Hyperparameters of LiNeS: the release's grid."""

    hparams: Hparams

    @property
    def choices(self) -> int:
        """Return the number of candidates, one for each alpha."""
        return len(self.hparams.alphas)

    @torch.no_grad()
    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield a model for each alpha; three copies of the model are in memory."""
        vectors = TaskVectors(members, tools)
        depths = depths_of(vectors.names)
        for alpha in self.hparams.alphas:
            scales = {name: alpha + (1 - alpha) * depth for name, depth in depths.items()}
            yield Merged(vectors.moved(vectors.mean, scales), members, {"alpha": alpha})


def depths_of(names: Sequence[str]) -> dict[str, float]:
    """Return name -> depth of its module, evenly from 0 to 1 in the order given; 1 for all if there is one module.

    Args:
        names: Tensors of a model, in the order of its modules.
    """
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    place = {module: i / (len(modules) - 1) if len(modules) > 1 else 1.0 for i, module in enumerate(modules)}
    return {name: place[name.rpartition(".")[0]] for name in names}
