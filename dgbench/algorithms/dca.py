"""Deep combinatorial aggregation (DCA): combine copies of each layer anew in every pass, predict by their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD

from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class DCA(Algorithm):
    r"""Train random combinations of several copies of each layer to agree, and predict by the mean of the copies.

    $$
    \min \; \frac{1}{R} \sum_{r=1}^{R} \Big[ \mathrm{CE}(f_r(x), y) + \mathrm{KL}\big(f_{r-1}(x) \| f_r(x)\big) \Big]
    $$

    Each linear and convolutional layer that learns has $K$ copies, which begin alike; a pass $f_r$ draws one of them
    for every layer. In a step, after a first pass $f_0$ that learns nothing, $R$ rounds each fit their own draw and
    hold it to the predictions before, which are constants there; one step of the optimizer follows. The predictor,
    `network`, is the paper's DCWA: each layer is the mean of its copies. The paper's other predictor, the mean
    probability of 64 draws, is not one network's and is left out.

    Reference:
        Shen and Cremers, "Deep Combinatorial Aggregation", NeurIPS 2022.

    Departures from the authors' code: the setting's optimizer and schedule (theirs is SGD at 0.1, linear decay); the
    best evaluation is chosen as for every run (theirs after 90% of training). As there, all other parameters are shared
    by the copies; a copy that was not drawn in a step is left as it is, without decay; and live batch norm remembers
    all $R + 1$ passes, of draws and not of the mean.

    DomainBed: has no DCA.
    """

    card = AlgorithmCard(
        paper="Shen and Cremers, NeurIPS 2022",
        link="https://arxiv.org/abs/2210.06436",
        tags=("ensembling",),
        forwards=6.0,
        backwards=5.0,
        base=None,
        followers=("network",),
        no_feedback={"weights": "predicts by the mean of the copies that it trains"},
        needs=("classes", Need("full_weights", why="trains copies of each layer's weights")),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of DCA; defaults are the authors' values."""

        dca_copies: int = hparam(5, help="K, copies of each layer", within="[1, inf)")
        dca_rounds: int = hparam(
            5, help="R, draws that learn in a step; one more pass is made before", within="[1, inf)"
        )

    hparams: Hparams

    def build(self) -> None:
        """Copy the layers that learn; `network` keeps their mean, which does not learn itself."""
        layers = [
            [f"{layer}.{name}" for name, p in module.named_parameters(recurse=False) if p.requires_grad]
            for layer, module in self.network.named_modules()
            if isinstance(module, nn.Linear | _ConvNd)
        ]
        self.layers = [names for names in layers if names]
        means = {name: self.network.get_parameter(name) for names in self.layers for name in names}
        self.place = {name: i for i, name in enumerate(means)}
        self.copies = nn.ModuleList(
            nn.ParameterList(mean.detach().clone() for mean in means.values()) for _ in range(self.hparams.dca_copies)
        )
        self.means = list(means.values())
        for mean in self.means:
            mean.requires_grad_(False)

    def parameter_rates(self, lr: float) -> dict[nn.Parameter, float]:
        """Return the rates of the layers for their copies, which learn in their place."""
        rates = super().parameter_rates(lr)
        for copies in self.copies:
            rates |= {
                copy: rates[mean] for mean, copy in zip(self.means, copies.parameters(), strict=True) if mean in rates
            }
        return rates

    def build_optimizers(self) -> None:
        """Create the optimizer, not fused if it is SGD.

        PyTorch's fused SGD (2.15) fails where a copy is drawn for the first time after others.
        """
        self.optimizer = self.new_optimizer(self.parameters())
        if isinstance(self.optimizer, SGD):
            for group in self.optimizer.param_groups:
                group.update(fused=False, foreach=True)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step, with R + 1 forward and R backward passes over the same minibatches."""
        x, y, rounds = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches]), self.hparams.dca_rounds
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            before = self._drawn(x)
        fits, gaps = [], []
        for _ in range(rounds):
            logits = self._drawn(x)
            fit = F.cross_entropy(logits, y)
            gap = F.kl_div(logits.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean")
            # At once, so that one round's graph is held at a time; gradients add up in `.grad`.
            ((fit + gap) / rounds).backward()  # type: ignore[no-untyped-call]
            before = logits.detach()
            fits.append(fit.detach())
            gaps.append(gap.detach())
        self.optimizer.step()
        self._average()
        return {"loss": torch.stack(fits).mean(), "divergence": torch.stack(gaps).mean()}

    def _drawn(self, x: Tensor) -> Tensor:
        """Return the logits of the network with one copy of each layer, each as likely."""
        drawn = torch.randint(self.hparams.dca_copies, (len(self.layers),)).tolist()
        parameters = {
            name: self.copies[k][self.place[name]]
            for names, k in zip(self.layers, drawn, strict=True)
            for name in names
        }
        logits: Tensor = functional_call(self.network, parameters, (x,), tie_weights=False)
        return logits

    @torch.no_grad()
    def _average(self) -> None:
        """Set each layer of `network` to the mean of its copies."""
        for mean, *copies in zip(self.means, *self.copies, strict=True):
            mean.copy_(torch.stack(copies).mean(0))
