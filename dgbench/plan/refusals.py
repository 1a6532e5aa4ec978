"""Refuse requests that can't be planned: raise one UserError with every problem, before any work starts.

A rule is a function of a request on one data set (`plan.asked`) that yields problems; `_RULES` lists them. Rules on
needs of methods and settings are in `plan.unmet`. One check needs the plan itself, and is in `plan.unseen`: whether
runs are evaluated on examples that they, or their inputs, were trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.rows import teacher_rows
from dgbench.core.cards import FEEDBACK, needs_of
from dgbench.core.errors import Problems, UserError
from dgbench.core.needs import DOMAINS, holds, with_values
from dgbench.core.protocol import Fold
from dgbench.core.setting import Setting
from dgbench.core.space import Value
from dgbench.core.wording import group_values
from dgbench.data.facts import DatasetFacts
from dgbench.networks.backbones import check_backbone
from dgbench.networks.start import check_start
from dgbench.plan.asked import Asked
from dgbench.plan.request import MOST_RUNS, Request, Values, setting_below
from dgbench.plan.unmet import batches_of_one, split_batches, unfit_setting, unmet_needs

_MOST_EVALUATIONS = 100_000
"""Most evaluations of a run; each adds a line to its records."""


def refuse_too_many(
    requests: Sequence[Request], facts: Mapping[str, DatasetFacts], settings: Mapping[str, Setting]
) -> None:
    """Raise UserError if there are more runs, or evaluations of a run, than can be planned in reasonable time.

    This must come first: other checks, and planning itself, go through every draw. Arguments are those of `refuse`.
    """
    problems = Problems()
    for request, name in ((asked, name) for asked in requests for name in asked.datasets):
        folds, setting = 0, settings[name]
        with suppress(UserError):  # a protocol that the data can't follow is reported by `refuse`
            folds = len(facts[name].folds(request.protocol))
        runs = len(request.rows) * folds * len(request.trials) * len(request.hparams_seeds)
        if runs > MOST_RUNS:
            problems.add(
                f"rows, folds, --n_trials and --n_hparams ask for {runs:,} runs on {name}, more than {MOST_RUNS:,}"
            )
        if setting.evaluations > _MOST_EVALUATIONS:
            problems.add(
                f"on {name} {setting.steps:,} steps with checkpoint_freq {setting.checkpoint_freq:,} are "
                f"{setting.evaluations:,} evaluations, more than {_MOST_EVALUATIONS:,}"
            )
    problems.raise_if_any()


def refuse(
    requests: Sequence[Request],
    facts: Mapping[str, DatasetFacts],
    settings: Mapping[str, Setting],
    catalogue: Catalogue,
    values: Values,
) -> None:
    """Raise UserError with everything in the requests that can't be planned.

    Args:
        requests: The launches; their rows and data sets are known to exist.
        facts: Data set -> its facts.
        settings: Data set -> the setting of its runs, resolved.
        catalogue: Holds the entries that the rows are made of.
        values: Returns an entry with its values; raises UserError if they are invalid.

    Raises:
        UserError: There are problems; each is listed once.
    """
    problems = Problems()
    for request in requests:
        for name in request.datasets:
            asked = Asked(request, facts[name], settings[name], catalogue, values)
            _collect(problems, asked, _RULES)
    if not any(row.adapter for request in requests for row in request.rows):
        for name, setting in settings.items():
            if setting.stream:
                problems.add(
                    f"--stream on {name}: only adapters are shown a stream, and no row has one. Leave it out, or add "
                    "one to a row: `dgbench list adapters`"
                )
    problems.raise_if_any()


Rule = Callable[[Asked], Iterator[str]]
"""Yields the problems of a request. A UserError that it raises counts as further problems."""


def _collect(problems: Problems, asked: Asked, rules: Iterable[Rule]) -> None:
    """Add the problems that the rules find."""
    for rule in rules:
        with problems.collecting():
            for problem in rule(asked):
                problems.add(problem)


def _unfit_protocol(asked: Asked) -> Iterator[str]:
    """Yield the reasons why the data set can't follow the protocol."""
    try:
        asked.facts.folds(asked.request.protocol)
    except UserError as error:
        yield from error.problems


