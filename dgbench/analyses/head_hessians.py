"""Head Hessians: how unlike the domains' losses curve in the classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from dgbench.core.cards import AnalysisCard
from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Finding, FinishedModel, Views, features_of, network_of
from dgbench.methods.curvature import frobenius_norm, random_signs, spectral_norm
from dgbench.methods.surface import Surface
from dgbench.networks.network import Network


class HeadHessians(Analysis):
    r"""Compare the Hessians of the domains' losses with respect to the classifier's weights.

    $$
    \mathrm{spectral} = \lVert H_d - H_e \rVert_2, \qquad
    \mathrm{frobenius} = \lVert H_d - H_e \rVert_F = \sqrt{\mathbb{E}_v \lVert (H_d - H_e) v \rVert_2^2}, \qquad
    \mathrm{relative} = \frac{\lVert H_d - H_e \rVert_F}{\lVert H_d \rVert_F + \lVert H_e \rVert_F}
    $$

    $H_d$ is the Hessian of the mean cross-entropy of up to `examples` of domain $d$ by all parameters of the
    classifier, in evaluation mode; $v$ has random signs. The numbers of all views together are means over the pairs of
    training domains, those of a held-out domain over its pairs with the training domains. All are found by products of
    Hessians with vectors: the spectral distance by Lanczos' iteration, where a true value lies within `spectral_error`
    of it, and the Frobenius distance over `draws` vectors with its standard error. A confident classifier has small
    Hessians whatever the domains, which `relative`, from 0 to 1, doesn't see.

    Reference:
        Hemati, Zhang, Estiri and Chen, "Understanding Hessian Alignment for Domain Generalization", ICCV 2023.

    Departures from the paper: distances are of whole Hessians, which its theorem bounds the held-out loss by; its
    algorithms align their products with the gradient (`HGP`) or their diagonals (Hutchinson).
    """

    card = AnalysisCard(
        paper="Hemati et al., ICCV 2023",
        link="https://arxiv.org/abs/2308.11778",
        tags=("gradient-matching",),
        needs=("classes",),
        examples="examples",
        needs_features=True,
        min_domains=2,
        measures={
            "spectral": "largest magnitude of an eigenvalue of the difference of two domains' Hessians",
            "spectral_error": "bound of the distance from spectral to such an eigenvalue",
            "frobenius": "Frobenius norm of that difference",
            "frobenius_error": "standard error of frobenius",
            "relative": "frobenius over the sum of both Hessians' norms",
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of HeadHessians."""

        examples: int = hparam(1024, help="most examples of each domain", within="[1, inf)")
        batch_size: int = hparam(128, help="examples at once, which changes memory alone", within="[1, inf)")
        steps: int = hparam(20, help="products for each spectral distance", within="[1, inf)")
        draws: int = hparam(50, help="products for the Frobenius distances", within="[2, inf)")

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of all training domains together, then those of each held-out domain."""
        network = network_of(models[0].load())
        heads, moved = dict[View, Surface](), dict[View, Tensor]()
        signs: Tensor | None = None
        for view in (*data.training, *data.held_out):
            heads[view] = head = self._head(network, data, view)
            if signs is None:
                signs = random_signs(self.hparams.draws, head.size, self.generator, head.origin)
            moved[view] = head.products(signs)
            yield view, {}
        pairs: dict[View | None, list[tuple[View, View]]] = {None: list(combinations(data.training, 2))}
        pairs |= {view: [(view, other) for other in data.training] for view in data.held_out}
        for where, those in pairs.items():
            found = list[dict[str, float]]()
            for one, other in those:
                found.append(self._distances(heads[one], heads[other], moved[one], moved[other]))
                yield where, {}
            yield where, {name: float(np.mean([of_pair[name] for of_pair in found])) for name in found[0]}

    def _head(self, network: Network, data: Views, view: View) -> Surface:
        """Return a view's loss by the classifier's weights; raise UserError if none of them learns."""
        learning = [name for name, p in network.classifier.named_parameters() if p.requires_grad]
        if not learning:
            raise UserError("HeadHessians differentiates the loss by the classifier's weights, and none of them learns")
        batches = data.examples(view, self.hparams.examples, self.hparams.batch_size)
        return Surface(network.classifier, features_of(network, batches), parameters=learning)

    def _distances(self, one: Surface, other: Surface, moved: Tensor, moved_other: Tensor) -> dict[str, float]:
        """Return the measures of a pair, given both heads' products with the same random signs."""

        def difference(vectors: Tensor) -> Tensor:
            return one.products(vectors) - other.products(vectors)

        spectral = spectral_norm(difference, one.size, self.hparams.steps, self.generator, one.origin)
        frobenius = frobenius_norm(moved - moved_other)
        both = frobenius_norm(moved).value + frobenius_norm(moved_other).value
        return {
            "spectral": spectral.value,
            "spectral_error": spectral.error,
            "frobenius": frobenius.value,
            "frobenius_error": frobenius.error,
            "relative": frobenius.value / both if both else np.nan,
        }
