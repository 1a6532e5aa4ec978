from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dgbench.algorithms._lsq import Quantizer
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.qtdog import QTDoG
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

START, BITS = 2, 3
OPTIONS = {"q_steps": START, "bits": BITS}
LOW, HIGH = -(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1


def straight_through(w: Tensor, s: Tensor) -> Tensor:
    """LSQ by detaching: values are those of rounding, derivatives those of the identity inside the range."""
    s = s[:, None, None, None]
    factor = (HIGH * w.numel()) ** -0.5
    s = (s - s * factor).detach() + s * factor
    v = (w / s).clamp(LOW, HIGH)
    return ((v.round() - v).detach() + v) * s


class Reference:
    """A plain network without parametrisations; its tensors are copied into `other.network` after each step."""

    def __init__(self, toy: SimpleNamespace, algorithm: QTDoG) -> None:
        self.plain = toy.make(ERM, images=True, norm=self.norm(algorithm)).network
        self.make = lambda: toy.hand_made(algorithm, self.plain)
        self.optimizer = self.make()
        self.scales: dict[str, Tensor] = {}
        self.waiting = self.fitting()

    @staticmethod
    def norm(algorithm: QTDoG) -> str:
        norms = [m for m in algorithm.network.modules() if isinstance(m, nn.BatchNorm2d)]
        return "none" if not norms else "live" if algorithm.setting.batch_norm == "live" else "frozen"

    def fitting(self) -> dict[str, Tensor]:
        weights = {name: p.detach() for name, p in self.plain.named_parameters() if p.dim() == 4}
        return {name: torch.stack([2 * w.abs().mean() / HIGH**0.5 for w in weight]) for name, weight in weights.items()}

    def begin(self) -> None:
        self.optimizer = self.make()
        self.scales = {name: scale.requires_grad_() for name, scale in self.fitting().items()}
        self.optimizer.add_param_group({"params": list(self.scales.values()), "weight_decay": 0.0})

    def __call__(self, other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        if step == START:
            self.begin()
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        weights = dict(self.plain.named_parameters())
        used = {name: straight_through(weights[name], s) for name, s in self.scales.items()}
        loss = F.cross_entropy(functional_call(self.plain, used, (x,)), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.show(other)

    def show(self, other: SimpleNamespace) -> None:
        tensors = dict(self.plain.state_dict())
        state = {}
        for name in other.network.state_dict():
            place, _, what = name.partition(".parametrizations.weight.")
            if not what:
                state[name] = tensors[name]
            elif what == "original":
                state[name] = tensors[f"{place}.weight"]
            elif what == "0.on":
                state[name] = torch.tensor(int(bool(self.scales)))
            else:
                state[name] = (self.scales or self.waiting)[f"{place}.weight"]
        other.network.load_state_dict(state)


def test_equals_a_plain_loop_across_the_quantisation(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(QTDoG, images=True, norm=norm, optimizer=optimizer, **OPTIONS)
    toy.agrees(algorithm, Reference(toy, algorithm), steps=5)


def test_before_the_quantisation_it_is_erm(toy: SimpleNamespace, optimizer: str) -> None:
    quantized = toy.make(QTDoG, images=True, optimizer=optimizer, q_steps=9)
    erm = toy.make(ERM, images=True, optimizer=optimizer)
    scales = [quantizer.scale.clone() for _, quantizer in quantized.quantized]
    for step in range(3):
        toy.take(quantized, step)
        toy.take(erm, step)
    plain = [erm.network.featurizer[i] for i in (0, 2)]
    for (convolution, quantizer), other, scale in zip(quantized.quantized, plain, scales, strict=True):
        assert torch.equal(convolution.weight, other.weight)
        assert torch.equal(quantizer.scale, scale)
    assert torch.equal(quantized.network.classifier.weight, erm.network.classifier.weight)


def test_weights_take_few_values_and_the_others_many(toy: SimpleNamespace) -> None:
    algorithm = toy.make(QTDoG, images=True, **OPTIONS)
    for step in range(5):
        toy.take(algorithm, step)
    for convolution, quantizer in algorithm.quantized:
        levels = convolution.weight / quantizer.scale[:, None, None, None]
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-12)
        assert levels.min() >= LOW
        assert levels.max() <= HIGH
        assert len(convolution.parametrizations.weight.original.unique()) == convolution.weight.numel()


def test_all_goes_on_learning_after_the_quantisation(toy: SimpleNamespace) -> None:
    """In the authors' release the optimizer still holds the parameters of before."""
    algorithm = toy.make(QTDoG, images=True, **OPTIONS)
    for step in range(START + 1):
        toy.take(algorithm, step)
    before = {name: p.detach().clone() for name, p in algorithm.named_parameters()}
    toy.take(algorithm, START + 1)
    assert not [name for name, p in algorithm.named_parameters() if torch.equal(before[name], p)]


def test_derivatives_of_the_rounding() -> None:
    """By finite differences of what stands for it: inside the range v, outside its ends, times s."""
    torch.manual_seed(0)
    quantizer = Quantizer(torch.empty(4, 3, 2, 2), BITS)
    with torch.no_grad():
        quantizer.scale.copy_(0.2 + torch.rand(4))
    quantizer.on.fill_(1)
    weight = (torch.randn(4, 3, 2, 2) * 1.5).requires_grad_()
    direction = torch.randn(4, 3, 2, 2)
    (quantizer(weight) * direction).sum().backward()
    s = quantizer.scale.detach()[:, None, None, None]
    v = weight.detach() / s
    inside = (v > LOW) & (v < HIGH)
    assert inside.any()
    assert (~inside).any()
    assert torch.equal(weight.grad, direction * inside)
    by_scale = torch.where(inside, v.round() - v, v.clamp(LOW, HIGH))
    expected = (direction * by_scale).sum((1, 2, 3)) / (HIGH * weight.numel()) ** 0.5
    torch.testing.assert_close(quantizer.scale.grad, expected, rtol=0, atol=1e-14)
    level, h = v.round().clamp(LOW, HIGH), 1e-6
    for c in range(4):  # The surrogate s * (level - v0 + w / s) inside, s * end outside, v0 held constant.
        surrogate = [
            torch.where(inside[c], (level[c] - v[c]) * t + weight.detach()[c], level[c] * t).mul(direction[c]).sum()
            for t in (s[c] + h, s[c] - h)
        ]
        slope = (surrogate[0] - surrogate[1]) / (2 * h) / (HIGH * weight.numel()) ** 0.5
        assert quantizer.scale.grad[c].item() == pytest.approx(slope.item(), abs=1e-8)


def test_saved_weights_predict_in_a_fresh_algorithm(toy: SimpleNamespace) -> None:
    algorithm = toy.make(QTDoG, images=True, norm="live", **OPTIONS)
    for step in range(4):
        toy.take(algorithm, step)
    x = torch.randn(5, 2, 6, 6)
    expected = algorithm.eval()(x)
    saved = load(save({name: t.detach().contiguous() for name, t in algorithm.predictor_tensors().items()}))
    fresh = toy.make(QTDoG, images=True, norm="live", **OPTIONS).eval()
    assert not torch.equal(fresh(x), expected)
    assert torch.equal(functional_call(fresh, saved, (x,)), expected)
    fresh.load_state_dict(saved, strict=False)
    assert torch.equal(fresh(x), expected)


def test_a_channel_of_zeros_stays_one() -> None:
    weight = torch.randn(2, 3, 2, 2)
    weight[1] = 0
    quantizer = Quantizer(weight, BITS)
    quantizer.start(weight)
    assert torch.equal(quantizer(weight)[1], weight[1])
    assert quantizer(weight).isfinite().all()


def test_what_is_frozen_is_not_quantised(toy: SimpleNamespace) -> None:
    plain = toy.make(ERM, images=True)
    frozen, free = plain.network.featurizer[0], plain.network.featurizer[2]
    before = frozen.weight.detach().clone()
    frozen.weight.requires_grad_(False)
    algorithm = QTDoG(plain.network, QTDoG.Hparams(lr=1e-2, **OPTIONS), plain.task, plain.setting).train()
    for step in range(4):
        toy.take(algorithm, step)
    assert [convolution for convolution, _ in algorithm.quantized] == [free]
    assert torch.equal(frozen.weight, before)


def test_impossible_values_are_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"bits must lie in \[2, 16\]") as caught:
        QTDoG.Hparams(q_steps=-1, bits=1)
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError, match="QTDoG quantizes convolutions"):
        toy.make(QTDoG)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_resumes_exactly_before_at_and_after_the_quantisation(toy: SimpleNamespace, optimizer: str, start: int) -> None:
    toy.resumes(QTDoG, images=True, norm="live", optimizer=optimizer, dropout=0.3, q_steps=start, bits=BITS)
