"""Refuse requests that can't be planned: raise one UserError with every problem, before any work starts.

Needs of methods and of settings are data (`Need` on cards, `_OF_SETTING` in this module), which one loop compares with
the facts that data set, network and setting lack. Other rules, on mergers and teachers for example, are functions that
yield problems; `_RULES` lists them. One check needs the plan itself, and is in `plan.unseen`: whether runs are
evaluated on examples that they, or their inputs, were trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.rows import Row, teacher_rows
from dgbench.core.cards import FEEDBACK, needs_of
from dgbench.core.errors import Problems, UserError
from dgbench.core.needs import DECLINED, DOMAINS, HIDDEN_BY_FEATURES, NEEDS, Need, holds, with_values
from dgbench.core.protocol import Fold
from dgbench.core.setting import Setting
from dgbench.core.space import Value
from dgbench.core.wording import group_values
from dgbench.data.facts import DatasetFacts
from dgbench.networks.backbones import BUILTIN_BACKBONES, EMBEDDING, check_backbone, is_timms
from dgbench.networks.clip_names import is_clip, zero_shot_problem
from dgbench.networks.start import check_start
from dgbench.plan.request import MOST_RUNS, Request, Values, setting_below, setting_of

_OF_SETTING: Mapping[tuple[str, Value, str], str] = {
    ("class_balanced", True, "classes"): "class_balanced needs labels that are classes, which {dataset} has not",
    ("classifier_init", "linear_probe", "classes"): (
        "classifier_init 'linear_probe' needs labels that are classes, which {dataset} has not"
    ),
    ("classifier_init", "zero_shot", "classes"): (
        "classifier_init 'zero_shot' needs labels that are classes, which {dataset} has not"
    ),
    ("freeze", "featurizer", "own_classifier"): (
        "on {dataset} the classifier is the language model's own, so freeze can't be 'featurizer': nothing would learn"
    ),
    ("stored_features", True, "feature_vectors"): (
        "stored_features needs one vector of features an example, which {backbone!r} doesn't give on {dataset}"
    ),
    ("freeze", "classifier", "own_classifier"): (
        "on {dataset} the classifier is the language model's own, so freeze can't be 'classifier'"
    ),
    ("freeze", "classifier", "learning_features"): (
        "backbone {backbone!r} is a classifier alone, so on {dataset} freeze can't be 'classifier': nothing would learn"
    ),
    ("freeze", "embedding", "learning_features"): (
        "backbone {backbone!r} is a classifier alone, so on {dataset} freeze can't be 'embedding'"
    ),
    ("freeze", "embedding", EMBEDDING): (
        "which layers of backbone {backbone!r} read the input is not known, so on {dataset} freeze can't be 'embedding'"
    ),
}
"""(field of the setting, value, the need of that value) -> the message if the need is not met."""

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
            asked = _Request(request, facts[name], settings[name], catalogue, values)
            _collect(problems, asked, _RULES)
    if not any(row.adapter for request in requests for row in request.rows):
        for name, setting in settings.items():
            if setting.stream:
                problems.add(
                    f"--stream on {name}: only adapters are shown a stream, and no row has one. Leave it out, or add "
                    "one to a row: `dgbench list adapters`"
                )
    problems.raise_if_any()


@dataclass(frozen=True)
class _Request:
    """One request restricted to one data set, with the setting resolved: the input of every rule."""

    request: Request
    facts: DatasetFacts
    setting: Setting
    catalogue: Catalogue
    values: Values

    def algorithm(self, row: Row) -> CatalogueEntry:
        """Return the entry of a row's algorithm."""
        return self.catalogue.get("algorithm", row.algorithm)

    def setting_of(self, entry: CatalogueEntry) -> Setting:
        """Return the setting of an entry's runs, of which an algorithm may decide some fields."""
        return setting_of(entry.card, self.setting) if entry.kind == "algorithm" else self.setting

    def settings(self) -> dict[Setting, None]:
        """Return the settings of all rows' runs, each once."""
        return dict.fromkeys(self.setting_of(self.algorithm(row)) for row in self.request.rows)

    def of_domains(self) -> list[CatalogueEntry]:
        """Return the entries that may need several training domains: each row's algorithm, and its analysis."""
        rows = self.request.rows
        analyses = dict.fromkeys(row.analysis for row in rows if row.analysis)
        return [*map(self.algorithm, rows), *(self.catalogue.get("analysis", name) for name in analyses)]

    def entries(self) -> list[CatalogueEntry]:
        """Return the entries that the rows are made of, each once."""
        names = dict.fromkeys(entry for row in self.request.rows for entry in row.entries)
        return [self.catalogue.get(kind, name) for kind, name in names]

    def mergers(self) -> list[tuple[Row, Any]]:
        """Return (row, card of its merger) for each row that merges."""
        return [(row, self.catalogue.get("merger", row.merger).card) for row in self.request.rows if row.merger]

    def draw(self, entry: CatalogueEntry) -> list[Mapping[str, Value]]:
        """Return an entry's hyperparameters in each draw; raise UserError at the first draw with invalid values."""
        draws = product(self.request.hparams_seeds, dict.fromkeys(map(self.request.drawn_in, self.request.trials)))
        where = (entry.kind, entry.name, self.facts.name, self.setting)
        return [self.values(*where, seed, trial).hparams for seed, trial in draws]

    def drawn(self, entry: CatalogueEntry) -> list[Mapping[str, Value]]:
        """Return the same, or none if any values are invalid, which `_invalid_values` reports."""
        with suppress(UserError):
            return self.draw(entry)
        return []


Rule = Callable[[_Request], Iterator[str]]
"""Yields the problems of a request. A UserError that it raises counts as further problems."""


