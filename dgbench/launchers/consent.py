"""Ask on the terminal before a command acts: before it runs a folder's Python files, launches runs or removes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dgbench.core.site import split_include
from dgbench.core.wording import count_nouns, printable
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.declaration import FILE, read_site


def agreed(what: str) -> bool:
    """Ask on the terminal whether the command may go on.

    Args:
        what: The action that the question names: "launch 6 runs of 6".

    Returns:
        Whether the answer is yes.
    """
    return input(f"About to {what}. Go on? [y/N] ").strip().lower() in ("y", "yes")


def agreed_to_launch(sweep: Sweep) -> bool:
    """Ask whether to launch the runs of a sweep that are left.

    Args:
        sweep: As planned.

    Returns:
        Whether the answer is yes; True without a question if no run is left.
    """
    missing = sum(not state.settled for state in sweep.states().values())
    again = len(sweep.without_weights())
    repeats = f", {again:,} of them done before but without the weights that others read now" if again else ""
    return not missing or agreed(f"launch {count_nouns(missing + again, 'run')} of {len(sweep.plan.runs):,}{repeats}")


def may_run_files(root: Path, include: Sequence[str], ask: bool) -> bool:
    """Name the Python files that a folder's declaration, and not the command line, includes; ask once to run them.

    Whoever may write to a shared folder could name any there.

    Args:
        root: Folder of the sweep.
        include: Files that the command line includes.
        ask: Ask; otherwise the files are named, and may run.

    Returns:
        Whether the files may run.
    """
    typed = {_place(file) for file in include}
    named = [file for file in read_site(root).including(include).include if _place(file) not in typed]
    for file in named:
        print(printable(f"{root / FILE} includes {file}"), flush=True)
    files = count_nouns(len(named), "Python file")
    return not named or not ask or agreed(f"run {files} that the folder names")


def _place(include: str) -> Path:
    return Path(split_include(include)[0]).resolve()
