"""Precision, memory order, compilation: who can't follow, which machines can't, and that accuracy stays what it is."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.rehearsal import Subject, double_precision
from dgbench.core.cards import needs_of
from dgbench.core.errors import UserError
from dgbench.core.machine import check_precision
from dgbench.core.needs import EAGER
from dgbench.core.setting import setting
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import Network, build_network
from tests.support.in_process import CPU, execute_all, records_of, sweep_of

BF16 = setting(precision="bf16")
no_bf16 = pytest.mark.skipif(
    not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
    reason="this CPU has neither avx512_bf16 nor AMX",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("avx", "amx", "fine"), [(True, False, True), (False, True, True), (False, False, False)])
def test_a_cpu_that_would_imitate_bf16_is_refused(
    avx: bool, amx: bool, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    check_precision(setting(), CPU)
    check_precision(BF16, torch.device("mps"))
    if fine:
        check_precision(BF16, CPU)
    else:
        with pytest.raises(UserError, match="this CPU has neither avx512_bf16 nor AMX: leave it out, or give --device"):
            check_precision(BF16, CPU)


@pytest.mark.parametrize("fine", [True, False])
def test_a_gpu_that_would_imitate_bf16_is_refused(fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return fine or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    if fine:
        check_precision(BF16, torch.device("cuda"))
    else:
        with pytest.raises(UserError, match="an old GPU has no bf16"):
            check_precision(BF16, torch.device("cuda"))


def test_bf16_is_refused_before_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(UserError, match="precision 'bf16' would be emulated"):
        sweep_of(tmp_path / "sweep", "ERM", setting={"precision": "bf16"})
    assert not (tmp_path / "sweep").exists()


def test_methods_that_can_not_be_compiled_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path / "sweep", "ERM", "IGA", "UDIMTransductive+SWAD", "DSU", setting={"compile": True})
    double, hooks = "takes gradients of gradients, which PyTorch has no compiled form of", "changes what passes between"
    told = sorted(caught.value.problems)
    assert len(told) == 3
    assert told[0].startswith(f"DSU can't be trained with compile true: it {hooks}")
    assert told[1] == f"IGA can't be trained with compile true: it {double}"
    assert told[2] == f"UDIMTransductive can't be trained with compile true: it {double}"


def rehearsed(catalogue: Catalogue, name: str, *, compiled: bool, steps: int) -> dict[str, torch.Tensor]:
    """The weights of an algorithm after some steps in its small world."""
    torch.compiler.reset()
    subject = Subject(catalogue.get("algorithm", name), CPU)
    with double_precision():
        rehearsal = subject.rehearse(checkpoint_freq=5, compile=compiled)
        rehearsal.until(steps)
        return {key: tensor.clone() for key, tensor in rehearsal.algorithm.predictor_tensors().items()}


def by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile forward and backward passes to graphs of PyTorch's own operations, which takes a second, not a minute."""
    compile_module: Callable[..., None] = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_module(self, backend="aot_eager", **how))


OF_HOOKS = {"feature_maps", "inner_maps", "convolutions", "stages", "stage_modules", "batch_norm", "norm"}
"""Needs of methods that look into the featurizer."""
FIRST = ("ERM", "SAM", "Fish", "MIRO", "Fishr", "ERMPlusPlus", "ADRMX")
"""One method of each way to use the compiled network."""


def special(catalogue: Catalogue) -> list[str]:
    """The methods with a step of their own or hooks, which can be compiled.

    The featurizer alone is compiled, so other losses are as ERM's there.
    """
    needs = {name: {need.what for need in needs_of(entry.card)} for name, entry in catalogue.algorithms.items()}
    return [
        name
        for name, entry in catalogue.algorithms.items()
        if EAGER not in needs[name] and (not entry.ruled or needs[name] & OF_HOOKS) and name not in FIRST
    ]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler looks, and hides that it warns
