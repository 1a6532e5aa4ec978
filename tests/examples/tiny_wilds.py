"""WILDS data sets as small as the copies that tests make: their cards with other numbers, for --include."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.datasets._wilds import Indices
from dgbench.datasets.camelyon17 import Camelyon17, WILDSCamelyon
from dgbench.datasets.civil_comments import CivilComments
from dgbench.datasets.ogb_molpcba import OGBMolPCBA
from dgbench.datasets.poverty_map import PovertyMap
from dgbench.datasets.py150 import Py150


class TinyCamelyon(Camelyon17):
    """Ten patches of ten slides."""

    card = dataclasses.replace(
        Camelyon17.card,
        counts={"official": 100},
        parts={"train": 48, "id_val": 12, "val": 20, "test": 20},
        backbone="",
    )


class TinyHospitals(WILDSCamelyon):
    """The same, hospital by hospital."""

    card = dataclasses.replace(WILDSCamelyon.card, counts=dict.fromkeys(WILDSCamelyon.card.domains, 20))


class TinyComments(CivilComments):
    """Eighty comments."""

    card = dataclasses.replace(
        CivilComments.card, counts={"official": 80}, parts={"train": 48, "val": 16, "test": 16}, input_shape=(2, 12)
    )


class TinyPoverty(PovertyMap):
    """170 villages a country, every sixteenth pixel of their images."""

    card = dataclasses.replace(
        PovertyMap.card,
        counts=dict.fromkeys("ABCDE", 3_910),
        parts={"train": 210, "id_val": 1_000, "val": 850, "test": 850, "id_test": 1_000},
        input_shape=(8, 14, 14),
        backbone="",
    )

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[np.float32]:
        """(B, 8, 14, 14): every village's is one of four images."""
        small = [source.get_input(row).numpy()[:, ::16, ::16] for row in range(4)]
        return np.stack([small[row % 4] for row in rows.tolist()])


class TinyMolecules(OGBMolPCBA):
    """Forty molecules."""

    card = dataclasses.replace(
        OGBMolPCBA.card,
        counts={"official": 40},
        parts={"train": 20, "val": 10, "test": 10},
        input_shape=(24, OGBMolPCBA.card.input_shape[1]),
    )


class TinyPy150(Py150):
    """Six files a part of 23 tokens, of which there are 30."""

    card = dataclasses.replace(
        Py150.card, counts={"official": 30}, parts=dict.fromkeys(Py150.card.parts, 6), input_shape=(23,)
    )

    def open(self) -> None:
        """Of these tokens."""
        super().open()
        self.classes = self.classes[:30]
