"""One entry of a catalogue: a class as far as it is known without importing it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dgbench.core import cards
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.core.space import Draw, Space, Value, resolve

KINDS = {
    "algorithm": ("algorithms", "dgbench.methods.algorithm", "Algorithm", cards.AlgorithmCard),
    "average": ("averaging", "dgbench.methods.average", "Average", cards.AverageCard),
    "merger": ("merging", "dgbench.methods.merger", "Merger", cards.MergerCard),
    "adapter": ("adaptation", "dgbench.methods.adapter", "Adapter", cards.AdapterCard),
    "dataset": ("datasets", "dgbench.data.dataset", "Dataset", cards.DatasetCard),
}
"""kind -> folder, module and name of the base class, class of the card."""
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class CatalogueEntry:
    """One class of a catalogue, as far as it is known without importing it."""

    kind: str
    name: str
    file: str
    module: str
    """Dotted name to import; empty for an included file, which is imported by its path."""
    doc: str
    space: Space
    checks: bool
    """Its `Hparams` check more than what the space says: what values must be to each other."""
    card: Any
    """The card of its kind (`dgbench.core.cards`)."""

    features: ClassVar[bool] = True
    """Of an algorithm: its predictor is a network's features and its classifier, which adapters work on."""

    @property
    def summary(self) -> str:
        """Return the first line of the docstring: for a method, its objective."""
        return self.doc.strip().partition("\n")[0]

    @property
    def source(self) -> str:
        """Name and hash the file that it is from: `mine.py 0123456789ab`; empty for what the package holds."""
        return source_of(Path(self.file))

    def load(self) -> Any:
        """Import its file and return the class."""
        return getattr(import_source(self.module, Path(self.file)), self.name)

    def check(self, hparams: Mapping[str, Value]) -> None:
        """Refuse values that its `Hparams` do, of which each by itself is right; import its file for that."""
        if self.checks:
            try:
                self.load().Hparams(**hparams)
            except UserError as error:
                raise UserError(*(f"{self.name}: {problem}" for problem in error.problems)) from None

    @property
    def open(self) -> bool:
        """Whether it takes hyperparameters of any name, not only those of its space."""
        return False

    def takes(self, name: str) -> bool:
        """Whether a hyperparameter of that name means something to it."""
        return self.open or any(spec.name == name for spec in self.space)

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
        """Resolve the values of one hyperparameter seed in one trial on a data set; the rest as for `space.resolve`."""
        traits = (*traits, dataset)
        return resolve(self.space, traits=traits, hparams_seed=hparams_seed, trial=trial, fixed=fixed, draws=draws)

    def refusals(self, setting: Setting) -> Iterable[str]:
        """Yield reasons why an algorithm can't follow a setting, beyond its card's needs; ours have none."""
        return ()


def source_of(file: Path) -> str:
    """Name and hash a file as it is now, as `Entry.source` does."""
    if file.is_relative_to(PACKAGE):
        return ""
    return f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def import_source(module: str, file: Path) -> Any:
    """Import the module of that dotted name, or, if that is empty, the file; each once.

    A file that calls `sys.exit`, as scripts do at their end, raises ImportError: it must not end the command.
    """
    try:
        return importlib.import_module(module) if module else _import_file(file)
    except SystemExit as error:
        raise ImportError(
            "it ends the process while it is imported (sys.exit): put what only a script does below "
            "`if __name__ == '__main__':`"
        ) from error


def _import_file(file: Path) -> Any:
    name = "dgbench_include_" + hashlib.sha256(str(file).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"--include {file}: not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[name]
        raise
    return loaded
