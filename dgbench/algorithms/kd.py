"""Knowledge distillation: a student learns the predictions of a finished model instead of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class KD(Algorithm):
    r"""Train a student on the softened predictions of a finished model, without using labels.

    $$
    \min_\theta \; \frac{T^2}{N} \sum_n
    \mathrm{KL}\big(\mathrm{softmax}(t(x_n)/T) \,\big\|\, \mathrm{softmax}(f_\theta(x_n)/T)\big)
    $$

    $t$ are the logits of the teacher, $f_\theta$ those of the student, $T$ is `temperature`, and the sum runs over the
    $N$ examples of all minibatches, which pass through the network together.

    `teacher` names a row of the same sweep: an algorithm with its average or merger, trained on the same fold and trial
    for the setting's number of steps. Of its models, the one with the best training-domain validation accuracy teaches;
    an ensemble teaches by the mean of its logits. `teacher_backbone` gives the teacher another network than the
    student's. A step costs a forward pass of the teacher more than one of ERM.

    The training follows Berezovskiy and Morozov: no term of the hard labels, and $T = 5$. The averages that they
    compare are rows: `KD+WAKD`, `KD+SWAD` and `KD+SMA`.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NeurIPS workshop 2014. Berezovskiy and
        Morozov, "Weight Averaging Improves Knowledge Distillation under Domain Shift", ICCV workshops 2023.

    Departures from the code of Berezovskiy and Morozov:

    - A minibatch of the student holds equally many examples of each domain; theirs is drawn from the mixture of
      domains.
    - Teacher and student train for the same number of steps; theirs for 5,000 and 50,000.
    - There are no unlabelled images of ImageNet and no mixup.

    DomainBed: has no distillation.
    """

    card = AlgorithmCard(
        paper="Hinton et al., NeurIPS-W 2014; Berezovskiy and Morozov, ICCV-W 2023",
        link="https://arxiv.org/abs/1503.02531",
        tags=("distillation",),
        taught=True,
        needs=("classes", Need("inputs", why="shows inputs to a teacher")),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of KD; temperature and teacher (an average by SWAD) are those of Berezovskiy and Morozov."""

        teacher: str = hparam("ERM+SWAD", help="the row whose best model teaches")
        teacher_backbone: str = hparam("", help="the teacher's network; empty: the student's own")
        temperature: float = hparam(5.0, help="T, by which the logits of both models are divided", within="(0, inf)")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the divergence, averaged over the examples of all domains, from one forward pass."""
        taught = [batch.taught for batch in batches if batch.taught is not None]
        temperature = self.hparams.temperature
        log_p = F.log_softmax(self(torch.cat([batch.x for batch in batches])) / temperature, dim=1)
        log_q = F.log_softmax(torch.cat(taught) / temperature, dim=1)
        # The gradient by the logits shrinks with 1 / T^2, which the factor makes up for. KL(teacher || student): kl_div
        # takes the second argument as the target distribution.
        return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
