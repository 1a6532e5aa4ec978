"""Time some optimizer steps of a run in a process that keeps nothing, as `launch` does to estimate a sweep's hours.

    python -m dgbench.execute.timing < job.json

The job is a JSON object: `root` and `id` of a run's folder that nothing else uses, `site`, `threads` and `steps`. The
last line of the output is one too: `seconds` of a step and `bytes` of the model's weights.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dgbench.catalogue.catalogue import shared_catalogue
from dgbench.core.site import Site
from dgbench.data.views import Minibatches
from dgbench.execute.context import open_context
from dgbench.execute.loading import load
from dgbench.execute.models import predictor_weights
from dgbench.execute.training import Training
from dgbench.store.folder import Store

_WARM = 3
"""Steps before the clock starts: in the first ones memory is allocated and kernels are chosen."""


def time_steps(job: dict[str, Any]) -> dict[str, float]:
    """Make the first steps of a training run.

    Args:
        job: As above; the run has no inputs.

    Returns:
        `seconds` that one step took on average, and `bytes` of the weights that the run would keep of a model.
    """
    torch.set_num_threads(job["threads"])
    site = Site.from_json(job["site"])
    store, steps = Store(Path(job["root"])), job["steps"]
    folder = store.folder(job["id"])
    lease = folder.claim()
    assert lease, "nothing else uses the folder"
    with lease:
        context = open_context(folder.run(), store, site, shared_catalogue(site.include), lease=lease)
        training = Training(context, context.algorithm(train=True))
        training.algorithm.train()
        for average in training.averages.values():
            average.begin(predictor_weights(training.algorithm), context.run.setting.steps)
        minibatches = Minibatches(context.data, context.run, [])
        device, threads = context.device, job["threads"]
        batches = load(minibatches, 0, _WARM + steps, asked=site.workers, device=device, threads=threads)
        started = 0.0
        for step, minibatch in enumerate(batches):
            if step == _WARM:
                _finish(context.device)
                started = time.perf_counter()
            training._step(step, minibatch)  # not `_train`, which evaluates and saves
        _finish(context.device)
        seconds = (time.perf_counter() - started) / steps
        tensors = predictor_weights(training.algorithm).values()
        return {"seconds": seconds, "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors)}


def _finish(device: torch.device) -> None:
    """Wait until the device has finished its queue; otherwise only the queueing would be timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    print(json.dumps(time_steps(json.load(sys.stdin))))
