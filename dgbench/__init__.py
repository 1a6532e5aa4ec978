"""dgbench: a domain-generalization benchmark.

Every number is one *predictor*, measured on one *view*, under one *protocol*, chosen by one *selector*.
Importing this package does nothing: no torch, no seeds, no logging. The names below are imported when they are first
used; so are the classes of the catalogues, as in `from dgbench.algorithms import ERM`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgbench.api.check import CheckResult as CheckResult
    from dgbench.api.check import check as check
    from dgbench.api.own_data import OwnData as OwnData
    from dgbench.api.own_data import from_dataset as from_dataset
    from dgbench.api.sweep import Launched as Launched
    from dgbench.api.sweep import Status as Status
    from dgbench.api.sweep import sweep as sweep
    from dgbench.api.train import RunFailed as RunFailed
    from dgbench.api.train import Trained as Trained
    from dgbench.api.train import train as train
    from dgbench.catalogue.catalogue import Catalogue as Catalogue
    from dgbench.core.cards import AdapterCard as AdapterCard
    from dgbench.core.cards import AlgorithmCard as AlgorithmCard
    from dgbench.core.cards import AnalysisCard as AnalysisCard
    from dgbench.core.cards import AverageCard as AverageCard
    from dgbench.core.cards import MergerCard as MergerCard
    from dgbench.core.cards import SeriesCard as SeriesCard
    from dgbench.core.composition import RuleCard as RuleCard
    from dgbench.core.data_cards import Archive as Archive
    from dgbench.core.data_cards import DatasetCard as DatasetCard
    from dgbench.core.errors import Problems as Problems
    from dgbench.core.errors import UserError as UserError
    from dgbench.core.needs import Need as Need
    from dgbench.core.progress import ReportProgress as ReportProgress
    from dgbench.core.setting import PRESETS as PRESETS
    from dgbench.core.setting import Setting as Setting
    from dgbench.core.setting import setting as setting
    from dgbench.core.space import Checked as Checked
    from dgbench.core.space import choice as choice
    from dgbench.core.space import hparam as hparam
    from dgbench.core.space import power as power
    from dgbench.core.space import uniform as uniform
    from dgbench.core.version import __version__ as __version__
    from dgbench.data.dataset import ArrayExamples as ArrayExamples
    from dgbench.data.dataset import Dataset as Dataset
    from dgbench.data.dataset import Examples as Examples
    from dgbench.data.dataset import SplitExamples as SplitExamples
    from dgbench.methods.adapter import Adapter as Adapter
    from dgbench.methods.algorithm import Algorithm as Algorithm
    from dgbench.methods.analysis import Analysis as Analysis
    from dgbench.methods.analysis import FinishedModel as FinishedModel
    from dgbench.methods.analysis import Views as Views
    from dgbench.methods.average import Average as Average
    from dgbench.methods.average import RunningMean as RunningMean
    from dgbench.methods.average import Weights as Weights
    from dgbench.methods.batch import Batch as Batch
    from dgbench.methods.batch import Task as Task
    from dgbench.methods.hparams import Hparams as Hparams
    from dgbench.methods.merger import Member as Member
    from dgbench.methods.merger import Merged as Merged
    from dgbench.methods.merger import Merger as Merger
    from dgbench.methods.merger import Tools as Tools
    from dgbench.methods.rule import First as First
    from dgbench.methods.rule import Rule as Rule
    from dgbench.networks.network import Network as Network
    from dgbench.report.frames import SweepResults as SweepResults
    from dgbench.report.frames import load_results as load_results
    from dgbench.report.reader import read_results as read_results
    from dgbench.report.results import Results as Results

_PUBLIC = {
    "api.check": ("CheckResult", "check"),
    "api.own_data": ("OwnData", "from_dataset"),
    "api.sweep": ("Launched", "Status", "sweep"),
    "api.train": ("RunFailed", "Trained", "train"),
    "catalogue.catalogue": ("Catalogue",),
    "core.cards": (
        "AdapterCard",
        "AlgorithmCard",
        "AnalysisCard",
        "AverageCard",
        "MergerCard",
        "SeriesCard",
    ),
    "core.composition": ("RuleCard",),
    "core.data_cards": ("Archive", "DatasetCard"),
    "core.errors": ("Problems", "UserError"),
    "core.needs": ("Need",),
    "core.progress": ("ReportProgress",),
    "core.setting": ("PRESETS", "Setting", "setting"),
    "core.space": ("Checked", "choice", "hparam", "power", "uniform"),
    "core.version": ("__version__",),
    "data.dataset": ("ArrayExamples", "Dataset", "Examples", "SplitExamples"),
    "methods.adapter": ("Adapter",),
    "methods.analysis": ("Analysis", "FinishedModel", "Views"),
    "methods.algorithm": ("Algorithm",),
    "methods.batch": ("Batch", "Task"),
    "methods.average": ("Average", "RunningMean", "Weights"),
    "methods.hparams": ("Hparams",),
    "methods.merger": ("Member", "Merged", "Merger", "Tools"),
    "methods.rule": ("First", "Rule"),
    "networks.network": ("Network",),
    "report.frames": ("SweepResults", "load_results"),
    "report.reader": ("read_results",),
    "report.results": ("Results",),
}
"""Module -> public names in it, as the imports above have them for type checkers."""
_HOMES = {name: f"{__name__}.{module}" for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


class _Package(ModuleType):
    """The package itself, in which a function such as `train` stays itself when the command of its name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute; but not a module, as the import system does it, in place of a public name."""
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _open_door(folder: str, kind: str) -> None:
    """Make a catalogue's folder a module whose attributes are the classes that its files define.

    The folders have no `__init__.py`: the links to two of them at the repository's root would be packages called
    `algorithms` and `datasets` then, and shadow those of other projects. So the modules are made here, and ask the
    catalogue for a class when it is first named. Files of the folder are imported as from any package.
    """
    path = os.path.join(os.path.dirname(__file__), folder)
    module = ModuleType(f"{__name__}.{folder}", f"The catalogue's classes of the kind {kind!r}, imported when named.")
    module.__spec__ = ModuleSpec(module.__name__, None, origin=path, is_package=True)
    module.__spec__.submodule_search_locations = module.__path__ = [path]

    def find(name: str) -> Any:
        if not name.startswith("_") and f"{name}.py" not in os.listdir(path):
            entry = _catalogue_entries(kind).get(name)
            if entry is not None:
                return entry.load()
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    lazy: dict[str, Callable[..., Any]] = {"__getattr__": find, "__dir__": lambda: [*_catalogue_entries(kind)]}
    vars(module).update(lazy)
    sys.modules[module.__name__] = globals()[folder] = module


def _catalogue_entries(kind: str) -> dict[str, Any]:
    from dgbench.catalogue.catalogue import Catalogue  # importing this package imports nothing

    return Catalogue().of_kind(kind)


for _folder, _kind in (
    ("algorithms", "algorithm"),
    ("rules", "rule"),
    ("averaging", "average"),
    ("merging", "merger"),
    ("adaptation", "adapter"),
    ("analyses", "analysis"),
    ("datasets", "dataset"),
):
    _open_door(_folder, _kind)

if sys.argv[:1] == ["-m"]:  # of `python -m dgbench.COMMAND`, whose module imports much before it can answer anything
    from dgbench.core.startup import guard_imports

    guard_imports()
