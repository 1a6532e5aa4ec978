"""Activations that are computed twice, and batches in parts: the same gradients, fewer tensors kept, and refusals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.rehearsal import Subject
from dgbench.core.cards import needs_of
from dgbench.core.errors import UserError
from dgbench.core.needs import WHOLE
from dgbench.core.setting import setting
from dgbench.networks.network import Network, build_network
from dgbench.networks.recompute import blocks_of
from tests.support.in_process import CPU, sweep_of
from tests.support.language_models import save_causal_model, save_model

SHAPE, CLASSES, BATCH = (3, 64, 64), 3, 6
IN_PARTS: dict[str, Any] = {"microbatch": 4}
AGAIN: dict[str, Any] = {"checkpoint_activations": True}
HOW = pytest.mark.parametrize("how", [AGAIN, IN_PARTS, AGAIN | IN_PARTS], ids=["again", "parts", "both"])


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network(backbone: str, *, batch_norm: str = "frozen", shape: tuple[int, ...] = SHAPE, **how: Any) -> Network:
    """A network in training mode; two of a backbone start alike."""
    torch.manual_seed(0)
    made = build_network(shape, CLASSES, setting(backbone=backbone, pretrained=False, **how), dropout=0.2)
    made.frozen_batch_norm = batch_norm == "frozen"  # what starts from pretrained weights has statistics to freeze
    for part in made.modules():
        if type(part).__name__ == "DropPath":
            part.drop_prob = 0.3
    return made.double().train()


def images(n: int = BATCH) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def step(net: Network, x: Tensor, *, double: bool = False) -> dict[str, Tensor]:
    """Gradients of a loss over the whole batch, by name, and the statistics that the pass left."""
    torch.manual_seed(2)
    features = net.features(x)
    loss = features.flatten(1).T.cov().square().sum() + net.classifier(net.dropout(features)).square().mean()
    if double:
        loss = sum(g.square().sum() for g in torch.autograd.grad(loss, list(net.parameters()), create_graph=True))
    loss.backward()
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert found
    return found | {name: tensor.clone() for name, tensor in net.named_buffers()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], *, exact: bool) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if exact:
            assert torch.equal(other[name], tensor), name
        else:
            torch.testing.assert_close(other[name], tensor, rtol=1e-9, atol=1e-11 * max(1.0, float(tensor.abs().max())))


@pytest.mark.parametrize("batch_norm", ["frozen", "live"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_efficientnet_evos", "test_vit"])
def test_activations_computed_again_give_the_same_gradients_to_the_bit(backbone: str, batch_norm: str) -> None:
    kept, again = (network(backbone, batch_norm=batch_norm, **how) for how in ({}, AGAIN))
    x = images()
    for _ in range(2):  # statistics that moved twice would also be those of the next step
        assert_equal(step(kept, x), step(again, x), exact=True)


@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit_relpos", "SmallCNN"])
def test_gradients_of_gradients_are_the_same(backbone: str) -> None:
    kept, again = (network(backbone, **how) for how in ({}, AGAIN))
    assert_equal(step(kept, images(3), double=True), step(again, images(3), double=True), exact=True)


@HOW
def test_language_models_too(how: dict[str, Any], tmp_path: Path) -> None:
    made = ((save_model(tmp_path / "a"), (2, 16)), (save_causal_model(tmp_path / "b", CLASSES, 8), (8,)))
    for name, shape in made:
        x = torch.randint(2, CLASSES, (BATCH, *shape))
        plain, other = (network(name, shape=shape, **h).eval() for h in ({}, how))
        for net in (plain, other):  # training mode, without dropout, whose draws come in another order in parts
            for part in net.modules():
                part.training = not isinstance(part, nn.Dropout)
        assert_equal(step(plain, x), step(other, x), exact="microbatch" not in how)


@HOW
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(backbone: str, how: dict[str, Any]) -> None:
    plain, other = network(backbone), network(backbone, **how)
    for net in (plain, other):
        for part in net.modules():
            if type(part).__name__ == "DropPath":
                part.drop_prob = 0.0
    assert_equal(step(plain, images()), step(other, images()), exact="microbatch" not in how)


@pytest.mark.slow
def test_every_method_trains_as_it_did_or_says_why_not(catalogue: Catalogue) -> None:
    wrong = []
    for name, entry in catalogue.algorithms.items():
        subject = Subject(entry, CPU)
        whole = any(need.what == WHOLE for need in needs_of(entry.card))
        found = []
        for how in ({}, AGAIN) if whole else ({}, AGAIN, {"microbatch": 5}):
            rehearsal = subject.rehearse(checkpoint_freq=5, **how)
            rehearsal.until(2)
            found.append({key: p.detach().clone() for key, p in rehearsal.algorithm.named_parameters()})
        gaps = [max(float((found[0][key] - p).abs().max()) for key, p in other.items()) for other in found[1:]]
        wrong += [f"{name} is off by {gaps}"] if gaps[0] != 0 or not gaps[-1] < 1e-9 else []
    assert not wrong


def kept_by(net: Network, x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, beside inputs and parameters."""
    stores: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        stores[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *net.parameters())}
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = net(x).square().mean()
    loss.backward()
    return sum(size for place, size in stores.items() if place not in own)


