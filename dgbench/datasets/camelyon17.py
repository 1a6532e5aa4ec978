"""Camelyon17: tumor in patches of lymph nodes from five hospitals, as WILDS splits them and pooled by hospital."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgbench.core.data_cards import DatasetCard
from dgbench.datasets._wilds_images import WildsImages, WildsPooled

_PAPER = "Bandi et al., From Detection of Individual Metastases to Classification of Lymph Node Status, IEEE TMI 2018"
_LINK = "https://doi.org/10.1109/TMI.2018.2867350"
_SOURCE = "https://worksheets.codalab.org/rest/bundles/0xe45e15f39fb54e9d9e919556af67aabe/contents/blob/ (wilds)"
_CLASSES = ("normal", "tumor")
_SIDE = 96


def _image_files(source: Any) -> Sequence[str]:
    files: Sequence[str] = source._input_array
    return files


class Camelyon17(WildsImages):
    """Patches of lymph nodes, with or without tumor, in WILDS' split: training and test hospitals differ.

    The label tells whether the middle of a 96 x 96 patch holds tumor. Three hospitals train, and are the domains for
    algorithms; `id_val` are slides of these three, `val` is the fourth hospital and `test` the fifth. The score is
    accuracy.

    Files are read, split and scored by the wilds package. As in WILDS, patches are not augmented and keep their size.
    WILDS trains a DenseNet-121 from scratch (`pretrained: false`).

    Reference:
        Bandi et al., "From Detection of Individual Metastases to Classification of Lymph Node Status at the Patient
        Level: The CAMELYON17 Challenge", IEEE Transactions on Medical Imaging, 2018.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source=_SOURCE,
        licence="CC0",
        paper=_PAPER,
        link=_LINK,
        input_shape=(3, _SIDE, _SIDE),
        domains=("official",),
        classes=_CLASSES,
        counts={"official": 455_954},
        parts={"train": 302_436, "id_val": 33_560, "val": 34_904, "test": 85_054},
        metric="acc_avg",
        backbone="densenet121.tv_in1k",
        folder="camelyon17_v1.0",
        note="steps show as many examples as WILDS' 5 epochs, at 32 of each domain",
        steps=15_001,
        checkpoint_freq=1_000,
    )
    wilds_name = "camelyon17"
    files = ("metadata.csv",)
    grouped_by = ("hospital",)
    scored = ("acc_avg",)
    side = _SIDE
    image_files = staticmethod(_image_files)


class WILDSCamelyon(WildsPooled):
    """Patches of lymph nodes, with or without tumor, pooled by hospital for leave-one-domain-out: five domains.

    The patches of `Camelyon17` as DomainBed uses them: WILDS' splits are ignored, each hospital in turn is held out
    with all its patches, and patches are enlarged from 96 to 224 pixels and augmented. Numbers can't be compared with
    those on `Camelyon17`: there three hospitals train, in this data set four do.

    Reference:
        Bandi et al., "From Detection of Individual Metastases to Classification of Lymph Node Status at the Patient
        Level: The CAMELYON17 Challenge", IEEE Transactions on Medical Imaging, 2018.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source=_SOURCE,
        licence="CC0",
        paper=_PAPER,
        link=_LINK,
        input_shape=(3, 224, 224),
        domains=("hospital_0", "hospital_1", "hospital_2", "hospital_3", "hospital_4"),
        classes=_CLASSES,
        counts={
            "hospital_0": 59_436,
            "hospital_1": 34_904,
            "hospital_2": 85_054,
            "hospital_3": 129_838,
            "hospital_4": 146_722,
        },
        folder="camelyon17_v1.0",
        checkpoint_freq=100,
    )
    wilds_name = "camelyon17"
    files = ("metadata.csv",)
    field = "hospital"
    side = _SIDE
    image_files = staticmethod(_image_files)
