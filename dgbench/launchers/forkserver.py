"""A process that has imported everything, and forks once for each run: torch is loaded once a machine, a run starts
in a tenth of a second, and a run that dies takes nothing with it.

The launcher starts `python -m dgbench.launchers.forkserver` and speaks JSON lines over a socket:
to the server    {"do": "run", "id", "job", "env", "log"}   {"do": "signal", "id", "signal"}   {"do": "quit"}
from the server  {"ready": true}   {"id", "pid"}   {"id", "status": exit code, or -signal}

Launcher, server and runs die in this order, each within moments of the one before: by PR_SET_PDEATHSIG on Linux. On
other systems the server leaves when the socket closes and kills its runs; if the server is killed there, runs go on.
The server has one thread and never touches CUDA, which are the conditions for forking it.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
_SINGLE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class ForkServerDied(RuntimeError):
    """The server is gone; the message holds what it said last."""


class Lines:
    """JSON lines over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Wait until something arrives; the complete messages so far. EOFError when the other side is gone."""
        try:
            data = self.connection.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class ForkServer:
    """The launcher's side. Start it in a thread that outlives it: the server dies with the thread that started it."""

    def __init__(
        self, target: str, modules: Sequence[str] = (), hook: str | None = None, argument: object = None
    ) -> None:
        """Start a server whose runs call `target` ("module:function") with their job and exit with what it returns.

        `modules` are imported in the server, then `hook` ("module:function") is called with `argument` (JSON). Raises
        `ForkServerDied` with the traceback if any of it fails.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "dgbench.launchers.forkserver", "--socket", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), "--target", target, "--modules", *modules]
        if hook:
            command += ["--hook", hook, "--argument", json.dumps(argument)]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env={**os.environ, **_SINGLE_THREAD},
                start_new_session=True,  # Ctrl-C is the launcher's to answer
            )
        self._lines = Lines(ours)
        try:
            self.receive()
        except BaseException:
            self._process.kill()  # while it imports, it hears nothing
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def fileno(self) -> int:
        """For a selector: readable when `receive` has something."""
        return self._lines.connection.fileno()

    def start(self, id: str, job: Mapping[str, Any], env: Mapping[str, str], log: str) -> None:
        """Fork a process that adds `env` to its environment, appends its output to `log`, and executes `job`."""
        self._send({"do": "run", "id": id, "job": job, "env": env, "log": log})

    def signal(self, id: str, number: int) -> None:
        """Send a signal to a run's process, SIGKILL to what it started as well; nothing happens if it is gone."""
        self._send({"do": "signal", "id": id, "signal": number})

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._lines.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def receive(self) -> list[dict[str, Any]]:
        """Wait for messages; raises `ForkServerDied`."""
        try:
            return self._lines.receive()
        except EOFError:
            raise self._died() from None

    def _died(self) -> ForkServerDied:
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()
        return ForkServerDied(f"the fork server ended with {status}\n{said[-4000:]}".strip())

    def close(self) -> None:
        """End the server, and with it every process that it still has."""
        with suppress(OSError):
            self._lines.send({"do": "quit"})
        self._lines.connection.close()
        self._process.wait()
        self._stderr.close()


# -- the server's side --------------------------------------------------------------------------------------------


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; leave at once if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def resolve(name: str) -> Callable[[Any], Any]:
    """The function that "module:function" names."""
    module, _, function = name.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return found


class _Server:
    def __init__(self, lines: Lines, target: Callable[[Any], Any]) -> None:
        self.lines, self.target = lines, target
        self.runs: dict[int, str] = {}
        self._wake, wake = socket.socketpair()
        for end in (self._wake, wake):
            end.setblocking(False)
        self._waker = wake
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # so that the wake-up socket hears of it
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until told to quit, or until the launcher is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.lines.connection, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wake:
                        self._reap()
                        continue
                    for message in self.lines.receive():
                        if message["do"] == "quit":
                            return
                        self._obey(message)

    def _obey(self, message: Mapping[str, Any]) -> None:
        if message["do"] == "run":
            self._fork(message)
            return
        for pid, id in self.runs.items():
            if id == message["id"]:
                self._kill(pid, message["signal"])

    def _kill(self, pid: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if number == signal.SIGKILL:
            self._kill_group(pid)

    def _kill_group(self, pid: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # it may not have made its group yet
            os.killpg(pid, signal.SIGKILL)

    def _fork(self, message: Mapping[str, Any]) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or no process ids left: this run's failure, not the server's
            print(f"fork: {error}", file=sys.stderr)
            self.lines.send({"id": message["id"], "status": os.EX_OSERR})
            return
        if pid == 0:
            self._child(server, message)
        self.runs[pid] = message["id"]
        self.lines.send({"id": message["id"], "pid": pid})

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            self._wake.recv(1 << 16)
        for pid in list(self.runs):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._kill_group(pid)  # what the run started and left behind
                self.lines.send({"id": self.runs.pop(pid), "status": os.waitstatus_to_exitcode(status)})

    def _child(self, server: int, message: Mapping[str, Any]) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent(server)
            for end in (self._wake, self._waker, self.lines.connection):
                end.close()
            _set_up(message)
            code = _call(self.target, message["job"])
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def end(self) -> None:
        """Kill what is left."""
        for pid in self.runs:
            self._kill(pid, signal.SIGKILL)


def _set_up(message: Mapping[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm sends it to every process; only its batch process answers
    log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    os.environ.update(message["env"])


def _call(target: Callable[[Any], Any], job: object) -> int:
    try:
        return int(target(job))
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def main(arguments: Sequence[str]) -> None:
    """The server's process."""
    parser = argparse.ArgumentParser(prog="python -m dgbench.launchers.forkserver")
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--modules", nargs="*", default=[])
    parser.add_argument("--hook")
    parser.add_argument("--argument", default="null")
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    lines = Lines(socket.socket(fileno=options.socket))
    lines.connection.set_inheritable(False)
    for name in options.modules:
        importlib.import_module(name)
    if options.hook:
        resolve(options.hook)(json.loads(options.argument))
    server = _Server(lines, resolve(options.target))
    gc.freeze()  # a run's garbage collector need not touch, and so copy, what all share
    lines.send({"ready": True})
    try:
        server.serve()
    except (EOFError, BrokenPipeError):
        pass
    finally:
        server.end()


if __name__ == "__main__":
    main(sys.argv[1:])
