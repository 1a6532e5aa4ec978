from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import orjson
import pytest

from dgbench.core.plain import fields_of, from_plain


@dataclass(frozen=True)
class Leaf:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    top: Leaf
    leaves: tuple[Leaf, ...]
    by_name: Mapping[str, tuple[bool | int | str, Leaf | None]] = field(default_factory=dict)
    pairs: tuple[tuple[int, str], ...] = ()
    lists: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    other: Leaf | None = None
    kind: Literal["oak", "elm"] = "oak"
    free: Any = None
    mixed: tuple[str | Leaf, ...] = ()


TREE = Tree(
    top=Leaf("a", (1, 2)),
    leaves=(Leaf("b"), Leaf("c", (3,))),
    by_name={"d": (1, Leaf("d", (4,))), "e": ("x", None)},
    pairs=((1, "x"), (2, "y")),
    lists={"f": (5, 6)},
    other=Leaf("g"),
    kind="elm",
    free=[1, [2]],
    mixed=("h", Leaf("i", (7,))),
)


@pytest.mark.parametrize("tree", [TREE, Tree(Leaf("a"), ())])
def test_json_gives_an_equal_dataclass(tree: Tree) -> None:
    assert from_plain(Tree, orjson.loads(orjson.dumps(tree))) == tree


def test_a_missing_field_is_its_default() -> None:
    assert from_plain(Tree, {"top": {"name": "a"}, "leaves": []}) == Tree(Leaf("a"), ())


def test_what_is_built_already_stays() -> None:
    built = from_plain(Tree, {"top": TREE.top, "leaves": TREE.leaves, "other": TREE.other})
    assert built.top is TREE.top
    assert built == Tree(TREE.top, TREE.leaves, other=TREE.other)


@pytest.mark.parametrize("data", [{}, {"name": "a", "size": 1}], ids=["missing", "unknown"])
def test_other_fields_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"name|size"):
        from_plain(Leaf, data)
    with pytest.raises(TypeError, match=r"name|size"):
        from_plain(Tree, {"top": data, "leaves": []})


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"top": {"name": 3}}, "top: name: 3 is not str"),
        ({"top": {"name": "a", "sizes": "12"}}, "top: sizes: '12' is not an array"),
        ({"top": {"name": "a", "sizes": [1, True]}}, "top: sizes: True is not int"),
        ({"leaves": {}}, "leaves: {} is not an array"),
        ({"leaves": None}, "leaves: None is not an array"),
        ({"by_name": []}, "by_name: [] is not an object"),
        ({"by_name": {"d": [1]}}, "by_name: d: [1] has 1 values, not 2"),
        ({"by_name": {"d": [1.5, None]}}, "by_name: d: 1.5 is not bool or int or str"),
        ({"pairs": [[1, 2]]}, "pairs: 2 is not str"),
        ({"other": 3}, "other: 3 is not NoneType"),
        ({"other": []}, "other: Leaf is made from an object"),
        ({"kind": "ash"}, "kind: 'ash' is none of 'oak', 'elm'"),
        ({"lists": {"f": [None]}}, "lists: f: None is not int"),
    ],
)
def test_values_of_other_types_are_refused_with_their_place(changes: dict[str, Any], place: str) -> None:
    plain = orjson.loads(orjson.dumps(TREE))
    with pytest.raises(TypeError, match=f"^{re.escape(place)}"):
        from_plain(Tree, {**plain, **changes})


@dataclass(frozen=True)
class Share:
    size: float


def test_an_int_is_a_fine_float_and_a_bool_is_not() -> None:
    assert from_plain(Share, {"size": 1}) == Share(1)
    with pytest.raises(TypeError, match="True is not float"):
        from_plain(Share, {"size": True})


def test_other_than_an_object_is_refused() -> None:
    for data in ([], "a", 3):
        with pytest.raises(TypeError, match=re.escape(f"Leaf is made from an object, not from {data!r}")):
            from_plain(Tree, {"top": data, "leaves": []})


@dataclass(frozen=True)
class Counted(Leaf):
    @cached_property
    def count(self) -> int:
        return len(self.sizes)


def test_fields_are_all_that_is_kept_of_a_dataclass() -> None:
    counted = Counted("a", (1, 2))
    assert counted.count == 2
    assert fields_of(counted) == {"name": "a", "sizes": (1, 2)}
    assert fields_of(TREE)["top"] is TREE.top
