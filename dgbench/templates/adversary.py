"""An algorithm for dgbench that trains an adversary beside the network, each by an optimizer of its own.

dgbench check mine.py
dgbench train --include mine.py --algorithm MyAlgorithm --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dgbench
from dgbench import Algorithm, AlgorithmCard, Batch, hparam, power


class MyAlgorithm(Algorithm):
    """Minimize cross-entropy on features from which a critic can't name the domain."""

    # `dgbench check` tests each of these: that a penalty of 0 leaves the baseline, for example.
    card = AlgorithmCard(
        paper="Author et al., Venue Year", min_domains=2, penalties=("confusion",), needs=("classes", "feature_vectors")
    )

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):
        """Hyperparameters of MyAlgorithm, beside those of every algorithm."""

        confusion: float = hparam(0.1, power(10, -2, 0), help="weight of the critic's confusion", within="[0, inf)")
        critic_lr: float = hparam(1e-3, power(10, -4, -2), help="learning rate of the critic", within="[0, inf)")
        critic_steps: int = hparam(1, power(2, 0, 2, integer=True), help="its steps for each step", within="[1, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Make the critic; the engine moves it to the device, saves it and resumes it."""
        width = self.network.num_features
        self.critic = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, self.task.num_domains))

    def build_optimizers(self) -> None:
        """Make an optimizer for each. Those that are attributes are saved, and follow the setting's schedule."""
        self.optimizer = self.new_optimizer(self.network.parameters())
        self.critic_optimizer = self.new_optimizer(self.critic.parameters(), lr=self.hparams.critic_lr)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Let the critic learn to name the domain, then take one step of the network against it."""
        y = torch.cat([b.y for b in batches])
        domains = torch.cat([torch.full_like(b.y, b.domain) for b in batches])
        features = self.network.features(torch.cat([b.x for b in batches]))
        for _ in range(self.hparams.critic_steps):
            # Detached: the critic's loss must not reach the featurizer.
            critic_loss = F.cross_entropy(self.critic(features.detach()), domains)
            self.critic_optimizer.zero_grad(set_to_none=True)
            critic_loss.backward()
            self.critic_optimizer.step()
        loss = self.criterion(self.network.classifier(self.network.dropout(features)), y)
        confusion = -F.log_softmax(self.critic(features), dim=1).mean()
        # `descend` steps `optimizer` alone. The gradient that the critic gets is cleared before its own next step.
        self.descend(loss + self.hparams.confusion * confusion)
        return {"loss": loss.detach(), "critic_loss": critic_loss.detach()}
