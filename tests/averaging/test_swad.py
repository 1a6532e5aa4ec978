from __future__ import annotations

import io
import logging
import random
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from dgbench.averaging.swad import SWAD
from dgbench.core.errors import UserError

VALLEY = [5.0, 2.0, 1.3, 1.2, 1.1, 1.0, 1.05, 1.1, 1.2, 1.4, 1.5, *[2.0] * 6]
"""Converges at 5 (threshold 1.365), checkpoints 2 to 4 are admissible before it, and 8 is the last low one."""


def feed(swad: SWAD, losses: Sequence[float], start: int = 0, size: int | None = None) -> SWAD:
    """Segment i has mean e_i: of two steps 2 e_i and 0, but for segment 0, which is one step."""
    for i, loss in enumerate(losses, start=start):
        one_hot = torch.zeros(size or len(losses), dtype=torch.float64)
        one_hot[i] = 1.0
        for scale in (1.0,) if i == 0 else (2.0, 0.0):
            live = {"w": one_hot * scale, "count": torch.tensor(i)}
            swad.observe(live)
            live["w"].fill_(torch.nan)
        swad.validate(10 * i, {"a": loss - 0.25, "b": loss + 0.25}, {})
    return swad


def weights(losses: Sequence[float], **hparams: Any) -> dict[int, float]:
    """Share of each segment in the result."""
    result = feed(SWAD(SWAD.Hparams(**hparams)), losses).weights()
    assert result is not None
    return {i: w for i, w in enumerate(result["w"].tolist()) if w}


def shares(additions: dict[int, int]) -> dict[int, Any]:
    total = sum(additions.values())
    return {i: pytest.approx(n / total, abs=1e-15) for i, n in sorted(additions.items())}


