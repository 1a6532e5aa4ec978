"""Export a sweep as event files of TensorBoard: `tensorboard --logdir OUT` shows them.

tensorboard is imported only inside functions, because it is an extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dgbench.core.progress import ReportProgress
from dgbench.core.wording import count_nouns
from dgbench.report.export.tracked import TrackedRun, tracked_runs


def write(source: Path, target: Path, report: ReportProgress) -> Iterator[str]:
    """Write a folder of event files for each predictor, with hyperparameters and scalars; see `formats.Write`."""
    total, runs = tracked_runs(source)
    for done, run in enumerate(runs, 1):
        _write_run(target.joinpath(*run.path), run)
        report("runs", done, total)
    yield f"wrote {count_nouns(total, 'run')} to {target}; to see them: tensorboard --logdir {target}"


def _write_run(folder: Path, run: TrackedRun) -> None:
    """Write the event file of one run."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.scalar.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    settings = {f"setting.{name}": value for name, value in run.setting.items()}
    writer = EventFileWriter(str(folder))
    try:
        hparams = hparams_pb({**run.labels, **run.hparams, **settings}, run.name, run.started)
        writer.add_event(Event(wall_time=run.started, summary=hparams))
        for step, scalars in run.scalars.items():
            event = Event(wall_time=run.started, step=step)
            for tag, value in scalars.items():
                metadata = create_summary_metadata("", "")
                event.summary.value.add(tag=tag, tensor=make_tensor_proto(value, dtype="float32"), metadata=metadata)
            writer.add_event(event)
    finally:
        writer.close()