@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit"])
def test_fewer_activations_are_kept(backbone: str) -> None:
    plain, again, parts = (kept_by(network(backbone, **how), images()) for how in ({}, AGAIN, IN_PARTS))
    assert again < plain / 2
    assert parts < plain / 100, "of all examples together nothing but features is kept"


def test_blocks_are_those_of_residual_networks_and_transformers() -> None:
    for backbone, kind, count in (("resnet18", "BasicBlock", 8), ("test_convnext", "ConvNeXtBlock", 9)):
        found = blocks_of(network(backbone).featurizer)
        assert [type(block).__name__ for block in found] == [kind] * count
    small = network("SmallCNN").featurizer
    assert blocks_of(small) == [small], "one sequence of layers has no blocks"


def test_a_network_called_with_other_parameters_and_a_copy_are_computed_again_with_theirs() -> None:
    grads = []
    for how in ({}, AGAIN):
        net = network("test_resnet", **how)
        fast = {name: (p.detach() * 0.9).requires_grad_() for name, p in net.named_parameters()}
        torch.manual_seed(2)
        functional_call(net, fast, (images(),)).square().mean().backward()
        other = copy.deepcopy(net)
        for parameter in net.parameters():
            nn.init.zeros_(parameter)  # the copy has nothing of it any more
        grads.append(step(other, images()) | {f"fast.{name}": p.grad for name, p in fast.items() if p.grad is not None})
    assert_equal(*grads, exact=True)


def test_hooks_that_are_gone_in_the_backward_pass_still_counted() -> None:
    grads = []
    for how in ({}, AGAIN):
        net = network("SmallCNN", **how)
        handle = net.stages[0].register_forward_hook(lambda _module, _inputs, out: out * torch.rand(len(out), 1, 1, 1))
        torch.manual_seed(2)
        loss = net(images()).square().mean()
        handle.remove()
        loss.backward()
        grads.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert_equal(*grads, exact=True)


def test_parameters_that_changed_before_the_backward_pass_are_an_error() -> None:
    net = network("test_vit", **AGAIN)
    loss = net(images()).square().mean()
    with torch.no_grad():
        for parameter in blocks_of(net.featurizer)[0].parameters():
            parameter.mul_(2)
    with pytest.raises(RuntimeError, match="parameters were changed between the forward pass and its backward pass"):
        loss.backward()


def test_methods_that_read_the_whole_batch_and_live_batch_norm_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path / "sweep", "ERM", "MIRO", "ERM+SWAD", setting={"microbatch": 8})
    assert caught.value.problems == (
        "MIRO can't be trained with a microbatch: it reads what passes between stages of all examples of a minibatch "
        "together",
    )
    how: dict[str, Any] = {"microbatch": 8, "backbone": "test_resnet", "pretrained": False, "image_size": 64}
    with pytest.raises(UserError, match="microbatch 8 on RotatedDigits: batch norm of 'test_resnet' is live"):
        sweep_of(tmp_path / "sweep", "ERM", setting=how)
    with pytest.raises(UserError, match="checkpoint_activations and microbatch can't be followed by compiled code"):
        setting(compile=True, checkpoint_activations=True, microbatch=2)
