from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.errors import UserError
from dgbench.core.space import (
    Checked,
    Draw,
    HparamSpec,
    Value,
    check_draw,
    check_fixed,
    check_undeclared,
    check_value,
    choice,
    hparam,
    power,
    resolve,
    space_of,
    uniform,
)

RNG = np.random.RandomState
SHARED: dict[bool, dict[str, tuple[Value, Callable[[RNG], Value]]]] = {
    False: {
        "lr": (5e-5, lambda r: 10 ** r.uniform(-5, -3.5)),
        "weight_decay": (0.0, lambda r: 10 ** r.uniform(-6, -2)),
        "batch_size": (32, lambda r: int(2 ** r.uniform(3, 5.5))),
        "resnet_dropout": (0.0, lambda r: float(r.choice([0.0, 0.1, 0.5]))),
    },
    True: {
        "lr": (1e-3, lambda r: 10 ** r.uniform(-4.5, -2.5)),
        "weight_decay": (0.0, lambda r: 0.0),
        "batch_size": (64, lambda r: int(2 ** r.uniform(3, 9))),
        "resnet_dropout": (0.0, lambda r: float(r.choice([0.0, 0.1, 0.5]))),
    },
}
"""The table of DomainBed's hyperparameters, written again: small images or not -> name -> default, draw."""
OWN: dict[str, dict[str, tuple[Value, Callable[[RNG], Value]]]] = {
    "ERM": {},
    "VREx": {
        "vrex_lambda": (10.0, lambda r: 10 ** r.uniform(-1, 5)),
        "vrex_penalty_anneal_iters": (500, lambda r: int(10 ** r.uniform(0, 4))),
    },
    "Fish": {"meta_lr": (0.5, lambda r: float(r.choice([0.05, 0.1, 0.5])))},
}


def domainbed_hash(*args: object) -> int:
    return int(hashlib.md5(str(args).encode("utf-8")).hexdigest(), 16) % (2**31)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_values_are_domainbeds_bit_for_bit(name: str, small: bool, catalogue: Catalogue) -> None:
    space, table = catalogue.get("algorithm", name).space, SHARED[small] | OWN[name]
    traits = ("small_images",) if small else ()
    for hparams_seed in range(20):
        for trial in range(3):
            found = resolve(space, traits=traits, hparams_seed=hparams_seed, trial=trial)
            stream = domainbed_hash(hparams_seed, trial)
            for field, (default, draw) in table.items():
                value = draw(RNG(domainbed_hash(stream, field))) if hparams_seed else default
                assert (found[field], type(found[field])) == (value, type(value)), (field, hparams_seed, trial)


def test_the_published_draw(catalogue: Catalogue) -> None:
    found = resolve(catalogue.get("algorithm", "ERM").space, hparams_seed=1, trial=0)
    assert found == {
        "lr": 2.7028930742148706e-05,
        "weight_decay": 4.4832883881609976e-04,
        "batch_size": 39,
        "resnet_dropout": 0.5,
    }


FINITE = st.floats(-1e3, 1e3, allow_nan=False)
WORDS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda word: word not in ("true", "false"))
DRAWS = st.one_of(
    st.builds(uniform, FINITE, FINITE, integer=st.booleans()),
    st.builds(power, st.floats(0.1, 100), FINITE, FINITE, integer=st.booleans()),
    *(
        st.lists(options, min_size=1, max_size=5).map(lambda values: choice(*values))
        for options in (st.integers(-(10**9), 10**9), FINITE, st.booleans(), WORDS)
    ),
)


@given(DRAWS)
def test_a_draw_is_what_its_text_says(draw: Draw) -> None:
    again = Draw.parse(str(draw))
    assert again == draw
    assert [type(option) for option in again.options] == [type(option) for option in draw.options]


@pytest.mark.parametrize(
    ("text", "draw"),
    [
        ("10^U(-5, -3.5)", power(10, -5, -3.5)),
        ("int 2^U(3,9)", power(2, 3, 9, integer=True)),
        (" U(0, .5) ", uniform(0, 0.5)),
        ("{0.0, 0.1, 0.5}", choice(0.0, 0.1, 0.5)),
        ("{true, false}", choice(True, False)),
        ("{'a', \"b\", c}", choice("a", "b", "c")),
        ("{}", None),
        ("U(1)", None),
        ("10^U(1, x)", None),
        ("uniform(0, 1)", None),
        ("", None),
    ],
)
def test_forms_of_a_draw(text: str, draw: Draw | None) -> None:
    if draw is not None:
        assert Draw.parse(text) == draw
        return
    with pytest.raises(ValueError, match=r"cannot read the draw .* write 10\^U\(-5, -3.5\)"):
        Draw.parse(text)


