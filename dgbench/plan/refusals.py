"""Refuses what can't be planned: every problem of a request at once, before any work starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import Entry
from dgbench.catalogue.rows import Row, parse_row
from dgbench.core.cards import FEEDBACK, GENERATED, NEEDS, holds, with_values
from dgbench.core.errors import Problems, UserError
from dgbench.core.setting import Setting
from dgbench.core.space import Value
from dgbench.data.facts import DatasetFacts
from dgbench.networks.backbones import EMBEDDING, OWN, check_backbone, lacking
from dgbench.networks.start import check_start
from dgbench.plan.request import Request, Values


def refuse(
    requests: Sequence[Request],
    facts: Mapping[str, DatasetFacts],
    settings: Mapping[str, Setting],
    catalogue: Catalogue,
    values: Values,
) -> None:
    """Raise `UserError` with everything that can't be planned; `settings` are those of the data sets, resolved."""
    problems = Problems()
    for request in requests:
        for dataset in request.datasets:
            with problems.collecting():
                folds, per_step = facts[dataset].folds(request.protocol), settings[dataset].domains_per_step
                fewest = min(facts[dataset].domains_in_step(fold, settings[dataset]) for fold in folds)
                for problem in _too_few_domains(request, facts[dataset], per_step, fewest, catalogue, values):
                    problems.add(problem)
            setting = settings[dataset]
            for refused in (
                _unfit_mergers(request, dataset, setting, catalogue),
                _data_apart(request.rows, facts[dataset], setting, catalogue),
                _not_of_backbone(facts[dataset], setting),
                _not_followed(request, dataset, setting, catalogue, values),
                _unmet_needs(request, facts[dataset], setting, catalogue, values),
                _not_of_classes(facts[dataset], setting),
                _not_of_sequences(facts[dataset], setting),
                _unfit_teachers(request, facts[dataset], setting, catalogue, values),
                _wrong_values(request, dataset, values),
            ):
                with problems.collecting():
                    for problem in refused:
                        problems.add(problem)
    problems.raise_if_any()


def _wrong_values(request: Request, dataset: str, values: Values) -> Iterator[str]:
    """What is wrong with the values of each entry, at the first of its draws with which anything is."""
    entries = dict.fromkeys(entry for row in request.rows for entry in row.entries)
    for kind, name in entries:
        problems = Problems()
        with problems.collecting():
            for seed, trial in product(request.hparams_seeds, request.trials):
                values(kind, name, dataset, seed, trial)
        yield from problems.found


def _too_few_domains(
    request: Request, facts: DatasetFacts, per_step: int, fewest: int, catalogue: Catalogue, values: Values
) -> Iterator[str]:
    for row in request.rows:
        entry = catalogue.get("algorithm", row.algorithm)
        who, needed = _domains_needed(entry, _drawn(request, entry, facts.name, values))
        if fewest < needed and (facts.pools or 0 < per_step < needed):
            yield (
                f"{who} needs at least {needed} training domains in a step; on {facts.name} there are "
                f"{fewest}. Add --hparams '{{\"domains_per_step\": {needed}}}'"
            )
        elif fewest < needed:
            yield (
                f"{who} needs at least {needed} training domains; on {facts.name} a fold has {fewest}. "
                "--single_test_envs leaves out the folds with two test domains"
            )


def _domains_needed(entry: Entry, drawn: Iterable[Mapping[str, Value]]) -> tuple[str, int]:
    """Most training domains that an algorithm needs in any draw, and what it is called there."""
    who, most = entry.name, int(entry.card.min_domains)
    for hparams in drawn:
        for name, by_value in entry.card.min_domains_with.items():
            number = by_value.get(hparams[name], 0)
            condition = {name: hparams[name]}
            if isinstance(number, str):
                condition[number] = hparams[number]
                number = int(hparams[number])
            if number > most:
                who, most = entry.name + with_values(condition), number
    return who, most


def _unfit_mergers(request: Request, dataset: str, setting: Setting, catalogue: Catalogue) -> Iterator[str]:
    for row in (row for row in request.rows if row.merger):
        card = catalogue.get("merger", row.merger).card
        if card.all_trials:
            yield from _trials_apart(row, dataset, setting)
        if len(request.hparams_seeds) < card.min_members:
            yield (
                f"{row.name} merges the runs of one trial, at least {card.min_members}; "
                f"--n_hparams gives {len(request.hparams_seeds)}"
            )
        if card.shared_init and not card.all_trials and setting.init == "run":
            yield (
                f"{row.name} averages weights of runs that must start alike; preset {setting.preset!r} starts each "
                'run from weights of its own. Add --hparams \'{"init": "trial"}\''
            )