def _too_few_domains(asked: Asked) -> Iterator[str]:
    """Yield algorithms that need more training domains than some fold has; none if the protocol yields no folds."""
    with suppress(UserError):
        yield from _too_few(asked, asked.facts.folds(asked.request.protocol))


def _too_few(asked: Asked, folds: Sequence[Fold]) -> Iterator[str]:
    """Yield the problems of `_too_few_domains`, given the folds."""
    facts, setting = asked.facts, asked.setting
    fewest = min(facts.domains_in_step(fold, setting) for fold in folds)
    # Folds with a pair of test domains have one training domain less. If single folds would do, name the way out.
    alone = [facts.domains_in_step(fold, setting) for fold in folds if len(fold.held_out) == 1]
    for entry in asked.of_domains():
        who, needed = _domains_needed(entry, asked.drawn(entry))
        if fewest < needed and (facts.pools or 0 < setting.domains_per_step < needed):
            yield (
                f"{who} needs at least {needed} training domains in a step; on {facts.name} there are "
                f"{fewest}. Add --set domains_per_step={needed}"
            )
        elif fewest < needed:
            out = "--single_test_envs leaves out the folds with two test domains"
            hint = f". {out}" if 0 < len(alone) < len(folds) and min(alone) >= needed else ""
            yield f"{who} needs at least {needed} training domains; on {facts.name} a fold has {fewest}{hint}"


def _domains_needed(entry: CatalogueEntry, drawn: Iterable[Mapping[str, Value]]) -> tuple[str, int]:
    """Return (name, n): the most training domains that any draw needs, and the entry's name with its values there."""
    who, most = entry.name, int(entry.card.min_domains)
    for hparams, need in product(drawn, needs_of(entry.card)):
        if need.what == DOMAINS and holds(need.when, hparams):
            values, least = dict(need.when), need.least
            if isinstance(least, str):
                values[least] = hparams[least]
                least = int(hparams[least])
            if least > most:
                who, most = entry.name + with_values(values), least
    return who, most


def _unfit_mergers(asked: Asked) -> Iterator[str]:
    """Yield mergers whose members would not start alike, or would be too few."""
    setting = asked.setting
    for row, card in asked.mergers():
        alike = f"{row.name} averages weights of runs of all trials, which must start alike;"
        if card.all_trials and setting.init != "sweep":
            yield (
                f"{alike} on {asked.facts.name} each {setting.init} has initial weights of its own. "
                'Add --hparams \'{"init": "sweep"}\''
            )
        if (members := len(asked.request.hparams_seeds)) < card.min_members:
            first, least = asked.request.hparams_seeds[0], card.min_members
            yield (
                f"{row.name} merges the runs of one trial, at least {least}; --n_hparams gives {members}: "
                f"it ends a range that begins at {first} (n_hparams_from {first}). Give --n_hparams {first + least}"
            )
        if card.shared_init and not card.all_trials and setting.init == "run":
            yield (
                f"{row.name} averages weights of runs that must start alike; preset {setting.preset!r} starts each "
                'run from weights of its own. Add --hparams \'{"init": "trial"}\''
            )


def _unfit_members(asked: Asked) -> Iterator[str]:
    """Yield numbers of members that no row, or not every merger of several runs, can follow."""
    numbers, request = asked.request.members, asked.request
    merged = [(row, card) for row, card in asked.mergers() if not card.each]
    if numbers and not merged:
        yield "--members merges rows from fewer runs too, and no row of this launch merges several runs"
    for row, card in merged:
        runs = len(request.hparams_seeds) * (len(request.trials) if card.all_trials else 1)
        if more := [number for number in numbers if number > runs]:
            yield f"{row.name} can't be merged from {more[-1]} runs: --n_hparams gives {runs} of them"
        if fewer := [number for number in numbers if 1 < number < card.min_members]:
            yield f"{row.name} merges at least {card.min_members} runs: leave {fewer[0]} out of --members"