@given(st.integers(0, 2**31 - 1), FINITE, st.floats(0, 100))
def test_a_sample_lies_in_its_range(seed: int, low: float, width: float) -> None:
    value = uniform(low, low + width).sample(seed)
    assert low <= value <= low + width  # type: ignore[operator]
    whole = uniform(low, low + width, integer=True).sample(seed)
    assert type(whole) is int
    assert whole == int(value)
    assert choice("a", "b").sample(seed) in ("a", "b")


@dataclass(frozen=True)
class Base:
    lr: float = hparam(1.0, power(10, 0, 1), variants={"small": (2.0, None), "odd": (3.0, uniform(3, 4))})
    size: int = hparam(4, help="how many")


@dataclass(frozen=True)
class Extended(Base):
    form: str = hparam("a", choice("a", "b"))
    on: bool = hparam(True)


SPACE = space_of(Extended)


def test_a_space_lists_the_fields_of_its_class_with_types_and_defaults() -> None:
    assert [(spec.name, spec.type, spec.default) for spec in SPACE] == [
        ("lr", "float", 1.0),
        ("size", "int", 4),
        ("form", "str", "a"),
        ("on", "bool", True),
    ]
    assert SPACE[1] == HparamSpec("size", "int", 4, None, "how many", {})
    assert dataclasses.asdict(Extended()) == resolve(SPACE)


def test_seed_0_is_the_default_and_no_draw_means_the_default() -> None:
    assert resolve(SPACE, hparams_seed=0, trial=5) == {"lr": 1.0, "size": 4, "form": "a", "on": True}
    assert {resolve(SPACE, hparams_seed=seed)["size"] for seed in range(5)} == {4}


def test_a_trait_changes_default_and_draw() -> None:
    assert resolve(SPACE, traits=("none", "small"))["lr"] == 2.0
    assert {resolve(SPACE, traits=("small",), hparams_seed=seed)["lr"] for seed in range(5)} == {2.0}
    assert 3 <= resolve(SPACE, traits=("odd",), hparams_seed=1)["lr"] <= 4  # type: ignore[operator]
    assert resolve(SPACE, traits=("odd", "small"))["lr"] == 2.0, "the first variant declared that fits"


def test_a_name_is_drawn_alike_whatever_other_names_there_are() -> None:
    whole, alone = (resolve(space, hparams_seed=3, trial=1)["lr"] for space in (SPACE, SPACE[:1]))
    assert whole == alone
    assert whole != resolve(SPACE, hparams_seed=3, trial=2)["lr"]


def test_fixed_values_hold_for_every_seed_and_draws_for_all_but_0() -> None:
    for seed in range(3):
        found = resolve(SPACE, hparams_seed=seed, fixed={"size": 7}, draws={"lr": choice(8.0)})
        assert found["size"] == 7
        assert found["lr"] == (8.0 if seed else 1.0)
    assert resolve(SPACE, fixed={"lr": 9.0}, draws={"lr": choice(8.0)}, hparams_seed=1)["lr"] == 9.0


def test_a_whole_number_given_for_a_float_is_one() -> None:
    assert type(resolve(SPACE, fixed={"lr": 1})["lr"]) is float, "1 and 1.0 must give one run"


@pytest.mark.parametrize(
    ("name", "value", "fine"),
    [
        ("lr", 1, True),
        ("lr", True, False),
        ("lr", "1", False),
        ("lr", float("nan"), False),
        ("lr", float("inf"), False),
        ("size", 1, True),
        ("size", 1.0, False),
        ("size", True, False),
        ("form", "anything", True),
        ("form", 1, False),
        ("on", False, True),
        ("on", 1, False),
        ("on", None, False),
    ],
)
def test_types_of_values(name: str, value: object, fine: bool) -> None:
    spec = next(spec for spec in SPACE if spec.name == name)
    wrong = check_value(spec, value)
    assert wrong is None if fine else wrong == f"is {'an' if spec.type == 'int' else 'a'} {spec.type}, not {value!r}"


def test_a_number_that_json_cannot_hold_is_refused() -> None:
    by_name = {spec.name: spec for spec in SPACE}
    assert check_value(by_name["size"], 2**63 - 1) is None
    for name, value in (("size", 2**63), ("lr", -(2**63)), ("lr", 10**400)):
        assert str(check_value(by_name[name], value)).startswith("must fit in 64 bits, not ")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        check_fixed(SPACE, {"lr": "x", "sise": 1, "on": True, "size": 0.5}, "Toy")
    assert caught.value.problems == (
        "Toy: lr is a float, not 'x'",
        "unknown hyperparameter of Toy 'sise': did you mean 'size'?",
        "Toy: size is an int, not 0.5",
    )


