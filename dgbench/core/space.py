"""Define hyperparameter spaces: each field of an `Hparams` class carries its default and the distribution of its draws.

A draw is bit for bit DomainBed's. Hyperparameter seed 0 takes the defaults. Any other seed draws each *name* from a
stream of its own, seeded by trial, seed and name, so that adding a hyperparameter never changes the draws of others.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, TypeAlias, cast, get_type_hints

import numpy as np

from dgbench.core.errors import Problems, UserError
from dgbench.core.limits import NUMBER, Limit, find_problem, interval, one_of
from dgbench.core.seeding import hparams_stream, seed_hash
from dgbench.core.wording import format_value, unknown_name, with_article

Value: TypeAlias = bool | int | float | str
"""Types of hyperparameter values."""

UNITS: Mapping[str, str] = {
    "step": "steps of the run",
    "share": "share of the run's steps",
    "epoch": "epochs of the smallest training domain",
}
"""Unit of a hyperparameter from which on a method acts -> the unit in words."""

_RANGE = re.compile(rf"(?P<int>int )?(?:(?P<base>{NUMBER})\^)?U\((?P<low>{NUMBER}), ?(?P<high>{NUMBER})\)")


@dataclass(frozen=True)
class Draw:
    """A distribution over the values of one hyperparameter.

    Written and read as text, exact to the last digit: `10^U(-5, -3.5)`, `int 2^U(3, 9)`, `U(0, 0.5)`, `{0.0, 0.1,
    0.5}`. Options that are text are single words.
    """

    low: float = 0.0
    """Lower end of the uniform draw, an exponent if there is a `base`."""
    high: float = 0.0
    """Upper end, which is not drawn."""
    base: float | None = None
    """Base of the power that the uniform draw is the exponent of; None: the draw itself is the value."""
    integer: bool = False
    """Truncate the value to an int."""
    options: tuple[Value, ...] = ()
    """Equally likely values, which replace the range; empty: there is a range."""

    def sample(self, seed: int) -> Value:
        """Return the value that `numpy.random.RandomState(seed)` draws."""
        rng = np.random.RandomState(seed)
        if self.options:
            picked: Value = rng.choice(np.array(self.options)).item()
            return picked
        exponent = rng.uniform(self.low, self.high)
        return self._value(exponent)

    def ends(self) -> tuple[Value, ...]:
        """Return all options, or the values at both ends of the range.

        A drawn value is one of them or lies between them, so checking the ends checks every draw.
        """
        # Powers and truncation are monotonic, so no value of a range lies outside those of its ends.
        return self.options or (self._value(self.low), self._value(self.high))

    def _value(self, exponent: float) -> Value:
        value = float(exponent if self.base is None else self.base**exponent)
        return int(value) if self.integer else value

    def __str__(self) -> str:
        if self.options:
            return "{" + ", ".join(_literal(option) for option in self.options) + "}"
        base = "" if self.base is None else f"{_number(self.base)}^"
        return f"{'int ' if self.integer else ''}{base}U({_number(self.low)}, {_number(self.high)})"

    @staticmethod
    def parse(text: str) -> Draw:
        """Read a draw from its text.

        Raises:
            ValueError: The text has none of the forms; the message lists them.
        """
        text = text.strip()
        if text.startswith("{") and text.endswith("}") and text[1:-1].strip():
            return choice(*(_parse_literal(part.strip()) for part in text[1:-1].split(",")))
        match = _RANGE.fullmatch(text)
        if match is None:
            forms = "10^U(-5, -3.5), int 2^U(3, 9), U(0, 1) or {1, 2, 3}"
            raise ValueError(f"cannot read the draw {text!r}: write {forms}")
        base = match["base"]
        return Draw(float(match["low"]), float(match["high"]), float(base) if base else None, bool(match["int"]))


def uniform(low: float, high: float, *, integer: bool = False) -> Draw:
    """Return the draw U(low, high); truncated to an int with `integer`."""
    return Draw(low, high, None, integer)


def power(base: float, low: float, high: float, *, integer: bool = False) -> Draw:
    """Return the draw base^U(low, high); truncated to an int with `integer`.

    Args:
        base: Base of the power.
        low: Smallest exponent.
        high: Largest exponent.
        integer: Truncate the power to an int.
    """
    return Draw(low, high, base, integer)


def choice(*options: Value) -> Draw:
    """Return the draw of one of the options, all equally likely."""
    return Draw(options=options)


@dataclass(frozen=True)
class HparamSpec:
    """A hyperparameter as planning and `list` see it, read by `space_of` or from the catalogue's index.

    It holds all that a field declares, so the class that declares it, which imports torch, need not be imported.
    """

    name: str
    """Name of the field."""
    type: str
    """Name of its type: `bool`, `int`, `float` or `str`."""
    default: Value
    """Value at hyperparameter seed 0."""
    draw: Draw | None = None
    """Distribution for other seeds; None: they take the default too."""
    help: str = ""
    """One line for users."""
    variants: Mapping[str, tuple[Value, Draw | None]] = field(default_factory=dict)
    """Trait (`small_images`, ...) or data set -> the default and draw that replace the usual ones; the first match
    counts.
    """
    options: tuple[Value, ...] = ()
    """All values that it may have; empty: they can't be listed."""
    within: str = ""
    """Interval that its values must lie in: `[0, 1)`, `(0, inf)`; empty: any number."""
    begins: str = ""
    """Unit of a value from which on the method, or a part of it, acts, a key of `UNITS`; empty: it is no such value."""
    stream: str = ""
    """Name whose stream it is drawn from, if not its own: DomainBed's name where Python reserves that word."""
    streams: Mapping[str, str] = field(default_factory=dict)
    """Trait -> a name to use in place of `stream`: DomainBed's name on another network; the first match counts."""
    optional: bool = False
    """Whether runs have it only where the user gives a value or a draw; elsewhere the default acts unrecorded."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Conditions that its values must meet beyond their type."""
        options = (one_of(self.options),) if self.options else ()
        return (*options, interval(self.within)) if self.within else options

    def for_traits(self, traits: Iterable[str]) -> tuple[Value, Draw | None]:
        """Return the default and the draw for a data set and network with these traits."""
        if not self.variants:
            return self.default, self.draw
        traits = tuple(traits)
        for trait, variant in self.variants.items():
            if trait in traits:
                return variant
        return self.default, self.draw

    def stream_for(self, traits: Iterable[str]) -> str:
        """Return the name whose stream it is drawn from for a data set and network with these traits."""
        if not self.streams:
            return self.stream or self.name
        traits = tuple(traits)
        return next((name for trait, name in self.streams.items() if trait in traits), self.stream or self.name)


