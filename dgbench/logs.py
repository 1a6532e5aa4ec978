"""Print the log of a run, with all of its attempts, or follow it until the run ends.

dgbench logs runs/mine 0acb760b
dgbench logs runs/mine "ERM RotatedDigits [75] hparams 0 trial 0" -f

The run is given by its id, by the beginning of it, or by its name, as `dgbench status` prints them. Each attempt begins
with a line on its machine. With -f the exit code is 0 if the run was finished, 1 if it failed.
"""

from __future__ import annotations

import codecs
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dgbench import cli
from dgbench.core.errors import UserError
from dgbench.core.wording import printable, printable_lines
from dgbench.plan.naming import find_run
from dgbench.plan.planfile import read_plan
from dgbench.report.signs import retries_of
from dgbench.report.watch import OPEN
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State

INTERVAL = 1.0
"""Seconds between two looks at a log that is followed."""
_CHUNK = 1 << 20  # bytes


def parser() -> cli.Parser:
    """Declare the flags."""
    made = cli.Parser(prog="dgbench logs", doc=__doc__)
    made.add_argument("folder", type=Path, metavar="DIR", help="the sweep's folder")
    made.add_argument("run", nargs="+", metavar="RUN", help="id of the run, the beginning of it, or the run's name")
    made.add_argument("-f", "--follow", action="store_true", help="go on until the run ends; Ctrl-C leaves it alone")
    return made


def main(argv: Sequence[str]) -> int:
    """Print a log; return the exit code."""
    args = parser().parse_args(argv)
    table, store = read_plan(args.folder), Store(args.folder)
    run = find_run(table, " ".join(args.run))
    folder, retries = store.folder(run.id), retries_of(args.folder)
    tail = Tail(folder.log_path)
    if not tail.exists():
        raise UserError(printable(f"{table.name(run)} has no log: {_why_none(folder, retries)}"))
    if not args.follow:
        _show(tail)
        return 0
    return int(not follow(lambda: store.state(run.id, retries), lambda: _show(tail), _tell).settled)


def follow(
    state_of: Callable[[], State],
    show: Callable[[], None],
    tell: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
) -> State:
    """Show the growing log of a run until the run has ended, also where another process takes it over.

    Args:
        state_of: Returns the run's state.
        show: Shows the lines that were added since its last call.
        tell: Takes remarks that are no part of the log.
        wait: Waits some seconds.

    Returns:
        The state that the run ended in.
    """
    before = State.RUNNING
    while True:
        state = state_of()  # before the log is read, which then holds the last words of a run that ended
        show()
        if state not in (*OPEN, State.PAUSED):
            return state
        if state is not State.RUNNING and before is State.RUNNING:
            tell("no process executes the run now; its log goes on when one does")
        before = state
        wait(INTERVAL)


class Tail:
    """A log that is read piece by piece while processes append to it, on this machine or another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin(None)

    def _begin(self, file: int | None) -> None:
        self._file, self._read = file, 0
        # A piece may end within a character, or between the two of a Windows line end.
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)

    def exists(self) -> bool:
        """Return whether there is a log with at least one byte."""
        return self._path.is_file() and self._path.stat().st_size > 0

    def new(self) -> Iterator[str]:
        """Yield the text that was added since the last call; all of it if the log was begun anew."""
        try:
            with self._path.open("rb") as file:
                status = file.seek(0, io.SEEK_END), self._path.stat().st_ino
                if status[1] != self._file or status[0] < self._read:
                    self._begin(status[1])
                file.seek(self._read)
                while piece := file.read(_CHUNK):
                    self._read += len(piece)
                    yield self._decoder.decode(piece)
        except FileNotFoundError:  # removed, so that the run begins anew
            self._begin(None)


def _show(tail: Tail) -> None:
    """Print the new lines of a log; tabs stay readable, all else that a terminal would obey is escaped."""
    for text in tail.new():
        sys.stdout.write(printable_lines(text.expandtabs()))
    sys.stdout.flush()


def _tell(remark: str) -> None:
    print(f"dgbench: {remark}", file=sys.stderr, flush=True)


def _why_none(folder: RunFolder, retries: int) -> str:
    if folder.state(retries) is State.MISSING:
        return "it has not begun"
    return "it has printed nothing yet, or to the terminal of its command (`dgbench train`, `--launcher here`)"


if __name__ == "__main__":
    sys.exit(cli.run(main))
