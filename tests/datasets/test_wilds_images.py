"""WILDS' image sets read from the cache against Pillow, whose images are WILDS' own (test_wilds.py)."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.data import cache_build
from dgbench.data.cache import Cacheable, CachedDataset, build_cache, open_images
from dgbench.data.decoding import Decoding
from dgbench.datasets.camelyon17 import Camelyon17, WILDSCamelyon
from dgbench.datasets.fmow import FMoW, WILDSFMoW
from dgbench.datasets.iwildcam import iWildCam
from dgbench.datasets.poverty_map import PovertyMap
from dgbench.datasets.rxrx1 import RxRx1
from dgbench.launchers.prepare import prepare
from dgbench.launchers.reconcile import Sweep
from tests.datasets.no_network import cut_off
from tests.support.in_process import execute_all, records_of
from tests.support.wilds_layouts import WRITERS, Row, fitted

TINY = Path(__file__).parents[1] / "examples" / "tiny_wilds.py"
ROUNDING = 0.5
"""Levels of 256 by which an operation of OpenCV may differ from Pillow's in the mean over an image."""
SPLIT = (Camelyon17, FMoW, iWildCam, RxRx1)
POOLED = {WILDSCamelyon: "Camelyon17", WILDSFMoW: "FMoW"}
ALL = (*SPLIT, *POOLED)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Row]]]:
    """A tiny copy of each data set, under one data directory."""
    data_dir = tmp_path_factory.mktemp("wilds")
    return data_dir, {cls.__name__: WRITERS[cls.__name__](data_dir) for cls in SPLIT}


