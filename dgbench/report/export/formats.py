"""The formats that a sweep can be exported in. To add one, write a file with a function like theirs, and list it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress


class Write(Protocol):
    """Function that exports a sweep."""

    def __call__(self, source: Path, target: Path, report: ReportProgress) -> Iterator[str]:
        """Write the finished runs of a sweep, and yield lines for the user.

        Args:
            source: The sweep's folder.
            target: The folder to write to, which is empty or doesn't exist.
            report: Takes the progress.

        Raises:
            UserError: The format can't hold the sweep, or the folder holds none.
        """
        ...


@dataclass(frozen=True)
class Format:
    """A format, known without importing the library that writes it."""

    target: str
    """`module:function` of its `Write`."""
    help: str
    """A line for users."""
    needs: tuple[str, ...] = ()
    """Modules of further libraries."""
    extra: str = ""
    """Extra of dgbench that installs them."""

    def load(self, name: str) -> Write:
        """Import and return the function; raise `UserError` if a library is missing.

        Args:
            name: The format's own, for the message.
        """
        if missing := [module for module in self.needs if importlib.util.find_spec(module) is None]:
            raise UserError(f"--format {name} needs {' and '.join(missing)}: pip install 'dgbench[{self.extra}]'")
        module, _, function = self.target.partition(":")
        write: Write = getattr(importlib.import_module(module), function)
        return write


_HERE = __name__.rpartition(".")[0]
FORMATS: Mapping[str, Format] = {
    "domainbed": Format(f"{_HERE}.domainbed:write", "a folder that DomainBed's collector reads"),
    "tensorboard": Format(f"{_HERE}.tensorboard:write", "event files", ("tensorboard",), "tensorboard"),
    "mlflow": Format(f"{_HERE}.mlflow:write", "an SQLite file", ("mlflow", "sqlalchemy", "alembic"), "mlflow"),
    "wandb-offline": Format(f"{_HERE}.wandb:write", "offline runs for `wandb sync`", ("wandb",), "wandb"),
}
"""Name -> format."""
