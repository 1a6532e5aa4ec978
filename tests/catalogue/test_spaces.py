"""Every default, draw and limit of the catalogue, held to a file.

A run's id hashes its resolved hyperparameters, and a table compares methods at the draws that their authors gave: a
number that changes here unnoticed changes results without a word. Where a change is meant, write the file anew:

    python tests/catalogue/test_spaces.py > tests/catalogue/spaces.json
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import cache
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.space import HparamSpec
from tests.support.places import TESTS

GOLDEN = TESTS / "catalogue" / "spaces.json"


def describe(entry: CatalogueEntry) -> dict[str, Any]:
    """List the numbers of an entry's card and the hyperparameters that are not exactly ERM's, as JSON has them."""
    card = {
        field.name: value
        for field in dataclasses.fields(entry.card)
        if isinstance(value := getattr(entry.card, field.name), bool | int | float)
    }
    shared = () if entry.name == "ERM" else Catalogue().get("algorithm", "ERM").space
    return {"card": card, "hparams": {spec.name: _describe_hparam(spec) for spec in entry.space if spec not in shared}}


def _describe_hparam(spec: HparamSpec) -> dict[str, Any]:
    variants = {trait: [default, str(draw)] for trait, (default, draw) in spec.variants.items()}
    draw = "" if spec.draw is None else str(spec.draw)
    limits = [spec.type, spec.within, *map(str, spec.options)]
    streams = dict(spec.streams) | ({"": spec.stream} if spec.stream else {})
    said = {"default": spec.default, "draw": draw, "limits": limits, "streams": streams, "variants": variants}
    return {name: value for name, value in said.items() if value != "" and value != {}}


@cache
def found() -> dict[str, Any]:
    kinds = ("algorithm", "rule", "average", "merger", "adapter")
    return {f"{kind} {name}": describe(entry) for kind in kinds for name, entry in Catalogue().of_kind(kind).items()}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content


def test_the_file_names_every_method(golden: dict[str, Any]) -> None:
    assert sorted(found()) == sorted(golden)


@pytest.mark.parametrize("name", sorted(found()))
def test_no_number_of_a_method_changes_unnoticed(name: str, golden: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found()[name])) == golden[name]


if __name__ == "__main__":
    lines = (f" {json.dumps(name)}: {json.dumps(values)}" for name, values in sorted(found().items()))
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
