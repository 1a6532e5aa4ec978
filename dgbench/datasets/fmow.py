"""FMoW: land use in satellite images of all continents, as WILDS splits them and pooled by region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgbench.core.data_cards import DatasetCard
from dgbench.datasets._wilds_images import WildsImages, WildsPooled

_PAPER = "Christie et al., Functional Map of the World, CVPR 2018"
_LINK = "https://arxiv.org/abs/1711.07846"
_SOURCE = "https://worksheets.codalab.org/rest/bundles/0xaec91eb7c9d548ebb15e1b5e60f966ab/contents/blob/ (wilds)"
_LICENCE = "FMoW Challenge Public License"
_SIDE = 224
_FILES = ("rgb_metadata.csv", "country_code_mapping.csv")
_CLASSES = """
airport airport_hangar airport_terminal amusement_park aquaculture archaeological_site barn border_checkpoint
burial_site car_dealership construction_site crop_field dam debris_or_rubble educational_institution electric_substation
factory_or_powerplant fire_station flooded_road fountain gas_station golf_course ground_transportation_station helipad
hospital impoverished_settlement interchange lake_or_pond lighthouse military_facility multi-unit_residential
nuclear_powerplant office_building oil_or_gas_facility park parking_lot_or_garage place_of_worship police_station port
prison race_track railway_bridge recreational_facility road_bridge runway shipyard shopping_mall
single-unit_residential smokestack solar_farm space_facility stadium storage_tank surface_mine swimming_pool toll_booth
tower tunnel_opening waste_disposal water_treatment_facility wind_farm zoo
"""


def _image_files(source: Any) -> Sequence[str]:
    return [f"images/rgb_img_{line}.png" for line in source.full_idxs.tolist()]


class FMoW(WildsImages):
    """Satellite images of 62 kinds of land use, in WILDS' split: training years before 2013, test years from 2016.

    `val` is 2013 to 2015; `id_val` and `id_test` are from before 2013. The domains for algorithms are years, of which
    four are drawn for each step. The score is the accuracy of the worst of five regions; the rest of the world counts
    in none.

    Files are read, split and scored by the wilds package. As in WILDS, images of 224 x 224 pixels are not augmented.

    Reference:
        Christie, Fendley, Wilson and Mukherjee, "Functional Map of the World", CVPR 2018.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source=_SOURCE,
        licence=_LICENCE,
        paper=_PAPER,
        link=_LINK,
        input_shape=(3, 224, 224),
        domains=("official",),
        classes=tuple(_CLASSES.split()),
        counts={"official": 141_696},
        parts={"train": 76_863, "id_val": 11_483, "val": 19_915, "test": 22_108, "id_test": 11_327},
        domains_per_step=4,
        metric="acc_worst_region",
        backbone="densenet121.tv_in1k",
        folder="fmow_v1.1",
        note="steps show as many examples as WILDS' 50 epochs, at 32 of each domain",
        steps=30_001,
        checkpoint_freq=1_000,
    )
    wilds_name = "fmow"
    files = _FILES
    grouped_by = ("year",)
    scored = ("acc_worst_region", "acc_worst_year", "acc_avg")
    side = _SIDE
    image_files = staticmethod(_image_files)


class WILDSFMoW(WildsPooled):
    """Satellite images of 62 kinds of land use, pooled by region for leave-one-domain-out: six domains.

    The images of `FMoW` as DomainBed uses them: WILDS' splits are ignored, and each region in turn is held out with all
    its images. Regions are numbered as they first appear, the rest of the world among them. Images that WILDS uses in
    none of its splits are used too, so that numbers can't be compared with those on `FMoW`. There are so many of them
    that the cache holds JPEGs, while that of `FMoW` holds bytes.

    Reference:
        Christie, Fendley, Wilson and Mukherjee, "Functional Map of the World", CVPR 2018.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source=_SOURCE,
        licence=_LICENCE,
        paper=_PAPER,
        link=_LINK,
        input_shape=(3, 224, 224),
        domains=("region_0", "region_1", "region_2", "region_3", "region_4", "region_5"),
        classes=tuple(_CLASSES.split()),
        folder="fmow_v1.1",
        checkpoint_freq=100,
    )
    wilds_name = "fmow"
    files = _FILES
    field = "region"
    side = _SIDE
    image_files = staticmethod(_image_files)
