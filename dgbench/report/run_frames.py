"""Make the frame of a sweep's runs: state, cost, hyperparameters and setting of each, from the files in its folder.

pandas is imported only inside functions, because this file is also imported where no frame is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from dgbench.plan import planfile
from dgbench.report.domainbed.folder import RECORDS
from dgbench.report.domainbed.reader import ARGUMENTS
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.store.files import read_object
from dgbench.store.folder import Store
from dgbench.store.run_folder import RUN
from dgbench.store.sealed import CorruptFile
from dgbench.store.state import State

if TYPE_CHECKING:
    import pandas as pd

HPARAMS, SETTING = "hparams.", "setting."
"""Prefixes of the columns that hold hyperparameters and fields of the setting."""

_TIMES = ("seconds", "host", "device", "peak_bytes")
_FIRST = ("folder", "run", "kind", "method", "dataset", "held_out", "hparams_seed", "trial", "state", "why", *_TIMES)


def runs_frame(parts: Mapping[str, Results]) -> pd.DataFrame:
    """Make the frame of `SweepResults.runs` for folders with their results."""
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for folder, results in parts.items():
        lines += run_lines(folder, results)
    names = (*_FIRST, *sorted({name for line in lines for name in line} - {*_FIRST}))
    frame = pd.DataFrame({name: _column([line.get(name) for line in lines]) for name in names})
    frame = frame.astype(dict.fromkeys(("seconds", "peak_bytes"), "float64"))
    return frame.astype(dict.fromkeys(("folder", "kind", "method", "dataset", "held_out", "state"), "category"))


def run_lines(folder: str, results: Results) -> Iterator[dict[str, Any]]:
    """Yield the line of each run of a folder, by the names of the columns of `SweepResults.runs`.

    Args:
        folder: A sweep's folder, dgbench's or DomainBed's.
        results: Its results.
    """
    return (_own_runs if _is_own(folder) else _their_runs)(folder, results)


def add_hparams(frame: pd.DataFrame, parts: Mapping[str, Results]) -> pd.DataFrame:
    """Return a frame of picks with a column for each hyperparameter of the chosen runs.

    Args:
        frame: It has a column `run`, empty where there is none.
        parts: Folder -> its results.
    """
    homes = {run: folder for folder, part in parts.items() for run, _ in _known(part)}
    read = {run: hparams_of(homes[run], run) for run in dict.fromkeys(frame["run"]) if run}
    names = sorted({name for values in read.values() for name in values})
    return frame.assign(**{name: _column([read.get(run, {}).get(name) for run in frame["run"]]) for name in names})


def hparams_of(folder: Path | str, run: str) -> dict[str, Any]:
    """Return `hparams.NAME` -> value of a run, with those of its averages; empty if its folder doesn't say."""
    if not _is_own(folder):
        return {f"{HPARAMS}{name}": value for name, value in their_record(Path(folder, run))["hparams"].items()}
    return _hparams(_run_json(Path(folder, "runs", run)))


def _is_own(folder: Path | str) -> bool:
    return Path(folder, planfile.FILE).exists()


def _known(results: Results) -> Iterator[tuple[str, Candidate]]:
    """Yield (run, candidate) for each candidate of a result whose run is known by name."""
    for spots in results.candidates.values():
        for seeds in spots.values():
            yield from ((candidate.run, candidate) for candidate in seeds.values() if candidate.run)


def _own_runs(folder: str, results: Results) -> Iterator[dict[str, Any]]:
    """Yield the line of each run of a folder of dgbench, members of mergers that are no row included."""
    root, known = Path(folder), dict(_known(results))
    table = planfile.read_plan(root)
    others = [run.id for run in table.runs if run.id not in known]
    store = Store(root)
    states = store.states(others, retries=0) if others else {}
    dropped = store.dropped()
    for run in table.runs:
        candidate = known.get(run.id)
        place = root / "runs" / run.id
        json = _run_json(place) if not isinstance(candidate, Gap) or candidate.state != "missing" else {}
        yield {
            "folder": folder,
            "run": run.id,
            "kind": run.kind,
            "method": run.method,
            "dataset": run.dataset,
            "held_out": "+".join(table.folds[run.fold].held_out),
            "hparams_seed": run.hparams_seed,
            "trial": run.trial,
            "state": State.DROPPED.value if run.id in dropped else _state(candidate, states.get(run.id)),
            "why": candidate.why if isinstance(candidate, Gap) else "",
            **_times(place / "times.jsonl" if isinstance(candidate, Series) or candidate is None else None),
            **_hparams(json),
            **{f"{SETTING}{name}": value for name, value in json.get("setting", {}).items()},
        }


