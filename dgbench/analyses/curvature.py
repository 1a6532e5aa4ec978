"""Curvature: the largest eigenvalue and the trace of the loss' Hessian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgbench.core.cards import AnalysisCard, SeriesCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Finding, FinishedModel, Views, surface_of
from dgbench.methods.curvature import broadened, gaussian, joined, lanczos, trace

_GRID = 161
"""Points of the density."""


class Curvature(Analysis):
    r"""Estimate the largest eigenvalue and the trace of the Hessian of a model's loss, on each domain.

    $$
    H = \nabla_\theta^2 \frac1n \sum_{i=1}^{n} \ell(f_\theta(x_i), y_i), \qquad
    \mathrm{tr}\, H \approx \frac1K \sum_{k=1}^{K} v_k^\top H v_k, \quad v_k \in \{-1, 1\}^d
    $$

    The mean is over up to `examples` of a view in evaluation mode, and over all weights that learn. The eigenvalue is
    by Lanczos' iteration with full re-orthogonalization: an eigenvalue lies within `top_error` of it. The trace is by
    Hutchinson's estimator; `trace_error` is its standard error over the `draws`. Both need products of $H$ with vectors
    alone. A large value tells of a sharp minimum only between networks whose layers have comparable scales.

    The series `density` is the distribution of the eigenvalues by stochastic Lanczos quadrature, from the iteration
    that finds `top` and as many more as `density_draws` asks for. Each of the values that an iteration finds is widened
    to a normal distribution, by a hundredth of their range: curves show where the mass and the outliers lie, not single
    eigenvalues. The iteration has `steps` of them for all weights.

    Reference:
        Yao, Gholami, Keutzer and Mahoney, "PyHessian: Neural Networks Through the Lens of the Hessian", IEEE BigData
        2020; Ghorbani, Krishnan and Xiao, "An Investigation into Neural Net Optimization via Hessian Eigenvalue
        Density", ICML 2019, for `density`.

    Departures from PyHessian: the eigenvalue is the largest, not that of the largest magnitude; the number of draws is
    fixed and the error said, where theirs ends when the mean moves little; batches are weighted by their sizes.
    """

    card = AnalysisCard(
        paper="Yao et al., BigData 2020",
        link="https://arxiv.org/abs/1912.07145",
        tags=("flat-minima",),
        needs=("classes",),
        examples="examples",
        passes=((6, "steps", "density_draws"), (6, "draws")),
        measures={
            "top": "largest eigenvalue of the Hessian",
            "top_error": "bound of the distance from top to an eigenvalue",
            "trace": "trace of the Hessian",
            "trace_error": "standard error of trace",
        },
        series={
            "density": SeriesCard(
                title="Density of the Hessian's eigenvalues",
                drawing="lines",
                labels={"eigenvalue": "eigenvalue", "density": "density"},
                x="eigenvalue",
                values=("density",),
                logarithmic=("density",),
                caption="Most eigenvalues lie near 0; those on the far right are the directions in which it is sharp.",
            )
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Curvature; a product costs about four passes over the examples."""

        examples: int = hparam(1024, help="most examples of each view", within="[1, inf)")
        batch_size: int = hparam(128, help="examples at once, which changes memory alone", within="[1, inf)")
        steps: int = hparam(20, help="products for the eigenvalue", within="[1, inf)")
        draws: int = hparam(100, help="products for the trace", within="[2, inf)")
        density_draws: int = hparam(
            1, help="iterations of `steps` products that make the density", within="[1, inf)", optional=True
        )

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of each view."""
        network, h = models[0].load(), self.hparams
        for view in data.all:
            surface = surface_of(network, data.examples(view, h.examples, h.batch_size))
            products, like = surface.products, surface.origin
            found = [lanczos(products, gaussian(1, surface.size, self.generator, like)[0], h.steps)]
            yield view, {"top": found[0].top.value, "top_error": found[0].top.error}
            mean = trace(products, surface.size, h.draws, self.generator, like)
            yield view, {"trace": mean.value, "trace_error": mean.error}
            for _ in range(1, h.density_draws):
                found.append(lanczos(products, gaussian(1, surface.size, self.generator, like)[0], h.steps))
                yield view, {}
            grid, density = broadened(*joined(found), _GRID)
            # Below this lies less than a hundredth of an eigenvalue, which would make of the figure an empty plane.
            least = 0.01 * float(density.max()) / surface.size
            yield view, {"density": {"eigenvalue": grid, "density": np.where(density < least, np.nan, density)}}
