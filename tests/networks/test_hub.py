"""What hubs have of a network: found in their cache without asking anybody, else fetched before any run starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from dgbench import cli
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.datasets import _texts
from dgbench.networks.backbones import timm_model
from dgbench.networks.hub import cached_file, timm_file
from dgbench.networks.network import build_network
from dgbench.networks.start import ensure_weights
from tests.datasets.no_network import cut_off, unplugged
from tests.support.commands import sweep, train
from tests.support.in_process import sweep_of
from tests.support.language_models import save_model
from tests.support.layouts import write_folders

RESNET, COMMIT = "resnet18.tv_in1k", "0123456789abcdef" * 2 + "01234567"
UNPLUGGED = "(ConnectError: [Errno 101] Network is unreachable)"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    folder = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    _texts._tokenizer.cache_clear()
    return folder


def put(hub: Path, repository: str, *files: Path) -> None:
    """Have the cache hold these files of a repository."""
    place = hub / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    for file in files:
        shutil.copy(file, place / "snapshots" / COMMIT / file.name)


def weights(folder: Path, name: str = RESNET, file: str = "model.safetensors") -> tuple[Path, dict[str, Tensor]]:
    """Some weights of timm's network of that name, in a file as the hub has it."""
    tensors = timm.create_model(name).state_dict()
    if file.endswith(".safetensors"):
        save_file(tensors, folder / file)
    else:
        torch.save(tensors, folder / file)
    return folder / file, tensors