def _unfit_analyses(asked: Asked) -> Iterator[str]:
    """Yield analyses that compare models with each other where there are too few, or more than they take."""
    rows = group_values((row.analysis, row) for row in asked.request.rows if row.analysis)
    for name, own in rows.items():
        card = asked.catalogue.get("analysis", name).card
        if card.takes == "trial":
            for row in own:
                if (1 if row.merger else len(asked.request.hparams_seeds)) < 2:
                    yield f"{row.name} compares the runs of a trial, and there is one: give --n_hparams 2 or more"
        elif card.takes == "rows":
            given = ", ".join(row.measured.name for row in own)
            if len(own) < 2 or (card.models and len(own) != card.models):
                count = card.models or "two or more"
                yield f"{name} compares {count} rows, not {len(own)} ({given}): `dgbench analyze --rows` chooses them"
            for row in own:
                if row.merger and asked.catalogue.get("merger", row.merger).card.all_trials:
                    yield f"{row.name}: {row.merger} merges runs of all trials, so no trial has a model to compare"


def _unfit_together(asked: Asked) -> Iterator[str]:
    """Yield rows whose parts can't be combined with each other or with the setting.

    These are algorithms that refuse the setting, averages that can't feed back into the algorithm, and adapters and
    analyses that need features of an algorithm that has only predictions.
    """
    for row in asked.request.rows:
        entry = asked.algorithm(row)
        yield from entry.refusals(asked.setting_of(entry))
        for what in asked.catalogue.get("average", row.average).card.feeds_back if row.average else ():
            if why := entry.card.no_feedback.get(what):
                yield f"{row.name}: {row.average} sets {FEEDBACK[what]}, but {row.algorithm} {why}"
            elif what == "weights" and asked.setting.lora_rank:
                yield (
                    f"{row.name}: {row.average} sets {FEEDBACK[what]}, and the mean of weights of lora_rank "
                    f"{asked.setting.lora_rank} has a higher rank: leave it out, or choose another average"
                )
        for kind, name in (("adapter", row.adapter), ("analysis", row.analysis)):
            if name and not entry.features and asked.catalogue.get(kind, name).card.needs_features:
                only = f"{row.algorithm} shows only its predictions"
                yield f"{row.name}: {name} works on a network's features, and {only}"


def _invalid_values(asked: Asked) -> Iterator[str]:
    """Yield, for each entry, the problems of its first draw with invalid values."""
    problems = Problems()
    for entry in asked.entries():
        with problems.collecting():
            asked.draw(entry)
    yield from problems.found


def _unfit_teachers(asked: Asked) -> Iterator[str]:
    """Yield the problems of rows that teach others; their runs have to be possible too."""
    for row in asked.request.rows:
        entry, problems, setting = asked.algorithm(row), Problems(), asked.setting
        # One draw will do: `teacher` and `teacher_backbone` name rows and networks, and declare no draws.
        for hparams in asked.drawn(entry)[:1] if entry.card.taught else ():
            with problems.collecting():
                below = setting_below(hparams, asked.facts, asked.setting)
                if below != asked.setting:
                    check_backbone(below.backbone)
                    check_start(below, asked.facts.input_shape, "", asked.facts.input_kind)
                    setting = below
            with problems.collecting():
                teachers = teacher_rows(entry.name, hparams, asked.catalogue)
                request = dataclasses.replace(asked.request, rows=teachers)
                teaching = dataclasses.replace(asked, request=request, setting=setting)
                _collect(problems, teaching, _RULES_OF_TEACHERS)
        yield from (f"{row.name}'s teacher: {problem}" for problem in problems.found)


def _no_teachers(asked: Asked) -> Iterator[str]:
    """Yield rows that can't be teachers at all."""
    for row in asked.request.rows:
        if row.adapter:
            yield f"an adapter learns from what it is shown, so {row.name!r} can't be a teacher"
        if row.merger and asked.catalogue.get("merger", row.merger).card.all_trials:
            yield (
                f"{row.name!r} merges runs of all trials, which have seen what this trial validates on, so it can't be "
                "a teacher"
            )


_RULES: tuple[Rule, ...] = (
    *(_unfit_protocol, _too_few_domains, _unfit_mergers, _unfit_members, _unfit_analyses, _unfit_together),
    *(batches_of_one, split_batches, unmet_needs, unfit_setting, _unfit_teachers, _invalid_values),
)
"""All rules for rows on a data set, in the order in which their problems are listed."""
_RULES_OF_TEACHERS: tuple[Rule, ...] = (
    *(_no_teachers, _too_few_domains, _unfit_mergers, split_batches),
    *(_invalid_values, _unfit_together, unmet_needs),
)
"""Rules for teachers' rows. Those on protocol and setting are left out, since the students' rows obey them already."""
