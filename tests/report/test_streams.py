"""The accuracy along streams, from the records to the frame and the figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dgbench import load_results
from dgbench.core.protocol import View
from dgbench.report.figures.gallery import FIGURES
from dgbench.report.figures.subject import subjects
from dgbench.report.reader import read_results
from dgbench.report.select import TrainingDomain
from dgbench.report.tables import build
from tests.support.in_process import execute_all, records_of, runs_of, sweep_of


def test_streams_are_read_drawn_and_left_out_of_tables(tmp_path: Path) -> None:
    setting = {"steps": 12, "checkpoint_freq": 11, "stream": "order=by_class domains=continual batch_size=20"}
    sweep = execute_all(sweep_of(tmp_path, "ERM", "ERM+T3A", test_domains=["60", "75"], setting=setting))
    (run,) = runs_of(sweep, "T3A")
    records = records_of(sweep.store.folder(run.id))
    results = load_results(tmp_path)
    frame = results.streams
    assert set(frame.row) == {"ERM+T3A"}
    assert len(frame) == len(records) * len(run.views) * 10
    for record in records:
        for view, along in record["along"].items():
            own = frame[(frame.step == record["step"]) & (frame.domain == View.parse(view).domain)]
            own = own[own.part == View.parse(view).part].sort_values("tenth")
            assert own.tenth.tolist() == list(range(10))
            assert own.accuracy.tolist() == along
    plain = read_results(tmp_path)
    assert all(
        one.along is None for spot in plain.candidates["ERM+T3A", "RotatedDigits"].values() for one in spot.values()
    )
    (subject,) = subjects(results, build(results.results, [TrainingDomain()]))
    drawing = FIGURES["streams"].make(subject)
    assert drawing is not None
    (axes,) = drawing.render().axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines) == ["60", "75"]
    for domain, values in lines.items():
        assert np.asarray(values) == pytest.approx(100 * np.array(records[-1]["along"][f"{domain}/in"]))
