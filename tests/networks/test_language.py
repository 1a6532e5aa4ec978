from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dgbench.algorithms._stages import replace_stage_outputs
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.backbones import check_backbone, check_inputs, is_language_model
from dgbench.networks.network import Network, build_network
from dgbench.networks.start import check_start

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
    with replace_stage_outputs(made, lambda i, x: seen.append((i, *x.shape))):
        made(texts()).square().sum().backward()
    assert seen == [(i, 2, LENGTH, 16) for i in range(2)]
    assert all(parameter.grad is not None for parameter in made.parameters())
    made.freeze("embedding")
    frozen = [name for name, parameter in made.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == len([m for m in made.modules() if isinstance(m, nn.Embedding)]) > 1
    assert all(not name.startswith("classifier") for name in frozen)


def sequences(name: str, **changes: Any) -> Network:
    return build_network((LENGTH,), 30, setting(backbone=name, **changes)).eval()


def saved_causal(folder: Path, **changes: Any) -> str:
    """A tiny GPT-2 with its output layer, tied unless that is changed."""
    config = transformers.GPT2Config(vocab_size=30, bos_token_id=1, eos_token_id=2, **SIZES["gpt2"], **changes)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_each_place_of_a_sequence_is_predicted_as_the_language_model_does(tied: bool, tmp_path: Path) -> None:
    name = saved_causal(tmp_path, tie_word_embeddings=tied)
    made, x = sequences(name), texts()[:, 0]
    features, logits = made.features(made.prepare(x)), made(made.prepare(x))
    assert (features.shape, logits.shape) == ((2, LENGTH, 16), (2, LENGTH, 30))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(name).eval()
    torch.testing.assert_close(logits, theirs(x).logits)
    later = x.clone()
    later[0, 7] = 3 if x[0, 7] != 3 else 4
    torch.testing.assert_close(made(later)[0, :7], logits[0, :7])
    assert not torch.allclose(made(later)[0, 7:], logits[0, 7:])
    names = [key for key, _ in made.named_parameters() if key.startswith("classifier")]
    assert names == ([] if tied else ["classifier.weight"])
    assert [key for key in made.state_dict() if key.startswith("classifier")] == names
    fresh = sequences(name, pretrained=False)
    assert fresh(x).shape == logits.shape
    assert not torch.allclose(fresh(x), logits)


def test_a_tied_output_follows_the_embedding_wherever_it_comes_from(tmp_path: Path) -> None:
    made, x = sequences(saved_causal(tmp_path)).train(), texts()[:, 0]
    embedding = "featurizer.model.wte.weight"
    copied = copy.deepcopy(made)
    made(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert all(parameter.grad is None for parameter in copied.parameters())
    zeros = {**made.state_dict(), embedding: torch.zeros(30, 16)}
    assert not functional_call(made, zeros, (x,), tie_weights=False).any()
    copied.load_state_dict(zeros)
    assert not copied(x).any()
    assert made(x).any()


def test_other_classifiers_of_sequences_and_precision(tmp_path: Path) -> None:
    name = saved_causal(tmp_path / "one")
    assert isinstance(sequences(name, nonlinear_classifier=True).classifier, nn.Sequential)
    transformers.GPT2LMHeadModel.from_pretrained(name).half().save_pretrained(tmp_path / "half")
    for half in (sequences(str(tmp_path / "half")), network(str(tmp_path / "half"))):
        assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def test_what_can_not_read_sequences_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 30 tokens, and these data have 50,001: name the model"):
        build_network((LENGTH,), 50_001, setting(backbone=saved_causal(tmp_path / "gpt")))
    with pytest.raises(UserError, match="reads both ways, so it would see the tokens that it must predict"):
        sequences(saved("bert", tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"could not be had .* or name a folder that holds it \(\./folder\)$"):
        sequences(str(tmp_path / "empty"))


def test_names_of_language_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    for name in ("distilbert-base-uncased", "microsoft/CodeGPT-small-py", str(tmp_path), "bert-base-cased"):
        assert is_language_model(name)
        check_backbone(name)
        check_inputs(name, (2, 300), "texts")
    assert not any(is_language_model(name) for name in ("resnet18", "MLP", "SmallCNN", "distilbart", "nonsense"))
    with pytest.raises(UserError, match="base-uncased' takes texts or sequences, and these inputs are images"):
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