def _trials_apart(row: Row, dataset: str, setting: Setting) -> Iterator[str]:
    """Why the runs of several trials did not begin alike."""
    if setting.init != "sweep":
        yield (
            f"{row.name} averages weights of runs of all trials, which must start alike; on {dataset} each "
            f'{setting.init} has initial weights of its own. Add --hparams \'{{"init": "sweep"}}\''
        )
    if setting.classifier_init == "linear_probe":
        yield (
            f"{row.name} averages weights of runs of all trials, which must start alike; classifier_init "
            "'linear_probe' fits a classifier of its own in each trial"
        )


def _data_apart(rows: Iterable[Row], facts: DatasetFacts, setting: Setting, catalogue: Catalogue) -> Iterator[str]:
    """Rows that merge runs of which each drew data of its own: what one is tested on, another has trained on."""
    if facts.shared_identities:
        for row in rows:
            if row.merger and catalogue.get("merger", row.merger).card.all_trials:
                yield f"{row.name}: on {facts.name} each trial tests identities that other trials have trained on"
    if GENERATED not in facts.traits:
        return
    for row in (row for row in rows if row.merger):
        card = catalogue.get("merger", row.merger).card
        alike = ("sweep",) if card.all_trials else ("sweep", "trial")
        if not card.each and setting.generated_data not in alike:
            of = " of all trials" if card.all_trials else ""
            yield (
                f"{row.name} merges runs{of} that must have seen the same data; {facts.name} is drawn anew for each "
                f'{setting.generated_data}. Add --hparams \'{{"generated_data": "{alike[-1]}"}}\''
            )


def _unmet_needs(
    request: Request, facts: DatasetFacts, setting: Setting, catalogue: Catalogue, values: Values
) -> Iterator[str]:
    lacks = frozenset(_lacking(facts, setting))
    found = []
    for entry in _entries(request.rows, catalogue):
        always = (*entry.card.needs, "classes") if entry.kind == "adapter" else entry.card.needs
        found += [(entry.name, need) for need in always if need in lacks]
        if entry.kind != "merger":
            drawn = _drawn(request, entry, facts.name, values)
            for need, condition in entry.card.needs_with.items():
                if need in lacks and any(holds(condition, hparams) for hparams in drawn):
                    found.append((entry.name + with_values(condition), need))
    for who, need in found:
        yield f"{who} needs {NEEDS[need]}, which it would not have on {facts.name}"


def _entries(rows: Iterable[Row], catalogue: Catalogue) -> Iterator[Entry]:
    """What takes part in making the predictors of rows, but for averages, each once."""
    entries = dict.fromkeys(entry for row in rows for entry in row.entries)
    return (catalogue.get(kind, name) for kind, name in entries if kind != "average")


def _drawn(request: Request, entry: Entry, dataset: str, values: Values) -> list[Mapping[str, Value]]:
    """An entry's hyperparameters, of each draw; none if some are wrong, which `_wrong_values` tells."""
    try:
        return [
            values(entry.kind, entry.name, dataset, seed, trial).hparams
            for seed, trial in product(request.hparams_seeds, request.trials)
        ]
    except UserError:
        return []


def _lacking(facts: DatasetFacts, setting: Setting) -> Iterator[str]:
    """What of `NEEDS` a data set and the network on it have not."""
    yield from lacking(setting.backbone, facts.input_shape)
    if setting.nonlinear_classifier:
        yield "linear_classifier"
    if setting.classifier_init != "random":
        yield "random_classifier"
    if setting.freeze == "featurizer":
        yield "learning_features"
    if facts.task != "classification":
        yield "classes"
    if facts.input_kind != "images":
        yield from ("images", "feature_maps")
    if facts.input_kind not in ("images", "vectors"):
        yield "real_inputs"
    if facts.input_kind == "sequences":
        yield "feature_vectors"
        if not setting.nonlinear_classifier:
            yield "own_classifier"


