"""WILDS data for leave-one-domain-out, as DomainBed has them."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.data.transforms_pil import augment, resize
from dgbench.datasets._wilds_images import WildsPooled
from dgbench.datasets.camelyon17 import WILDSCamelyon
from dgbench.datasets.fmow import WILDSFMoW
from tests.datasets.no_network import cut_off
from tests.support.wilds_layouts import FMOW_LABELS, REGIONS, write_camelyon17, write_fmow


@pytest.fixture
def camelyon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WildsPooled:
    cut_off(monkeypatch)
    write_camelyon17(tmp_path)
    card = dataclasses.replace(WILDSCamelyon.card, counts=dict.fromkeys(WILDSCamelyon.card.domains, 20))
    monkeypatch.setattr(WILDSCamelyon, "card", card)
    return WILDSCamelyon(data_dir=tmp_path)


def test_a_domain_is_all_of_a_hospital_whatever_wilds_does_with_it(camelyon: WildsPooled) -> None:
    assert camelyon.counts() == [20] * 5
    for domain in camelyon.domains:
        examples = camelyon.examples(domain, 0)
        assert examples.labels.tolist() == [0, 1] * 10
        inputs = examples.batch(np.arange(20), None)
        assert inputs.shape == (20, 3, 224, 224)
        light = inputs.mean((1, 2, 3)) > 127
        assert light.tolist() == [False, True] * 10


def test_images_are_enlarged_before_they_are_augmented(camelyon: WildsPooled) -> None:
    examples = camelyon.examples("hospital_1", 0)
    assert camelyon.data_dir is not None
    path = camelyon.data_dir / "camelyon17_v1.0/patches/patient_010_node_0/patch_patient_010_node_0_x_3032_y_20010.png"
    with Image.open(path) as file:
        large = resize(file.convert("RGB"), 224, 224)
    clean = examples.batch(np.array([1]), None)[0]
    assert np.array_equal(clean, np.asarray(large).transpose(2, 0, 1))
    found = examples.batch(np.array([1]), np.random.default_rng(4))[0]
    expected = augment(large, 224, 224, np.random.default_rng(4))
    assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))
    assert not np.array_equal(found, clean)


def test_images_are_resized_for_the_network_as_those_of_other_data_sets(camelyon: WildsPooled) -> None:
    camelyon.interpolation = "bicubic"
    examples = camelyon.examples("hospital_1", 0)
    with camelyon.source("official").get_input(examples.rows[1]) as image:  # type: ignore[attr-defined]
        small = image.convert("RGB")
    clean = examples.batch(np.array([1]), None)[0]
    assert np.array_equal(clean, np.asarray(resize(small, 224, 224, "bicubic")).transpose(2, 0, 1))
    assert not np.array_equal(clean, np.asarray(resize(small, 224, 224)).transpose(2, 0, 1))


def test_regions_are_numbered_as_they_appear_and_hold_what_wilds_discards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(monkeypatch)
    used = write_fmow(tmp_path)
    monkeypatch.setattr(WILDSFMoW, "card", dataclasses.replace(WILDSFMoW.card))
    dataset = WILDSFMoW(data_dir=tmp_path)
    with (tmp_path / "fmow_v1.1" / "rgb_metadata.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "seq"]
    assert sum(dataset.counts()) == len(rows) > len(used)
    for domain, country in zip(dataset.domains, REGIONS, strict=True):
        kinds = {"airport": FMOW_LABELS[0], "airport_hangar": FMOW_LABELS[1], "zoo": FMOW_LABELS[2]}
        expected = [kinds[row["category"]] for row in rows if row["country_code"] == country]
        assert dataset.examples(domain, 0).labels.tolist() == expected


def test_wrong_counts_and_domains_are_refused_together(camelyon: WildsPooled, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {**camelyon.card.counts, "hospital_3": 21, "hospital_4": 19}
    wrong = dataclasses.replace(camelyon.card, domains=camelyon.card.domains[:4], counts=counts)
    monkeypatch.setattr(WILDSCamelyon, "card", wrong)
    with pytest.raises(UserError) as caught:
        camelyon.counts()
    first, *others = caught.value.problems
    assert first.startswith("WILDSCamelyon has the domains hospital_0, hospital_1,")
    assert others == [
        "WILDSCamelyon: hospital_3 has 20 images, expected 21",
        "WILDSCamelyon: hospital_4 has 20 images, expected 19",
    ]
