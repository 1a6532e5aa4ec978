"""An interpreter that begins with torch and dgbench imported, for tests that start many processes.

Importing torch takes seconds of a core, and a launch imports it in a process of its own. `Preloaded` therefore imports
everything once, in a server, and writes a command that stands for `sys.executable`: it has the server fork, gives the
new process its arguments, environment, folder and open files, passes signals on, and ends as that process ends. Tests
of how processes begin, die and are found take the real interpreter: the process that works is no child of the
command, and has another process id.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import NoReturn

# The command is executed by an interpreter without site-packages: nothing but the standard library is imported above.

_MODULES = (
    *("dgbench.api", "dgbench.sweep", "dgbench.train", "dgbench.check", "dgbench.analyze", "dgbench.export"),
    *("dgbench.predict", "dgbench.worker", "dgbench.report.__main__", "dgbench.execute.job", "dgbench.collect"),
    *("torch._dynamo", "torch.export", "torch.utils.serialization.config", "numpy.ctypeslib", "numpy.ma"),
    *("torchvision.transforms.v2", "pandas", "matplotlib.pyplot", "sklearn.metrics", "scipy.stats", "scipy.optimize"),
)
"""Modules that the server imports."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_HEAD = 8
"""Bytes that say how long a request is."""


class Preloaded:
    """A use of the server of a folder, and the command that has it fork. Whoever makes it closes it."""

    def __init__(self, folder: str) -> None:
        """Connect to the server of the folder, and start it if there is none.

        Processes that share the folder share the server, which ends with the last of them.
        """
        import fcntl

        self.command = os.path.join(folder, "python")
        place = os.path.join(folder, "python.socket")
        with open(os.path.join(folder, "python.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self._connection = _connected(place)
            except OSError:
                self._start(place)
                self._connection = _connected(place)
        self._connection.sendall(bytes(_HEAD))

    def _start(self, place: str) -> None:
        """Start the server, and wait until it is ready."""
        from tests.support.places import ROOT

        with suppress(FileNotFoundError):
            os.unlink(place)
        with open(self.command, "w") as file:
            file.write(f'#!/bin/sh\nexec {sys.executable} -SI {__file__} run {place} {sys.executable} "$@"\n')
        os.chmod(self.command, 0o755)
        # It leaves at once, and the server that it forked is no child of this process: some tests kill all of theirs.
        starting = subprocess.Popen(
            [sys.executable, __file__, "serve", place, self.command],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert starting.stdout
        with starting.stdout as ready:
            assert ready.read(1) == b"r", "the server imports all modules"
        starting.wait()

    def close(self) -> None:
        """Use the server no more; it ends when nobody does."""
        self._connection.close()


def _connected(place: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(place)
    except OSError:
        server.close()
        raise
    return server


# -- the command --------------------------------------------------------------------------------------------------


def run(place: str, real: str, words: list[str]) -> None:
    """Have the server execute `python WORDS`, and end as it ended; other words than it can execute go to `real`."""
    # -X and -W, -I and -E, and a seed of hashes are of the interpreter's start.
    if not words or (words[0] not in ("-m", "-c") and words[0].startswith("-")) or "PYTHONHASHSEED" in os.environ:
        os.execv(real, [real, *words])
    server = _connected(place)
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    files = [file for file in files if file != server.fileno() and os.path.exists(f"/proc/self/fd/{file}")]
    blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)]
    asked = {"words": words, "env": dict(os.environ), "cwd": os.getcwd(), "files": files}
    content = json.dumps({**asked, "parent": os.getppid(), "blocked": blocked}).encode("utf-8", "surrogateescape")
    socket.send_fds(server, [len(content).to_bytes(_HEAD, "big")], files)
    server.sendall(content)
    for file in files:
        os.close(file)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    status = int.from_bytes(server.recv(4) or b"\0\0\0\1", "big", signed=True)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    os._exit(status)


# -- the server ---------------------------------------------------------------------------------------------------


class _Server:
    """The socket at which commands ask, and the processes that were forked for them."""

    def __init__(self, place: str, executable: str) -> None:
        self.executable = executable
        self.paths = [path for path in sys.path[1:] if path != os.environ["PYTHONPATH"]]
        """Those of every interpreter, after a script's folder and `PYTHONPATH`."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(place)
        self.listener.listen(64)
        self.running: dict[socket.socket, int] = {}
        self.users: set[socket.socket] = set()
        """Connections of those who started this server or found it; it ends when the last is closed."""
        self.ended, theirs = os.pipe()
        for file in (self.ended, theirs):
            os.set_blocking(file, False)
        self.wakeup = theirs
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)

    def serve(self) -> list[str] | None:
        """Fork for whoever asks, until nobody may ask; return in each forked process, with its arguments."""
        while True:
            ready, _, _ = select.select([self.listener, self.ended, *self.running, *self.users], [], [])
            if self.ended in ready:
                with suppress(BlockingIOError):
                    os.read(self.ended, 4096)
                self._reap()
            for connection in set(ready) & set(self.running):
                self._pass_on(connection)
            for user in set(ready) & self.users:
                self.users.remove(user)
                user.close()
                if not self.users:
                    return None
            if self.listener in ready:
                words = self._fork(self.listener.accept()[0])
                if words is not None:
                    return words

    def _reap(self) -> None:
        """Report the processes that ended."""
        for connection, pid in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self.running[connection]
                with suppress(OSError):
                    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
                connection.close()

    def _pass_on(self, connection: socket.socket) -> None:
        """Send a process the signals that its command got, SIGKILL where the command is gone."""
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            os.kill(self.running[connection], number)
        if not numbers:
            os.waitpid(self.running.pop(connection), 0)
            connection.close()

    def _fork(self, connection: socket.socket) -> list[str] | None:
        """Start a process; return None in the server and the arguments in that process."""
        head, files, _, _ = socket.recv_fds(connection, _HEAD, 253)
        if not any(head):
            self.users.add(connection)
            return None
        content = b""
        while len(content) < int.from_bytes(head, "big"):
            content += connection.recv(1 << 16)
        asked = json.loads(content.decode("utf-8", "surrogateescape"))
        pid = os.fork()
        if pid:
            self.running[connection] = pid
            for file in files:
                os.close(file)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for other in (connection, self.listener, *self.running, *self.users):
            other.close()
        os.close(self.ended)
        os.close(self.wakeup)
        return self._become(asked, files)

    def _become(self, asked: dict[str, object], files: list[int]) -> list[str]:
        """Take over what belongs to a process of its own; return its arguments."""
        os.setsid()
        numbers: list[int] = asked["files"]  # type: ignore[assignment]
        # First out of the way of the numbers that they get.
        moved = [_above(file, max(numbers)) for file in files]
        for file, number in zip(moved, numbers, strict=True):
            os.dup2(file, number)
            os.close(file)
        os.chdir(asked["cwd"])  # type: ignore[arg-type]
        os.environ.clear()
        os.environ.update(asked["env"])  # type: ignore[arg-type]
        signal.pthread_sigmask(signal.SIG_SETMASK, asked["blocked"])  # type: ignore[arg-type]
        me, real = os.getpid(), os.getppid
        os.getppid = lambda: asked["parent"] if os.getpid() == me else real()  # type: ignore[assignment, return-value]
        words: list[str] = asked["words"]  # type: ignore[assignment]
        sys.executable = self.executable
        sys.orig_argv = [self.executable, *words]
        given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:] = [*map(os.path.abspath, given), *self.paths]
        return words


def _above(file: int, least: int) -> int:
    """Move an open file to a number above another."""
    import fcntl

    moved = fcntl.fcntl(file, fcntl.F_DUPFD, least + 1)
    os.close(file)
    return moved


def _execute(words: list[str]) -> NoReturn:
    """Execute what `python WORDS` does, and end as it ends, without taking apart what the server imported."""
    import atexit
    import threading

    code: object = 0
    try:
        _start(words)
    except SystemExit as left:
        code = left.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


def _start(words: list[str]) -> None:
    """Execute the words as the interpreter does that is given them."""
    import runpy

    if words[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = words[1:]
        for name in (words[1], f"{words[1]}.__main__"):  # as in a new process, where it is `__main__` alone
            sys.modules.pop(name, None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _serve(place: str, executable: str) -> None:
    """Import everything, serve until all users are gone, and execute in each forked process what was asked."""
    import gc
    import importlib

    if os.fork():
        os._exit(0)
    for name in _MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    server = _Server(place, executable)
    os.write(1, b"r")
    os.close(1)
    words = server.serve()
    if words is not None:
        _execute(words)
    for pid in server.running.values():
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        _serve(*sys.argv[2:])
