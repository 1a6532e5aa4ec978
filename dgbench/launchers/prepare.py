"""Turn a request into a planned `Sweep`, or refuse it with all that is wrong; nothing is written.

request -> declaration -> joined to the folder's own -> facts of the data -> plan -> checks -> Sweep
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.core.errors import Problems, UserError
from dgbench.core.paths import check_folder
from dgbench.core.site import Site
from dgbench.data.facts import DatasetFacts
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.values import Values, places_of, site_of
from dgbench.plan.adding import declare_more
from dgbench.plan.asking import declare, open_facts
from dgbench.plan.cost import refuse_large_predictions, refuse_small_domains
from dgbench.plan.declaration import FILE, Declaration, read_declaration, read_site
from dgbench.plan.planfile import FILE as PLAN
from dgbench.plan.planfile import PlanTable, read_plan
from dgbench.store.files import DamagedSweep
from dgbench.store.run_folder import CANCEL, RUNS


def plan_launch(root: Path, asked: Mapping[str, Any], values: Values, catalogue: Catalogue) -> Sweep:
    """Plan the request of a launch, or the folder's own again if the launch has none; write nothing.

    Args:
        root: The sweep's folder.
        asked: Values by the keys of a sweep file; empty: go on.
        values: Options, of which those of this machine count.
        catalogue: The catalogue with the files that `values` include.

    Raises:
        UserError: With everything that is wrong, as far as it can be checked.
    """
    if asked:
        problems = Problems()
        with problems.collecting():
            site = site_of(values)
        if problems.found and not (root / FILE).exists():
            with problems.collecting():  # names alone: without its folders, data would seem to be missing
                declare(asked, catalogue)
        problems.raise_if_any()
        return prepare(root, asked, site, catalogue)
    if not (root / FILE).is_file():
        raise UserError(
            f"{root} holds no sweep to go on with: ask for one by --sweep, or by --algorithms and --datasets"
        )
    return reopen(root, **places_of(values))


def prepare(root: Path, asked: Mapping[str, Any], site: Site, catalogue: Catalogue) -> Sweep:
    """Plan the sweep that `root` will hold after a launch; write nothing.

    Args:
        root: The sweep's folder. One that exists is extended, and gives what `asked` leaves open (`plan.adding`).
        asked: Values by the keys of a sweep file (`plan.sweep_file.KEYS`).
        site: The options of this machine; the paths of data sets are filled in.
        catalogue: The catalogue with the files that `site` includes.

    Raises:
        UserError: With everything that is wrong, as far as it can be checked.
    """
    before: Declaration | None = None
    if (root / FILE).exists():
        site = site.completed_by(read_site(root))
        catalogue = catalogue.including(site.include)  # an earlier launch may have included further files
        before, _ = read_declaration(root, catalogue)
    try:
        if before is None:
            declaration, paths = declare(asked, catalogue)
        else:
            declaration, paths = declare_more(asked, before, site.paths, catalogue)
    except UserError as error:
        raise UserError(*error.problems, *_problems_with_data(asked, site, catalogue)) from None
    site = replace(site, paths={**site.paths, **paths})
    if before is None:
        content = _content(root)
        if FILE in content:  # another launch has begun the sweep since the first look
            return prepare(root, asked, site, catalogue)
        _refuse_other_content(root, content)
    else:
        declaration = before.extended_with(declaration, root)
    begun = before is not None or (root / RUNS).exists()
    return _planned(root, declaration, site, catalogue, read_plan(root) if begun else None, before)


def reopen(
    root: Path,
    *,
    include: Sequence[str] = (),
    change: Callable[[Declaration], Declaration] = lambda declaration: declaration,
    **moved: Any,
) -> Sweep:
    """Plan a sweep again from the declaration in its folder; write nothing.

    Args:
        root: The sweep's folder.
        include: Present paths of included files that have moved.
        change: Returns the declaration to plan, given the folder's.
        moved: Fields of the sweep's `Site` -> new values.

    Raises:
        UserError: With everything that is wrong, as far as it can be checked.
    """
    site = replace(read_site(root).including(include), **moved)
    catalogue = Catalogue(site.include)
    declaration, _ = read_declaration(root, catalogue)
    before: PlanTable | None = None
    try:
        before = read_plan(root)
    except DamagedSweep as error:
        print(f"{error}, from {FILE}")
    return _planned(root, change(declaration), site, catalogue, before, declaration)


def _planned(
    root: Path,
    declaration: Declaration,
    site: Site,
    catalogue: Catalogue,
    before: PlanTable | None,
    extended: Declaration | None,
) -> Sweep:
    """Plan a sweep of this data; refuse data that differs from those of the plan `before`, if there is one."""
    facts = open_facts(declaration, site, catalogue)
    if before:
        _refuse_other_data(root, before, facts)
    plan = declaration.plan(facts, catalogue)
    refuse_small_domains(plan)
    if site.save_predictions:
        refuse_large_predictions(plan)
    return Sweep(root, declaration, plan, site, catalogue, extended)


def _problems_with_data(asked: Mapping[str, Any], site: Site, catalogue: Catalogue) -> Sequence[str]:
    """List the problems with the files of data sets, of those whose names are valid."""
    problems = Problems()
    for text in asked.get("datasets", ()):
        with suppress(UserError):
            paths = split_datasets([text], catalogue)
            for name in paths:
                with problems.collecting():
                    open_dataset(name, replace(site, paths=paths), catalogue)
    return problems.found


def _content(root: Path) -> set[str]:
    """List the names in a folder that may not exist yet; raise UserError if it can't be one."""
    if root.exists() and not root.is_dir():
        raise UserError(f"--output_dir {root} is a file: use a new folder")
    check_folder(root, "--output_dir")
    return {path.name for path in root.iterdir()} if root.is_dir() else set()


def _refuse_other_content(root: Path, names: Set[str]) -> None:
    """Raise UserError if the folder holds other files than a sweep's."""
    ours = {PLAN, RUNS, CANCEL} if PLAN in names else set()  # what is left of a sweep without its declaration
    if any(name not in ours and not name.startswith(".") for name in names):
        raise UserError(f"--output_dir {root} holds something else: use a new folder")


def _refuse_other_data(root: Path, before: PlanTable, facts: Mapping[str, DatasetFacts]) -> None:
    """Raise UserError if the files of a data set have changed since the sweep was begun."""
    problems = Problems()
    for name, found in facts.items():
        if name in before.datasets and before.datasets[name].fingerprint != found.fingerprint:
            problems.add(f"{name} is not the data that {root} was begun with (fingerprints differ): use another folder")
    problems.raise_if_any()
