from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgbench.algorithms._stages import replace_stage_outputs
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.builtin import classifier
from dgbench.networks.network import IMAGENET_MEAN, IMAGENET_STD, Network, build_network


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network(backbone: str, shape: tuple[int, ...], **changes: Any) -> Network:
    dropout = changes.pop("dropout", 0.0)
    how = dataclasses.replace(setting(backbone=backbone, pretrained=False), **changes)  # frozen, as if with statistics
    return build_network(shape, 7, how, dropout)


def inputs(shape: tuple[int, ...], n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def resnet() -> Network:
    torch.manual_seed(0)
    return network("resnet18", (3, 64, 64))


@pytest.mark.parametrize(
    ("backbone", "shape", "width"),
    [
        ("MNIST_CNN", (1, 28, 28), 128),
        ("MNIST_CNN", (2, 28, 28), 128),
        ("SmallCNN", (1, 8, 8), 32),
        ("SmallCNN", (3, 9, 8), 32),
        ("SmallCNN", (1, 28, 28), 128),
        ("SmallCNN", (3, 64, 64), 128),
        ("SmallCNN", (3, 96, 64), 128),
        ("MLP", (5,), 256),
        ("MLP", (3, 8, 8), 256),
        ("Linear", (5,), 5),
        ("Linear", (3, 8, 8), 192),
        ("resnet18", (3, 64, 64), 512),
        ("resnet18", (1, 32, 32), 512),
        ("vit_tiny_patch16_224", (3, 48, 64), 192),
        ("mobilenetv3_small_100", (3, 32, 32), 1024),
    ],
)
@pytest.mark.parametrize("nonlinear", [False, True])
def test_shapes(backbone: str, shape: tuple[int, ...], width: int, nonlinear: bool) -> None:
    made = network(backbone, shape, nonlinear_classifier=nonlinear).eval()
    x = made.prepare(inputs(shape) if len(shape) == 3 else torch.randn(3, *shape))
    features = made.features(x)
    assert (features.shape, features.dtype, made.num_features) == ((3, width), torch.float32, width)
    logits = made(x)
    assert logits.shape == (3, 7)
    assert torch.equal(logits, made.classifier(features)), "without dropout"
    assert torch.allclose(made(x[1:2]), logits[1:2], atol=1e-5), "a row depends on its own input alone"


def test_resnet18_is_resnet18(resnet: Network) -> None:
    convolutions = [m for m in resnet.featurizer.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 20, "17 in the path, 3 in the shortcuts; the 18th layer is the classifier"
    assert sum(p.numel() for p in resnet.featurizer.parameters()) == 11_176_512
    assert sum(p.numel() for p in resnet.classifier.parameters()) == 512 * 7 + 7


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_classifier_is_domainbeds(nonlinear: bool) -> None:
    found = [layer for layer in classifier(16, 7, nonlinear=nonlinear).modules() if isinstance(layer, nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in found]
    assert sizes == ([(16, 8), (8, 4), (4, 7)] if nonlinear else [(16, 7)])


def test_bytes_become_floats_and_images_are_normalised(resnet: Network) -> None:
    x = inputs((3, 64, 64))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    before = x.clone()
    assert torch.allclose(resnet.prepare(x), (x.double().div(255) - mean).div(std).float(), atol=1e-6)
    assert torch.allclose(resnet.prepare(x.float() / 255), resnet.prepare(x), atol=1e-6), "floats are in [0, 1]"
    small = network("SmallCNN", (3, 8, 8))
    assert torch.equal(small.prepare(x), x.float() / 255)
    assert torch.equal(network("resnet18", (1, 32, 32)).prepare(x[:, :1]), x[:, :1].float() / 255)
    vectors = torch.randn(4, 5)
    assert network("MLP", (5,)).prepare(vectors) is vectors
    assert torch.equal(x, before), "the data are not written to"


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("resnet18", IMAGENET_MEAN, IMAGENET_STD),
        ("tf_efficientnet_lite0", (0.5,) * 3, (0.5,) * 3),
        ("vit_tiny_patch16_224", (0.5,) * 3, (0.5,) * 3),
        (
            "resnet50_clip.openai",
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        ),
    ],
)
def test_images_are_normalised_as_the_weights_were_made(
    backbone: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    made = network(backbone, (3, 64, 64))
    torch.testing.assert_close(made.mean.flatten(), torch.tensor(mean))
    torch.testing.assert_close(made.std.flatten(), torch.tensor(std))


def test_linear_is_a_classifier_alone() -> None:
    made, x = network("Linear", (5,)), torch.randn(4, 5)
    assert torch.equal(made.features(x), x)
    assert [name for name, _ in made.named_parameters()] == ["classifier.weight", "classifier.bias"]
    assert made.stages == [made.featurizer]
    made.freeze("featurizer")
    assert all(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.parametrize("mode", ["frozen", "live"])
@pytest.mark.parametrize("part", ["featurizer", "embedding", "classifier"])
def test_what_is_frozen_stays_in_evaluation_mode(part: str, mode: str) -> None:
    made = network("resnet18", (3, 32, 32), batch_norm=mode)
    made.freeze(part)
    still = {module for frozen in made.frozen for module in frozen.modules()}
    still |= {module for module in made.modules() if isinstance(module, nn.BatchNorm2d) and mode == "frozen"}
    for _ in range(2):
        assert {module for module in made.train().modules() if not module.training} == still
        # As a method may leave a layer: evaluation ends that, wherever the layer is.
        made.featurizer.get_submodule("layer1.0.bn1").train()
        assert not any(module.training for module in made.eval().modules())


@pytest.mark.parametrize("mode", ["frozen", "live"])
def test_batch_norm_in_training(mode: str) -> None:
    made = network("resnet18", (3, 32, 32), batch_norm=mode)
    norms = [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(m.running_mean.clone(), m.running_var.clone()) for m in norms]  # type: ignore[union-attr]
    assert made.train() is made
    assert {m.training for m in norms} == {mode == "live"}
    assert made.training
    assert made.classifier.training
    made(made.prepare(inputs((3, 32, 32), 8))).square().sum().backward()
    moved = [
        not (torch.equal(m.running_mean, mean) and torch.equal(m.running_var, var))  # type: ignore[arg-type]
        for m, (mean, var) in zip(norms, before, strict=True)
    ]
    assert set(moved) == {mode == "live"}
    assert all(m.weight.grad is not None for m in norms), "the affine part learns in both"
    made.eval()
    assert not any(m.training for m in made.modules())


def test_frozen_batch_norm_predicts_alike_in_training_and_evaluation() -> None:
    made, x = network("resnet18", (3, 32, 32), batch_norm="frozen"), torch.rand(4, 3, 32, 32)
    assert torch.equal(made.train()(x), made.eval()(x))


def test_dropout_lies_between_features_and_classifier() -> None:
    made = network("MLP", (5,), dropout=0.5)
    x = torch.randn(4, 5)
    assert torch.equal(made.eval()(x), made(x))
    features = made.train().features(x)
    assert torch.equal(features, made.features(x)), "features are before dropout"
    torch.manual_seed(3)
    expected = made.classifier(nn.functional.dropout(features, 0.5))
    torch.manual_seed(3)
    assert torch.equal(made(x), expected)


@pytest.mark.parametrize(("backbone", "shape"), [("SmallCNN", (3, 32, 32)), ("resnet18", (3, 64, 64)), ("MLP", (9,))])
def test_bf16_is_close_to_fp32(backbone: str, shape: tuple[int, ...]) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        made = network(backbone, shape, precision=precision).eval()
        found[precision] = made.features(torch.rand(4, *shape, generator=torch.Generator().manual_seed(1)))
    exact, rough = found["fp32"], found["bf16"]
    assert rough.dtype == torch.float32
    error = ((rough - exact).norm() / exact.norm()).item()
    assert 0 < error < 0.02, "three significant digits; and something was really computed in bf16"


def test_initial_weights_come_from_torchs_seed() -> None:
    same = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        same.append(network("SmallCNN", (1, 8, 8)).state_dict())
    equal = [all(torch.equal(same[0][name], other[name]) for name in other) for other in same[1:]]
    assert equal == [True, False]


def test_normalisation_is_not_part_of_the_weights(resnet: Network) -> None:
    assert not {"mean", "std"} & set(resnet.state_dict())


@pytest.mark.parametrize(
    ("name", "near"), [("resnet181", "resnet18"), ("SmalCNN", "SmallCNN"), ("resnet50_ram", "resnet50")]
)
def test_an_unknown_backbone_is_told_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"unknown backbone {name!r}: did you mean '{near}"):
        network(name, (3, 64, 64))


def test_channels_last_changes_the_order_in_memory_alone() -> None:
    plain, fast = (setting(backbone="MNIST_CNN", channels_last=last) for last in (False, True))
    torch.manual_seed(0)
    one = build_network((1, 28, 28), 10, plain).double()
    torch.manual_seed(0)
    other = build_network((1, 28, 28), 10, fast).double()
    x = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    weights = next(p for p in other.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert weights.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other(other.prepare(x)), one(one.prepare(x)))


STAGES = {
    "resnet18": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "convnext_atto": [f"stages.{i}" for i in range(4)],
    "tf_efficientnet_lite0": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "vit_tiny_patch16_224": [f"blocks.{i}" for i in range(12)],
}


@pytest.mark.parametrize("backbone", STAGES)
def test_the_stages_of_timms_networks_are_those_that_it_names(backbone: str) -> None:
    made = network(backbone, (3, 64, 64)).eval()
    names = {module: name for name, module in made.featurizer.named_modules()}
    assert [names[stage] for stage in made.stages] == STAGES[backbone]
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), replace_stage_outputs(made, lambda i, x: seen.update({i: x})):
        made.features(torch.rand(2, 3, 64, 64))
    infos: Any = made.featurizer.feature_info
    for i, info in enumerate(infos):
        channels = seen[i].shape[1] if seen[i].dim() == 4 else seen[i].shape[-1]
        assert channels == info["num_chs"], "in the order in which they pass it"
        if seen[i].dim() == 4:
            assert seen[i].shape[2:] == (64 // info["reduction"],) * 2
        else:
            assert seen[i].shape == (2, 1 + 16, 192), "tokens: the class and 4 x 4 patches of 16 x 16"


def test_compiled_it_learns_the_same_and_is_evaluated_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_compiled(monkeypatch)
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        made = network("SmallCNN", (1, 8, 8), compile=compiled, dropout=0.5).double()
        x = torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        evaluated = [made.eval()(x), made(x[:2])]
        assert not calls
        torch.manual_seed(1)
        logits = made.train()(x)
        gradients = torch.autograd.grad(logits.square().sum(), list(made.parameters()))
        found.append((*evaluated, logits, *gradients, *made.state_dict().values()))
        assert len(calls) == (1 if compiled else 0), "one graph, for the one shape that was trained on"
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def count_compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have networks compiled by a compiler that leaves what it is given; each compilation adds to the list."""
    compile_module, calls = nn.Module.compile, list[int]()

    def leave(graph: Any, inputs: Any) -> Any:
        calls.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_module(self, backend=leave, **how))
    return calls


@pytest.mark.parametrize(
    ("backbone", "shape", "changes"),
    [
        ("MNIST_CNN", (1, 28, 28), {"channels_last": True}),
        ("SmallCNN", (1, 8, 8), {"channels_last": False}),
        ("SmallCNN", (3, 16, 16), {"precision": "bf16"}),
    ],
)
def test_passes_without_gradients_are_small_and_have_the_features_of_large_ones(
    backbone: str, shape: tuple[int, ...], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(backbone, shape, **changes).eval()
    x, sizes, forward = model.prepare(inputs(shape, 257)), list[int](), model.featurizer.forward
    monkeypatch.setattr(model.featurizer, "forward", lambda part: sizes.append(len(part)) or forward(part))
    whole = model.features(x)
    assert sizes.pop() == 257, "with gradients"
    with torch.no_grad():
        assert torch.equal(model.features(x), whole)
        assert sizes == [86, 86, 85]
        sizes.clear()
        with replace_stage_outputs(model, lambda _, maps: maps):
            model.features(x)
    assert sizes == [257], "hooks get the whole batch"
