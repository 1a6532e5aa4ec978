"""Convert the texts of `--set NAME=VALUE` to the types of the settings and hyperparameters that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row
from dgbench.core.errors import Problems
from dgbench.core.row_names import read_value
from dgbench.core.setting import FIELD_NAMES, Setting
from dgbench.core.wording import shorten
from dgbench.plan.layers import is_dataset


def read_changes(words: Iterable[str]) -> dict[str, str]:
    """Split words of the form `NAME=VALUE`.

    Returns:
        Name -> text of its value. A name is that of a setting or hyperparameter, `ENTRY.HYPERPARAMETER`, or either
        behind `DATASET.`.

    Raises:
        UserError: Words have another form, or give one name two values.
    """
    problems, found = Problems(), dict[str, str]()
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name):
            problems.add(f"--set {shorten(word, 100)}: write NAME=VALUE")
        elif found.setdefault(name, text) != text:
            problems.add(f"--set gives {name} twice: {found[name]} and {text}")
    problems.raise_if_any()
    return found


def refuse_conflicts(changes: Mapping[str, str], setting: Mapping[str, Any], hparams: Mapping[str, Any]) -> None:
    """Raise UserError if flags give a name two values.

    Args:
        changes: Values of `--set`, by name.
        setting: Values of flags such as `--precision`, by field.
        hparams: The object of `--hparams`.
    """
    nested = {
        f"{entry}.{name}": value
        for entry, own in hparams.items()
        if isinstance(own, Mapping)
        for name, value in own.items()
    }
    said = {
        "--hparams": {**hparams, **nested},
        "--set": changes,
        **{f"--{name}": {name: value} for name, value in setting.items()},
    }
    problems, first = Problems(), dict[str, tuple[str, Any]]()
    for flag, values in said.items():
        for name, value in values.items():
            before, other = first.setdefault(name, (flag, value))
            if other != value and str(other) != str(value):
                problems.add(f"{name} is given twice: {shorten(str(other), 100)} by {before}, {value} by {flag}")
    problems.raise_if_any()


def apply_changes(
    hparams: Mapping[str, Any], changes: Mapping[str, str], rows: Sequence[Row], catalogue: Catalogue
) -> dict[str, Any]:
    """Return hyperparameters as `--hparams` holds them, with typed `changes` replacing values of the same names.

    Invalid texts stay as they are, and so do unknown names; both are refused later, where `--hparams` is checked.

    Args:
        hparams: The object of `--hparams`.
        changes: Values of `--set`, by name.
        rows: Rows whose algorithms may declare the names.
        catalogue: Holds the entries of the rows.
    """
    found = dict(hparams)
    algorithms = [catalogue.get("algorithm", name) for name in dict.fromkeys(row.algorithm for row in rows)]
    for name, text in changes.items():
        dataset, dot, rest = name.partition(".")
        if dot and is_dataset(dataset, catalogue):
            own = found[dataset] if isinstance(found.get(dataset), Mapping) else {}
            found[dataset] = apply_changes(own, {rest: text}, rows, catalogue)
            continue
        owner, dot, own_name = name.rpartition(".")
        if dot:
            entry = catalogue.method(owner) if owner in catalogue else None
            own = found[owner] if isinstance(found.get(owner), Mapping) else {}
            specs = entry.space if entry else ()
            found[owner] = {**own, own_name: read_value(text, *_types(own_name, specs))}
        else:
            found[name] = read_value(text, *_types(name, [spec for entry in algorithms for spec in entry.space]))
    return found


_Type = tuple[str, Sequence[Any]]
"""Name of a type, and the values that it is limited to; empty if it isn't."""


def _types(name: str, specs: Iterable[Any]) -> _Type:
    """Return the type of the hyperparameter or else the setting with this name; an empty one if there is neither."""
    for spec in specs:
        if spec.name == name:
            return spec.type, spec.options
    if name not in FIELD_NAMES:
        return "", ()
    hint = get_type_hints(Setting, include_extras=True)[name]
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return ("", get_args(kind)) if get_origin(kind) is Literal else (kind.__name__, ())
