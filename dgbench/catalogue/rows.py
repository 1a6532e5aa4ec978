"""Rows of tables and the names that users type for them: `ALGORITHM[+RULE][+AVERAGE][+MERGER][+ADAPTER]`.

Each word may be followed by values of its hyperparameters, `SAM:rho=0.1+SWAD`, which the row has in every draw. A name
may end in an analysis, `ERM+SWAD+Sharpness`: that is no row of a table, but asks to measure the row's models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dgbench.catalogue.catalogue import OF_YOURS, Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.errors import Problems, UserError
from dgbench.core.row_names import join_word, split_name
from dgbench.core.space import Value
from dgbench.core.wording import unknown_name, with_article

ORDER = ("algorithm", "rule", "average", "merger", "adapter", "analysis")
"""Kinds of words in the order in which a name has them."""


@dataclass(frozen=True)
class Row:
    """A row of a table, which says how its predictors are made; `parse_row` makes it."""

    name: str
    """The name as the user typed it, but that values are written in one way. Words in the other fields have them too.
    """
    algorithm: str
    """The algorithm that trains, with its step rule if the name has one; the baseline if it has neither."""
    average: str = ""
    """The average along the run; empty: the model itself. A merger may imply one."""
    merger: str = ""
    """The merger of runs; empty: none."""
    adapter: str = ""
    """The test-time adapter; empty: none."""
    analysis: str = ""
    """The analysis of its models; empty: it is a row of a table."""

    @property
    def measured(self) -> Row:
        """Return the row of the table whose models the analysis measures; itself without one."""
        if not self.analysis:
            return self
        name = self.name.removesuffix(self.analysis).removesuffix("+")
        return replace(self, name=name or self.algorithm, analysis="")

    @property
    def entries(self) -> tuple[tuple[str, str], ...]:
        """(kind, name) of each entry that the row is made of."""
        return tuple((kind, name) for kind in ORDER if (name := getattr(self, kind, "")))


def parse_row(text: str, catalogue: Catalogue) -> Row:
    """Parse the name of a row.

    Raises:
        UserError: A word is unknown (the message has the nearest match), two are of one kind, the order is wrong (the
            message has the right one), values are invalid, or an adapter or analysis of one network is put on an
            ensemble or on adaptation.
    """
    problems, words = Problems(), split_name(text)
    kinds: dict[str, str] = {}
    given: dict[str, str | None] = {}
    """Kind -> the text of its word's values; None: it has none."""
    for word, values in words:
        entry = catalogue.entries.get(word)
        if entry is None or entry.kind not in ORDER:
            options = [name for kind in ORDER for name in catalogue.of_kind(kind)]
            what = "algorithm" if len(words) == 1 else f"word in {text!r}:"
            problems.add(unknown_name(what, word, options, OF_YOURS))
        elif entry.kind in kinds:
            problems.add(f"{text!r} has {with_article(entry.kind)} twice: {kinds[entry.kind]} and {word}")
        else:
            kinds[entry.kind], given[entry.kind] = word, values
    problems.raise_if_any()
    right = [kind for kind in ORDER if kind in kinds]
    if right != list(kinds):
        name = "+".join(kinds[kind] if given[kind] is None else f"{kinds[kind]}:{given[kind]}" for kind in right)
        raise UserError(f"{text!r} is in the wrong order: write {name!r}")
    written = dict(kinds)
    """Kind -> its word in the name."""
    if kinds.get("merger") and not kinds.get("average"):
        kinds["average"] = catalogue.get("merger", kinds["merger"]).card.average
    rule = kinds.pop("rule", "")
    kinds["algorithm"] = _stepped(kinds.get("algorithm", catalogue.baseline), rule, catalogue)
    if rule:  # takes steps of the algorithm, with which it has one space: the values of both follow it
        both = [text for text in (given.get("algorithm"), given.pop("rule")) if text is not None]
        given["algorithm"] = ",".join(both) if both else None
    for kind in (kind for kind in ORDER if given.get(kind) is not None):
        with problems.collecting():
            named = catalogue.get(kind, f"{kinds[kind]}:{given[kind]}")
            floats = {spec.name for spec in named.space if spec.type == "float"}
            place = "rule" if rule and kind == "algorithm" else kind
            kinds[kind] = join_word(kinds[kind], named.values, floats)
            written[place] = join_word(written[place], named.values, floats)
    problems.raise_if_any()
    row = Row("+".join(written.values()), **kinds)
    _check_composition(row, catalogue)
    return row


def parse_rows(texts: Iterable[str], catalogue: Catalogue) -> tuple[Row, ...]:
    """Parse the names of rows, each once, in the order given; raise UserError with everything wrong with them."""
    problems, rows = Problems(), []
    for text in dict.fromkeys(texts):
        with problems.collecting():
            rows.append(parse_row(text, catalogue))
    problems.raise_if_any()
    return tuple(dict.fromkeys(rows))


def teacher_rows(algorithm: str, hparams: Mapping[str, Value], catalogue: Catalogue) -> tuple[Row, ...]:
    """Return the rows whose models a training run reads: its teacher's, if the algorithm is taught, else none.

    Args:
        algorithm: Name of the run's algorithm.
        hparams: Its hyperparameters, among them `teacher`, the name of a row.
        catalogue: Finds the words of that name.

    Raises:
        UserError: `teacher` names no row, or one whose algorithm is taught itself.
    """
    if not catalogue.get("algorithm", algorithm).card.taught:
        return ()
    row = parse_row(str(hparams["teacher"]), catalogue)
    if catalogue.get("algorithm", row.algorithm).card.taught:
        raise UserError(f"{row.algorithm} is taught itself, so {row.name!r} can't be a teacher")
    return (row,)


def is_ensemble(row: Row, catalogue: Catalogue) -> bool:
    """Return whether a row's predictor is several networks whose logits are averaged."""
    return bool(row.merger) and bool(catalogue.get("merger", row.merger).card.ensemble)


def runs_alone(average: CatalogueEntry) -> bool:
    """Return whether an average can't watch the runs of other rows: it feeds back into them, or has values of its own.

    A run has each average once, so one with other values is not the average that watches for other rows.
    """
    return bool(average.card.feeds_back) or bool(average.values)


def _stepped(algorithm: str, rule: str, catalogue: Catalogue) -> str:
    """Return the name of an algorithm with a rule; raise UserError if the rule can't take its steps.

    A rule that an algorithm has anyway is left out, and so is the baseline beside one: `UDIM+SAM` is UDIM, `ERM+SAM` is
    SAM, and these have the same runs.
    """
    if not rule or catalogue.get("algorithm", algorithm).card.rule == rule:
        return algorithm
    return rule if algorithm == catalogue.baseline else catalogue.get("algorithm", f"{algorithm}+{rule}").name


def _check_composition(row: Row, catalogue: Catalogue) -> None:
    """Raise UserError if an adapter or an analysis that works on one network is put on something else."""
    if row.adapter and is_ensemble(row, catalogue) and catalogue.get("adapter", row.adapter).card.needs_features:
        raise UserError(
            f"{row.name!r}: {row.adapter} works on one network's features, {row.merger} is an ensemble of several"
        )
    if row.analysis and is_ensemble(row, catalogue):
        raise UserError(f"{row.name!r}: {row.analysis} measures the weights of one network, {row.merger} has several")
    if row.analysis and row.adapter:
        raise UserError(f"{row.name!r}: {row.analysis} measures finished weights, which {row.adapter} goes on changing")