Space: TypeAlias = tuple[HparamSpec, ...]
"""Hyperparameters of one entry, in the order of their declaration."""


def hparam(
    default: Any,
    draw: Draw | None = None,
    *,
    help: str = "",
    variants: Mapping[str, tuple[Value, Draw | None]] | None = None,
    options: tuple[Value, ...] = (),
    within: str = "",
    begins: str = "",
    stream: str = "",
    streams: Mapping[str, str] | None = None,
    optional: bool = False,
) -> Any:
    """Declare a field of an `Hparams` dataclass.

    Values that `options` or `within` exclude are refused before anything runs. Conditions between several fields belong
    in the dataclass's `__post_init__`.

    Args:
        default: The value at hyperparameter seed 0.
        draw: The distribution for all other seeds; without it they use the default too.
        help: One line for users.
        variants: Trait or name of a data set -> its default and draw; the first that applies counts.
        options: All values that exist.
        within: The interval of its values: `[0, 1)`, `(0, inf)`.
        begins: Unit of a value from which on the method, or a part of it, acts, a key of `UNITS`: planning warns where
            it comes after the last step of the runs, or little before it.
        stream: DomainBed's name where Python reserves that word (`lambda`), so that the draws are the same.
        streams: Trait -> DomainBed's name for this hyperparameter on networks or data with it; the first that applies
            counts.
        optional: Leave it out of runs unless the user names it, for a field that older runs lack; no draw.

    Returns:
        A dataclass field, typed Any so that the annotation of the field is free.

    Raises:
        UserError: A draw's lower end is above its upper end, or the unit is unknown.
    """
    if begins not in ("", *UNITS):
        raise UserError(unknown_name("unit", begins, UNITS))
    if within:
        interval(within)  # a typing error in an interval then fails when the author's class is imported, not in a sweep
    for declared_draw in (draw, *(drawn for _, drawn in (variants or {}).values())):
        if declared_draw is not None and declared_draw.low > declared_draw.high:
            raise UserError(f"write {declared_draw} the other way")
    declared = {"draw": draw, "help": help, "variants": variants or {}, "options": options, "within": within}
    rest = {"begins": begins, "stream": stream, "streams": streams or {}, "optional": optional}
    return field(default=default, metadata={"hparam": {**declared, **rest}})


class Checked:
    """Base of every `Hparams` dataclass: raises UserError for values outside the limits that its fields declare."""

    def __post_init__(self) -> None:
        problems, cls = Problems(), cast(type, type(self))
        for spec in space_of(cls):
            if wrong := find_problem(getattr(self, spec.name), "any", spec.limits):
                problems.add(f"{spec.name} {wrong}")
        problems.raise_if_any()