OFFICIAL = {
    "admissible checkpoints before t_s": (VALLEY, {}, {3: 1, 4: 1, 5: 2, 6: 1, 7: 1, 8: 1}),
    "fewer are admissible": ([5.0, 2.0, 1.5, *VALLEY[3:]], {}, {4: 1, 5: 2, 6: 1, 7: 1, 8: 1}),
    "none is": ([5.0, 4.0, 3.0, 2.5, 2.0, *VALLEY[5:]], {}, {5: 1, 6: 1, 7: 1, 8: 1}),
    "early convergence": ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, *[2.0] * 5], {}, {0: 3, 1: 2, 2: 2, 3: 1, 4: 1}),
    "never converged": ([5.0, 4.0, 3.0, 2.0, 1.0], {}, {4: 1}),
    "too short to converge": ([1.0, 2.0], {}, {1: 1}),
    "not dead at the end": (VALLEY[:12], {}, {3: 1, 4: 1, 5: 2, 6: 1, 7: 1, 8: 1}),
    "ends before t_s is the head": (VALLEY[:10], {}, {3: 1, 4: 1, 5: 2, 6: 1, 7: 1, 8: 1}),
    "ends two after convergence is seen": (VALLEY[:9], {}, {3: 1, 4: 2, 5: 2, 6: 1, 7: 1, 8: 1}),
    "ends when convergence is seen": (VALLEY[:8], {}, {3: 2, 4: 2, 5: 2, 6: 1, 7: 1}),
    "Ne = Ns": (VALLEY, {"n_tolerance": 3}, {6: 1, 7: 1, 8: 1}),
    "Ne = Ns, nothing added but t_s": ([1.0, 100.0, 100.0], {"n_tolerance": 3}, {0: 1}),
    "Ne < Ns": (
        [3.0, 1.0, 1.1, 1.2, 1.3, 2.0, 2.0, 2.0],
        {"n_converge": 4, "n_tolerance": 2},
        {2: 1, 3: 1, 4: 1},
    ),
    "VLCS' ratio": (VALLEY, {"tolerance_ratio": 0.1}, {5: 2, 6: 1, 7: 1}),
}
PAPER = {
    "admissible checkpoints before t_s": {5: 1, 6: 1, 7: 1, 8: 1},
    "fewer are admissible": {5: 1, 6: 1, 7: 1, 8: 1},
    "none is": {5: 1, 6: 1, 7: 1, 8: 1},
    "early convergence": {0: 1, 1: 1, 2: 1, 3: 1, 4: 1},
    "never converged": {4: 1},
    "too short to converge": {1: 1},
    "not dead at the end": {5: 1, 6: 1, 7: 1, 8: 1},
    "ends before t_s is the head": {5: 1, 6: 1, 7: 1, 8: 1},
    "ends two after convergence is seen": {5: 1, 6: 1, 7: 1, 8: 1},
    "ends when convergence is seen": {5: 1, 6: 1, 7: 1},
    "Ne = Ns": {5: 1, 6: 1, 7: 1, 8: 1},
    "Ne = Ns, nothing added but t_s": {0: 1},
    "Ne < Ns": {1: 1, 2: 1, 3: 1, 4: 1},
    "VLCS' ratio": {5: 1, 6: 1, 7: 1},
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_official_form(case: str) -> None:
    losses, hparams, expected = OFFICIAL[case]
    assert weights(losses, **hparams) == shares(expected)


@pytest.mark.parametrize("case", PAPER)
def test_paper_form(case: str) -> None:
    losses, hparams, _ = OFFICIAL[case]
    assert weights(losses, form="paper", **hparams) == shares(PAPER[case])


def simulate_official(losses: Sequence[float], ns: int, ne: int, ratio: float) -> dict[int, int]:
    """The released procedure with its two bounded queues, on numbers of checkpoints in place of models."""
    recent: deque[int] = deque(maxlen=ns)
    smooth: deque[int] = deque(maxlen=ne)
    added: list[int] = []
    begun, threshold, dead = -1, 0.0, False
    for i in range(len(losses)):
        if dead:
            break
        recent.append(i)
        smooth.append(i)
        if begun < 0:
            if len(recent) == ns and min(recent, key=lambda j: losses[j]) == recent[0]:
                begun = recent[0]
                threshold = sum(losses[j] for j in recent) / ns * (1 + ratio)
                if ne < ns:
                    added += list(recent)[1 : 1 + ns - ne]
                elif ne > ns:
                    before = list(smooth)[: ne - ns + 1]
                    while any(losses[j] > threshold for j in before):
                        before.pop(0)
                    added += before[1:]
        elif smooth[0] >= begun:
            dead = min(losses[j] for j in smooth) > threshold
            added += [] if dead else [smooth[0]]
    if begun < 0:
        return {len(losses) - 1: 1}
    if not dead:
        smooth.popleft()
        while smooth and min(losses[j] for j in smooth) <= threshold:
            added.append(smooth.popleft())
    return dict(Counter(added or [begun]))


def simulate_paper(losses: Sequence[float], ns: int, ne: int, ratio: float) -> dict[int, int]:
    """The formula, with all losses known."""
    for begun in range(len(losses) - ns + 1):
        window = losses[begun : begun + ns]
        if min(window) == window[0]:
            threshold = sum(window) / ns * (1 + ratio)
            ends = (i for i in range(begun, len(losses)) if min(losses[i : i + ne]) > threshold)
            return dict.fromkeys(range(begun, next(ends, len(losses))), 1)
    return {len(losses) - 1: 1}


@pytest.mark.parametrize("form", ["official", "paper"])
def test_any_curve(form: str) -> None:
    rng = random.Random(0)
    for _ in range(300):
        ns, ne, length = rng.randint(1, 5), rng.randint(1, 7), rng.randint(1, 25)
        losses = [2.0 ** (abs(i - rng.choice((3, 8, 12))) / 4) + rng.random() for i in range(length)]
        ratio = rng.choice((0.1, 0.3))
        simulate = simulate_official if form == "official" else simulate_paper
        got = weights(losses, n_converge=ns, n_tolerance=ne, tolerance_ratio=ratio, form=form)
        assert got == shares(simulate(losses, ns, ne, ratio)), (losses, ns, ne, ratio)


def test_domains_weigh_alike() -> None:
    swad = SWAD(SWAD.Hparams(n_converge=1, n_tolerance=1, tolerance_ratio=0.0))
    swad.observe({"w": torch.ones(1)})
    swad.validate(0, {"small": 1.0, "large": 2.0, "other": 6.0}, {})
    assert swad.threshold == 3.0


def test_a_run_without_a_valley_says_so(caplog: pytest.LogCaptureFixture) -> None:
    swad = feed(SWAD(SWAD.Hparams()), [3.0, 2.0, 1.0])
    with caplog.at_level(logging.WARNING):
        assert swad.weights() is not None
    assert "SWAD found no valley" in caplog.text
    assert not swad.converged
    caplog.clear()
    swad = feed(SWAD(SWAD.Hparams()), VALLEY)
    with caplog.at_level(logging.WARNING):
        assert swad.weights() is not None
    assert swad.converged
    assert swad.converged_step == 50
    assert not caplog.text


def test_nothing_before_the_first_evaluation() -> None:
    swad = SWAD(SWAD.Hparams())
    swad.observe({"w": torch.ones(1)})
    assert swad.weights() is None


@pytest.mark.parametrize("form", ["official", "paper"])
def test_asking_for_weights_changes_nothing(form: str) -> None:
    quiet, asked = (SWAD(SWAD.Hparams(form=form)) for _ in range(2))
    for i, loss in enumerate(VALLEY):
        feed(quiet, [loss], start=i, size=len(VALLEY))
        feed(asked, [loss], start=i, size=len(VALLEY))
        asked.weights()
    first, second = quiet.weights(), asked.weights()
    assert first is not None
    assert second is not None
    assert torch.equal(first["w"], second["w"])


@pytest.mark.parametrize("form", ["official", "paper"])
def test_holds_no_more_copies_than_the_card_says_and_none_of_the_live_model(form: str) -> None:
    swad, most = SWAD(SWAD.Hparams(form=form)), 0
    for i, loss in enumerate(VALLEY):
        feed(swad, [loss], start=i, size=len(VALLEY))
        swad.observe({"w": torch.zeros(len(VALLEY), dtype=torch.float64), "count": torch.tensor(i)})
        state = swad.state()
        most = max(most, len(state["queue"]) + bool(state["segment"]["mean"]) + bool(state["valley"]["mean"]))
    assert most <= SWAD.card.copies
    assert swad.dead
    assert not swad.state()["queue"]
    assert not swad.state()["segment"]["mean"]


@pytest.mark.parametrize("form", ["official", "paper"])
@pytest.mark.parametrize("losses", [VALLEY, VALLEY[:10], [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [5.0, 4.0, 3.0, 2.0]])
def test_resumes_exactly(form: str, losses: list[float]) -> None:
    expected = feed(SWAD(SWAD.Hparams(form=form)), losses).weights()
    assert expected is not None
    for cut in range(len(losses)):
        swad = feed(SWAD(SWAD.Hparams(form=form)), losses[:cut], size=len(losses))
        middle = torch.zeros(len(losses), dtype=torch.float64)
        middle[cut] = 1.0 if cut == 0 else 2.0
        swad.observe({"w": middle, "count": torch.tensor(cut)})
        file = io.BytesIO()
        torch.save(swad.state(), file)
        file.seek(0)
        resumed = SWAD(SWAD.Hparams(form=form))
        resumed.load(torch.load(file, weights_only=True))
        if cut:
            resumed.observe({"w": torch.zeros(len(losses), dtype=torch.float64), "count": torch.tensor(cut)})
        resumed.validate(10 * cut, {"a": losses[cut] - 0.25, "b": losses[cut] + 0.25}, {})
        got = feed(resumed, losses[cut + 1 :], start=cut + 1, size=len(losses)).weights()
        assert got is not None
        assert all(torch.equal(tensor, expected[name]) for name, tensor in got.items()), cut


def test_refuses_all_that_is_wrong_at_once() -> None:
    with pytest.raises(UserError) as error:
        SWAD.Hparams(n_converge=0, n_tolerance=-1, tolerance_ratio=-0.1, form="oficial")
    assert len(error.value.problems) == 4
    assert "form is one of official, paper" in str(error.value)


@pytest.mark.parametrize("form", ["official", "paper"])
def test_a_loss_at_the_threshold_is_still_low(form: str) -> None:
    """All losses and the threshold are the same number when the ratio is 0: no valley ends."""
    assert weights([1.0] * 12, tolerance_ratio=0.0, form=form).keys() == set(range(12))


def test_nothing_is_known_before_convergence() -> None:
    swad = SWAD(SWAD.Hparams())
    assert (swad.threshold, swad.converged_step, swad.converged, swad.dead) == (0.0, -1, False, False)


def test_a_valley_ends_for_good() -> None:
    """A low loss behind a high one, in what is left in the queue at the end, is not added."""
    losses = [1.0, 1.0, 1.0, *[9.0] * 6, 1.0]
    assert set(weights(losses)) <= {0, 1, 2}


def test_a_loss_at_the_threshold_before_convergence_is_admissible() -> None:
    losses = [4.0, 3.0, 2.0, 1.0, 1.0, 1.0, *[9.0] * 6]  # the threshold is 1 * (1 + 1), the loss of segment 2
    assert weights(losses, tolerance_ratio=1.0) == shares(simulate_official(losses, 3, 6, 1.0))
    assert 3 in weights(losses, tolerance_ratio=1.0)
