"""Replace names of the user's own networks by their full names, and remark on networks that seem to classify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.networks.own import inspect_own, is_own
from dgbench.plan.plan import Plan

_TABLES = ("setting", "hparams", "set")
_DEPTH = 4
"""Tables within each other that may hold values: of settings or hyperparameters, of a data set, of an entry."""
_NAMES = ("backbone", "teacher_backbone")
"""The setting, and the hyperparameter of methods that are taught, whose values are names of networks."""


def with_full_names(asked: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return the values of a launch with `Class@digest` for each class of an included file that is named as a network.

    Args:
        asked: Values by the keys of a sweep file.
        catalogue: Has the included files.

    Raises:
        UserError: A name is of several networks.
    """
    return {key: _named(key, value, catalogue) if key in _TABLES else value for key, value in asked.items()}


def _named(name: str, value: Any, catalogue: Catalogue, depth: int = _DEPTH) -> Any:
    """Return the value of a name, or the values of a table as deep as values can lie."""
    if isinstance(value, Mapping) and depth:
        return {key: _named(str(key), own, catalogue, depth - 1) for key, own in value.items()}
    is_network = isinstance(value, str) and name.rpartition(".")[2] in _NAMES
    return catalogue.network(value) if is_network else value


def seeming_classifiers(plan: Plan) -> Iterator[str]:
    """Yield a warning for each network of the user's own that gives as many features as there are logits."""
    for dataset, name in sorted({(run.dataset, run.setting.backbone) for run in plan.runs}):
        facts = plan.datasets[dataset]
        if is_own(name) and inspect_own(name, facts.input_shape).width == facts.outputs:
            yield (
                f"WARNING: {name} gives {facts.outputs} features, as many as {dataset} has classes. If they are "
                "logits, leave its last layer off: a classifier is put on the features"
            )