@dataclass(frozen=True)
class Ranged(Checked):
    share: float = hparam(0.5, uniform(0, 1), within="[0, 1)")
    rho: float = hparam(0.1, within="[0, inf)")
    width: int = hparam(4, power(2, 0, 3, integer=True), within="[1, inf)")
    heat: float = hparam(1.0, within="(0, inf)")
    form: str = hparam("a", choice("a", "b"), options=("a", "b"))


RANGED = {spec.name: spec for spec in space_of(Ranged)}


def test_all_values_outside_of_what_the_fields_say_are_refused_at_once() -> None:
    Ranged(share=0, rho=0.0, width=1, heat=1e-9, form="b")
    with pytest.raises(UserError) as caught:
        Ranged(share=1, rho=-1e-9, width=0, heat=0.0, form="c")
    assert caught.value.problems == (
        "share must lie in [0, 1), not 1",
        "rho must be at least 0, not -1e-09",
        "width must be at least 1, not 0",
        "heat must be above 0, not 0.0",
        "form is one of a, b, not 'c'",
    )
    with pytest.raises(UserError) as told:
        check_fixed(space_of(Ranged), {"share": -0.1, "width": 0.5}, "Toy")
    assert told.value.problems == ("Toy: share must lie in [0, 1), not -0.1", "Toy: width is an int, not 0.5")


@pytest.mark.parametrize(
    ("name", "draw", "wrong"),
    [
        ("share", "U(0, 1)", None),
        ("share", "{0.0, 1.0}", "must lie in [0, 1), not 1.0"),
        ("share", "U(0, 1.1)", "must lie in [0, 1), not 1.1"),
        ("share", "U(-0.1, 1)", "must lie in [0, 1), not -0.1"),
        ("heat", "U(0, 1)", None),
        ("rho", "U(-1, 0)", "must be at least 0, not -1.0"),
        ("rho", "U(1, 0)", "draws from 1 down to 0, which leaves nothing: write U(0, 1)"),
        ("rho", "10^U(-3.5, -5)", "draws from -3.5 down to -5, which leaves nothing: write 10^U(-5, -3.5)"),
        ("rho", "U(0.5, 0.5)", None),
        ("rho", "10^U(0, 1000)", "is a float, which 10^U(0, 1000) does not give at its ends"),
        ("width", "int U(1, 1e999)", "is an int, which int U(1, inf) does not give at its ends"),
        ("width", "int 2^U(0, 9)", None),
        ("width", "int 2^U(-1, 9)", "must be at least 1, not 0"),
        ("width", "U(1, 2)", "is an int, not 1.0"),
        ("form", "{a, c}", "is one of a, b, not 'c'"),
    ],
)
def test_a_draw_of_values_that_are_not_to_be_had_is_refused(name: str, draw: str, wrong: str | None) -> None:
    found = check_draw(RANGED[name], Draw.parse(draw))
    assert (found and found.replace("[0, 1]", "[0, 1)")) == wrong


METHODS = [entry for entry in Catalogue().entries.values() if entry.kind != "dataset"]
TRAITS: list[tuple[str, ...]] = [(), ("small_images",), ("few_examples",), ("many_classes",), ("DomainNet",)]


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), trial=st.integers(0, 99), traits=st.sampled_from(TRAITS))
def test_what_a_method_draws_passes_its_own_checks(
    entry: CatalogueEntry, seed: int, trial: int, traits: tuple[str, ...]
) -> None:
    entry.load().Hparams(**resolve(entry.space, traits=traits, hparams_seed=seed, trial=trial))


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_no_declared_draw_can_leave_the_declared_interval(entry: CatalogueEntry) -> None:
    for spec in entry.space:
        for default, draw in ((spec.default, spec.draw), *spec.variants.values()):
            assert check_value(spec, default) is None
            assert draw is None or check_draw(spec, draw) is None, (spec.name, str(draw))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (3, None),
        (0.5, None),
        ("fast", None),
        (True, None),
        ([1], "is a number, a text, true or false, not [1]"),
        (None, "is a number, a text, true or false, not None"),
        (float("inf"), "is a float"),
        (float("nan"), "is a float"),
    ],
)
def test_values_of_which_nothing_is_declared(value: object, problem: str | None) -> None:
    found = check_undeclared(value)
    assert found is None if problem is None else found is not None and found.startswith(problem)


def test_an_interval_that_cannot_be_read_is_refused_where_it_is_declared() -> None:
    with pytest.raises(Exception, match="0 to 1"):
        hparam(0.5, within="0 to 1")


def test_without_a_seed_the_defaults_are_resolved() -> None:
    space = (HparamSpec("rho", "float", 0.05, choice(0.1, 0.2)),)
    assert resolve(space, trial=3) == {"rho": 0.05}
    assert resolve(space, hparams_seed=1) == resolve(space, hparams_seed=1, trial=0)


def test_a_draw_declared_without_its_other_parts() -> None:
    assert Draw() == Draw(0.0, 0.0, None, False, ())
