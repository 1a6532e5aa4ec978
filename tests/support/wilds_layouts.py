"""Writes tiny copies of WILDS' data sets as their archives unpack; each writer says what is to be found in its copy."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dgbench.core.data_cards import DatasetCard
from tests.support.layouts import noise


class Row(NamedTuple):
    """An example that WILDS uses, in the order of the file."""

    part: str
    label: Any
    domain: Any
    """What the standard grouper groups by, as the file says it."""


Write = Callable[[Path], list[Row]]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], quoting: int = 0) -> None:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator="\n")  # type: ignore[arg-type]
        writer.writerow(columns)
        writer.writerows(rows)


def released(data_dir: Path, name: str, version: str) -> Path:
    """The folder of a data set, with the file that marks it as whole."""
    folder = data_dir / f"{name}_v{version}"
    folder.mkdir(parents=True)
    (folder / f"RELEASE_v{version}.txt").write_text("")
    return folder


def write_picture(path: Path, seed: int, size: int, bright: bool = False, mode: str = "RGB") -> None:
    """A picture of noise, light if `bright`, so that there is something to learn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = Image.new("RGB", (size, size), "white" if bright else "black")
    Image.blend(noise(seed, (size, size)), shade, 0.5).convert(mode).save(path)


def write_camelyon17(data_dir: Path, patches: int = 10) -> list[Row]:
    """Five hospitals with two slides each and so many patches a slide; one in five is `id_val` where that exists."""
    folder, rows, table = released(data_dir, "camelyon17", "1.0"), list[Row](), list[list[object]]()
    for center in range(5):
        for slide in (10 * center, 10 * center + 3):
            patient, node = f"{slide:03d}", slide % 5
            for n in range(patches):
                x, y, tumor, held = 3000 + 32 * n, 20000 + slide, n % 2, int(n % 5 == 4)
                part = {1: "val", 2: "test"}.get(center, "id_val" if held else "train")
                rows.append(Row(part, tumor, center))
                table.append([len(table), patient, node, x, y, tumor, slide, center, held])
                name = f"patient_{patient}_node_{node}/patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
                write_picture(folder / "patches" / name, 100 * slide + n, 96, bright=bool(tumor))
    columns = ["", "patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split"]
    write_table(folder / "metadata.csv", columns, table)
    return rows


REGIONS = {"USA": "Americas", "FRA": "Europe", "CHN": "Asia", "KEN": "Africa", "AUS": "Oceania", "XXX": "Other"}
CATEGORIES = ("airport", "airport_hangar", "zoo")
FMOW_LABELS = (0, 1, 61)


def write_fmow(data_dir: Path) -> list[Row]:
    """Six regions, years on both sides of 2013 and 2016, each kind of split, sequestered rows in between."""
    folder, rows, table = released(data_dir, "fmow", "1.1"), list[Row](), list[list[object]]()
    countries = [[name, name, region] for name, region in REGIONS.items() if region != "Other"]
    write_table(folder / "country_code_mapping.csv", ["name", "alpha-3", "region"], countries)
    for split in ("train", "seq", "val", "test"):
        for year in (2002, 2008, 2013, 2015, 2016, 2017):
            for country in REGIONS:
                n, kind = len(table), len(table) % 3
                second = "17.643Z" if n % 11 == 5 else "17Z"
                table.append([split, CATEGORIES[kind], country, f"{year}-06-07T02:48:{second}", "?"])
                write_picture(folder / "images" / f"rgb_img_{n}.png", n, 32)
                part = fmow_part(split, year)
                if part:
                    rows.append(Row(part, FMOW_LABELS[kind], year - 2002))
    write_table(folder / "rgb_metadata.csv", ["split", "category", "country_code", "timestamp", "region"], table)
    return rows


def fmow_part(split: str, year: int) -> str:
    """Where WILDS puts an image; nowhere if it is too late to train on, or between the two."""
    if year < 2013:
        return {"train": "train", "val": "id_val", "test": "id_test"}.get(split, "")
    return {("val", False): "val", ("test", True): "test"}.get((split, year >= 2016), "")


