from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgbench.core.seeding import hparams_stream, numpy_stream, seed_everything, seed_hash, torch_seed

PURPOSES = st.lists(st.integers(-(2**40), 2**40) | st.text(max_size=5), max_size=4)


@pytest.mark.parametrize(("args", "seed"), [(("VLCS", "ERM", [3], 1, 1), 1726329315), ((0, 0), 894182419)])
def test_seed_hash_is_domainbeds(args: tuple[object, ...], seed: int) -> None:
    assert seed_hash(*args) == seed


@given(st.integers(0, 100), st.integers(0, 100))
def test_the_stream_of_draws_is_the_hash_of_seed_and_trial(hparams_seed: int, trial: int) -> None:
    assert hparams_stream(hparams_seed, trial) == seed_hash(hparams_seed, trial)


@given(PURPOSES)
def test_seeds_fit_the_generators_that_take_them(purpose: list[object]) -> None:
    assert 0 <= seed_hash(*purpose) < 2**31
    assert 0 <= torch_seed(*purpose) < 2**63


@given(PURPOSES, PURPOSES)
def test_a_purpose_has_one_stream_and_another_purpose_another(one: list[object], other: list[object]) -> None:
    first, again = (numpy_stream(*one).integers(2**62, size=4).tolist() for _ in range(2))
    assert first == again
    assert (first == numpy_stream(*other).integers(2**62, size=4).tolist()) is (one == other)
    assert (torch_seed(*one) == torch_seed(*other)) is (one == other)


def test_streams_are_the_same_in_every_process() -> None:
    code = "from dgbench.core.seeding import *; print(torch_seed('x', 1), numpy_stream('x', 1).integers(2**62))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(torch_seed("x", 1)), str(numpy_stream("x", 1).integers(2**62))]
    assert said.split() == ["1311298948916263554", "2699986585011993603"], "seeds changed: no old run repeats"


@pytest.fixture
def _undisturbed() -> Iterator[None]:
    """Leave the global generators as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


@pytest.mark.parametrize("number", range(8))
@pytest.mark.usefixtures("_undisturbed")
def test_all_three_global_generators_are_seeded_for_the_purpose(number: int) -> None:
    seed = torch_seed("x", number)
    seed_everything(torch.device("cpu"), "x", number)
    assert random.random() == random.Random(seed).random()
    assert np.random.rand() == np.random.RandomState(seed % 2**32).rand()
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.usefixtures("_undisturbed")
def test_the_devices_generator_is_seeded_too(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[tuple[str, int]] = []
    for name in ("cuda", "mps"):
        monkeypatch.setattr(f"torch.{name}.manual_seed", lambda seed, name=name: seeded.append((name, seed)))
    seed_everything(torch.device("cpu"), "x")
    assert seeded == []
    seed_everything(torch.device(device), "x")
    assert seeded == [(device, torch_seed("x"))]
