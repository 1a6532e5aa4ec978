from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgbench.algorithms._stages import through_stages
from dgbench.backbones import check_backbone, check_inputs, is_language_model
from dgbench.errors import UserError
from dgbench.networks import Network, build_network
from dgbench.setting import setting
from dgbench.weights import check_start

transformers = pytest.importorskip("transformers", reason="extra `text` is not installed")
LENGTH = 12
SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 20, "max_position_embeddings": LENGTH},
    "bert": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "max_position_embeddings": LENGTH,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LENGTH},
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def saved(kind: str, folder: Path) -> str:
    """A tiny language model of random weights, as its library writes it; its name as a backbone."""
    ids = {"bos_token_id": 1, "eos_token_id": 2} if kind == "gpt2" else {"pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, vocab_size=30, **ids, **SIZES[kind])
    transformers.AutoModel.from_config(config).save_pretrained(folder / kind)
    return str(folder / kind)


def network(name: str, **changes: Any) -> Network:
    return build_network((2, LENGTH), 3, setting(backbone=name, **changes)).eval()


def texts() -> Tensor:
    """Two texts of 12 and 5 tokens."""
    ids = torch.randint(3, 30, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [5]])).long()
    return torch.stack([ids * mask, mask], dim=1)


@pytest.mark.parametrize("kind", SIZES)
def test_a_text_is_read_to_its_end_and_no_further(kind: str, tmp_path: Path) -> None:
    made, x = network(saved(kind, tmp_path)), texts()
    features = made.features(made.prepare(x))
    assert (features.shape, made.num_features) == ((2, 16), 16)
    assert made(made.prepare(x)).shape == (2, 3)
    beyond = x.clone()
    beyond[1, 0, 5:] = 7
    torch.testing.assert_close(made.features(beyond), features)
    within = x.clone()
    within[1, 0, 4] = 7 if x[1, 0, 4] != 7 else 8
    assert not torch.allclose(made.features(within)[1], features[1])
    torch.testing.assert_close(made.features(within)[0], features[0])


@pytest.mark.parametrize("kind", SIZES)
def test_weights_are_those_of_the_folder_or_drawn(kind: str, tmp_path: Path) -> None:
    name = saved(kind, tmp_path)
    theirs = dict(transformers.AutoModel.from_pretrained(name).named_parameters())
    pretrained, drawn = (
        dict(network(name, pretrained=p).featurizer.get_submodule("model").named_parameters()) for p in (True, False)
    )
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in pretrained.items())
    assert not any(key.startswith("pooler") for key in pretrained), "which nothing would train"
    assert not all(torch.equal(tensor, theirs[key]) for key, tensor in drawn.items())


@pytest.mark.parametrize("kind", SIZES)
def test_all_parameters_learn_and_stages_are_layers(kind: str, tmp_path: Path) -> None:
    made = network(saved(kind, tmp_path)).train()
    seen: list[tuple[int, ...]] = []
    with through_stages(made, lambda i, x: seen.append((i, *x.shape))):
        made(texts()).square().sum().backward()
    assert seen == [(i, 2, LENGTH, 16) for i in range(2)]
    assert all(parameter.grad is not None for parameter in made.parameters())
    made.freeze("embedding")
    frozen = [name for name, parameter in made.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == len([m for m in made.modules() if isinstance(m, nn.Embedding)]) > 1
    assert all(not name.startswith("classifier") for name in frozen)


def test_names_of_language_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    for name in ("distilbert-base-uncased", "microsoft/CodeGPT-small-py", str(tmp_path), "bert-base-cased"):
        assert is_language_model(name)
        check_backbone(name)
        check_inputs(name, (2, 300), "texts")
    assert not any(is_language_model(name) for name in ("resnet18", "MLP", "SmallCNN", "distilbart", "nonsense"))
    with pytest.raises(UserError, match="'distilbert-base-uncased' takes texts, and these inputs are images"):
        check_inputs("distilbert-base-uncased", (3, 64, 64), "images")
    with pytest.raises(UserError, match="'resnet18' takes images, and these inputs are texts"):
        check_inputs("resnet18", (2, 300), "texts")


def test_what_can_not_be_read_is_told(tmp_path: Path) -> None:
    name = saved("bert", tmp_path)
    with pytest.raises(UserError, match=f"reads texts of at most {LENGTH} tokens, and these have 13"):
        build_network((2, 13), 3, setting(backbone=name))
    check_start(setting(backbone=name), (2, LENGTH), "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        network(str(tmp_path / "empty"))
    (told,) = caught.value.problems
    assert told.startswith(f"the language model {str(tmp_path / 'empty')!r} could not be had (")
    assert 'name a folder that holds it (./folder), or use --hparams \'{"backbone": "MLP"}\' on bags of words' in told
