"""The modules of commands that share their names with functions of the package: `dgbench.sweep` is the function."""

from __future__ import annotations

import importlib
from typing import Any

check: Any = importlib.import_module("dgbench.check")
sweep: Any = importlib.import_module("dgbench.sweep")
train: Any = importlib.import_module("dgbench.train")
