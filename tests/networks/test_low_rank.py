"""Low-rank changes of weights: a loop by hand, peft's own layers, the plain network, targets and refusals."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting, setting
from dgbench.methods.batch import Batch, Task
from dgbench.methods.rates import rates_of
from dgbench.networks.low_rank import LowRank, add_low_rank, find_targets, placed_weights, plain_weights
from dgbench.networks.network import Network, build_network
from dgbench.networks.recompute import blocks_of
from dgbench.networks.start import check_start, ensure_weights
from tests.support.language_models import save_causal_model, save_model
from tests.support.tiny_clip import save_clip

pytest.importorskip("peft", reason="extra `lora` is not installed")
IMAGES = (3, 32, 32)
RANK, ALPHA = 2, 6.0


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def asked(backbone: str, **how: Any) -> Setting:
    return setting(backbone=backbone, pretrained=False, **{"lora_rank": RANK, "lora_alpha": ALPHA, **how})


def network(backbone: str, shape: tuple[int, ...] = IMAGES, *, moved: bool = True, **how: Any) -> Network:
    """A network; with low-rank changes that are not 0, if it is `moved`."""
    torch.manual_seed(0)
    made = build_network(shape, 3, asked(backbone, **how))
    for part in made.modules():
        if isinstance(part, LowRank) and moved:
            nn.init.normal_(part.lora_B, std=0.3)
        if isinstance(part, nn.BatchNorm2d):  # timm's residual branches begin with a norm of 0
            nn.init.ones_(part.weight)
    return made.to(torch.get_default_dtype())  # language models come in float32


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> a backbone and the shape of its inputs."""
    folder = tmp_path_factory.mktemp("models")
    own = folder / "own.py"
    own.write_text(
        "from torch import nn\n\n\nclass Own(nn.Module):\n"
        "    def __init__(self, in_channels):\n        super().__init__()\n"
        "        self.first = nn.Conv2d(in_channels, 4, 3, stride=4)\n"
        "        self.deep = nn.Conv2d(4, 8, 3, groups=4)\n        self.last = nn.Conv2d(8, 6, 1)\n\n"
        "    def forward(self, x):\n        return self.last(self.deep(self.first(x)).relu())\n"
    )
    add_source = import_module("dgbench.networks.own").add_source
    return {
        "clip": (save_clip(folder / "clip"), (3, 16, 16)),
        "bert": (save_model(folder / "bert"), (2, 6)),
        "gpt2": (save_causal_model(folder / "gpt2", 3, 6), (6,)),
        "own": (f"Own@{add_source(own)}", IMAGES),
        "mlp": ("MLP", (5,)),
        "cnn": ("SmallCNN", IMAGES),
        "vit": ("test_vit", (3, 160, 160)),
        "resnet": ("test_resnet", IMAGES),
    }


def inputs(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 2:  # tokens and their mask
        return torch.stack(
            [torch.randint(5, 10, (4, shape[1]), generator=generator), torch.ones(4, shape[1]).long()], 1
        )
    return torch.randint(0, 3, (4, *shape), generator=generator) if shape == (6,) else torch.randn(4, *shape)


def test_steps_equal_a_loop_over_examples_and_ranks() -> None:
    """An MLP of three layers, of which the second and third change, stepped twice: B moves first, and then A."""
    how = asked("MLP", optimizer="sgd", momentum=0.0)
    torch.manual_seed(0)
    made = build_network((5,), 3, how)
    task = Task((5,), 3, ((4, 4, 4),))
    algorithm = ERM(made, ERM.Hparams(lr=0.5, weight_decay=0.0), task, how).train()
    layers = [made.featurizer.get_submodule(name) for name in ("1.0", "1.2", "1.4")]
    changes = [layer.get_submodule("parametrizations.weight.0") for layer in layers[1:]]
    learning: list[Tensor] = [p.detach().clone() for change in changes for p in change.parameters()]
    learning += [p.detach().clone() for p in made.classifier.parameters()]
    fixed = [layer.get_parameter("parametrizations.weight.original").detach().clone() for layer in layers[1:]]
    first, biases = (
        layers[0].get_parameter("weight").detach(),
        [layer.get_parameter("bias").detach() for layer in layers],
    )
    assert not learning[1].any(), "B begins at 0"
    assert learning[0].any(), "A does not"
    generator = torch.Generator().manual_seed(3)
    for step in range(2):
        x, y = torch.randn(6, 5, generator=generator), torch.randint(0, 3, (6,), generator=generator)
        learning = [tensor.requires_grad_() for tensor in learning]
        losses = []
        for one, label in zip(x, y, strict=True):
            h = (first @ one + biases[0]).relu()
            for i in range(2):
                a, b = learning[2 * i : 2 * i + 2]
                out = fixed[i] @ h + biases[i + 1]
                for k in range(RANK):
                    out = out + ALPHA / RANK * b[:, k] * (a[k] @ h)
                h = out.relu() if i == 0 else out
            losses.append(-(learning[4] @ h + learning[5]).log_softmax(0)[label])
        gradients = torch.autograd.grad(sum(losses) / 6, learning)
        learning = [(tensor - 0.5 * gradient).detach() for tensor, gradient in zip(learning, gradients, strict=True)]
        algorithm.step = step
        algorithm.update([Batch(x, y, torch.arange(6), 0)])
    now = [p for change in changes for p in change.parameters()] + list(made.classifier.parameters())
    for mine, by_hand in zip(now, learning, strict=True):
        torch.testing.assert_close(mine.detach(), by_hand, rtol=0, atol=1e-12)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x, x, x, need_weights=False)[0]
        return found