@pytest.fixture
def place(written: tuple[Path, dict[str, list[Row]]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their place, without a cache."""
    cut_off(monkeypatch)
    shutil.rmtree(written[0] / ".dgbench-cache", ignore_errors=True)
    return written[0]


@pytest.fixture
def data_dir(place: Path, written: tuple[Path, dict[str, list[Row]]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their place, and cards that say what is there."""
    for cls in SPLIT:
        monkeypatch.setattr(cls, "card", fitted(cls.card, written[1][cls.__name__]))
    monkeypatch.setattr(WILDSCamelyon, "card", dataclasses.replace(WILDSCamelyon.card, counts={}))
    return place


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded from now on."""
    found: list[str] = []

    decode = Decoding.__call__

    def counting(self: Decoding, path: Path) -> Any:
        found.append(path.name)
        return decode(self, path)

    monkeypatch.setattr(Decoding, "__call__", counting)
    return found


def both(dataset: Any, domain: str, seed: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Every input of a domain, from the cache and by Pillow."""
    examples = dataset.examples(domain, 0)
    assert isinstance(examples, Cacheable)
    found = []
    for of in (examples.cached(), examples):
        rng = None if seed is None else np.random.default_rng(seed)
        found.append(of.batch(np.arange(len(examples.labels))[::-1], rng))  # type: ignore[attr-defined]
    assert found[0].shape == found[1].shape == (len(examples.labels), *dataset.input_shape)
    assert found[0].dtype == found[1].dtype
    return found[0], found[1]


def difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("size", ["own", "smaller", "larger"])
def test_the_cache_holds_what_pillow_reads(cls: type[Any], size: str, data_dir: Path) -> None:
    """Bit for bit at the images' own size and below it; enlarged by OpenCV, within rounding."""
    own = {"iWildCam": 48, "FMoW": 32, "WILDSFMoW": 32}.get(cls.__name__, cls.side)
    dataset = cls(data_dir=data_dir, image_size={"own": own, "smaller": own // 2, "larger": 3 * own // 2}[size])
    for domain in dataset.domains:
        cached, files = both(dataset, domain, None)
        if size != "larger":
            assert np.array_equal(cached, files)
        elif files.dtype == np.uint8:
            assert difference(cached, files) < ROUNDING
        else:
            assert difference(cached, files) < ROUNDING / 25, "in units of an image's deviation, which is about 37"


@pytest.mark.parametrize("cls", SPLIT, ids=lambda cls: cls.__name__)
def test_split_sets_are_not_augmented_but_in_their_own_way(cls: type[Any], data_dir: Path) -> None:
    dataset = cls(data_dir=data_dir, image_size=64)
    (cached, files), (clean, _) = both(dataset, "official", 3), both(dataset, "official", None)
    assert difference(cached, files) < ROUNDING
    assert np.array_equal(cached, clean) == (cls is not RxRx1)
    if cls is RxRx1:
        assert np.array_equal(cached, files), "turned alike"


@pytest.mark.parametrize("cls", POOLED, ids=lambda cls: cls.__name__)
def test_pooled_sets_are_augmented_with_the_same_draws(cls: type[Any], data_dir: Path) -> None:
    """Six operations, each within rounding."""
    dataset = cls(data_dir=data_dir)
    for domain in dataset.domains[:2]:
        cached, files = both(dataset, domain, 5)
        other, clean = both(dataset, domain, 6)[0], both(dataset, domain, None)[0]
        assert difference(cached, files) < 2 * ROUNDING
        assert difference(cached, other) > 10
        assert difference(cached, clean) > 10


def test_both_forms_share_the_cache_of_the_same_rows(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official, pooled = Camelyon17(data_dir=data_dir), WILDSCamelyon(data_dir=data_dir)
    assert isinstance(official, CachedDataset)
    assert isinstance(pooled, CachedDataset)
    decodings = counted(monkeypatch)
    for dataset in (official, pooled, Camelyon17(data_dir=data_dir, image_size=32)):
        build_cache(dataset)
    assert len(decodings) == len(set(decodings)) == 100
    assert len(list((data_dir / ".dgbench-cache").iterdir())) == 1
    assert open_images(official.image_cache()).pixels.shape == (100, 96, 96, 3)


def test_rows_that_a_form_does_not_use_are_not_decoded_for_it(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decodings = counted(monkeypatch)
    build_cache(FMoW(data_dir=data_dir))
    used = len(FMoW(data_dir=data_dir).examples("official", 0).labels)
    assert len(decodings) == used
    pooled = WILDSFMoW(data_dir=data_dir)
    build_cache(pooled)
    assert len(decodings) == used + sum(pooled.counts())
    assert sum(pooled.counts()) > used


def test_the_cache_of_other_tables_is_another(data_dir: Path, tmp_path: Path) -> None:
    before = Camelyon17(data_dir=data_dir).image_cache().folder.name
    shutil.copytree(data_dir / "camelyon17_v1.0", tmp_path / "camelyon17_v1.0")
    assert Camelyon17(data_dir=tmp_path).image_cache().folder.name == before
    table = tmp_path / "camelyon17_v1.0" / "metadata.csv"
    table.write_text(table.read_text().replace(",3000,", ",3001,"))
    (tmp_path / "other").mkdir()
    (tmp_path / "camelyon17_v1.0").rename(tmp_path / "other" / "camelyon17_v1.0")
    assert Camelyon17(data_dir=tmp_path / "other").image_cache().folder.name != before


def test_an_image_that_cannot_be_decoded_is_named_when_the_cache_is_built(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "camelyon17_v1.0", tmp_path / "camelyon17_v1.0")
    bad = sorted((tmp_path / "camelyon17_v1.0" / "patches").rglob("*.png"))[7]
    bad.write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        build_cache(Camelyon17(data_dir=tmp_path))
    (problem,) = caught.value.problems
    assert problem.startswith(f"image {bad} can't be decoded (")
    assert problem.endswith("get it anew from https://wilds.stanford.edu/downloads, or use --skip_bad_images")


@pytest.mark.parametrize("cls", [Camelyon17, WILDSCamelyon])
def test_images_that_cannot_be_decoded_are_left_out_if_that_is_asked_for(
    cls: type[Camelyon17] | type[WILDSCamelyon], data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(data_dir / "camelyon17_v1.0", tmp_path / "camelyon17_v1.0")
    whole = cls(data_dir=data_dir)
    assert cls(data_dir=data_dir, skip_bad_images=True).fingerprint() == whole.fingerprint()
    source = whole.source("official")
    row = int(whole.used(source)[7])
    bad = tmp_path / "camelyon17_v1.0" / cls.image_files(source)[row]
    bad.write_bytes(b"no image")
    dataset = cls(data_dir=tmp_path, skip_bad_images=True)
    assert sum(dataset.counts()) == sum(whole.counts()) - 1
    assert dataset.fingerprint() != whole.fingerprint()
    assert f"left out 1 bad image(s):\nimage {bad}" in caplog.text
    for domain in dataset.domains:
        mine, theirs = (found.examples(domain, 0) for found in (dataset, whole))
        cached, files = both(dataset, domain, None)
        assert np.abs(cached.astype(float) - files).mean() < ROUNDING
        place = np.searchsorted(dataset.used(source)[: len(mine.labels)], row) if cls is Camelyon17 else -1
        if place >= 0:
            assert np.array_equal(mine.labels, np.delete(theirs.labels, place))
            assert sum(map(len, mine.parts.values())) == len(mine.labels)  # type: ignore[attr-defined]


def test_photographs_are_kept_as_the_files_that_they_are(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """iWildCam is larger than what is kept as bytes, and JPEGs already."""
    monkeypatch.setattr(cache_build, "LARGEST_OWN", 0)
    monkeypatch.setattr(cache_build, "LARGEST", 0)
    dataset = iWildCam(data_dir=data_dir, image_size=48)
    images = open_images(dataset.image_cache())
    assert images.index.kind == "jpeg"
    assert images.pixels.tobytes() == b"".join(path.read_bytes() for path in dataset.image_cache().paths())
    cached, files = both(dataset, "official", None)
    assert np.array_equal(cached, files)


def test_arrays_of_floats_have_no_cache_and_bad_ones_may_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PovertyMap, "card", fitted(PovertyMap.card, WRITERS["PovertyMap"](tmp_path)))
    assert not isinstance(PovertyMap(data_dir=tmp_path), CachedDataset)
    before = PovertyMap(data_dir=tmp_path).counts()
    bad = Path(tmp_path / "poverty_v1.1" / "images" / "landsat_poverty_img_7.npz")
    bad.unlink()  # they are all one file, under many names
    bad.write_bytes(b"no arrays")
    dataset = PovertyMap(data_dir=tmp_path, skip_bad_images=True)
    assert dataset.counts() == [n - 1 for n in before]
    assert dataset.fingerprint() != PovertyMap(data_dir=tmp_path).fingerprint()


def sweep_of(root: Path, data_dir: Path, **setting: Any) -> Sweep:
    """Two algorithms, two trials."""
    site = Site(data_dir=str(data_dir), include=(str(TINY),), device="cpu")
    asked = {
        "algorithms": ["ERM", "CORAL"],
        "datasets": ["TinyCamelyon"],
        "n_hparams": 1,
        "n_trials": 2,
        "setting": {"steps": 5, "checkpoint_freq": 2, "backbone": "MLP", "image_size": 16, **setting},
        "hparams": {"batch_size": 4},
    }
    sweep = prepare(root, asked, site, Catalogue(site.include))
    sweep.write()
    return sweep


def test_a_sweep_builds_it_once_and_reads_it_in_all_runs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decodings = counted(monkeypatch)
    auto = execute_all(sweep_of(tmp_path / "auto", place))
    assert len(decodings) == 100
    off = execute_all(sweep_of(tmp_path / "off", place, cache="off"))
    assert len(decodings) > 200
    for one, other in zip(auto.plan.runs, off.plan.runs, strict=True):
        ours, theirs = (records_of(sweep.store.folder(run.id)) for sweep, run in ((auto, one), (off, other)))
        assert [record["views"] for record in ours] == [record["views"] for record in theirs], "the same pixels"


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_the_launcher_builds_it_before_the_runs(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dgbench.sweep", "launch", "--skip_confirmation", "--output_dir", str(tmp_path)]
    command += ["--include", str(TINY), "--datasets", "TinyCamelyon", "--data_dir", str(place), "--jobs", "2"]
    command += ["--algorithms", "ERM", "--n_hparams", "1", "--n_trials", "2", "--steps", "3", "--device", "cpu"]
    command += ["--hparams", '{"backbone": "MLP", "image_size": 16, "batch_size": 4}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("decoding") == done.stderr.count("TinyCamelyon: decoding 100 of 100 images, once") == 1
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert len(logs) == 2
    assert not any("decod" in log for log in logs)
