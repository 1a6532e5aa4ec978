from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dgbench.core.errors import UserError
from dgbench.merging.fisher import UBGM, FisherMerging
from dgbench.methods.average import Weights
from tests.merging.toys import near, of, one, tools

SIZE, COUNT = 7, 3


def drawn(seed: int) -> Tensor:
    return torch.randn(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


INITIAL = drawn(0)
THETAS = [drawn(10 + i) for i in range(COUNT)]
HESSIANS = [drawn(20 + i).square() + 0.1 for i in range(COUNT)]
ANCHOR = drawn(30).square() + 0.1


def table(pairs: list[tuple[Tensor, Tensor]], expected: int = 4096) -> Callable[[Weights, int], Weights]:
    """Fisher information by weights."""

    def fisher(weights: Weights, examples: int) -> Weights:
        assert examples == expected
        (found,) = (value for known, value in pairs if torch.equal(known, weights["w"]))
        return {"w": found.clone()}

    return fisher


def ubgm(
    hessians: list[Tensor], thetas: list[Tensor] = THETAS, anchor: Tensor | None = None, examples: int = 1, **h: float
) -> Tensor:
    """The merged weights; `anchor` is the initial weights' Hessian, 0 if not given."""
    pairs = list(zip(thetas, hessians, strict=True)) + ([(INITIAL, anchor)] if anchor is not None else [])
    hparams = UBGM.Hparams(**{"delta": 1e-300, "initial_examples": int(anchor is not None), **h})  # type: ignore[arg-type]
    given = tools(initial={"w": INITIAL}, fisher=table(pairs), examples=examples)
    return one(UBGM(hparams), of(*({"w": theta} for theta in thetas)), given).weights["w"]


def fisher_mean(hessians: list[Tensor], **h: float) -> Tensor:
    merger = FisherMerging(FisherMerging.Hparams(**h))  # type: ignore[arg-type]
    given = tools(fisher=table(list(zip(THETAS, hessians, strict=True))))
    return one(merger, of(*({"w": theta} for theta in THETAS)), given).weights["w"]


def weighted(hessians: list[Tensor]) -> Tensor:
    return sum(h * t for h, t in zip(hessians, THETAS, strict=True)) / sum(hessians)  # type: ignore[return-value]


MEAN = torch.stack(THETAS).mean(0)
ZEROS = [torch.zeros(SIZE, dtype=torch.float64)] * COUNT


@pytest.mark.parametrize("alpha", [0.4, 1.0, float(COUNT)])
def test_without_information_it_is_task_arithmetic(alpha: float) -> None:
    expected = INITIAL + alpha / COUNT * sum(theta - INITIAL for theta in THETAS)
    near(ubgm(ZEROS, alpha=alpha, delta=1.0), expected)
    near(ubgm(ZEROS, alpha=alpha, anchor=ANCHOR), expected)


def test_one_model_is_itself() -> None:
    near(ubgm(HESSIANS[:1], THETAS[:1], anchor=ANCHOR, delta=0.3, examples=50), THETAS[0])


@pytest.mark.parametrize("constant", [1e-3, 1.0, 40.0])
def test_equal_information_gives_the_mean(constant: float) -> None:
    equal = [torch.full((SIZE,), constant, dtype=torch.float64)] * COUNT
    near(ubgm(equal), MEAN)
    near(ubgm(equal, anchor=ANCHOR, delta=0.2), MEAN)
    near(fisher_mean(equal), MEAN)


@pytest.mark.parametrize("alpha", [1.0, float(COUNT)])
def test_without_an_anchor_it_is_the_fisher_weighted_mean(alpha: float) -> None:
    near(ubgm(HESSIANS, alpha=alpha, examples=9), weighted(HESSIANS))


@pytest.mark.parametrize("alpha", [0.7, 1.0, float(COUNT)])
@pytest.mark.parametrize("examples", [1, 25])
def test_quadratic_losses_give_the_joint_optimum(alpha: float, examples: int) -> None:
    """Each theta_m is the minimum of L_0 + L_m, where L_0 is quadratic around the initial weights."""
    minima = [drawn(40 + i) for i in range(COUNT)]
    own = [examples * hessian for hessian in HESSIANS]
    thetas = [(ANCHOR * INITIAL + h * m) / (ANCHOR + h) for h, m in zip(own, minima, strict=True)]
    a = alpha / COUNT
    top = ANCHOR * INITIAL + a * sum(h * m for h, m in zip(own, minima, strict=True))
    joint = top / (ANCHOR + a * sum(own))
    near(ubgm(HESSIANS, thetas, anchor=ANCHOR, alpha=alpha, examples=examples), joint)


def test_the_initial_information_counts_for_so_many_examples() -> None:
    near(ubgm(HESSIANS, anchor=ANCHOR / 8, initial_examples=8), ubgm(HESSIANS, anchor=ANCHOR))
    assert not torch.allclose(ubgm(HESSIANS, anchor=ANCHOR / 8), ubgm(HESSIANS, anchor=ANCHOR))


def test_fisher_merging_by_its_formula() -> None:
    near(fisher_mean(HESSIANS, normalise=False), weighted(HESSIANS))
    near(fisher_mean(HESSIANS), weighted([h / h.norm() for h in HESSIANS]))
    scaled = [h * 10.0**i for i, h in enumerate(HESSIANS)]
    near(fisher_mean(scaled), fisher_mean(HESSIANS))


@pytest.mark.parametrize("normalise", [True, False])
def test_models_that_fit_their_data_are_still_told_apart(normalise: bool, caplog: pytest.LogCaptureFixture) -> None:
    """All gradients of such a model are small; the floor is by their size, or Fisher's mean would be the plain one."""
    small = [h * 1e-9 for h in HESSIANS]
    with caplog.at_level("INFO"):
        near(fisher_mean(small, normalise=normalise), fisher_mean(HESSIANS, normalise=normalise))
    assert not torch.allclose(fisher_mean(small, normalise=normalise), MEAN)
    assert [record.getMessage() for record in caplog.records][:COUNT] == [
        f"run{i}: 0.0 % of the parameters have the lowest Fisher information allowed" for i in range(COUNT)
    ]


def test_the_share_at_the_floor_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Three of seven parameters tell so little beside the others that they count by the floor: 1e-2 of the length."""
    hessian = torch.tensor([3.0, 4.0, 1e-3, 2e-3, 0.0, 1.0, 1.0], dtype=torch.float64)
    length = hessian.norm()
    floored = hessian.clamp(min=0.01 * length)
    with caplog.at_level("INFO"):
        found = fisher_mean([hessian, *HESSIANS[1:]], floor=0.01)
    assert "run0: 42.9 % of the parameters" in caplog.text
    others = [(h.clamp(min=0.01 * h.norm())) / h.norm() for h in HESSIANS[1:]]
    near(found, weighted([floored / length, *others]))


def test_the_floor_holds_where_nothing_is_known() -> None:
    near(fisher_mean(ZEROS), MEAN)
    near(fisher_mean(ZEROS, normalise=False), MEAN)
    near(fisher_mean(HESSIANS, floor=1e6), MEAN)


@pytest.mark.parametrize("merger", [FisherMerging(FisherMerging.Hparams()), UBGM(UBGM.Hparams(initial_examples=0))])
def test_what_is_no_parameter_is_averaged_and_whole_numbers_are_the_last(merger: FisherMerging | UBGM) -> None:
    members = of(
        *({"w": theta, "b": torch.full((2,), float(i)), "n": torch.tensor(i)} for i, theta in enumerate(THETAS))
    )
    given = tools(initial={"w": INITIAL}, fisher=table(list(zip(THETAS, HESSIANS, strict=True))))
    found = one(merger, members, given).weights
    assert found.keys() == {"w", "b", "n"}
    assert found["b"].tolist() == [1.0, 1.0]
    assert found["n"].item() == COUNT - 1


def test_what_all_members_share_stays_to_the_bit() -> None:
    shared = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    informations = iter([torch.rand(1000, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    given = tools(fisher=lambda weights, _: {"w": next(informations)})
    found = one(FisherMerging(FisherMerging.Hparams()), of(*[{"w": shared}] * 4), given)
    assert torch.equal(found.weights["w"], shared)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        UBGM.Hparams(alpha=0.0, delta=0.0, initial_examples=-1, examples=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(UserError) as caught:
        FisherMerging.Hparams(examples=0, floor=0.0)
    assert len(caught.value.problems) == 2
