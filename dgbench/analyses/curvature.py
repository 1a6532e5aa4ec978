"""Curvature: the largest eigenvalue and the trace of the loss' Hessian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgbench.core.cards import AnalysisCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Finding, FinishedModel, Views, surface_of
from dgbench.methods.curvature import top_eigenvalue, trace


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

    Reference:
        Yao, Gholami, Keutzer and Mahoney, "PyHessian: Neural Networks Through the Lens of the Hessian", IEEE BigData
        2020.

    Departures from PyHessian: the eigenvalue is the largest, not that of the largest magnitude; the number of draws is
    fixed and the error said, where theirs ends when the mean moves little; batches are weighted by their sizes.
    """

    card = AnalysisCard(
        paper="Yao et al., BigData 2020",
        link="https://arxiv.org/abs/1912.07145",
        tags=("flat-minima",),
        needs=("classes",),
        measures={
            "top": "largest eigenvalue of the Hessian",
            "top_error": "bound of the distance from top to an eigenvalue",
            "trace": "trace of the Hessian",
            "trace_error": "standard error of trace",
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Curvature; a product costs about four passes over the examples."""

        examples: int = hparam(1024, help="most examples of each view", within="[1, inf)")
        batch_size: int = hparam(128, help="examples at once, which changes memory alone", within="[1, inf)")
        steps: int = hparam(20, help="products for the eigenvalue", within="[1, inf)")
        draws: int = hparam(100, help="products for the trace", within="[2, inf)")

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of each view."""
        network, h = models[0].load(), self.hparams
        for view in data.all:
            surface = surface_of(network, data.examples(view, h.examples, h.batch_size))
            top = top_eigenvalue(surface.products, surface.size, h.steps, self.generator, surface.origin)
            yield view, {"top": top.value, "top_error": top.error}
            found = trace(surface.products, surface.size, h.draws, self.generator, surface.origin)
            yield view, {"trace": found.value, "trace_error": found.error}
