"""Every WILDS data set, from a tiny copy: loaded, grouped, iterated and scored, without a network."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.data.dataset import SplitExamples
from dgbench.data.transforms_pil import resize
from dgbench.datasets._wilds import WildsDataset
from dgbench.datasets.amazon import Amazon
from dgbench.datasets.camelyon17 import Camelyon17
from dgbench.datasets.civil_comments import CivilComments
from dgbench.datasets.fmow import FMoW
from dgbench.datasets.global_wheat import GlobalWheat
from dgbench.datasets.iwildcam import iWildCam
from dgbench.datasets.ogb_molpcba import OGBMolPCBA
from dgbench.datasets.poverty_map import PovertyMap
from dgbench.datasets.py150 import Py150
from dgbench.datasets.rxrx1 import RxRx1
from tests.datasets.no_network import cut_off
from tests.support.wilds_layouts import (
    FMOW_LABELS,
    IDENTITIES,
    POVERTY_TEST,
    POVERTY_VAL,
    REGIONS,
    WRITERS,
    Row,
    fitted,
)

CLASSES: dict[str, type[WildsDataset]] = {
    cls.__name__: cls
    for cls in (Camelyon17, FMoW, iWildCam, RxRx1, PovertyMap, CivilComments, Amazon, Py150, OGBMolPCBA)
}
SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Copy:
    """A tiny copy of a data set, opened, and what was written."""

    dataset: WildsDataset
    rows: list[Row]
    folder: Path

    def examples(self) -> SplitExamples:
        """Of its first way of splitting."""
        found = self.dataset.examples(self.dataset.domains[0], 0)
        assert isinstance(found, SplitExamples)
        return found

    def table(self, name: str) -> list[dict[str, str]]:
        """A CSV file of the copy."""
        with (self.folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def isolated() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wilds")


@pytest.fixture(scope="module", params=WRITERS)
def copy(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Copy]:
    yield from made(request.param, data_dir)


@pytest.fixture
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Copy]:
    yield from made(request.param, tmp_path)


def made(name: str, data_dir: Path) -> Iterator[Copy]:
    rows = WRITERS[name](data_dir)
    cls = CLASSES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "card", fitted(cls.card, rows))
        dataset = cls(data_dir=data_dir, backbone="MLP")
        yield Copy(dataset, rows, data_dir / cls.card.folder)


def predicted_for(examples: SplitExamples, dataset: WildsDataset, indices: Any, seed: int = 0) -> Any:
    """Random predictions as the task has them, but right in about half of the cases."""
    rng = np.random.default_rng(seed)
    labels = examples.labels[indices]
    if dataset.card.task in ("classification", "tokens"):
        return np.where(rng.random(labels.shape) < 0.5, labels, rng.integers(len(dataset.classes), size=labels.shape))
    return (np.nan_to_num(labels) + rng.normal(size=labels.shape)).astype(np.float32)


def same(found: Any, expected: Any) -> bool:
    return bool(np.array_equal(np.asarray(found), np.asarray(expected), equal_nan=np.asarray(found).dtype.kind == "f"))


def test_rows_parts_labels_and_domains_are_those_of_the_files(copy: Copy) -> None:
    examples = copy.examples()
    assert same(examples.labels, [row.label for row in copy.rows])
    assert same(examples.domains, [row.domain for row in copy.rows])
    assert examples.domains.dtype == np.int64
    assert tuple(examples.parts) == tuple(copy.dataset.card.parts)
    for part, indices in examples.parts.items():
        told = [n for n, row in enumerate(copy.rows) if row.part == part]
        assert same(indices, told) or not told
        assert len(indices) == copy.dataset.card.parts[part]
    together = np.concatenate(list(examples.parts.values()))
    assert same(np.sort(together), np.arange(len(copy.rows)))
    assert copy.dataset.counts() == [len(copy.rows)] * len(copy.dataset.domains)


def test_attributes_are_the_fields_of_the_metadata_but_for_the_label(copy: Copy) -> None:
    examples = copy.examples()
    source = copy.dataset.source(copy.dataset.domains[0])
    assert set(examples.attributes) == set(source.metadata_fields) - {"y"}
    for name, values in examples.attributes.items():
        assert same(values, source.metadata_array[examples.rows, source.metadata_fields.index(name)])


def test_inputs_have_the_shape_that_the_data_set_states(copy: Copy) -> None:
    examples = copy.examples()
    for rng in (None, np.random.default_rng(0)):
        inputs = examples.batch(np.array([5, 0, 5]), rng)
        assert inputs.shape == (3, *copy.dataset.input_shape)
        assert inputs.dtype in (np.uint8, np.float32, np.int64, np.int16)
    clean = examples.batch(np.array([5, 0, 5]), None)
    assert same(clean[0], clean[2])
    assert not same(clean[0], clean[1])


def test_inputs_and_scores_are_those_of_wilds_own_subsets(copy: Copy) -> None:
    """Rows found through wilds' own subsets hold the same labels and inputs, and score the same."""
    examples, source = copy.examples(), copy.dataset.source(copy.dataset.domains[0])
    for part, indices in examples.parts.items():
        subset = source.get_subset(part)
        assert same(subset.indices, indices) or copy.dataset.wilds_name in ("fmow", "amazon")
        for place in range(0, len(indices), max(1, len(indices) // 5)):
            x, y, _ = subset[place]
            y = y.nan_to_num(-100) if copy.dataset.card.task == "tokens" else y
            assert same(y.squeeze(), examples.labels[indices[place]])
            found = examples.batch(indices[place : place + 1], None)[0]
            if isinstance(x, Image.Image):
                x = resize(x.convert("RGB"), *copy.dataset.input_shape[1:])
                x = np.asarray(x, np.float32).transpose(2, 0, 1)
                if found.dtype == np.float32:
                    x = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
                assert np.allclose(found, x, atol=1e-3)
            elif isinstance(x, torch.Tensor):
                assert same(found, x)
        predicted = predicted_for(examples, copy.dataset, indices)
        truth = source.y_array[subset.indices]
        theirs, _ = source.eval(torch.from_numpy(predicted).reshape(truth.shape), truth, subset.metadata_array)
        scores = examples.score(predicted, indices)
        assert copy.dataset.card.metric in scores
        assert scores == {name: float(theirs[name]) for name in scores}


def accuracies(correct: Any, groups: Any) -> list[float]:
    return [float(np.mean(correct[groups == group])) for group in np.unique(groups)]


@pytest.mark.parametrize("one", ["FMoW"], indirect=True)
def test_fmow_reports_the_worst_region_without_the_rest_of_the_world(one: Copy) -> None:
    examples = one.examples()
    used = [row for row in one.table("rgb_metadata.csv") if row["split"] != "seq"]
    rows = one.dataset.source("official")
    kept = np.isin(rows.split_array, list(rows.split_dict.values()))
    region = np.array([REGIONS[row["country_code"]] for row, keep in zip(used, kept, strict=True) if keep])
    for seed in range(SEEDS):
        indices = examples.parts["test"]
        predicted = predicted_for(examples, one.dataset, indices, seed)
        correct = predicted == examples.labels[indices]
        named = region[indices] != "Other"
        scores = examples.score(predicted, indices)
        assert scores["acc_worst_region"] == pytest.approx(min(accuracies(correct[named], region[indices][named])))
        assert scores["acc_avg"] == pytest.approx(correct.mean())
    assert set(examples.labels) == set(FMOW_LABELS)


@pytest.mark.parametrize("one", ["iWildCam"], indirect=True)
def test_iwildcam_reports_the_mean_f1_over_the_classes_that_a_part_has(one: Copy) -> None:
    examples = one.examples()
    indices = examples.parts["test"][:3]
    labels = examples.labels[indices]
    assert 3 not in labels
    assert examples.score(np.array([labels[0], 3, labels[2]]), indices)["F1-macro_all"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("one", ["CivilComments"], indirect=True)
def test_civil_comments_reports_the_worst_of_sixteen_groups(one: Copy) -> None:
    examples, table = one.examples(), one.table("all_data_with_identities.csv")
    for seed in range(SEEDS):
        indices = examples.parts["test"]
        predicted = predicted_for(examples, one.dataset, indices, seed)
        correct, labels = predicted == examples.labels[indices], examples.labels[indices]
        groups = [
            correct[(labels == y) & np.array([float(table[i][identity]) >= 0.5 for i in indices])].mean()
            for identity in IDENTITIES
            for y in (0, 1)
        ]
        assert len(groups) == 16
        assert examples.score(predicted, indices)["acc_wg"] == pytest.approx(min(groups))


@pytest.mark.parametrize("one", ["Amazon"], indirect=True)
def test_amazon_reports_the_reviewer_at_the_tenth_percentile(one: Copy) -> None:
    examples = one.examples()
    for seed in range(SEEDS):
        indices = examples.parts["test"]
        predicted = predicted_for(examples, one.dataset, indices, seed)
        each = accuracies(predicted == examples.labels[indices], examples.domains[indices])
        assert examples.score(predicted, indices)["10th_percentile_acc"] == pytest.approx(np.percentile(each, 10))


@pytest.mark.parametrize("one", ["PovertyMap"], indirect=True)
def test_poverty_map_reports_the_lower_correlation_of_town_and_country_in_each_fold(one: Copy) -> None:
    table = one.table("dhs_metadata.csv")
    urban = np.array([row["urban"] == "True" for row in table])
    country = np.array([row["country"] for row in table])
    for fold, val, test in (("A", POVERTY_VAL, POVERTY_TEST), ("B", None, POVERTY_VAL)):
        examples = one.dataset.examples(fold, 0)
        assert isinstance(examples, SplitExamples)
        indices = examples.parts["test"]
        assert set(country[indices]) == set(test)
        assert val is None or set(country[examples.parts["val"]]) == set(val)
        assert not set(country[examples.parts["train"]]) & (set(test) | set(country[examples.parts["val"]]))
        predicted = predicted_for(examples, one.dataset, indices)
        wealth = examples.labels[indices]
        found = [
            np.corrcoef(predicted[urban[indices] == is_urban], wealth[urban[indices] == is_urban])[0, 1]
            for is_urban in (True, False)
        ]
        assert examples.score(predicted, indices)["r_wg"] == pytest.approx(min(found), abs=1e-5)
    flat = examples.score(np.zeros_like(predicted), indices)
    assert flat == {"r_wg": 0, "r_all": 0, "mse_avg": pytest.approx(np.mean(wealth**2))}
    diverged = examples.score(np.full((len(examples.labels), 1), np.nan, np.float32), np.arange(len(examples.labels)))
    assert (diverged["r_wg"], diverged["r_all"]) == (0, 0)


@pytest.mark.parametrize("one", ["Py150"], indirect=True)
def test_py150_reports_tokens_that_name_classes_and_methods(one: Copy) -> None:
    examples = one.examples()
    indices = examples.parts["test"]
    kinds = np.array(json.loads((one.folder / "processed" / "OODtest_input_tok_type.json").read_text()))[:, 1:]
    predicted = predicted_for(examples, one.dataset, indices)
    correct = predicted == examples.labels[indices]
    scores = examples.score(predicted, indices)
    assert scores["acc"] == pytest.approx(correct[kinds <= 1][kinds[kinds <= 1] >= 0].mean())
    assert scores["Acc (Overall)"] == pytest.approx(correct[kinds >= 0].mean())


@pytest.mark.parametrize("one", ["RxRx1"], indirect=True)
def test_rxrx1_is_standardised_by_image_and_channel_and_turned_in_training(one: Copy) -> None:
    examples, all_of_them = one.examples(), np.arange(8)
    clean = examples.batch(all_of_them, None)
    assert np.allclose(clean.mean((2, 3)), 0, atol=1e-4)
    assert np.allclose(clean.std((2, 3)), 1, atol=1e-4)
    turned = examples.batch(all_of_them, np.random.default_rng(0))
    ways = [[np.rot90(image, k, (1, 2))[:, :, ::step] for k in range(4) for step in (1, -1)] for image in clean]
    found = [[same(image, way) for way in ways_of] for image, ways_of in zip(turned, ways, strict=True)]
    assert all(map(any, found))
    assert len({tuple(of_image) for of_image in found}) > 3
    assert same(turned, examples.batch(all_of_them, np.random.default_rng(0)))


@pytest.mark.parametrize("one", ["PovertyMap"], indirect=True)
def test_poverty_map_is_mirrored_in_training(one: Copy) -> None:
    examples = one.examples()
    clean = examples.batch(np.zeros(24, np.int64), None)
    mirrored = examples.batch(np.zeros(24, np.int64), np.random.default_rng(0))
    ways = [clean[0][:, ::down, ::right] for down in (1, -1) for right in (1, -1)]
    assert {next(n for n, way in enumerate(ways) if same(image, way)) for image in mirrored} == {0, 1, 2, 3}
    with pytest.raises(UserError, match="224 x 224 pixels and no other size"):
        type(one.dataset)(data_dir=one.dataset.data_dir, image_size=96)


@pytest.mark.parametrize("one", ["Camelyon17"], indirect=True)
def test_image_size_is_followed(one: Copy) -> None:
    dataset = type(one.dataset)(data_dir=one.dataset.data_dir, image_size=32)
    small = dataset.examples("official", 0).batch(np.arange(2), None)
    assert small.shape == (2, 3, 32, 32)
    dataset.interpolation = "bicubic"
    assert same(dataset.examples("official", 0).batch(np.arange(2), None), small), "WILDS' own transforms stay its own"


@pytest.mark.parametrize("one", ["Camelyon17"], indirect=True)
def test_everything_that_is_missing_is_named_before_wilds_is_asked(one: Copy) -> None:
    cls = type(one.dataset)
    with pytest.raises(UserError, match=r"Camelyon17 is read from camelyon17_v1\.0 under --data_dir"):
        cls()
    with pytest.raises(UserError, match=r"expected in the folder .*nowhere/camelyon17_v1\.0, which does not exist"):
        cls(data_dir=one.folder / "nowhere")
    (one.folder / "metadata.csv").unlink()
    (one.folder / "RELEASE_v1.0.txt").unlink()
    with pytest.raises(UserError, match=r"lacks metadata\.csv, RELEASE_v1\.0\.txt: unpack the whole archive"):
        cls(data_dir=one.dataset.data_dir)


@pytest.mark.parametrize("one", ["Camelyon17", "OGBMolPCBA"], indirect=True)
def test_tables_that_are_not_what_they_should_be_are_refused(one: Copy) -> None:
    for name in one.dataset.files:
        if name.endswith((".csv", "edge.csv.gz")):
            (one.folder / name).write_text("nonsense")
    with pytest.raises(UserError, match=r"wilds can't read .*: get it anew"):
        one.dataset.counts()


@pytest.mark.parametrize("one", ["Camelyon17", "iWildCam"], indirect=True)
def test_wrong_counts_and_classes_are_refused_together(one: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    card = one.dataset.card
    wrong = dataclasses.replace(card, parts={**card.parts, "val": 19, "test": 18}, classes=card.classes[:1])
    monkeypatch.setattr(type(one.dataset), "card", wrong)
    with pytest.raises(UserError) as caught:
        one.dataset.counts()
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        f"part 'val' of 'official' has {card.parts['val']} examples, expected 19",
        f"part 'test' of 'official' has {card.parts['test']} examples, expected 18",
        f"there are {len(card.classes)} classes, expected 1",
    ]


@pytest.mark.parametrize("one", ["Camelyon17"], indirect=True)
def test_an_image_that_cant_be_read_is_named(one: Copy) -> None:
    examples = one.examples()
    next((one.folder / "patches").rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"image .*patch_.*\.png can't be decoded \(.*\): get it anew from https://wilds"
    ):
        examples.batch(np.arange(len(examples.labels)), None)


@pytest.mark.parametrize("one", ["Amazon"], indirect=True)
def test_the_fingerprint_depends_on_the_tables_alone(one: Copy, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(one.folder, elsewhere / one.folder.name)
    again = type(one.dataset)(data_dir=elsewhere)
    assert again.fingerprint() == one.dataset.fingerprint()
    (elsewhere / one.folder.name / "splits" / "user.csv").write_text("split\n0\n")
    assert again.fingerprint() != one.dataset.fingerprint()


ALONE = """
import sys, threading
from pathlib import Path
from dgbench.datasets.civil_comments import CivilComments
CivilComments.check = classmethod(lambda cls, source, scheme: None)
examples = CivilComments(data_dir=Path(sys.argv[1]), backbone="MLP").examples("official", 0)
assert len(examples.labels) == 80
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert "outdated" not in sys.modules
"""


def test_a_machine_without_network_reads_them_and_is_done(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine doesn't allow namespaces without network")
    WRITERS["CivilComments"](tmp_path)
    subprocess.run([*unshare, sys.executable, "-c", ALONE, str(tmp_path)], check=True, timeout=60)


def test_without_the_package_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["CivilComments"](tmp_path)
    monkeypatch.setitem(sys.modules, "wilds", None)
    with pytest.raises(UserError, match=r"CivilComments needs further packages \(.*\): pip install 'dgbench\[wilds\]'"):
        CivilComments(data_dir=tmp_path).counts()


def test_global_wheat_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"GlobalWheat is not supported: .* by boxes \(detection\)"):
        GlobalWheat()
