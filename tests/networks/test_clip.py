"""CLIP's towers on a tiny CLIP made on the spot: features, the zero-shot head, files of weights, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting, setting
from dgbench.networks.backbones import check_backbone, check_weights, interpolation_of, lacking, normalization_of, takes
from dgbench.networks.clip_names import import_open_clip
from dgbench.networks.clip_text import text_tower, write_zero_shot
from dgbench.networks.hub import clip_file
from dgbench.networks.network import Network, build_network
from dgbench.networks.start import check_start, weight_bytes
from dgbench.networks.weights import hash_weights_file, with_weights_file
from tests.support.tiny_clip import save_clip

pytest.importorskip("open_clip", reason="extra `clip` is not installed")
SHAPE = (3, 16, 16)
CLASSES = ("dog", "alarm_clock", "T-shirt")


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def whole(name: str) -> Any:
    """open_clip's own loading of the folder."""
    folder = name.removeprefix("clip:")
    return import_open_clip().create_model(f"local-dir:{folder}", force_custom_text=True).eval()


def images() -> Tensor:
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def network(name: str, **changes: Any) -> Network:
    torch.manual_seed(0)
    return build_network(SHAPE, len(CLASSES), setting(backbone=name, **changes)).eval()


def test_features_are_open_clips_embeddings_of_images(name: str) -> None:
    found = network(name)
    with torch.no_grad():
        assert torch.equal(found.features(images()), whole(name).encode_image(images()))
        grey = images()[:, :1]
        assert torch.equal(found.featurizer(grey), found.featurizer(grey.repeat(1, 3, 1, 1)))
    assert found.started_from
    assert found.started_from != network(name, pretrained=False).started_from
    assert len(found.stages) == 2


@pytest.mark.parametrize("prompt", ["a photo of a {}.", "imagenet_simple"])
@pytest.mark.usefixtures("double")
def test_the_zero_shot_head_is_a_loop_over_classes_and_texts(name: str, prompt: str) -> None:
    how = setting(backbone=name, classifier_init="zero_shot", prompt=prompt)
    found = network(name, classifier_init="zero_shot", prompt=prompt)
    write_zero_shot(found.classifier, how, SHAPE, CLASSES)
    model, open_clip = whole(name).double(), import_open_clip()
    templates = [t("{}") for t in open_clip.zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES]
    expected = []
    with torch.no_grad():
        for words in ("dog", "alarm clock", "T-shirt"):
            total = torch.zeros(16)
            for template in [prompt] if "{}" in prompt else templates:
                tokens = open_clip.tokenize(template.replace("{}", words), context_length=24)
                (u,) = model.encode_text(tokens)
                total += u / u.norm()
            expected.append(total / total.norm())
        v = model.encode_image(images())
        cosines = torch.stack([torch.stack([(w / w.norm()) @ t for t in expected]) for w in v])
        assert torch.allclose(found(images()), cosines * model.logit_scale.exp(), rtol=1e-9, atol=1e-9)


def test_a_file_holds_both_towers(name: str, tmp_path: Path) -> None:
    """The file of one CLIP in the folder of another, with names as older files have them."""
    save_clip(other := tmp_path / "other")
    tensors = {key: 2 * tensor for key, tensor in whole(f"clip:{other}").state_dict().items()}
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    torch.save(
        {"state_dict": {f"module.{key.removeprefix('text.')}": t for key, t in tensors.items()}},
        file := tmp_path / "it.pt",
    )
    how = setting(backbone=name, weights=hash_weights_file(file), classifier_init="zero_shot")
    located: Setting = with_weights_file(how, str(file))
    check_start(how, SHAPE, str(file))
    found = build_network(SHAPE, 3, located)
    assert torch.equal(found.featurizer.visual.proj, tensors["visual.proj"])
    tower = text_tower(located, SHAPE, torch.device("cpu"))
    assert torch.equal(tower.model.text.text_projection, tensors["text.text_projection"])
    torch.save({"visual.proj": tensors["visual.proj"]}, file)
    wrong = with_weights_file(setting(backbone=name, weights=hash_weights_file(file)), str(file))
    with pytest.raises(UserError, match="lacks visual"):
        build_network(SHAPE, 3, wrong)


