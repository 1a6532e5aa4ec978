"""No mistake of a user ends in a traceback: commands over random sweep files, hparams, csv files, folders and JSON.

Each example runs a command in this process, which must return an exit code, and after 2 have said why in lines that
begin with `dgbench: error:`. `make fuzz` tries many more examples than the tests do.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import string
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgbench import cli, collect, export
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.setting import FIELD_NAMES, PRESETS
from dgbench.launchers import one_run
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.sweep_file import KEYS
from tests.support import own_sweep
from tests.support.commands import sweep
from tests.support.layouts import write_folders, write_image

EXAMPLES = int(os.environ.get("FUZZ", "12"))
"""Of each test."""

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ" not in os.environ,  # the same ones in each run of the tests
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(max(300, 10 * EXAMPLES))]

ODD_TEXT = st.one_of(
    st.sampled_from(["", " ", "0", "-1", "a/b", "..", "/", "nan", "1e999", "x" * 300, "\x1b[31m", "é", "{", "U(1, 0)"]),
    st.text(string.printable, max_size=12),
    st.text(max_size=8),
)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 2**63, -(2**63) - 1, 10**30, 0.0, -0.0, 0.5, 1e308, 5e-324]),
    st.integers(-3, 300),
    st.floats(allow_nan=True),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, ODD_TEXT)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT, inner, max_size=3), max_leaves=6
)
ROWS = st.sampled_from(
    ["ERM", "SAM", "UDIM", "Fish", "HGP", "TRAM", "KD", "ERM+SWAD", "DiWA", "ERM+DiWA+T3A", "SWAD+T3A", "T3A+ERM"]
)
HPARAMS = ["lr", "batch_size", "rho", "weight_decay", "resnet_dropout", "teacher", "teacher_backbone", "mu"]
PARTS = ["SAM", "SWAD", "DiWA", "T3A", "KD", "ERM"]
DRAWS = st.one_of(
    ODD_TEXT,
    st.builds(
        "{}{}U({}, {})".format,
        st.sampled_from(["", "int "]),
        st.sampled_from(["", "10^", "2^", "-1^", "0^"]),
        NUMBERS,
        NUMBERS,
    ),
    st.lists(st.one_of(NUMBERS, st.booleans(), ODD_TEXT), max_size=3).map(lambda options: f"{{{options}}}"),
)


def run(main: Callable[[Sequence[str]], int], *words: str) -> None:
    """Run a command; it must come to an end in words."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()  # as `sys.stdout`, with a buffer
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(100)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(main, words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert code in (0, 1, 2, 3), "3 by `status`, where nobody works on what is left"
    if code == 2:
        problems = err.getvalue().split("dgbench: error: ")
        assert len(problems) > 1, "it says why"
        assert all(0 < len(problem) < 2_000 for problem in problems[1:])


def _hang(number: int, frame: object) -> None:
    raise AssertionError("the command hangs")


@pytest.fixture(autouse=True)
def read_once(catalogue: Catalogue) -> Iterator[None]:
    """One catalogue for all examples that include no file; a tenth of a second each."""

    def make(include: Sequence[str] = ()) -> Catalogue:
        if include:
            return Catalogue(include)
        catalogue.opened.clear()
        return catalogue

    with patch.object(sweep, "Catalogue", make), patch.object(one_run, "Catalogue", make):
        yield


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """A folder for one example: hypothesis calls a test many times within one `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# -- what is asked for --------------------------------------------------------------------------------------------


def toml(value: Any) -> str:
    """A value as TOML would write it, or something near."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def mostly(right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any] = VALUES) -> st.SearchStrategy[Any]:
    return st.one_of(right, right, right, wrong)


def some(names: Sequence[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(mostly(st.sampled_from(names), ODD_TEXT), values, max_size=3)


ASKED: dict[str, st.SearchStrategy[Any]] = {
    "algorithms": mostly(st.lists(mostly(ROWS, ODD_TEXT), max_size=3)),
    "datasets": mostly(st.lists(mostly(st.sampled_from(["RotatedDigits", "PACS", "folder:", "csv:x"])), max_size=2)),
    "preset": mostly(st.sampled_from(sorted(PRESETS))),
    "n_hparams": mostly(st.integers(0, 3)),
    "n_trials": mostly(st.integers(0, 3)),
    "setting": mostly(some(FIELD_NAMES, VALUES)),
    "hparams": mostly(some([*HPARAMS, *PARTS], mostly(SCALARS, some(HPARAMS, VALUES)))),
    "space": mostly(some(HPARAMS, mostly(DRAWS))),
}
ASKED |= {key: VALUES for key in KEYS if key not in ASKED}


@fuzzed
@given(asked=st.fixed_dictionaries({}, optional=ASKED), more=st.just("") | st.text(string.printable, max_size=20))
def test_sweep_files(asked: dict[str, Any], more: str) -> None:
    asked = {"algorithms": ["ERM"], "datasets": ["RotatedDigits"], "n_hparams": 1, "n_trials": 1, **asked}
    with empty_folder() as folder:
        text = "\n".join(f"{key} = {toml(value)}" for key, value in asked.items()) + f"\n{more}"
        (folder / "own.toml").write_text(text, encoding="utf-8", errors="surrogatepass")
        run(sweep.main, "launch", "--sweep", f"{folder}/own.toml", "--output_dir", f"{folder}/new", "--dry_run")
        assert not (folder / "new").exists()


@fuzzed
@given(
    row=ROWS,
    hparams=mostly(some([*HPARAMS, *PARTS, *FIELD_NAMES], mostly(SCALARS, some(HPARAMS, VALUES)))),
    cut=st.none() | st.integers(0, 30),
    words=st.lists(
        st.sampled_from(
            ["--n_hparams", "--n_trials", "--steps", "--test_envs", "--preset", "--n_trials_from", "--json"]
        )
        | ODD_TEXT.filter(lambda text: "\0" not in text and text not in ("-h", "--help")),
        max_size=4,
    ),
)
def test_hparams_and_flags(row: str, hparams: Any, cut: int | None, words: list[str]) -> None:
    given_words = ("--hparams", json.dumps(hparams)[:cut], *words)
    names = ("--algorithms", row, "--datasets", "RotatedDigits", "--n_hparams", "1", "--n_trials", "1")
    with empty_folder() as folder:
        run(sweep.main, "launch", *names, "--output_dir", f"{folder}/new", *given_words, "--dry_run")
        assert not (folder / "new").exists()


# -- data ---------------------------------------------------------------------------------------------------------

CELLS = mostly(
    st.sampled_from(["toy/a/x/0000.png", "toy/b/y/0001.png", "./toy/a/x/0000.png", "nowhere.png", "a", "b", "x", "y"]),
    ODD_TEXT,
)


@fuzzed
@given(
    head=mostly(st.just(["path", "domain", "label"]), st.lists(ODD_TEXT, max_size=4)),
    rows=st.lists(mostly(st.tuples(CELLS, CELLS, CELLS).map(list), st.lists(CELLS, max_size=5)), max_size=6),
    noise=st.binary(max_size=6),
    flags=st.sampled_from([(), ("--allow_missing_classes",), ("--skip_bad_images",)]),
)
def test_csv_files(head: list[str], rows: list[list[str]], noise: bytes, flags: tuple[str, ...]) -> None:
    with empty_folder() as folder:
        write_folders(folder / "toy", ["a", "b"], ["x", "y"], ".png")
        text = "\n".join(",".join(cells) for cells in [head, *rows]).encode(errors="surrogatepass")
        (folder / "list.csv").write_bytes(text + noise)
        run(sweep.main, *_launch(folder, f"csv:{folder}/list.csv"), *flags)


NAMES = mostly(
    st.sampled_from(["a", "b", "0", "1", "train", "test", ".hidden", "x.png", "x.jpg", "y.gif", "x.npy"]),
    st.binary(min_size=1, max_size=9).map(os.fsdecode).filter(lambda name: not set(name) & {"/", "\0"}),
).filter(lambda name: name not in (".", ".."))
CONTENTS = st.sampled_from(
    ["folder", "folder", "image", "image", "nothing", "noise", "link", "loop", "dangling", "pipe"]
)


@fuzzed
@given(
    entries=st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), CONTENTS), max_size=10),
    whole=st.booleans(),
    flags=st.sampled_from([(), ("--allow_missing_classes",), ("--skip_bad_images",)]),
)
def test_folders(entries: list[tuple[list[str], str]], whole: bool, flags: tuple[str, ...]) -> None:
    with empty_folder() as folder:
        root = write_folders(folder / "toy", ["a", "b"], ["x", "y"], ".png") if whole else folder / "toy"
        root.mkdir(exist_ok=True)
        for names, content in entries:
            with contextlib.suppress(OSError):  # something else is there, or a link leads nowhere
                _make(root.joinpath(*names), content)
        run(sweep.main, *_launch(folder, f"folder:{root}"), *flags)