def _state(candidate: Candidate | None, state: State | None) -> str:
    if isinstance(candidate, Gap):
        return candidate.state
    return State.DONE.value if isinstance(candidate, Series) or state is None else state.value


def _run_json(place: Path) -> dict[str, Any]:
    """Read the JSON of a run; return an empty one before it is begun, and if its file is damaged."""
    try:
        return read_object(place / RUN)
    except (FileNotFoundError, CorruptFile):
        return {}


def _hparams(json: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of the hyperparameters in a run's JSON; values that are lists or objects as their text."""
    if not json:
        return {}
    own = {f"{HPARAMS}{name}": value for name, value in json["method"]["hparams"].items()}
    for average in json.get("averages", ()):
        own |= {f"{HPARAMS}{average['name']}.{name}": value for name, value in average["hparams"].items()}
    return own


def _times(path: Path | None) -> dict[str, Any]:
    """Read the last execution's time and place; empty if there is none."""
    last = last_times(path) if path else {}
    return {name: last.get(name) for name in _TIMES} if last else {}


def last_times(path: Path) -> dict[str, Any]:
    """Read the last line of a run's `times.jsonl`; empty if there is none."""
    try:
        last = orjson.loads(path.read_bytes().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return last if isinstance(last, dict) else {}


def _their_runs(folder: str, results: Results) -> Iterator[dict[str, Any]]:
    """Yield the line of each run of a folder of DomainBed, those that are inferred to be missing included."""
    for (row, dataset), spots in results.candidates.items():
        for (position, trial), seeds in spots.items():
            for seed, candidate in seeds.items():
                gap = candidate if isinstance(candidate, Gap) else None
                record = their_record(Path(folder, candidate.run)) if candidate.run else _NOTHING
                yield {
                    "folder": folder,
                    "run": candidate.run,
                    "kind": "train",
                    "method": row,
                    "dataset": dataset,
                    "held_out": "+".join(results.folds[position].held_out),
                    "hparams_seed": seed,
                    "trial": trial,
                    "state": gap.state if gap else State.DONE.value,
                    "why": gap.why if gap else "",
                    "peak_bytes": record["peak"],
                    **{f"{HPARAMS}{name}": value for name, value in record["hparams"].items()},
                    **{f"{SETTING}{name}": record["args"].get(name) for name in ARGUMENTS if record["args"]},
                }


_NOTHING: Mapping[str, Any] = {"args": {}, "hparams": {}, "peak": None}


def their_record(place: Path) -> Mapping[str, Any]:
    """Read arguments, hyperparameters and peak memory in bytes of a run of DomainBed; empty if they can't be read."""
    try:
        lines = (place / RECORDS).read_bytes().splitlines()
        first, last = orjson.loads(lines[0]), orjson.loads(lines[-1])
        peak = last.get("mem_gb")
        return {"args": first["args"], "hparams": first["hparams"], "peak": peak * 2**30 if peak else None}
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError):
        return _NOTHING


def _column(values: list[Any]) -> Any:
    """Make a column: integers Int64, other numbers float64, yes and no boolean, all else text."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {bool}:
        return pd.array(values, dtype="boolean")
    if kinds == {int}:
        return pd.array(values, dtype="Int64" if None in values else "int64")
    if kinds and kinds <= {int, float}:
        return pd.array(values, dtype="float64")
    return pd.Series([_text(value) for value in values])


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