@pytest.mark.parametrize(
    "name", [*FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in special(Catalogue()))]
)
def test_compiled_methods_learn_the_same(name: str, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    by_autograd(monkeypatch)
    plain, compiled = (rehearsed(catalogue, name, compiled=c, steps=12) for c in (False, True))
    for key, tensor in plain.items():
        torch.testing.assert_close(compiled[key], tensor, atol=1e-9, rtol=1e-7)


def test_double_backward_is_what_can_not_be_compiled(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    by_autograd(monkeypatch)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        rehearsed(catalogue, "IGA", compiled=True, steps=1)


def accuracies(root: Path, **changes: Any) -> list[float]:
    """On the held-out domain, at the end, of three trials on rotated digits."""
    asked = {"n_trials": 3, "setting": {"steps": 150, "checkpoint_freq": 149, **changes}}
    sweep = execute_all(sweep_of(root, "ERM", hparams={"batch_size": 32}, **asked))
    last = [records_of(sweep.store.folder(run.id))[-1]["views"]["75/in"]["accuracy"] for run in sweep.plan.runs]
    assert len(last) == 3
    return last


@pytest.mark.slow
@no_bf16
def test_accuracy_is_the_same_in_every_precision_and_order(tmp_path: Path) -> None:
    """Within the error of three trials, or two points where that is smaller; chance is 10 %."""
    plain = accuracies(tmp_path / "plain")
    assert min(plain) > 0.4
    error = max(0.02, statistics.stdev(plain))
    variants: dict[str, dict[str, Any]] = {
        "bf16": {"precision": "bf16"},
        "last": {"channels_last": True},
        "both": {"precision": "bf16", "channels_last": True},
    }
    gaps = {
        name: statistics.mean(accuracies(tmp_path / name, **changes)) - statistics.mean(plain)
        for name, changes in variants.items()
    }
    assert all(abs(gap) <= error for gap in gaps.values()), gaps


@pytest.mark.slow
def test_a_compiled_run_reaches_the_same_accuracy(tmp_path: Path) -> None:
    """By the real compiler, on one trial; differences in the last digits of 150 steps stay below two points."""
    found = []
    for compiled in (False, True):
        sweep = sweep_of(
            tmp_path / str(compiled), "ERM", setting={"steps": 150, "checkpoint_freq": 149, "compile": compiled}
        )
        execute_all(sweep)
        found.append(records_of(sweep.store.folder(sweep.plan.runs[0].id))[-1]["views"]["75/in"]["accuracy"])
    assert abs(found[0] - found[1]) <= 0.02, found


def gradient_of_update(algorithm: Any, batches: list[Batch], precision: str, *, plain: bool) -> torch.Tensor:
    """What a copy's parameters are moved along; `plain`: by ERM's loss alone."""
    other = copy.deepcopy(algorithm)
    for part in other.modules():
        if isinstance(part, Network):
            part.precision = precision
    other.build_optimizers()
    torch.manual_seed(2)
    if plain:
        other.joint_loss(batches).backward()
    else:
        other.update(batches)
    return torch.cat([parameter.grad.double().flatten() for parameter in other.network.parameters()])


def cosine_of_what_it_adds(catalogue: Catalogue, name: str, **hparams: Any) -> float:
    """Between bf16 and float32: of a method's update less ERM's, some steps after the start."""
    cls: Any = catalogue.get("algorithm", name).load()
    how, shape = setting(backbone="SmallCNN", optimizer="sgd"), (3, 16, 16)
    torch.manual_seed(0)
    values = cls.Hparams(lr=0.1, batch_size=8, **hparams)
    algorithm = cls(build_network(shape, 3, how), values, Task(shape, 3, ((9,) * 3,) * 2), how).train()
    y = torch.arange(8) % 3
    x = torch.randn(2, 8, *shape) + y[:, None, None, None]
    batches = [Batch(x[domain], y, torch.arange(8), domain) for domain in range(2)]
    for number in range(4):
        algorithm.step = number
        algorithm.update(batches)
    full, half = (
        gradient_of_update(algorithm, batches, precision, plain=False)
        - gradient_of_update(algorithm, batches, precision, plain=True)
        for precision in ("fp32", "bf16")
    )
    return torch.cosine_similarity(full, half, dim=0).item()


@pytest.mark.parametrize("name", ["SAM", "GAM", "GR", "MIRO"])
def test_what_lies_a_small_step_away_is_seen_in_bf16(name: str, catalogue: Catalogue) -> None:
    assert cosine_of_what_it_adds(catalogue, name) > 0.9


def test_a_step_that_is_too_small_for_bf16_is_not_seen(catalogue: Catalogue) -> None:
    """So the test above would notice: weights that hardly move are the same in bf16, or off by its rounding."""
    assert cosine_of_what_it_adds(catalogue, "SAM", rho=1e-5) < 0.5