def _not_of_backbone(facts: DatasetFacts, setting: Setting) -> Iterator[str]:
    """What of a setting the network can't follow."""
    own = OWN.get(setting.backbone)
    if setting.compile and own and own.no_compile:
        yield f"backbone {setting.backbone!r} can't be trained with compile true: it {own.no_compile}"
    if setting.freeze != "embedding":
        return
    if setting.backbone == "Linear":
        yield f"backbone 'Linear' is a classifier alone, so on {facts.name} freeze can't be 'embedding'"
    elif EMBEDDING in lacking(setting.backbone, facts.input_shape):
        yield (
            f"which layers of backbone {setting.backbone!r} read the input is not known, so on {facts.name} freeze "
            "can't be 'embedding'"
        )


def _not_of_classes(facts: DatasetFacts, setting: Setting) -> Iterator[str]:
    """What of a setting can't be had where labels are no classes."""
    if facts.task == "classification":
        return
    if setting.class_balanced:
        yield f"class_balanced needs {NEEDS['classes']}, which {facts.name} has not"
    if setting.classifier_init == "linear_probe":
        yield f"classifier_init 'linear_probe' needs {NEEDS['classes']}, which {facts.name} has not"


def _not_of_sequences(facts: DatasetFacts, setting: Setting) -> Iterator[str]:
    """What of a setting can't be had where the classifier is the language model's own."""
    if facts.input_kind == "sequences" and setting.freeze == "featurizer" and not setting.nonlinear_classifier:
        yield (
            f"on {facts.name} the classifier is the language model's own, so freeze can't be 'featurizer': nothing "
            "would learn"
        )


def _unfit_teachers(
    request: Request, facts: DatasetFacts, setting: Setting, catalogue: Catalogue, values: Values
) -> Iterator[str]:
    """What is wrong with the rows that are to teach others."""
    dataset = facts.name
    for row in request.rows:
        if not catalogue.get("algorithm", row.algorithm).card.taught:
            continue
        hparams = values("algorithm", row.algorithm, dataset, request.hparams_seeds[0], request.trials[0]).hparams
        problems, how = Problems(), setting
        if backbone := str(hparams["teacher_backbone"]):
            with problems.collecting():
                check_backbone(backbone)
                own = dataclasses.replace(setting, backbone=facts.network(backbone), weights="")
                check_start(own, facts.input_shape, "", facts.input_kind)
                how = own
        with problems.collecting():
            teacher = parse_row(str(hparams["teacher"]), catalogue)
            if teacher.adapter:
                problems.add(f"an adapter learns from what it is shown, so {teacher.name!r} can't be a teacher")
            if catalogue.get("algorithm", teacher.algorithm).card.taught:
                problems.add(f"{teacher.algorithm} is taught itself, so {teacher.name!r} can't be a teacher")
            if teacher.merger and catalogue.get("merger", teacher.merger).card.all_trials:
                problems.add(
                    f"{teacher.name!r} merges runs of all trials, which have seen what this trial validates on, so it "
                    "can't be a teacher"
                )
            asked = dataclasses.replace(request, rows=(teacher,))
            for problem in (
                *_unfit_mergers(asked, dataset, how, catalogue),
                *_wrong_values(asked, dataset, values),
                *_not_followed(asked, dataset, how, catalogue, values),
                *_unmet_needs(asked, facts, how, catalogue, values),
            ):
                problems.add(problem)
        yield from (f"{row.name}'s teacher: {problem}" for problem in problems.found)


def _not_followed(
    request: Request, dataset: str, setting: Setting, catalogue: Catalogue, values: Values
) -> Iterator[str]:
    """What of the setting an algorithm can't follow, averages that can't feed back into it, and adapters that would
    need more of it than it shows."""
    for row in request.rows:
        entry = catalogue.get("algorithm", row.algorithm)
        drawn = _drawn(request, entry, dataset, values)
        yield from dict.fromkeys(problem for hparams in drawn for problem in entry.refusals(setting, hparams))
        for what in catalogue.get("average", row.average).card.feeds_back if row.average else ():
            if why := entry.card.no_feedback.get(what):
                yield f"{row.name}: {row.average} sets {FEEDBACK[what]}, but {row.algorithm} {why}"
        if row.adapter and not entry.features and catalogue.get("adapter", row.adapter).card.needs_features:
            yield (
                f"{row.name}: {row.adapter} works on a network's features, and {row.algorithm} shows only its "
                "predictions"
            )
