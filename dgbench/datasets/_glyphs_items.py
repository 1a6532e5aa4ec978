"""Select the pictographs of `Glyphs` by Unicode's subgroups and names, the same in every style, and group those alike.

Names are those of OpenMoji's list, most of which are Unicode's. The rules in this module and that list decide the
items, so that neither images nor a list of them need to be shipped with the package.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

MOST = 70
"""Largest number of items of a class."""

_SUBGROUPS = {
    "mammal": "animal-mammal",
    "critter": "animal-bird animal-bug animal-marine animal-reptile animal-amphibian",
    "plant": "plant-flower plant-other food-fruit food-vegetable",
    "food": "food-prepared food-asian food-sweet drink",
    "vehicle": "transport-ground transport-air transport-water",
    "building": "place-building place-religious place-other",
    "clothing": "clothing",
    "tool": "tool household office writing musical-instrument",
    "face": "face-smiling face-affection face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell face-hat "
    "face-glasses face-concerned face-negative",
    "person": "person person-role person-sport person-activity person-gesture person-fantasy",
}
"""Class -> Unicode's subgroups that it is made of."""
CLASSES = tuple(_SUBGROUPS)

_NOT_OF_THEIR_CLASS: Mapping[str, str] = {
    "mammal": "monkey face, unicorn, pig nose, paw prints",
    "critter": "feather, wing, spider web, microbe, spiral shell, coral, dragon face, dragon, sauropod, T-Rex",
    "plant": "rosette, leaf fluttering in wind, empty nest, nest with eggs",
    "food": "salt, ice",
    "vehicle": "station, skateboard, roller skate, bus stop, motorway, railway track, oil drum, fuel pump, wheel, "
    "police car light, horizontal traffic light, vertical traffic light, stop sign, construction, parachute, seat, "
    "satellite, anchor, ring buoy",
    "building": "brick, rock, wood, wedding, kaaba, fountain, foggy, night with stars, sunrise over mountains, "
    "sunrise, sunset, cityscape at dusk, bridge at night, hot springs, carousel horse, playground slide, ferris wheel, "
    "roller coaster, barber pole",
    "clothing": "folding hand fan, shopping bags, hair pick, prayer beads, lipstick, ring, gem stone",
    "tool": "white cane, link, bubbles, shopping cart, chart increasing, chart decreasing, bar chart",
    "face": "skull, skull and crossbones",
}
"""Class -> names that Unicode files under it but that are no instance of it: a bus stop is no vehicle."""

_NOT_IN_EVERY_STYLE: Mapping[str, str] = {
    "critter": "phoenix, orca",
    "plant": "leafless tree, lime, brown mushroom, root vegetable",
    "tool": "broken chain, shovel, trombone, harp",
    "face": "head shaking horizontally, head shaking vertically, face with bags under eyes, distorted face",
    "person": "ballet dancer, hairy creature",
}
"""Class -> names that at least one style doesn't draw."""
_LEFT_OUT = {
    (of_class, name)
    for table in (_NOT_OF_THEIR_CLASS, _NOT_IN_EVERY_STYLE)
    for of_class, names in table.items()
    for name in names.split(", ")
}

_ALIKE: Mapping[str, Mapping[str, str]] = {
    "mammal": {
        "dog": "dog face, guide dog, service dog",
        "cat": "cat face, black cat",
        "tiger": "tiger face",
        "horse": "horse face",
        "cow": "cow face",
        "pig": "pig face",
        "mouse": "mouse face",
        "rabbit": "rabbit face",
        "camel": "two-hump camel",
    },
    "critter": {"bird": "black bird", "baby chick": "front-facing baby chick", "whale": "spouting whale"},
    "plant": {"apple": "red apple, green apple"},
    "food": {"beer mug": "clinking beer mugs"},
    "vehicle": {
        "bus": "oncoming bus",
        "police car": "oncoming police car",
        "taxi": "oncoming taxi",
        "automobile": "oncoming automobile",
        "airplane": "small airplane, airplane departure, airplane arrival",
        "wheelchair": "manual wheelchair, motorized wheelchair",
        "tram": "tram car",
    },
    "building": {
        "post office": "Japanese post office",
        "hotel": "love hotel",
        "house": "derelict house, house with garden",
    },
    "clothing": {"glasses": "sunglasses"},
    "tool": {
        "file folder": "open file folder",
        "calendar": "tear-off calendar, spiral calendar",
        "pushpin": "round pushpin",
        "paperclip": "linked paperclips",
        "drum": "long drum",
    },
    "person": {
        "child": "boy, girl",
        "older person": "old man, old woman",
        "with crown": "prince, princess",
        "pregnant": "pregnant woman, pregnant man, pregnant person",
        "feeding baby": "breast-feeding",
        "in wheelchair": "in manual wheelchair, in motorized wheelchair",
        "Claus": "Santa Claus, Mrs. Claus, Mx Claus",
    },
}
"""Class -> identity -> other names under which much the same is drawn."""

