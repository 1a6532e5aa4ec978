"""Fork a process for each run from one server that has imported torch.

A run then starts in a tenth of a second instead of eight, shares the memory of imported modules, and takes nothing
with it when it dies. The launcher starts `python -m dgbench.launchers.forkserver` and sends it tuples over a socket:

* to the server: `(target, modules, hook, argument)` once, then `("fork", id, job, env, log)`, `("signal", id, number)`;
* from the server: `("ready",)` once, then `(id, pid, exit code or -signal)` for each run that ended.

No process outlives the one that started it. On Linux the kernel sees to that (`PR_SET_PDEATHSIG`): when the launcher
dies, so does the server, and then each run. On other systems the server notices the closed connection and kills its
runs; if the server itself is killed there, runs go on. The server has a single thread and never initializes CUDA;
after either, a forked child could not use torch safely.

Batch systems send the signals of `interrupts.STOPS` to every process of a job. The server ignores them, because the
launcher answers. So does a run, except for SIGTERM: it is blocked until the run's own handler (`lease.StopSignals`) is
there, so that it can neither end a run that has not saved its state, nor be missed by one that is about to begin.

The fork server of `multiprocessing` was tried. It starts a run no faster; it dies with every run when one fork fails
for lack of memory; it ignores imports that fail, calls no hook, and imports the launcher's main module in every run.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe, wait
from pkgutil import resolve_name
from typing import Any, NoReturn

from dgbench.core.errors import UserError
from dgbench.core.machine import with_huge_pages
from dgbench.core.startup import end_guard
from dgbench.launchers.interrupts import STOPS, SignalSocket

_PR_SET_PDEATHSIG = 1
_SINGLE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class ForkServerDied(RuntimeError):
    """The server process ended; the message holds the end of its output."""


class ForkServer:
    """The launcher's end of the connection. Make it in a thread that outlives it.

    `PR_SET_PDEATHSIG` acts when the thread that started a process ends, not when its process does.
    """

    def __init__(
        self, target: str, modules: Sequence[str] = (), hook: str | None = None, argument: object = None
    ) -> None:
        """Start a server, and wait until it is ready.

        Args:
            target: "module:function", called in a process of its own with each job; it returns the exit code.
            modules: Names of modules that the server imports before it forks.
            hook: "module:function", called in the server with `argument` after the imports.
            argument: Made of builtin types, so that unpickling it imports nothing before `modules` are.

        Raises:
            ForkServerDied: An import or the hook failed; the message holds the traceback.
        """
        self._connection, theirs = Pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs, _blocked(STOPS):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dgbench.launchers.forkserver", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=with_huge_pages({**os.environ, **_SINGLE_THREAD}),
                start_new_session=True,  # a terminal sends Ctrl-C to its whole session; only the launcher answers it
            )
        try:
            self._send(target, modules, hook, argument)
            self.receive()
        except BaseException:
            self.process.kill()  # while it imports, it reads no message
            self.close()
            raise

    def fileno(self) -> int:
        """Return the file descriptor that is readable when `receive` need not wait."""
        return self._connection.fileno()

    def start(self, id: str, job: Mapping[str, Any], env: Mapping[str, str], log: str) -> None:
        """Fork a process that adds `env` to its environment, appends its output to `log`, and executes `job`."""
        self._send("fork", id, job, env, log)

    def signal(self, id: str, number: int) -> None:
        """Send a signal to a run's process; do nothing if the process has ended."""
        self._send("signal", id, number)

    def _send(self, *message: object) -> None:
        try:
            self._connection.send(message)
        except ConnectionError:
            raise self._died() from None

    def receive(self) -> Any:
        """Wait for the next message and return it: (id, process id, status) of a run that ended.

        Raises:
            ForkServerDied: The server ended.
        """
        try:
            return self._connection.recv()
        except (EOFError, OSError):  # OSError: the server was killed in the middle of a message
            raise self._died() from None

    def _died(self) -> ForkServerDied:
        status = self.process.wait()
        self._output.seek(0)
        said = self._output.read().decode(errors="replace").strip()
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name} (often: out of memory), and they with it"
            said = f"{said}\nlaunch again, and they go on from their checkpoints"
        else:
            how = f"ended with {status}"
        return ForkServerDied(f"the process that runs are forked from {how}\n{said[-4000:].strip()}".strip())

    def close(self) -> None:
        """End the server, and with it every process that it still has."""
        self._connection.close()
        self.process.wait()
        self._output.close()