def _launch(folder: Path, dataset: str) -> tuple[str, ...]:
    one = ("--n_hparams", "1", "--n_trials", "1", "--steps", "2", "--hparams", '{"batch_size": 1}')
    return ("launch", "--algorithms", "ERM", "--datasets", dataset, *one, "--output_dir", f"{folder}/new", "--dry_run")


def _make(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == "folder":
        path.mkdir()
    elif content == "image" and not path.is_dir():
        write_image(path.with_name("image.png")).rename(path)
    elif content == "pipe":
        os.mkfifo(path)
    elif content in ("link", "loop", "dangling"):
        path.symlink_to({"link": path.parent.parent, "loop": path, "dangling": path / "nowhere"}[content])
    elif not path.exists():
        path.write_bytes(b"" if content == "nothing" else b"noise\xff" * 9)


# -- what a sweep's folder holds ----------------------------------------------------------------------------------

LAUNCH = (
    *("launch", "--algorithms", "ERM", "--datasets", "RotatedDigits", "--test_envs", "75", "--single_test_envs"),
    *("--n_hparams", "2", "--n_trials", "2", "--steps", "1201", "--checkpoint_freq", "400", "--skip_confirmation"),
    *("--hparams", '{"backbone": "Linear", "batch_size": 32}', "--device", "cpu", "--output_dir"),
)
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], tuple[str, ...]]] = {
    "status": (sweep.main, ("status", "--output_dir")),
    "status --json": (sweep.main, ("status", "--json", "--output_dir")),
    "collect": (collect.main, ("--input_dir",)),
    "collect --json": (collect.main, ("--format", "json", "--input_dir")),
    "export": (export.main, ("--format", "domainbed", "--output_dir", "exported", "--input_dir")),
    "launch": (sweep.main, LAUNCH),
    "retry": (sweep.main, ("retry", "--skip_confirmation", "--output_dir")),
    "cancel": (sweep.main, ("cancel", "--output_dir")),
    "delete_incomplete": (sweep.main, ("delete_incomplete", "--skip_confirmation", "--output_dir")),
    "prune": (sweep.main, ("prune", "--skip_confirmation", "--output_dir")),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweep folders: one whose runs are all done, and one with a run that stopped and runs that were not begun."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "finished").mkdir()
    own_sweep.make(root / "finished", hparams=1, trials=1)
    with tarfile.open(Path(__file__).parent / "launchers" / "stored_sweep.tar.xz") as archive:
        archive.extractall(root, filter="data")
    (root / "sweep").rename(root / "stopped")
    return root


@fuzzed
@given(data=st.data())
def test_stored_json(data: st.DataObject, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with empty_folder() as folder, monkeypatch.context() as patched:
        patched.setattr(Sweep, "execute", lambda self, *args, **jobs: 0)  # all else of a launch reads the folder
        patched.chdir(folder)
        root = folder / "sweep"
        shutil.copytree(kept / data.draw(st.sampled_from(["finished", "stopped"])), root)
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        names = st.sampled_from(sorted({path.name for path in files}))
        for name in data.draw(st.lists(names, min_size=1, max_size=2, unique=True)):
            _damage(data, data.draw(st.sampled_from([path for path in files if path.name == name])))
        main, words = COMMANDS[data.draw(st.sampled_from(sorted(COMMANDS)))]
        run(main, *words, str(root))


def _damage(data: st.DataObject, path: Path) -> None:
    """Do to a file what disks, editors and other programs do."""
    kind = data.draw(st.sampled_from(["gone", "folder", "cut", "foreign", "value", "value", "value", "line"]))
    content = path.read_bytes()
    if kind in ("gone", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    elif kind == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    elif kind == "foreign":
        path.write_bytes(
            data.draw(st.sampled_from([b"", b"[]", b"{}", b"null", b"0", b'"x"', b"\x00\xff", b"[" * 5000]))
        )
    elif kind == "line":
        path.write_bytes(content + data.draw(st.sampled_from([b"[]\n", b"{}\n", b"null\n", b"\xff\n", b'{"step": 5'])))
    else:
        lines = content.split(b"\n")
        with contextlib.suppress(orjson.JSONDecodeError):
            changed = _with_other_value(data, orjson.loads(lines[0]))
            lines[0] = json.dumps(changed).encode()
            path.write_bytes(b"\n".join(lines))


def _with_other_value(data: st.DataObject, value: Any) -> Any:
    """Put something else somewhere into a JSON value."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(sorted(value)))
        if data.draw(st.integers(0, 9)) == 0:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _with_other_value(data, value[key])}
    if isinstance(value, list) and value and data.draw(st.integers(0, 9)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], _with_other_value(data, value[at]), *value[at + 1 :]]
    return data.draw(VALUES)
