"""One entry of a catalogue: a class, described as far as possible without importing it, and the way to import it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from dgbench.core import cards
from dgbench.core.composition import RuleCard
from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.imports import digest_of, ends_the_process, import_file, imported_digest
from dgbench.core.row_names import read_assignments, read_value
from dgbench.core.setting import Setting
from dgbench.core.space import Draw, Space, Value, check_fixed, resolve

KINDS = {
    "algorithm": ("algorithms", "dgbench.methods.algorithm", "Algorithm", cards.AlgorithmCard),
    "rule": ("rules", "dgbench.methods.rule", "Rule", RuleCard),
    "average": ("averaging", "dgbench.methods.average", "Average", cards.AverageCard),
    "merger": ("merging", "dgbench.methods.merger", "Merger", cards.MergerCard),
    "adapter": ("adaptation", "dgbench.methods.adapter", "Adapter", cards.AdapterCard),
    "analysis": ("analyses", "dgbench.methods.analysis", "Analysis", cards.AnalysisCard),
    "dataset": ("datasets", "dgbench.data.dataset", "Dataset", DatasetCard),
}
"""Kind -> folder, module and name of the base class, class of the card. A rule alone is an algorithm too."""
E = TypeVar("E", bound="CatalogueEntry")
PACKAGE = Path(__file__).parents[1]
"""The folder of the package dgbench."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One class of a catalogue, known by its card and search space; `index` makes it from the class or from a file.

    It is plain data, so that the index can keep it as JSON. Importing the class, which for algorithms imports torch,
    waits until `load` or `check` needs it.
    """

    kind: str
    """A key of `KINDS`."""
    name: str
    """Name of the class, by which users call the entry."""
    file: str
    """Path of its source."""
    module: str
    """Dotted name to import; empty for an included file, which is imported by its path."""
    doc: str
    """Docstring of the class, without its indentation."""
    space: Space
    """Its hyperparameters; empty for a data set."""
    checks: bool
    """Its `Hparams` checks more than each value by itself, such as how two values must be related."""
    card: Any
    """The card of its kind, see `dgbench.core.cards`."""
    ruled: bool
    """Of an algorithm: whether step rules can take its steps, as it has one loss and no `update` of its own."""
    values: Mapping[str, Value] = field(default_factory=dict, kw_only=True)
    """Hyperparameter -> its value in every draw, of an entry that a row names with values, `SAM:rho=0.1`."""

    features: ClassVar[bool] = True
    """Of an algorithm: its predictor is features and a classifier on them, which adapters work on."""

    @property
    def summary(self) -> str:
        """First line of the docstring, printed by `list`."""
        return self.doc.strip().partition("\n")[0]

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the files that it is made of."""
        return (self.file,)

    @property
    def source(self) -> str:
        """Name and hash of each outside source, `mine.py 0123456789ab`; empty for an entry of the package."""
        return " ".join(dict.fromkeys(filter(None, (source_of(Path(file)) for file in self.files))))

    def load(self) -> Any:
        """Import the entry's file and return the class."""
        return getattr(import_source(self.module, Path(self.file)), self.name)

    def check(self, hparams: Mapping[str, Value]) -> None:
        """Raise UserError for values that are each valid but that `Hparams` refuses together; may import the file."""
        if self.checks:
            try:
                self.load().Hparams(**hparams)
            except UserError as error:
                raise UserError(*(f"{self.name}: {problem}" for problem in error.problems)) from None

    @property
    def words(self) -> tuple[str, ...]:
        """Names of entries whose values, if a sweep sets them, are this entry's too."""
        return (self.name,)

    def with_values(self: E, text: str) -> E:
        """Return the entry with values for all draws, in the order of its space.

        Args:
            text: The values, as a row's name has them: `rho=0.1,lr=0.001`.

        Raises:
            UserError: A name is unknown, a value is invalid, or the text has another form; all problems are listed.
        """
        specs = {spec.name: spec for spec in self.space}
        given = read_assignments(text, f"{self.name}:{text}")
        values = {
            name: read_value(value, specs[name].type, specs[name].options) if name in specs else read_value(value)
            for name, value in given.items()
        }
        check_fixed(self.space, values, self.name, more=self.open)
        of_space = {spec.name: spec.type == "float" for spec in self.space if spec.name in values}
        others = {name: value for name, value in values.items() if name not in of_space}
        # 1 and 1.0 are equal but hash to different run ids, so a float's value is always a float.
        ordered = {name: float(values[name]) if real else values[name] for name, real in of_space.items()}
        return replace(self, values={**ordered, **others})

    @property
    def open(self) -> bool:
        """Whether the entry takes hyperparameters of any name, not only those of its space."""
        return False

    def takes(self, name: str) -> bool:
        """Return whether a hyperparameter of that name has an effect on the entry."""
        return self.open or any(spec.name == name for spec in self.space)

    def draws(self, name: str) -> bool:
        """Return whether random search draws a hyperparameter of that name, on some data sets at least."""
        specs = (spec for spec in self.space if spec.name == name)
        return any(spec.draw or any(draw for _, draw in spec.variants.values()) for spec in specs)

    def resolve(
        self,
        dataset: str,
        *,
        traits: Iterable[str],
        hparams_seed: int,
        trial: int,
        fixed: Mapping[str, Value],
        draws: Mapping[str, Draw],
    ) -> dict[str, Value]:
        """Resolve the values of one hyperparameter seed in one trial on a data set.

        Args:
            dataset: Name of the data set, which counts as a trait: a space may vary by it.
            traits: Traits of the data set.
            hparams_seed: Seed of the draw; 0: the defaults.
            trial: The trial, on which the draw depends too.
            fixed: Values that override everything else.
            draws: Distributions that replace those of the space.

        Returns:
            Name -> value, for every hyperparameter of the space but optional ones that nothing names.
        """
        traits = (*traits, dataset)
        return resolve(self.space, traits=traits, hparams_seed=hparams_seed, trial=trial, fixed=fixed, draws=draws)

    def refusals(self, setting: Setting) -> Iterable[str]:
        """Yield reasons, beyond the card's needs, why an algorithm can't follow a setting; dgbench's own have none."""
        return ()


def source_of(file: Path) -> str:
    """Return the name and hash of a file's present content, as `CatalogueEntry.source`; empty for the package's own."""
    if file.is_relative_to(PACKAGE):
        return ""
    return f"{file.name} {digest_of(file.read_bytes())}"


def source_as_imported(file: Path) -> str:
    """Return the name and hash of an included file as this process imported it; empty if it imported none."""
    digest = imported_digest(_module_name(file))
    return f"{file.name} {digest}" if digest else ""


def forget_if_changed(file: Path) -> None:
    """Let an included file be imported anew if it has changed since this process imported it, as in a notebook."""
    digest = imported_digest(_module_name(file))
    if digest and digest != digest_of(file.read_bytes()):
        del sys.modules[_module_name(file)]


def _module_name(file: Path) -> str:
    """Return the name of the module that an included file becomes."""
    return "dgbench_include_" + digest_of(str(file).encode())


def import_source(module: str, file: Path) -> Any:
    """Import a module, or a file by its path, once in a process.

    Args:
        module: Dotted name; empty: import the file.
        file: Path of the file.

    Raises:
        ImportError: It ends the process, see `ends_the_process`.
    """
    if not module:
        return import_file(file, _module_name(file))
    try:
        return importlib.import_module(module)
    except SystemExit as error:
        raise ends_the_process() from error
