"""What mergers are told of a real run: where it began, what its weights score, what they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.run import BEST, Run
from dgbench.core.site import Site
from dgbench.execute.context import RunContext, open_context
from dgbench.execute.merge_tools import MergeTools
from dgbench.execute.models import find_model
from dgbench.launchers.reconcile import Sweep
from dgbench.methods.average import Weights
from tests.support.in_process import CPU, execute_all, runs_of, sweep_of, training_of

W, B = "network.classifier.weight", "network.classifier.bias"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two runs of ERM and of ERM++, whose network learns nothing but follows, merged."""
    site = Site(device="cpu", save_models="all")
    root = tmp_path_factory.mktemp("tools")
    return execute_all(sweep_of(root, "DiWA", "ERMPlusPlus+DiWA", site=site, n_hparams=2, setting={"steps": 10}))


def merge_run(sweep: Sweep, algorithm: str) -> Run:
    first = runs_of(sweep, algorithm)[0].id
    (run,) = (run for run in runs_of(sweep, "DiWA") if run.inputs[0].run == first)
    return run


def bench_of(sweep: Sweep, algorithm: str = "ERM") -> RunContext:
    return open_context(merge_run(sweep, algorithm), sweep.store, sweep.site, sweep.catalogue)


def tools_of(sweep: Sweep, algorithm: str = "ERM") -> MergeTools:
    torch.set_num_threads(1)
    context = bench_of(sweep, algorithm)
    return MergeTools(context, context.algorithm())


def trained(sweep: Sweep, algorithm: str = "ERM") -> Weights:
    return find_model(sweep.store.folder(runs_of(sweep, algorithm)[0].id).path, "model", BEST).load(CPU)


def seen(tools: MergeTools, examples: int) -> Tensor:
    return torch.cat(list(tools._examples(examples)))


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Every draw of labels: the probabilities and what came."""
    drawn: list[tuple[Tensor, Tensor]] = []
    draw = torch.multinomial

    def noted(p: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = draw(p, *args, **kwargs)
        drawn.append((p, y.squeeze(1)))
        return y

    monkeypatch.setattr(torch, "multinomial", noted)
    return drawn


def test_initial_weights_are_those_before_the_first_step(sweep: Sweep) -> None:
    for algorithm in ("ERM", "ERMPlusPlus"):
        found = tools_of(sweep, algorithm).initial()
        for run in runs_of(sweep, algorithm):
            begun = training_of(sweep, run).algorithm.predictor_tensors()
            assert found.keys() == begun.keys()
            assert all(torch.equal(tensor, begun[name]) for name, tensor in found.items())


def test_initial_weights_have_the_fitted_classifier(tmp_path: Path) -> None:
    sweep = execute_all(
        sweep_of(tmp_path, "DiWA", n_hparams=2, setting={"steps": 2, "classifier_init": "linear_probe"})
    )
    tools = tools_of(sweep)
    begun = training_of(sweep, runs_of(sweep, "ERM")[0]).algorithm.predictor_tensors()
    assert all(torch.equal(tensor, begun[name]) for name, tensor in tools.initial().items())
    assert not torch.equal(tools.initial()[W], tools.algorithm.predictor_tensors()[W])


def test_examples_are_all_training_examples(sweep: Sweep) -> None:
    tools = tools_of(sweep)
    assert tools.tools().examples == sum(len(tools.context.data.indices[view]) for view in tools.context.run.fold.train)


def test_fisher_of_a_linear_classifier_is_its_closed_form(sweep: Sweep, labels: list[tuple[Tensor, Tensor]]) -> None:
    """d/dW_kj -log p(y | h) = (p_k - [y = k]) h_j, squared and averaged over the examples."""
    tools, content = tools_of(sweep), trained(sweep)
    found = tools.fisher(content, 100)
    algorithm = tools.algorithm
    algorithm.load_state_dict(content, strict=False)
    with torch.no_grad():
        h = algorithm.eval().network.features(seen(tools, 100)).double()
        p = (h @ content[W].double().T + content[B].double()).softmax(dim=1)
    y = torch.cat([y for _, y in labels])
    torch.testing.assert_close(torch.cat([p for p, _ in labels]).double(), p, rtol=1e-4, atol=1e-6)
    gradient = p - F.one_hot(y, 10)
    expected = (gradient[:, :, None] * h[:, None, :]).square().mean(0)
    torch.testing.assert_close(found[W].double(), expected, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(found[B].double(), gradient.square().mean(0), rtol=1e-3, atol=1e-9)


def test_fisher_is_that_of_one_example_after_the_other(sweep: Sweep, labels: list[tuple[Tensor, Tensor]]) -> None:
    """Of every parameter; minibatches would square the mean in place of the mean of squares."""
    tools, content = tools_of(sweep), trained(sweep)
    found = tools.fisher(content, 40)
    algorithm = tools.algorithm
    algorithm.load_state_dict(content, strict=False)
    y = torch.cat([y for _, y in labels])
    parameters = dict(algorithm.eval().named_parameters())
    assert found.keys() == parameters.keys()
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    x = seen(tools, 40)
    for i in range(len(x)):
        loss = F.cross_entropy(algorithm(x[i : i + 1]), y[i : i + 1])
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            total[name] += gradient.square() / len(x)
    for name, expected in total.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-9)


def test_labels_come_from_the_models_own_predictions(sweep: Sweep, labels: list[tuple[Tensor, Tensor]]) -> None:
    """Over all examples the frequencies are the mean probabilities: the classifier's bias says so."""
    tools = tools_of(sweep)
    content = {name: torch.zeros_like(tensor) for name, tensor in trained(sweep).items()}
    content[B] = torch.linspace(0, 2, 10)
    tools.fisher(content, 10_000)
    p, y = torch.cat([p for p, _ in labels]), torch.cat([y for _, y in labels])
    torch.testing.assert_close(p[0], content[B].softmax(dim=0))
    frequencies = torch.bincount(y, minlength=10) / len(y)
    torch.testing.assert_close(frequencies, p[0], rtol=0, atol=4 * (0.25 / len(y)) ** 0.5)


def test_fisher_has_as_many_examples_of_each_domain_and_repeats(sweep: Sweep) -> None:
    tools, content = tools_of(sweep), trained(sweep)
    views = tools.context.run.fold.train
    assert len(seen(tools, 50)) == 50 // len(views) * len(views)
    assert len(seen(tools, 10**6)) == tools.tools().examples
    assert len(seen(tools, 1)) == len(views)
    first = tools.fisher(content, 20)
    torch.rand(3)
    second = tools_of(sweep).fisher(content, 20)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_parameters_that_follow_others_have_information_too(sweep: Sweep) -> None:
    tools, content = tools_of(sweep, "ERMPlusPlus"), trained(sweep, "ERMPlusPlus")
    assert not any(p.requires_grad for p in tools.algorithm.network.parameters())
    found = tools.fisher(content, 20)
    assert found.keys() == content.keys()
    assert found[W].sum() > 0


def test_fisher_is_found_in_full_precision(sweep: Sweep) -> None:
    tools, weights = tools_of(sweep), trained(sweep)
    expected = tools.fisher(weights, 20)
    tools.algorithm.network.precision = "bf16"
    found = tools.fisher(weights, 20)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert tools.algorithm.network.precision == "bf16"


def test_fisher_leaves_the_algorithm_as_it_is(sweep: Sweep) -> None:
    tools = tools_of(sweep)
    before = {name: tensor.clone() for name, tensor in tools.algorithm.state_dict().items()}
    tools.fisher(trained(sweep), 20)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tools.algorithm.state_dict().items())