def launched(folder: Path, *words: str, root: Path) -> int:
    """What the command answers to a sweep of one run on a few images."""
    data = root if root.is_dir() else write_folders(root, dict.fromkeys("abc", 6), ["x", "y"])
    words = ("--datasets", f"folder:{data}", "--algorithms", "ERM", "--output_dir", str(folder), *words)
    words += ("--n_hparams", "1", "--n_trials", "1", "--test_envs", "a", "--single_test_envs", "--device", "cpu")
    return cli.run(sweep.main, ["launch", *words])


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_in_the_cache_nobody_is_asked_for(
    file: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, theirs = weights(tmp_path, file=file)
    put(hub, f"timm/{RESNET}", path)
    cut_off(monkeypatch)
    how = setting(backbone=RESNET)
    ensure_weights(how, (3, 32, 32))
    ours = build_network((3, 32, 32), 5, how).featurizer.state_dict()
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_weights_of_the_hub_are_fitted_to_other_sizes_and_channels(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    path, theirs = weights(tmp_path, name)
    put(hub, f"timm/{name}", path)
    cut_off(monkeypatch)
    made = timm_model(name, (1, 64, 64), timm_file(name)).state_dict()
    assert made["pos_embed"].shape == (1, 1 + 16, 192), "resampled from 14 x 14 patches to 4 x 4"
    torch.testing.assert_close(made["patch_embed.proj.weight"], theirs["patch_embed.proj.weight"].sum(1, keepdim=True))
    assert all(torch.equal(made[key], theirs[key]) for key in made if key.startswith("blocks."))


def test_what_is_not_there_is_fetched_once(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = weights(tmp_path)
    asked: list[str] = []

    def fetched(repository: str, file: str) -> str:
        asked.append(f"{repository}/{file}")
        put(hub, repository, path)
        return str(cached_file(repository, file))

    def info(repository: str, timeout: float) -> Any:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in ("README.md", path.name)])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    monkeypatch.setattr(huggingface_hub, "model_info", info)
    for _ in range(3):
        ensure_weights(setting(backbone=RESNET), (3, 32, 32))
    assert asked == [f"timm/{RESNET}/model.safetensors"]


def test_weights_that_are_on_no_hub_are_kept_where_pytorch_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "legacy_seresnet18.in1k"
    unplugged(monkeypatch)
    with pytest.raises(UserError, match="could not be fetched"):
        timm_file(name)
    kept = Path(torch.hub.get_dir(), "checkpoints", "seresnet18-4bb0ce65.pth")
    assert kept.is_relative_to(tmp_path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    path, theirs = weights(tmp_path, name, "w.pth")
    path.rename(kept)
    made = timm_model(name, (3, 32, 32), timm_file(name)).state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in made.items())


def test_an_unreachable_hub_is_told_in_seconds_and_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    unplugged(monkeypatch)
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        ensure_weights(setting(backbone=RESNET), (3, 224, 224))
    assert time.monotonic() - started < 60, "the hub client's own retries would go on for minutes"
    assert caught.value.problems == (
        f"the weights of backbone 'resnet18.tv_in1k' could not be fetched {UNPLUGGED}. Fetch them once where there is "
        "a network and copy ~/.cache/huggingface here, or give a file by --backbone_weights, or train from scratch "
        "with --set pretrained=false",
    )
    with pytest.raises(UserError, match="could not be fetched"):
        build_network((3, 224, 224), 7, setting(backbone=RESNET))
    ensure_weights(setting(backbone=RESNET, pretrained=False), (3, 224, 224))
    ensure_weights(setting(backbone=RESNET, weights="0" * 64), (3, 224, 224))
    ensure_weights(setting(backbone="SmallCNN"), (3, 32, 32))
    ensure_weights(setting(backbone="tf_efficientnet_lite0"), (3, 32, 32))
    with pytest.raises(UserError, match="there are no pretrained weights for backbone 'darknet17'"):
        timm_file("darknet17")


def test_a_launch_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new, root = tmp_path / "new", tmp_path / "own"
    flags = (
        "--hparams",
        '{"backbone": "resnet18.tv_in1k", "image_size": 32, "batch_size": 4}',
        "--steps",
        "2",
        "--cache",
        "off",
    )
    with monkeypatch.context() as patch:
        cut_off(patch)
        assert launched(new, *flags, "--dry_run", root=root) == 0, "planning asks nobody"
    capsys.readouterr()
    unplugged(monkeypatch)
    assert launched(new, *flags, root=root) == 2
    assert f"the weights of backbone 'resnet18.tv_in1k' could not be fetched {UNPLUGGED}" in capsys.readouterr().err
    assert not new.exists()
    trained = ["--algorithm", "ERM", "--dataset", f"folder:{root}", "--test", "a", "--output_dir", str(new), *flags]
    assert cli.run(train.main, trained) == 2
    assert "could not be fetched" in capsys.readouterr().err
    assert not new.exists()


def test_a_finished_sweep_asks_for_nothing(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = weights(tmp_path)
    put(hub, f"timm/{RESNET}", path)
    root = write_folders(tmp_path / "own", dict.fromkeys("abc", 6), ["x", "y"])
    how = {"backbone": RESNET, "image_size": 32, "steps": 2, "cache": "off"}
    asked = {"datasets": [f"folder:{root}"], "test_envs": ["a"], "hparams": {"batch_size": 4}, "setting": how}
    made = sweep_of(tmp_path / "s", "ERM", **asked)
    for run in made.plan.runs:
        made.store.folder(run.id).create(run)
        (made.store.folder(run.id).path / "done").write_text("{}")
    shutil.rmtree(hub)
    cut_off(monkeypatch)
    made.ensure_inputs()


# -- language models ----------------------------------------------------------------------------------------------

TEXTS = (2, 12)


def language_model(folder: Path, *without: str) -> Sequence[Path]:
    """The files of a tiny one, but for some."""
    save_model(folder)
    return [file for file in sorted(folder.iterdir()) if file.name not in without]


def test_a_language_model_in_the_cache_is_not_asked_for(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    put(hub, "someone/tiny", *language_model(tmp_path / "model"))
    cut_off(monkeypatch)
    ensure_weights(setting(backbone="someone/tiny"), TEXTS)
    assert _texts.tokens(["good people", "they said"], "someone/tiny", 4)[:, 0].tolist() == [
        [2, 5, 1, 3],
        [2, 9, 10, 3],
    ]


def test_language_models_that_can_not_be_had_are_told(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    put(hub, "someone/weightless", *language_model(tmp_path / "model", "model.safetensors"))
    unplugged(monkeypatch)
    for name in ("someone/absent", "someone/weightless"):
        with pytest.raises(UserError) as caught:
            ensure_weights(setting(backbone=name), TEXTS)
        (told,) = caught.value.problems
        assert told.startswith(f"the language model {name!r} could not be had {UNPLUGGED}. Fetch it once where")
    ensure_weights(setting(backbone="someone/weightless", pretrained=False), TEXTS)
    with pytest.raises(UserError, match="reads texts of at most 16 tokens, and these have 17"):
        ensure_weights(setting(backbone="someone/weightless", pretrained=False), (2, 17))


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_tokenizer_without_a_vocabulary_is_none(
    place: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its library makes one of five special tokens, by which all texts of a length are the same."""
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    files = language_model(tmp_path / "model", "vocab.txt")
    name, why = "someone/wordless", UNPLUGGED
    if place == "hub":
        put(hub, name, *files)
    else:
        (tmp_path / "model" / "vocab.txt").unlink()
        name, why = str(tmp_path / "model"), "(it has no tokenizer.json or vocab.txt)"
    unplugged(monkeypatch)
    with pytest.raises(UserError) as caught:
        _texts.check_tokenizer(name)
    (told,) = caught.value.problems
    assert told.startswith(f"the vocabulary of {name!r} could not be had {why}. Fetch the model once where")