_IDENTITIES = {
    (of_class, name): identity
    for of_class, identities in _ALIKE.items()
    for identity, names in identities.items()
    for name in names.split(", ")
}
_WHO = re.compile(r"^(man|woman|person|people)\b:? ?")
_GENDERED = re.compile(r"\b(man|woman|boy|girl|prince|princess|Santa|Mrs\.|breast-feeding)( |:|$)")
_GENDER_SIGNS = {"2640", "2642"}


class Item(NamedTuple):
    """One pictograph, which every style draws."""

    code: str
    """Its code points in hexadecimal, joined by hyphens, without FE0F (which asks for color, and which some packages
    omit)."""
    of_class: str
    """Its class, one of `CLASSES`."""
    identity: str
    """The thing shown: items of one identity are so alike that a model which knows one knows the others."""
    name: str
    """Its name in OpenMoji's list."""


def items_of(openmoji: Iterable[Mapping[str, Any]]) -> tuple[Item, ...]:
    """Return the items, class after class, each class in Unicode's order.

    Args:
        openmoji: The entries of OpenMoji's `openmoji.json`.
    """
    of_subgroup = {subgroup: name for name, subgroups in _SUBGROUPS.items() for subgroup in subgroups.split()}
    found: dict[str, list[Item]] = {of_class: [] for of_class in CLASSES}
    for entry in sorted(openmoji, key=lambda entry: int(entry["order"] or 0)):
        of_class, name = of_subgroup.get(entry["subgroups"], ""), entry["annotation"]
        code = without_fe0f(entry["hexcode"])
        if (
            of_class
            and not entry["skintone"]
            and not entry["group"].startswith("extras")
            and (of_class, name) not in _LEFT_OUT
            # Man and woman variants of an activity are codes with a gender sign and look much like the person's; those
            # that face right are mirrored. Of what remains, `_one_of_each` keeps one variant an identity.
            and not (of_class == "person" and (_GENDER_SIGNS & set(code.split("-")) or "facing right" in name))
        ):
            found[of_class].append(Item(code, of_class, _identity(of_class, name), name))
    found["person"] = _one_of_each(found["person"])
    return tuple(item for items in found.values() for item in _at_most(items))


def without_fe0f(code: str) -> str:
    """Return the code points in capitals, without the variation selector FE0F."""
    return "-".join(point for point in code.upper().split("-") if point != "FE0F")


def group_numbers(items: Sequence[Item]) -> list[int]:
    """Return the number of each item's identity, counted from 0 in the order of the items."""
    numbers: dict[tuple[str, str], int] = {}
    return [numbers.setdefault((item.of_class, item.identity), len(numbers)) for item in items]


def _identity(of_class: str, name: str) -> str:
    """Return the name under which all items that look like this one are grouped."""
    if of_class == "person":
        name = _IDENTITIES.get((of_class, name), name)
        name = _WHO.sub("", name) or "person"
    return _IDENTITIES.get((of_class, name), name)


def _one_of_each(items: Iterable[Item]) -> list[Item]:
    """Keep one variant of each identity: the first that is neither a man nor a woman, where there is one."""
    variants: dict[str, list[Item]] = {}
    for item in items:
        variants.setdefault(item.identity, []).append(item)
    return [min(of_one, key=lambda item: bool(_GENDERED.search(item.name))) for of_one in variants.values()]


def _at_most(items: Sequence[Item]) -> list[Item]:
    """Keep `MOST` items, chosen by a hash of their identity, in the order they had."""
    # A hash chooses, as Unicode's order would leave out whole kinds of things: it sorts similar ones together.
    chosen = sorted(items, key=lambda item: hashlib.sha1(f"{item.of_class}/{item.identity}".encode()).digest())[:MOST]
    return [item for item in items if item in chosen]