@cache
def space_of(hparams: type) -> Space:
    """Return the hyperparameters that an `Hparams` dataclass declares, those of base classes first."""
    types = get_type_hints(hparams)
    return tuple(
        HparamSpec(
            name=f.name, type=types[f.name].__name__, default=cast(Value, f.default), **f.metadata.get("hparam", {})
        )
        for f in dataclasses.fields(hparams)
    )


@lru_cache(maxsize=500_000)
def _draw_value(draw: Draw, hparams_seed: int, trial: int, name: str) -> Value:
    return draw.sample(seed_hash(hparams_stream(hparams_seed, trial), name))


def resolve(
    space: Space,
    *,
    traits: Iterable[str] = (),
    hparams_seed: int = 0,
    trial: int = 0,
    fixed: Mapping[str, Value] | None = None,
    draws: Mapping[str, Draw] | None = None,
) -> dict[str, Value]:
    """Return the value of each hyperparameter for one hyperparameter seed in one trial.

    Args:
        space: The hyperparameters.
        traits: Traits of the data set and of the network, and the data set's name.
        hparams_seed: 0 takes the defaults.
        trial: Every trial draws afresh.
        fixed: Values for every seed (DomainBed's `--hparams`).
        draws: Distributions that replace the declared ones, for seeds other than 0.

    Returns:
        Name -> value, in the order of the space; without optional ones that neither `fixed` nor `draws` names.
    """
    fixed, draws, traits = fixed or {}, draws or {}, tuple(traits)
    values: dict[str, Value] = {}
    for spec in space:
        if spec.optional and spec.name not in fixed and spec.name not in draws:
            continue
        default, draw = spec.for_traits(traits)
        draw = draws.get(spec.name, draw)
        if spec.name in fixed:
            value = fixed[spec.name]
            # 1 and 1.0 are equal but hash to different run ids, so a float's value is always a float.
            values[spec.name] = float(value) if spec.type == "float" else value
        elif hparams_seed == 0 or draw is None:
            values[spec.name] = default
        else:
            values[spec.name] = _draw_value(draw, hparams_seed, trial, spec.stream_for(traits))
    return values


def check_value(spec: HparamSpec, value: object) -> str | None:
    """Return the problem with a value for this hyperparameter (`is a float, not 'fast'`), or None.

    An int is accepted for a float, infinity is not.
    """
    finite = Limit(lambda number: abs(number) <= sys.float_info.max, f"is {with_article(spec.type)}")
    return find_problem(value, spec.type, (finite, *spec.limits) if spec.type in ("float", "number") else spec.limits)


def check_undeclared(value: object) -> str | None:
    """Return the problem with a value of a hyperparameter that has no declaration, or None."""
    if not isinstance(value, bool | int | float | str):
        return f"is a number, a text, true or false, not {format_value(value)}"
    kind = "float" if isinstance(value, float) else "any"
    return check_value(HparamSpec("", kind, value), value)


def check_draw(spec: HparamSpec, draw: Draw) -> str | None:
    """Return the problem with a distribution for this hyperparameter or with a value that it draws, or None."""
    if draw.low > draw.high:
        turned = dataclasses.replace(draw, low=draw.high, high=draw.low)
        low, high = _number(draw.low), _number(draw.high)
        return f"draws from {low} down to {high}, which leaves nothing: write {turned}"
    try:
        ends = draw.ends()
    except (ArithmeticError, TypeError):  # too large, a root of a negative number, a division by 0
        return f"is {with_article(spec.type)}, which {draw} does not give at its ends"
    # The ends of a continuous range are drawn with probability 0, so a draw U(0, 1) is fine for values in (0, 1).
    closed = dataclasses.replace(spec, within=spec.within.replace("(", "[").replace(")", "]"))
    return next(filter(None, (check_value(spec if draw.options else closed, value) for value in ends)), None)


def check_fixed(space: Space, fixed: Mapping[str, object], owner: str, *, more: bool = False) -> None:
    """Raise UserError for unknown names, wrong types and values outside their limits, all at once.

    Args:
        space: The hyperparameters.
        fixed: Name -> value, of any type.
        owner: The entry's name, for messages.
        more: Accept names that are not in the space; only scalars are allowed for them.
    """
    problems = Problems()
    by_name = {spec.name: spec for spec in space}
    for name, value in fixed.items():
        if name not in by_name and not more:
            problems.add(unknown_name(f"hyperparameter of {owner}", name, by_name))
        elif wrong := check_value(by_name[name], value) if name in by_name else check_undeclared(value):
            problems.add(f"{owner}: {name} {wrong}")
    problems.raise_if_any()


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _literal(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse_literal(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(NUMBER, text) else text.strip("'\"")
