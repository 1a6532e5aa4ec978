"""Export a sweep as offline runs of Weights & Biases: `wandb sync OUT/wandb/offline-run-*` uploads them, if wanted.

wandb is imported only inside functions, because it is an extra.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dgbench.core.progress import ReportProgress
from dgbench.core.wording import count_nouns
from dgbench.report.export.tracked import TrackedRun, tracked_runs


def write(source: Path, target: Path, report: ReportProgress) -> Iterator[str]:
    """Write an offline run for each predictor, with its configuration and scalars; see `formats.Write`."""
    total, runs = tracked_runs(source)
    target.mkdir(parents=True, exist_ok=True)
    # wandb reads its environment when it is imported. Errors of its own would be reported to its makers.
    os.environ |= {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    project = re.sub(r"[/\\#?%:]", "_", source.resolve().name)
    for done, run in enumerate(runs, 1):
        _write_run(target, project, run)
        report("runs", done, total)
    yield (
        f"wrote {count_nouns(total, 'run')} to {target / 'wandb'}; nothing was sent; "
        f"to upload them: wandb sync {target / 'wandb'}/offline-run-*"
    )


def _write_run(target: Path, project: str, run: TrackedRun) -> None:
    """Write one offline run."""
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    # The same sweep exported twice gives the same ids, so that it can be uploaded again.
    id = hashlib.sha256(f"{run.name} {run.run}".encode()).hexdigest()[:16]
    opened = wandb.init(
        mode="offline",
        dir=str(target),
        project=project,
        id=id,
        name=run.name,
        group=f"{run.row} {run.dataset}",
        config={**run.labels, "seconds": run.seconds, "hparams": dict(run.hparams), "setting": dict(run.setting)},
        settings=settings,
        reinit="create_new",
    )
    for step, scalars in run.scalars.items():
        opened.log(dict(scalars), step=step)
    opened.finish()