def write_iwildcam(data_dir: Path, species: int = 4) -> list[Row]:
    """Six cameras; some pictures are grey, and all lie in `train`."""
    folder, rows, table = released(data_dir, "iwildcam", "2.0"), list[Row](), list[list[object]]()
    for part, camera in (("train", 0), ("train", 1), ("id_val", 0), ("id_test", 1), ("val", 2), ("test", 3)):
        for k in range(2 * species):
            n, y = len(table), k % species
            rows.append(Row(part, y, camera))
            name = f"{n:08x}.jpg"
            time = f"2013-01-{1 + k:02d} 08:44:19.000"
            table.append([n, part, camera, 17 + camera, n // 3, f"seq{n // 3}", y, 5 * y, time, name, name[:-4]])
            write_picture(folder / "train" / name, n, 48, mode="L" if n % 7 == 3 else "RGB")
    columns = ["", "split", "location_remapped", "location", "sequence_remapped", "seq_id", "y", "category_id"]
    write_table(folder / "metadata.csv", [*columns, "datetime", "filename", "image_id"], table)
    write_table(folder / "categories.csv", ["y", "category_id", "name"], [[y, 5 * y, "?"] for y in range(species)])
    return rows


EXPERIMENTS = {"HEPG2-01": "train", "HUVEC-01": "train", "HEPG2-08": "val", "HUVEC-17": "test"}


def write_rxrx1(data_dir: Path, treatments: int = 3) -> list[Row]:
    """Four experiments; the second site of those that train is `id_test`."""
    folder, rows, table = released(data_dir, "rxrx1", "1.0"), list[Row](), list[list[object]]()
    for number, (experiment, part) in enumerate(EXPERIMENTS.items()):
        for treatment in range(treatments):
            for site in (1, 2):
                well, cell = f"B{2 + treatment:02d}", experiment.partition("-")[0]
                rows.append(Row("id_test" if (part, site) == ("train", 2) else part, treatment, number))
                what = [f"{experiment}_{well}_{site}", f"{experiment}_{well}", cell, part, experiment, 1, well, site]
                table.append([*what, "treatment", f"s{treatment}", treatment])
                path = folder / "images" / experiment / "Plate1" / f"{well}_s{site}.png"
                write_picture(path, len(table), 256)
    columns = ["site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type"]
    write_table(folder / "metadata.csv", [*columns, "sirna", "sirna_id"], table)
    return rows


_COUNTRIES = (
    "angola benin burkina_faso cameroon cote_d_ivoire democratic_republic_of_congo ethiopia ghana guinea kenya lesotho "
    "malawi mali mozambique nigeria rwanda senegal sierra_leone tanzania togo uganda zambia zimbabwe"
)
COUNTRIES = tuple(_COUNTRIES.split())
POVERTY_VAL = ("benin", "burkina_faso", "guinea", "sierra_leone", "tanzania")
"""Countries of `val` in fold A, and of `test` in fold B."""
POVERTY_TEST = ("angola", "cote_d_ivoire", "ethiopia", "mali", "rwanda")
"""Countries of `test` in fold A."""


def write_poverty(data_dir: Path, villages: int = 170, images: int = 4) -> list[Row]:
    """So many villages a country: wilds takes 2,000 away from training whatever there is. Their images are links.

    Which part a village outside `val` and `test` belongs to is drawn by wilds: those rows have no part here.
    """
    folder, rows, table = released(data_dir, "poverty", "1.1"), list[Row](), list[list[object]]()
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for n in range(images):
        pixels = np.kron(rng.standard_normal((8, 7, 7)), np.ones((32, 32))).astype(np.float32)
        np.savez_compressed(folder / f"base{n}.npz", x=pixels)
    for k in range(villages):
        for number, country in enumerate(COUNTRIES):
            n, wealth = len(table), round(float(rng.normal()), 4)
            part = "val" if country in POVERTY_VAL else "test" if country in POVERTY_TEST else ""
            rows.append(Row(part, np.float32(wealth), number))
            table.append([-20, 10, wealth, country, 2009 + k % 8, bool((k + number) % 2), 0.5, 0.5, 25])
            os.link(folder / f"base{n % images}.npz", folder / "images" / f"landsat_poverty_img_{n}.npz")
    columns = ["lat", "lon", "wealthpooled", "country", "year", "urban", "nl_mean", "nl_center", "households"]
    write_table(folder / "dhs_metadata.csv", columns, table)
    return rows


IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")
_AUXILIARY = ("identity_any", "severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit")


def write_civilcomments(data_dir: Path, each: int = 8) -> list[Row]:
    """Every group by identity and toxicity in every part; texts with quotes and line breaks, one of them `NA`."""
    folder, rows, table = released(data_dir, "civilcomments", "1.0"), list[Row](), list[list[object]]()
    for part, times in (("train", 3 * each), ("val", each), ("test", each)):
        for k in range(2 * times):
            toxic, who = k % 2, (k // 2) % len(IDENTITIES)
            mentioned = [float(who == i or k % 5 == 0) for i in range(len(IDENTITIES))]
            black = int(mentioned[IDENTITIES.index("black")])
            text = f'"{len(table)}", they said,\nand {"awful awful" if toxic else "kind kind"}'
            rows.append(Row(part, toxic, black + 2 * toxic))
            table.append([len(table), text, part, 0.9 * toxic, *mentioned, *[0.1] * len(_AUXILIARY)])
    columns = ["", "comment_text", "split", "toxicity", *IDENTITIES, *_AUXILIARY]
    write_table(folder / "all_data_with_identities.csv", columns, table)
    return rows


def write_amazon(data_dir: Path) -> list[Row]:
    """Eight reviews a reviewer; reviewers come mixed in the file, and one review in eight is not used."""
    folder, rows, table, split = released(data_dir, "amazon", "2.1"), list[Row](), list[list[object]](), list[int]()
    users = [("id", 6), ("val", 2), ("test", 3)]
    reviewers = [(kind, f"{kind}{n}") for kind, many in users for n in range(many)]
    seen = dict[str, int]()
    for k in range(8):
        for kind, user in reviewers[::-1]:
            stars, n = 1 + len(table) % 5, len(table)
            part = (["train"] * 4 + ["id_val"] * 2 + ["id_test", ""])[k] if kind == "id" else kind
            split.append({"train": 0, "val": 1, "id_val": 2, "test": 3, "id_test": 4, "": -1}[part])
            if part:
                rows.append(Row(part, stars - 1, seen.setdefault(user, len(seen))))
            time = ("01 1, 2010", 1_100_000_000)
            text = f'number {n}, "{"good " * stars}"'
            table.append([user, f"B{n % 5}", float(stars), *time, text, "NA", k % 2 == 0, "Books", 2005 + n % 9])
    columns = ["reviewerID", "asin", "overall", "reviewTime", "unixReviewTime", "reviewText", "summary", "verified"]
    write_table(folder / "reviews.csv", [*columns, "category", "reviewYear"], table, csv.QUOTE_NONNUMERIC)
    write_table(folder / "splits" / "user.csv", ["split"], [[code] for code in split])
    return rows


def write_py150(data_dir: Path, files: int = 3, length: int = 256, vocabulary: int = 50_000) -> list[Row]:
    """Files that count, each from a token of its own; nothing is asked in the last twelfth of them."""
    folder, rows, rng = released(data_dir, "py150", "1.0"), list[Row](), np.random.default_rng(0)
    names = folder / "metadata" / "repo_file_names"
    write_table(names / "repo_ids.csv", ["id", "repo_name"], [[n, f"user/repo{n}"] for n in range(5)])
    (folder / "processed").mkdir()
    kinds = {"train": "train", "IDval": "id_val", "OODval": "val", "IDtest": "id_test", "OODtest": "test"}
    for number, (kind, part) in enumerate(kinds.items()):
        repos = [number if kind.startswith("OOD") else n % 2 for n in range(files)]
        starts, types = rng.integers(vocabulary - 2, size=(files, 1)), rng.integers(0, 7, (files, length))
        tokens = 2 + (starts + np.arange(length)) % (vocabulary - 2)
        types[:, -(length // 12) :] = -100
        for row, type_row, repo in zip(tokens, types, repos, strict=True):
            rows.append(Row(part, np.where(type_row == -100, -100, row)[1:], repo))
        (folder / "processed" / f"{kind}_input.json").write_text(json.dumps(tokens.tolist()))
        (folder / "processed" / f"{kind}_input_tok_type.json").write_text(json.dumps(types.tolist()))
        (names / f"{kind}.txt").write_text("".join(f"user/repo{repo}/file{n}.py\n" for n, repo in enumerate(repos)))
    return rows


def write_ogb(data_dir: Path, molecules: int = 40) -> list[Row]:
    """Chains of four to eight atoms; assays ask which are long, or which short; two labels in five are missing."""
    folder, rng = data_dir / "ogbg_molpcba", np.random.default_rng(0)
    (folder / "raw").mkdir(parents=True)
    (folder / "split" / "scaffold").mkdir(parents=True)
    (folder / "RELEASE_v1.txt").write_text("")
    atoms = rng.integers(4, 9, molecules)
    labels = ((atoms[:, None] > 5) ^ (np.arange(128) % 2 > 0)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.4] = np.nan
    columns: Mapping[str, list[str]] = {
        "num-node-list": list(map(str, atoms)),
        "num-edge-list": list(map(str, atoms - 1)),
        "node-feat": [f"{n % 20},0,{n % 4},5,{n % 3},0,{n % 2},0,1" for n in range(atoms.sum())],
        "edge-feat": [f"{n % 4},0,{n % 2}" for n in range((atoms - 1).sum())],
        "edge": [f"{a},{a + 1}" for many in atoms for a in range(many - 1)],
        "graph-label": [",".join("" if np.isnan(y) else str(y) for y in row) for row in labels],
    }
    for name, lines in columns.items():
        (folder / "raw" / f"{name}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    np.save(folder / "raw" / "scaffold_group.npy", np.arange(molecules) // 3)
    bounds = {"train": (0, molecules // 2), "valid": (molecules // 2, 3 * molecules // 4)}
    for name, (start, end) in {**bounds, "test": (3 * molecules // 4, molecules)}.items():
        lines = "".join(f"{n}\n" for n in range(start, end))
        (folder / "split" / "scaffold" / f"{name}.csv.gz").write_bytes(gzip.compress(lines.encode()))
    parts = ["train"] * (molecules // 2) + ["val"] * (molecules // 4)
    parts += ["test"] * (molecules - len(parts))
    return [Row(part, labels[n], n // 3) for n, part in enumerate(parts)]


WRITERS: Mapping[str, Write] = {
    "Camelyon17": write_camelyon17,
    "FMoW": write_fmow,
    "iWildCam": write_iwildcam,
    "RxRx1": write_rxrx1,
    "PovertyMap": write_poverty,
    "CivilComments": write_civilcomments,
    "Amazon": write_amazon,
    "Py150": write_py150,
    "OGBMolPCBA": write_ogb,
}
"""By the name that a data set has here."""


def fitted(card: DatasetCard, rows: Sequence[Row]) -> DatasetCard:
    """The card of a data set with the numbers of a tiny copy of it."""
    parts = dict.fromkeys(card.parts, 0)
    for row in rows:
        if row.part:
            parts[row.part] += 1
    drawn = sum(not row.part for row in rows)  # by wilds: 1,000 each for `id_val` and `id_test`, the others train
    if drawn:
        parts |= {"train": drawn - 2000, "id_val": 1000, "id_test": 1000}
    counts = dict.fromkeys(card.domains, len(rows))
    classes = card.classes
    if card.task == "classification":
        classes = classes[: 1 + max(int(row.label) for row in rows)]
    return dataclasses.replace(card, parts=parts, counts=counts, classes=classes)
