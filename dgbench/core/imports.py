"""Import Python files by their path."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from dgbench.core.errors import UserError

_DIGEST = "__dgbench_digest__"
"""Attribute of an imported module: the first digits of the sha256 of its file's content."""


def digest_of(content: bytes) -> str:
    """Return the first digits of the sha256 of a file's content, by which records and messages name it."""
    return hashlib.sha256(content).hexdigest()[:12]


def imported_digest(name: str) -> str:
    """Return the digest of the content that a module was imported from by `import_file`; empty if it was not."""
    return str(getattr(sys.modules.get(name), _DIGEST, ""))


def import_file(file: Path, name: str) -> Any:
    """Import a file that is no part of a package, once in a process.

    Args:
        file: Path of the file.
        name: Name of the module that it becomes.

    Raises:
        UserError: It is no Python file.
        ImportError: It ends the process, see `ends_the_process`.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"--include {file}: not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    setattr(loaded, _DIGEST, digest_of(file.read_bytes()))
    # Before the module is executed, as dataclasses and pickle look their module up there; taken out again if that
    # fails.
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except SystemExit as error:
        del sys.modules[name]
        raise ends_the_process() from error
    except BaseException:
        del sys.modules[name]
        raise
    return loaded


def ends_the_process() -> ImportError:
    """Return the error of a module that calls `sys.exit`, as scripts do at their end; it must not end the command."""
    return ImportError(
        "it ends the process while it is imported (sys.exit): put what only a script does below "
        "`if __name__ == '__main__':`"
    )