def _collect(problems: Problems, asked: _Request, rules: Iterable[Rule]) -> None:
    """Add the problems that the rules find."""
    for rule in rules:
        with problems.collecting():
            for problem in rule(asked):
                problems.add(problem)


def _unfit_protocol(asked: _Request) -> Iterator[str]:
    """Yield the reasons why the data set can't follow the protocol."""
    try:
        asked.facts.folds(asked.request.protocol)
    except UserError as error:
        yield from error.problems


def _too_few_domains(asked: _Request) -> Iterator[str]:
    """Yield algorithms that need more training domains than some fold has; none if the protocol yields no folds."""
    with suppress(UserError):
        yield from _too_few(asked, asked.facts.folds(asked.request.protocol))


def _too_few(asked: _Request, folds: Sequence[Fold]) -> Iterator[str]:
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


def _unfit_mergers(asked: _Request) -> Iterator[str]:
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


def _unfit_members(asked: _Request) -> Iterator[str]:
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


def _unfit_analyses(asked: _Request) -> Iterator[str]:
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


def _unfit_setting(asked: _Request) -> Iterator[str]:
    """Yield values of the setting that the data set or the network can't follow with any row."""
    backbone, dataset, lacks = asked.setting.backbone, asked.facts.name, asked.facts.lacking(asked.setting)
    # Rows that start so whatever the sweep says have needs on their cards, which refuse networks that are no CLIP.
    settings = asked.settings() if is_clip(backbone) else [asked.setting]
    for setting in settings:
        if setting.classifier_init == "zero_shot" and (problem := zero_shot_problem(backbone)):
            yield f"on {dataset}, classifier_init 'zero_shot': {problem}"
        elif setting.classifier_init == "zero_shot" and not (setting.pretrained or setting.weights):
            yield "classifier_init 'zero_shot' needs CLIP's weights, and pretrained is false: leave out one of them"
    for need in BUILTIN_BACKBONES[backbone].needs if backbone in BUILTIN_BACKBONES else ():
        if need.what in lacks:
            yield _unmet(f"backbone {backbone!r}", need, asked.setting, dataset)
    if asked.setting.layer_decay < 1 and not is_timms(backbone):
        yield f"layer_decay needs a network of timm, whose layers are known; on {dataset} the network is {backbone!r}"
    for (name, value, what), problem in _OF_SETTING.items():
        if what in lacks and getattr(asked.setting, name) == value:
            yield problem.format(dataset=dataset, backbone=backbone)


def _unmet_needs(asked: _Request) -> Iterator[str]:
    """Yield needs of methods that are not met although some draw has them."""
    for entry in asked.entries():
        lacks = asked.facts.lacking(asked.setting_of(entry))
        for need in needs_of(entry.card):
            drawn = asked.drawn(entry) if need.when else [{}]
            if need.what in lacks and any(holds(need.when, hparams) for hparams in drawn):
                yield _unmet(entry.name + with_values(need.when), need, asked.setting, asked.facts.name)


def _unmet(who: str, need: Need, setting: Setting, dataset: str) -> str:
    """Word an unmet need of a method or network."""
    if need.what in DECLINED:
        return f"{who} can't be trained with {DECLINED[need.what]}: it {need.why}"
    if setting.stored_features and need.what in HIDDEN_BY_FEATURES:
        return f"{who} needs {NEEDS[need.what]}, which it would not have with stored_features true"
    return f"{who} needs {NEEDS[need.what]}, which it would not have on {dataset}"


def _unfit_together(asked: _Request) -> Iterator[str]:
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


def _invalid_values(asked: _Request) -> Iterator[str]:
    """Yield, for each entry, the problems of its first draw with invalid values."""
    problems = Problems()
    for entry in asked.entries():
        with problems.collecting():
            asked.draw(entry)
    yield from problems.found


def _batches_of_one(asked: _Request) -> Iterator[str]:
    """Yield algorithms whose batch norm would take statistics of a single example."""
    if asked.setting.batch_norm != "live" or "batch_norm" in asked.facts.lacking(asked.setting):
        return
    for row in asked.request.rows:
        entry = asked.algorithm(row)
        if any(hparams.get("batch_size") == 1 for hparams in asked.drawn(entry)):
            yield (
                f"{entry.name} with batch_size 1 on {asked.facts.name}: live batch norm takes statistics of each "
                "batch, and one example has none. Add --set batch_size=2"
            )


def _split_batches(asked: _Request) -> Iterator[str]:
    """Yield the problem of a batch norm that would take statistics of parts of a minibatch."""
    setting = asked.setting
    if setting.microbatch and setting.batch_norm == "live" and "batch_norm" not in asked.facts.lacking(setting):
        yield (
            f"microbatch {setting.microbatch} on {asked.facts.name}: batch norm of {setting.backbone!r} is live, so it "
            "would take statistics of each part of a minibatch, and training would be another. Leave it out (--set "
            "checkpoint_activations=true saves memory, too), freeze batch norm, or choose a backbone without"
        )


def _unfit_teachers(asked: _Request) -> Iterator[str]:
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


def _no_teachers(asked: _Request) -> Iterator[str]:
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
    *(_batches_of_one, _split_batches, _unmet_needs, _unfit_setting, _unfit_teachers, _invalid_values),
)
"""All rules for rows on a data set, in the order in which their problems are listed."""
_RULES_OF_TEACHERS: tuple[Rule, ...] = (
    *(_no_teachers, _too_few_domains, _unfit_mergers, _split_batches),
    *(_invalid_values, _unfit_together, _unmet_needs),
)
"""Rules for teachers' rows. Those on protocol and setting are left out, since the students' rows obey them already."""