def test_images_of_another_size_get_resampled_positions(name: str) -> None:
    small, large = network(name), build_network((3, 32, 32), 3, setting(backbone=name))
    assert [len(n.featurizer.visual.positional_embedding) for n in (small, large)] == [5, 17]
    assert large(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_planning_knows_it_by_its_configuration(name: str) -> None:
    assert takes(name) == ("images",)
    assert lacking(name, SHAPE) == {"feature_maps", "inner_maps", "convolutions", "batch_norm", "units"}
    assert interpolation_of(name) == "bicubic"
    assert normalization_of(name, 3) == ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    assert normalization_of(name, 1) is None
    assert weight_bytes(name, SHAPE, 3) == sum(4 * p.numel() for p in network(name).parameters())
    check_weights("clip:ViT-B-32.openai")


def test_published_weights_that_are_cached_need_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cached(place: str, file: str) -> Path | None:
        asked.append((place, file))
        return Path(file) if file.endswith("bin") else None

    monkeypatch.setattr("dgbench.networks.hub.cached_file", cached)
    assert clip_file("clip:ViT-B-32.openai") == Path("open_clip_pytorch_model.bin")
    assert asked[0] == ("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")
    assert clip_file(name) == Path(name.removeprefix("clip:"), "open_clip_model.safetensors")
    monkeypatch.setattr("dgbench.networks.hub._of_hub", lambda *_: {}["gone"])
    with pytest.raises(UserError, match=r"could not be fetched .*copy ~/\.cache/huggingface"):
        clip_file("clip:ViT-B-32.openai")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("clip:ViT-B-23", "did you mean 'clip:ViT-B-32'"),
        ("clip:ViT-B-32.opennai", "did you mean 'clip:ViT-B-32.openai'"),
        ("clip:./nowhere", "can't be read: No such"),
        ("clip:coca_ViT-B-32", "is a CoCa"),
        ("clip:roberta-ViT-B-32", "is a model of transformers"),
    ],
)
def test_names_that_are_none(wrong: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_backbone(wrong)


def test_what_a_clip_cannot_do_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="names no weights: add open_clip's tag"):
        check_weights("clip:ViT-B-32")
    with pytest.raises(UserError, match="1 or 3 channels, and these have 2"):
        check_start(setting(backbone=name), (2, 16, 16), "")
    for shape, kind in (((6,), "vectors"), ((2, 12), "texts"), ((5, 12), "graphs")):
        with pytest.raises(UserError, match=f"takes images, and these inputs are {kind}"):
            check_start(setting(backbone=name), shape, "", kind)
    with pytest.raises(UserError, match="can't take images of 3 x 4 x 4"):
        check_start(setting(backbone=name), (3, 4, 4), "")
    with pytest.raises(UserError, match="tokenizer of backbone 'clip:ViT-B-16-SigLIP' is a model of transformers"):
        text_tower(setting(backbone="clip:ViT-B-16-SigLIP"), (3, 224, 224), torch.device("cpu"))
    tower = text_tower(setting(backbone=name), SHAPE, torch.device("cpu"))
    with pytest.raises(UserError, match="has 32 tokens, and this CLIP reads 24"):
        tower.embed(["dog " * 25], "a photo of a {}.")
    monkeypatch.setattr("dgbench.networks.clip_names.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"need the package open_clip_torch: pip install 'dgbench\[clip\]'"):
        check_backbone("clip:ViT-B-32")


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{0}", "imagenets"])
def test_a_prompt_has_one_place_for_the_name(prompt: str) -> None:
    with pytest.raises(UserError, match="is a text with one"):
        setting(prompt=prompt)