def _transposed() -> nn.Module:
    return import_module("transformers.pytorch_utils").Conv1D(6, 8)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["linear", "conv", "1x1", "attention", "transposed", "embedding"])
def test_layers_equal_those_of_peft(kind: str) -> None:
    peft = import_module("peft")
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "linear": lambda: nn.Sequential(nn.Linear(8, 6)),
        "conv": lambda: nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1)),
        "1x1": lambda: nn.Sequential(nn.Conv2d(3, 5, 1)),
        "attention": _Attention,
        "transposed": lambda: nn.Sequential(_transposed()),
        "embedding": lambda: nn.Sequential(nn.Embedding(9, 8)),
    }
    mine = made[kind]()
    theirs = copy.deepcopy(mine)
    name = "inner" if kind == "attention" else "0"
    add_low_rank(mine, asked("MLP", lora_targets=name))
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")
        peft.inject_adapter_in_model(config, theirs)
    own = [part for part in mine.modules() if isinstance(part, LowRank)]
    factors = {n: p for n, p in theirs.named_parameters() if "lora_" in n}
    a = [p for n, p in factors.items() if "lora_A" in n or "embedding_A" in n]
    b = [p for n, p in factors.items() if "lora_B" in n or "embedding_B" in n]
    pairs = list(zip(own, a, b, strict=True))
    if kind == "attention":
        # Peft 0.21.2 adds the change of the output layer twice in its forward pass, so that one stays 0.
        assert [part.lora_B.shape for part in own] == [p.shape for p in b] == [(8, RANK), (24, RANK)]
        pairs = pairs[1:]
    with torch.no_grad():
        for part, p, q in pairs:
            p.copy_(part.lora_A)
            q.copy_(nn.init.normal_(part.lora_B))
    x = {"embedding": torch.randint(0, 9, (4, 5)), "attention": torch.randn(3, 7, 8)}.get(
        kind, torch.randn(4, 3, 8, 8) if kind in ("conv", "1x1") else torch.randn(4, 8)
    )
    outputs = mine(x), theirs(x)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    for output in outputs:
        output.square().sum().backward()
    for part, p, q in pairs:
        torch.testing.assert_close(part.lora_A.grad, p.grad, rtol=0, atol=1e-10)
        torch.testing.assert_close(part.lora_B.grad, q.grad, rtol=0, atol=1e-10)


NAMES = ("clip", "bert", "gpt2", "own", "mlp", "cnn", "vit", "resnet")


@pytest.mark.parametrize("kind", NAMES)
def test_a_plain_network_predicts_alike_to_the_bit(
    kind: str, backbones: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    name, shape = backbones[kind]
    x, made, plain = inputs(shape), network(name, shape), network(name, shape, lora_rank=0, lora_alpha=0.0)
    changes = [part for part in made.modules() if isinstance(part, LowRank)]
    assert changes
    for one, other in zip(made.classifier.parameters(), plain.classifier.parameters(), strict=True):
        assert torch.equal(one, other), "what is drawn is the same with low-rank changes and without"
    began = plain(x)
    expected = made.eval()(x)
    assert not torch.allclose(began, expected)
    weights = plain_weights(made, made.state_dict())
    plain.load_state_dict(weights)
    assert torch.equal(plain.eval()(x), expected)
    for part in changes:
        nn.init.normal_(part.lora_A)  # weights that are put in its place don't depend on its own
    assert torch.equal(functional_call(made, placed_weights(made, weights), (x,), tie_weights=False), expected)
    learning = {id(p) for part in (*changes, made.classifier) for p in part.parameters()}
    if kind != "gpt2":  # whose classifier is its embedding
        assert {id(p) for p in made.parameters() if p.requires_grad} == learning
    made.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for part in changes for p in part.parameters())