# -- the server's side --------------------------------------------------------------------------------------------


@contextmanager
def _blocked(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Hold signals back during the block; processes that it starts begin with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends; leave at once if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _Server:
    """The server's end of the connection, with the processes that it forked."""

    def __init__(self, launcher: Connection, target: Callable[[Any], Any]) -> None:
        self.launcher, self.target = launcher, target
        self.runs: dict[str, int] = {}
        """Run id -> process id. Each is a child that was not waited for, so the id can't belong to another process."""
        self.child_ended = SignalSocket([signal.SIGCHLD], lambda number, frame: None)

    def serve(self) -> None:
        """Obey the launcher until the connection closes.

        Raises:
            EOFError, ConnectionError: The launcher closed the connection, or died.
        """
        while True:
            ready = wait([self.launcher.fileno(), self.child_ended.fileno()])
            if self.child_ended.fileno() in ready:
                self.reap()
            if self.launcher.fileno() in ready:
                do, *arguments = self.launcher.recv()
                (self.fork if do == "fork" else self.signal)(*arguments)

    def fork(self, id: str, job: object, env: Mapping[str, str], log: str) -> None:
        """Start a run's process."""
        server = os.getpid()
        with _blocked([signal.SIGTERM]):
            try:
                pid = os.fork()
            except OSError as error:  # no memory, or no process ids left: this run's failure, not the server's
                print(f"fork: {error}", file=sys.stderr)
                self.launcher.send((id, 0, os.EX_OSERR))
                return
            if pid == 0:
                self.execute(server, job, env, log)
        self.runs[id] = pid

    def signal(self, id: str, number: int) -> None:
        """Send a signal to a run's process, if it has not ended meanwhile."""
        if id in self.runs:
            os.kill(self.runs[id], number)

    def reap(self) -> None:
        """Report the processes that ended to the launcher."""
        self.child_ended.clear()
        for id, pid in list(self.runs.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                _kill_group(pid)
                del self.runs[id]
                self.launcher.send((id, pid, os.waitstatus_to_exitcode(status)))

    def execute(self, server: int, job: object, env: Mapping[str, str], log: str) -> NoReturn:
        """Become a run's process; exit with the target's return value, or as Python does after an exception."""
        code = 1
        try:
            die_with_parent(server)
            self.child_ended.close()
            self.launcher.close()
            _set_up(env, log)
            code = int(self.target(job))
        except SystemExit as left:
            if isinstance(left.code, str):
                print(left.code, file=sys.stderr)
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # not sys.exit: handlers that the server registered must not run in its child

    def end(self) -> None:
        """Kill the remaining processes."""
        for pid in self.runs.values():
            os.kill(pid, signal.SIGKILL)
            _kill_group(pid)


def _kill_group(pid: int) -> None:
    """Kill the processes that a run started and left behind, such as loader workers."""
    with suppress(ProcessLookupError, PermissionError):  # the run may have died before its `setsid`
        os.killpg(pid, signal.SIGKILL)


def _set_up(env: Mapping[str, str], log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it is blocked, see above
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    os.environ.update(env)


def main(file: int, parent: int) -> None:
    """Serve the launcher, process `parent`, over the socket `file`."""
    die_with_parent(parent)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    end_guard()
    os.set_inheritable(file, False)
    launcher = Connection(file)
    target, modules, hook, argument = launcher.recv()
    for name in modules:
        importlib.import_module(name)
    if hook:
        try:
            resolve_name(hook)(argument)
        except UserError as error:  # its message is written for users; a traceback would add nothing
            sys.exit(str(error))
    server = _Server(launcher, resolve_name(target))
    # The garbage collector writes into the objects that it visits, and each write would copy a page that runs share.
    gc.freeze()
    try:
        launcher.send(("ready",))
        server.serve()
    except (EOFError, ConnectionError):
        pass
    finally:
        server.end()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
