"""Knowledge distillation: a student learns what a finished model predicts, not the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class KD(Algorithm):
    """T^2 mean_n KL(softmax(t(x_n) / T) || softmax(f(x_n) / T)), t the teacher; labels are not used.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NeurIPS workshop 2014, as Berezovskiy and
    Morozov, "Weight Averaging Improves Knowledge Distillation under Domain Shift", ICCV workshops 2023, train their
    students: no term of the hard labels, T = 5. Their averages are rows of their own: `KD+WAKD`, `KD+SWAD`, `KD+SMA`.

    `teacher` is a row of the same sweep (an algorithm with its average or merger), trained on the same fold and trial
    by the setting's steps, of which the model with the best training-domain validation accuracy teaches; an ensemble
    teaches by its mean logits. `teacher_backbone` gives it another network than the student's.

    Departures from the authors' code: the student's minibatches hold as many examples of each domain (theirs are drawn
    from the mixture), teacher and student train for the same number of steps (theirs 5,000 and 50,000), and there are
    no unlabelled images of ImageNet and no mixup. A step also costs a forward pass of the teacher.
    """

    card = AlgorithmCard(
        paper="Hinton et al., NeurIPS-W 2014; Berezovskiy and Morozov, ICCV-W 2023", taught=True, needs=("classes",)
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The temperature is that of Berezovskiy and Morozov, who also take a teacher that SWAD averaged."""

        teacher: str = hparam("ERM+SWAD", help="the row whose best model teaches")
        teacher_backbone: str = hparam("", help="the teacher's network; empty: the student's own")
        temperature: float = hparam(5.0, help="T", within="(0, inf)")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """The divergence over the examples of all domains, in one forward pass."""
        taught = [batch.taught for batch in batches if batch.taught is not None]
        temperature = self.hparams.temperature
        log_p = F.log_softmax(self(torch.cat([batch.x for batch in batches])) / temperature, dim=1)
        log_q = F.log_softmax(torch.cat(taught) / temperature, dim=1)
        return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
