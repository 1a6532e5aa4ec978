"""Ctrl-C while a command imports its modules, in processes of their own that press it at a known place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT

PRESSED = """
import importlib.abc, os, signal, sys

signal.signal(signal.SIGINT, signal.{handler})


class Press(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, Press())
"""


def pressed(tmp_path: Path, module: str, handler: str = "default_int_handler") -> subprocess.CompletedProcess[str]:
    """A command that is interrupted when it imports that module."""
    (tmp_path / "sitecustomize.py").write_text(PRESSED.format(module=module, handler=handler))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    words = [sys.executable, "-m", "dgbench.sweep", "status", "--output_dir", str(tmp_path)]
    return subprocess.run(words, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["dgbench.sweep", "dgbench.core.errors", "dgbench.catalogue.catalogue", "orjson"])
def test_ctrl_c_while_a_command_is_imported_ends_it_in_a_word(module: str, tmp_path: Path) -> None:
    done = pressed(tmp_path, module)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "dgbench: interrupted\n")


def test_a_command_in_the_background_goes_on_as_it_was_told_to(tmp_path: Path) -> None:
    done = pressed(tmp_path, "dgbench.catalogue.catalogue", handler="SIG_IGN")
    assert (done.returncode, "holds no sweep" in done.stderr) == (2, True)


def test_importing_the_package_changes_no_handler() -> None:
    check = "import signal, dgbench; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {check}"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
