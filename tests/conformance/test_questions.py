from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import Tensor, nn

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.classes import entry_at_hand
from dgbench.conformance.kinds import examine_entry
from dgbench.conformance.passes import passes_again
from dgbench.conformance.questions import QUESTIONS, SHORT, Reads
from dgbench.conformance.rehearsal import CLASSES, SHAPE, Rehearsal, Subject, count_passes, double_precision
from dgbench.core.setting import setting
from dgbench.networks.network import build_network
from tests.support.places import EXAMPLES

CPU = torch.device("cpu")
BROKEN = EXAMPLES / "broken.py"
ALSO = {"Gambles": {"resumes", "passes", "features"}, "Forgets": {"passes"}, "Drifts": {"passes"}}
"""What a broken example can't help breaking too."""
COMPOSED = ("CORAL+SAM", "VREx+DISAM")
"""Algorithms with step rules that are asked; steps of every pair are taken in tests/rules/test_compositions.py."""
CATALOGUE = Catalogue()
OURS = {name: CATALOGUE.get("algorithm", name) for name in (*CATALOGUE.algorithms, *COMPOSED)}
BREAKING = {
    name: entry for name, entry in Catalogue([BROKEN]).of_kind("algorithm").items() if entry.file == str(BROKEN)
}


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("name", OURS)
def test_ours_conform(name: str, device: str) -> None:
    """Each question with the fewest domains and the defaults, then with one more and a draw; `check` asks more."""
    subject = Subject(OURS[name], torch.device(device))
    with double_precision():
        for question in QUESTIONS:
            able = list(filter(subject.allows, question.numbers))
            for seed, domains in enumerate(able[:2]):
                assert not question.ask(subject, domains, seed if question.drawn else 0), (question.name, domains)


@pytest.mark.parametrize("name", BREAKING)
def test_a_broken_rule_is_noticed(name: str) -> None:
    """A broken example breaks the rule that its docstring begins with, and no other; a line of it is named."""
    problems = [finding for finding in examine_entry(BREAKING[name], CPU, draws=0) if finding.wrong]
    wrong = {finding.question for finding in problems}
    assert wrong - ALSO.get(name, set()) == {BREAKING[name].doc.partition(":")[0]}
    lines = BROKEN.read_text().splitlines()
    for finding in problems:
        named = re.search(rf"\({re.escape(str(BROKEN))}:(\d+)(, (\w+))?\)$", finding.wrong)
        assert named, finding.wrong
        line = lines[int(named[1]) - 1]
        # A method that the question is about, or the line at which something was read, drawn or raised.
        at_fault = rf"@|(def|class) {named[3]}" if named[3] else r"\.item\(\)|raise |torch\.(stack|randn_like)\("
        assert re.search(at_fault, line), finding.wrong


def test_a_loss_that_draws_without_saying_so_is_noticed() -> None:
    card = dataclasses.replace(OURS["Mixup"].card, draws=False)
    silent = type("Silent", (OURS["Mixup"].load(),), {"card": card})
    assert passes_again(Subject(entry_at_hand(silent), CPU), 3, 0).startswith(
        "a second pass of step 0 has another loss"
    )


def test_there_is_an_example_that_breaks_each_rule() -> None:
    assert {entry.doc.partition(":")[0] for entry in BREAKING.values()} == {question.name for question in QUESTIONS}


def subject(name: str = "ERM") -> Subject:
    return Subject(OURS[name], CPU)


def test_the_small_world_is_in_double_precision_and_leaves_nothing_behind() -> None:
    with double_precision():
        rehearsal = subject().rehearse()
        assert rehearsal.batches(0)[0].x.dtype == torch.float64
        assert next(rehearsal.algorithm.parameters()).dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_uneven_minibatches_lack_a_class_and_differ_in_size() -> None:
    rehearsal = subject().rehearse(3, uneven=True)
    batches = rehearsal.batches(0)
    assert len({len(batch.y) for batch in batches}) == 3
    assert 0 not in rehearsal.seen[2][1]
    assert rehearsal.algorithm.task.class_counts[2][0] == 0
    assert [len(y) for _, y in rehearsal.seen] == list(rehearsal.algorithm.task.sizes)
    x, y, positions, domain, _ = batches[1]
    assert domain == 1
    assert torch.equal(rehearsal.seen[1][0][positions], x)
    assert torch.equal(rehearsal.seen[1][1][positions], y)