@pytest.mark.parametrize(
    ("kind", "targets", "changed"),
    [
        ("mlp", "", ["1.2", "1.4"]),
        ("cnn", "", ["3", "6", "9"]),
        ("own", "", ["last"]),
        ("own", "first last", ["first", "last"]),
        ("mlp", "1.*", ["1.0", "1.2", "1.4"]),
        (
            "clip",
            "resblocks.1",
            [f"visual.transformer.resblocks.1.{end}" for end in ("attn", "mlp.c_fc", "mlp.c_proj")],
        ),
        ("vit", "blocks.0.attn", ["blocks.0.attn.qkv", "blocks.0.attn.proj"]),
        ("bert", "q_lin v_lin", [f"model.transformer.layer.0.attention.{end}" for end in ("q_lin", "v_lin")]),
        ("bert", "word_embeddings", ["model.embeddings.word_embeddings"]),
        ("gpt2", "", [f"model.h.0.{end}" for end in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]),
    ],
)
def test_targets_are_the_usual_layers_or_those_that_are_named(
    kind: str, targets: str, changed: list[str], backbones: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    made = network(*backbones[kind], lora_targets=targets)
    found = {
        name.partition(".parametrizations")[0] for name, p in made.featurizer.named_parameters() if "lora_A" in name
    }
    assert found - {f"{name}.out_proj" for name in found} == set(changed)


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("own", "deep", "names deep of backbone 'Own@.*', a convolution of groups"),
        ("own", "first nope", "lora_targets 'nope' names no layer of backbone 'Own@.*: these are first, deep, last$"),
        ("vit", "norm", "lora_targets 'norm' names no layer .* these are patch_embed.proj, .* and [0-9]+ more"),
        ("bert", "nope", "lora_targets 'nope' names no layer"),
    ],
)
def test_layers_that_can_not_change_are_refused_before_runs_start(
    kind: str, targets: str, message: str, backbones: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    name, shape = backbones[kind]
    check = ensure_weights if kind == "bert" else lambda how, shape: check_start(how, shape, "")
    with pytest.raises(UserError, match=message):
        check(asked(name, lora_targets=targets), shape)


def test_a_network_without_layers_and_an_environment_without_peft_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="backbone 'Linear' has no linear layer or convolution for lora_rank to change"):
        check_start(asked("Linear"), (5,), "")
    monkeypatch.setattr("dgbench.networks.low_rank.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"lora_rank needs the package peft: pip install 'dgbench\[lora\]'"):
        check_start(asked("MLP"), (5,), "")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"lora_rank": 4, "freeze": "featurizer"}, "freeze 'featurizer' leaves nothing for lora_rank to change"),
        ({"lora_alpha": 8.0}, "lora_alpha belongs to lora_rank, which is 0"),
        ({"lora_targets": "qkv"}, "lora_targets belongs to lora_rank, which is 0"),
        ({"lora_rank": -1}, "setting 'lora_rank'"),
    ],
)
def test_contradictions_of_settings_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        setting(**how)


def test_an_alpha_of_0_stands_for_the_rank() -> None:
    made = network("MLP", (5,), lora_rank=4, lora_alpha=0.0)
    assert {part.scale for part in made.modules() if isinstance(part, LowRank)} == {1.0}


def test_stages_blocks_and_rates_are_those_of_the_plain_network() -> None:
    for name, shape in (("SmallCNN", IMAGES), ("test_vit", (3, 160, 160))):
        plain, made = network(name, shape, lora_rank=0, lora_alpha=0.0), network(name, shape)
        names = {part: path for path, part in plain.named_modules()} | {
            part: path for path, part in made.named_modules()
        }
        assert [names[part] for part in plain.stages] == [names[part] for part in made.stages]
        blocks = [[names[part] for part in blocks_of(net.featurizer)] for net in (plain, made)]
        assert blocks[0] == blocks[1]
    made.freeze("embedding")
    rates = rates_of([made], asked("test_vit", layer_decay=0.5), 1.0, 0.0)
    layer = made.featurizer.get_submodule("blocks.0.attn.qkv.parametrizations.weight")
    own = {rates[p] for p in layer.parameters()}
    assert len(own) == 1, "A and B learn at the rate of the weights that they change"
    assert own < set(rates.values())


def test_a_frozen_embedding_stays_though_it_is_named() -> None:
    made = network("SmallCNN", lora_targets="0 3")
    made.freeze("embedding")
    learning = {name.split(".")[1] for name, p in made.named_parameters() if p.requires_grad and "featurizer" in name}
    assert learning == {"3"}


@pytest.mark.parametrize("how", [{"channels_last": True}, {"precision": "bf16"}, {"checkpoint_activations": True}])
def test_sums_have_the_memory_order_and_type_of_the_weights(how: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    made, plain = network("SmallCNN", **how), network("SmallCNN", lora_rank=0, lora_alpha=0.0, **how)
    plain.load_state_dict(plain_weights(made, made.state_dict()))
    for name, weight in plain.featurizer.named_parameters():
        if name.endswith("weight"):
            now = getattr(made.featurizer.get_submodule(name.rpartition(".")[0]), "weight")  # noqa: B009
            assert (now.dtype, now.stride()) == (weight.dtype, weight.stride()), name
    x, y = made.prepare(torch.rand(4, *IMAGES)), torch.tensor([0, 1, 2, 0])
    assert torch.equal(made.train()(x), plain.train()(x))
    gradients = []
    for net in (made, network("SmallCNN")):
        F.cross_entropy(net.train()(x), y).backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    if "checkpoint_activations" in how:
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_targets_of_attention_leave_its_output_layer_to_it(
    backbones: Mapping[str, tuple[str, tuple[int, ...]]],
) -> None:
    name, shape = backbones["clip"]
    plain = network(name, shape, lora_rank=0, lora_alpha=0.0)
    assert not [target for target in find_targets(plain.featurizer, asked(name)) if target.endswith("out_proj")]
