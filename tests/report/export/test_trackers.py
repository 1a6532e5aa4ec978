"""What is exported is read back by the libraries that it is for."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli, export
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.report.export.formats import FORMATS
from dgbench.report.export.tracked import TrackedRun, tracked_runs
from tests.support.places import ROOT, SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
LOOPBACK = """
import os, sys
from pathlib import Path

def refuse(event, args):
    if event == "socket.getaddrinfo" and args[0] not in (None, "", "localhost", "127.0.0.1", "::1"):
        os._exit(99)
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1"):
        os._exit(98)

sys.addaudithook(refuse)
from dgbench import cli, export
sys.exit(cli.run(export.main, sys.argv[1:]))
"""
"""A command that ends with another exit code if it asks for another machine."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("sweep") / "my sweep"
    root.mkdir()
    OWN["make"](root, trials=1, hparams=1, protocol=LeaveOneDomainOut(pairs=False, only=("-90%",)))
    return root


@pytest.fixture(scope="module")
def runs(source: Path) -> list[TrackedRun]:
    number, found = tracked_runs(source)
    assert number == 3
    return list(found)


def exported(source: Path, target: Path, name: str) -> str:
    """Export in a process of its own, which these libraries change: its output."""
    words = [str(source), "--format", name, "-o", str(target)]
    done = subprocess.run(
        [sys.executable, "-c", LOOPBACK, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=target.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "online", "HOME": str(target.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in target.parent.iterdir() if not path.name.startswith(".")] == [target.name]
    return done.stdout


def rounded(run: TrackedRun) -> dict[int, dict[str, float]]:
    return {step: {name: pytest.approx(v) for name, v in scalars.items()} for step, scalars in run.scalars.items()}


@pytest.mark.filterwarnings("ignore")
def test_tensorboard(source: Path, runs: list[TrackedRun], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util.tensor_util import make_ndarray

    target = tmp_path / "out"
    assert exported(source, target, "tensorboard").startswith(f"wrote 3 runs to {target}; to see them: tensorboard ")
    for run in runs:
        events = EventAccumulator(str(target.joinpath(*run.path)))
        events.Reload()
        found: dict[int, dict[str, float]] = {}
        for tag in events.Tags()["tensors"]:
            if tag != metadata.SESSION_START_INFO_TAG:
                for event in events.Tensors(tag):
                    found.setdefault(event.step, {})[tag] = float(make_ndarray(event.tensor_proto))
        assert found == rounded(run)
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        hparams = metadata.parse_session_start_info_plugin_data(content).hparams
        assert hparams["row"].string_value == run.row
        assert hparams["setting.steps"].number_value == 10
        assert run.hparams.items() <= {name: value.number_value for name, value in hparams.items()}.items()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow(source: Path, runs: list[TrackedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    target = tmp_path / "out"
    assert f"mlflow ui --backend-store-uri sqlite:///{target}/mlflow.db\n" in exported(source, target, "mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{target}/mlflow.db", registry_uri=str(target))
    (experiment,) = (found for found in client.search_experiments() if found.name == source.name)
    stored = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    assert {*stored} == {run.name for run in runs}
    for run in runs:
        found = stored[run.name]
        assert found.info.status == "FINISHED"
        assert found.data.tags.items() >= run.labels.items()
        assert (
            found.data.params.items() >= {**{k: str(v) for k, v in run.hparams.items()}, "setting.steps": "10"}.items()
        )
        for name in found.data.metrics:
            history = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, name)}
            original = name.replace("_90_", "+90%").replace("_80_", "+80%").replace("-90_", "-90%")
            assert history == {step: scalars[original] for step, scalars in rounded(run).items()}
        assert len(found.data.metrics) == len(next(iter(run.scalars.values())))


def wandb_records(path: Path) -> Iterator[Any]:
    """Records in a file of wandb: a log in blocks of 32 KiB, parts of records with a header of 7 bytes each."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb(source: Path, runs: list[TrackedRun], tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert "nothing was sent" in exported(source, target, "wandb-offline")
    files = sorted(target.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == len(runs)
    found: dict[str, dict[int, dict[str, float]]] = {}
    for file in files:
        records = list(wandb_records(file))
        (about,) = (record.run for record in records if record.HasField("run"))
        assert about.project == "my sweep"
        (run,) = (run for run in runs if run.name == about.display_name)
        config = {item.key: json.loads(item.value_json) for item in about.config.update}
        assert config["hparams"] == run.hparams
        assert (config["setting"]["steps"], config["row"]) == (10, run.row)
        for record in (record for record in records if record.HasField("history")):
            values = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            own = {name: value for name, value in values.items() if not name.startswith("_")}
            found.setdefault(run.name, {})[values["_step"]] = own
    assert found == {run.name: rounded(run) for run in runs}


@pytest.mark.parametrize(
    ("name", "extra"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("wandb-offline", "wandb")]
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    name: str,
    extra: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert cli.run(export.main, [str(source), "--format", name, "-o", str(tmp_path / "out")]) == 2
    missing = " and ".join(FORMATS[name].needs)
    assert capsys.readouterr().err == (
        f"dgbench: error: --format {name} needs {missing}: pip install 'dgbench[{extra}]'\n"
    )
    assert not (tmp_path / "out").exists()