def test_a_rehearsal_goes_on_where_it_was_saved() -> None:
    whole, other = subject("SAM").rehearse(2), subject("SAM").rehearse(2)
    whole.until(4)
    other.load(whole.save())
    assert other.step == 4
    assert all(torch.equal(tensor, other.parameters()[name]) for name, tensor in whole.parameters().items())


def counted(rehearsal: Rehearsal, loss_of: object) -> tuple[float, float]:
    tally = count_passes(rehearsal.algorithm)
    loss_of(rehearsal)  # type: ignore[operator]
    rows = sum(len(batch.y) for batch in rehearsal.batches(0))
    return tally.forwards / rows, tally.backwards / rows


def test_passes_are_counted_through_the_featurizer_alone() -> None:
    def plain(rehearsal: Rehearsal) -> None:
        rehearsal.algorithm.joint_loss(rehearsal.batches(0)).backward()

    def of_the_head(rehearsal: Rehearsal) -> None:
        loss = rehearsal.algorithm.joint_loss(rehearsal.batches(0))
        torch.autograd.grad(loss, list(rehearsal.algorithm.network.classifier.parameters()))

    def without_gradient(rehearsal: Rehearsal) -> None:
        with torch.no_grad():
            rehearsal.algorithm.joint_loss(rehearsal.batches(0))

    def twice(rehearsal: Rehearsal) -> None:
        loss = rehearsal.algorithm.joint_loss(rehearsal.batches(0))
        gradients = torch.autograd.grad(loss, list(rehearsal.algorithm.parameters()), create_graph=True)
        sum(g.square().sum() for g in gradients).backward()

    assert counted(subject().rehearse(), plain) == (1, 1)
    assert counted(subject().rehearse(), of_the_head) == (1, 0)
    assert counted(subject().rehearse(), without_gradient) == (1, 0)
    assert counted(subject().rehearse(), twice) == (1, 3), "back, back through that, and through the forward pass"


def test_counting_changes_nothing() -> None:
    plain, watched = subject("SAM").rehearse(), subject("SAM").rehearse()
    count_passes(watched.algorithm)
    for rehearsal in (plain, watched):
        rehearsal.until(3)
    assert all(torch.equal(tensor, watched.parameters()[name]) for name, tensor in plain.parameters().items())


def test_counting_works_under_function_transforms() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = build_network(SHAPE, CLASSES, setting(backbone="SmallCNN"))

    holder = Holder()
    tally = count_passes(holder)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(holder.network, weights, (x,))
        return logits.square().sum()

    weights = {name: p.detach() for name, p in holder.network.named_parameters()}
    torch.func.grad(loss)(weights, torch.randn(4, *SHAPE))
    assert (tally.forwards, tally.backwards) == (4, 4)


def test_a_read_is_seen() -> None:
    with Reads() as reads:
        torch.ones(2).sum().item()
    assert reads.found == ["aten::_local_scalar_dense"]
    x = torch.arange(3)
    mask = x > 0
    with Reads() as reads:
        x[mask], x[:, None][mask, None]
        x[mask] = torch.ones(2, dtype=torch.int64)
        torch.where(mask), torch.unique(x), torch.bincount(x)
    seen = ["index", "index", "index_put_", "nonzero", "_unique2", "bincount"]
    assert reads.found == [f"aten::{name}" for name in seen]
    with Reads() as reads:
        x[torch.tensor([2, 1])], x[None, 1:], torch.where(mask, x, 0)
        x[mask] = 0  # filled where it lies, without a count
    assert reads.found == []
    assert SHORT >= 10
