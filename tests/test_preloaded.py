"""The interpreter that stands for `python` in tests of commands behaves as one that is started anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REAL = sys.executable
SHOW = (
    "import os, sys; print(sys.argv, os.getcwd(), os.environ.get('MOOD'), sys.stdin.read(), os.getppid(), sys.path[:2])"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("preloaded"),
    pytest.mark.skipif(sys.platform != "linux", reason="passes open files on by /proc"),
]


def both(*words: str, where: Path) -> list[tuple[int, str, str]]:
    """What the two interpreters make of the same words: exit code, output, and the last line of errors."""
    found = []
    for python in (REAL, sys.executable):
        env = {**os.environ, "MOOD": "good", "PYTHONPATH": "/nowhere"}
        done = subprocess.run([python, *words], capture_output=True, text=True, input="typed", env=env, cwd=where)
        found.append((done.returncode, done.stdout, done.stderr.rpartition("\n")[2]))
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("-c", SHOW, "a", "--b"),
        ("-c", "import sys; sys.exit(3)"),
        ("-c", "import sys; sys.exit('no')"),
        ("-c", "1 / 0"),
        ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        ("-c", "import atexit, threading; atexit.register(print, 2); threading.Timer(0.05, print, [1]).start()"),
        ("-m", "mine", "a"),
        ("mine.py", "b"),
    ],
)
def test_it_does_what_a_new_interpreter_does(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{SHOW}\nassert __name__ == '__main__'\n")
    new, preloaded = both(*words, where=tmp_path)
    assert preloaded == new


def test_signals_reach_it_and_it_dies_with_its_command(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen([sys.executable, "-c", code])
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("."):
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == -number
        pid = int((tmp_path / "pid").read_text()[:-1])
        (tmp_path / "pid").unlink()
        while Path(f"/proc/{pid}").exists():  # the test's time limit ends it
            pass


def test_it_has_torch_imported_and_starts_others_as_itself() -> None:
    code = "import sys; print('torch' in sys.modules, sys.executable)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"True {sys.executable}\n"
