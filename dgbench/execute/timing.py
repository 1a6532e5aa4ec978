"""Rehearse a run: time its first steps and a part of an evaluation in a process that keeps nothing.

`launchers.rehearsal` forks such a process from the server that forks the runs of a sweep, so that it starts as they do.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dgbench.catalogue.catalogue import shared_catalogue
from dgbench.core.run import MODEL
from dgbench.core.seeding import seed_everything
from dgbench.core.site import Site
from dgbench.data.views import Minibatches
from dgbench.execute.batch_norm import inputs_for, measure_statistics
from dgbench.execute.context import open_context
from dgbench.execute.job import versions, write_times
from dgbench.execute.loading import load
from dgbench.execute.models import predict_with, predictor_weights
from dgbench.execute.training import Training
from dgbench.networks.norms import tracking_norms
from dgbench.store.files import write_json
from dgbench.store.folder import Store

_WARM = 3
"""Steps before the clock starts: in the first ones memory is allocated and kernels are chosen."""
_MOST = 100
"""Most steps that are timed."""
_LEAST = 2
"""Fewest steps that are timed, however long they take."""
_NORMS = 5
"""Minibatches on which batch-norm statistics are measured."""


def rehearse(job: Mapping[str, Any]) -> int:
    """Time the parts of a training run, and write them to a file.

    Args:
        job: As for `execute.job.run_job`; the run has no inputs, and its folder is nothing else's. Besides, `answer` is
            the path of the file, and `seconds` the time that the run's steps, and again its evaluation, may take.

    Returns:
        The exit code, 0. The file holds `step` (seconds of a step), `example` (of predicting and scoring one), `save`
        (of writing records and checkpoint after an evaluation), `norms` (of a minibatch that batch-norm statistics are
        measured on; 0: no batch norm is live), `inside` (seconds of all that the process did beside starting and
        ending), `bytes` (of the weights of a model), and `peak` (most bytes that torch reserved on a GPU; 0: on none).
    """
    torch.set_num_threads(job["threads"])
    site, store, began = Site.from_json(job["site"]), Store(Path(job["root"])), time.time()
    folder = store.folder(job["id"])
    lease = folder.claim()
    assert lease, "nothing else uses the folder"
    with lease:
        context = open_context(folder.run(), store, site, shared_catalogue(site.include), job["keep"], lease)
        training = Training(context, context.algorithm(begin=True, train=True))
        tensors = predictor_weights(training.algorithm).values()
        found: dict[str, float] = {"bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors)}
        found["step"], inside = _time_steps(training, job["seconds"])
        start = time.perf_counter()
        found["example"] = _time_evaluation(training, job["seconds"])
        found["norms"] = _time_statistics(training)
        found["save"] = _time_saving(training)
        found["inside"] = inside + time.perf_counter() - start
        on_gpu = context.device.type == "cuda"
        found["peak"] = torch.cuda.max_memory_reserved(context.device) if on_gpu else 0
        write_times(folder, began, context.device)
        write_json(Path(job["answer"]), found)
        folder.finish({"fingerprint": context.dataset.fingerprint(), "versions": versions()})
    return 0


def _time_steps(training: Training, most: float) -> tuple[float, float]:
    """Make the first steps of a training run.

    Args:
        training: Not begun.
        most: Seconds after which no further step is made.

    Returns:
        Seconds of a step, and of all steps. The first ones count as much as later ones: what they take beyond that is
        part of a run's start.
    """
    context, steps = training.context, training.run.setting.steps
    training.algorithm.train()
    for average in training.averages.values():
        average.begin(predictor_weights(training.algorithm), steps)
    minibatches = Minibatches(context.data, training.run, [])
    warm, workers = min(_WARM, steps - 1), context.site.workers
    end, threads = min(steps, _MOST + warm), torch.get_num_threads()
    batches = load(minibatches, 0, end, asked=workers, device=context.device, threads=threads)
    began = started = time.perf_counter()
    made = 0
    for step, minibatch in enumerate(batches):
        if step <= warm and time.perf_counter() - began < most:
            _finish(context.device)
            started, made = time.perf_counter(), 0
        training._step(step, minibatch)  # not `_train`, which evaluates and saves
        made += 1
        if made >= _LEAST and time.perf_counter() - started > most:
            break
    _finish(context.device)
    seconds = (time.perf_counter() - started) / made
    return seconds, seconds * (step + 1)


def _time_evaluation(training: Training, most: float) -> float:
    """Return the seconds of predicting and scoring an example; of large views, a part is predicted."""
    context, run = training.context, training.run
    training.algorithm.eval()
    predict = predict_with(training.algorithm)
    total = sum(context.data.size(view) for view in run.views)
    seed_everything(context.device, run.seed, 0, MODEL)
    first = itertools.chain.from_iterable(context.predict_batches(predict, view) for view in run.views)
    seen, started = 0, 0.0
    for number, (positions, _) in enumerate(first):
        _finish(context.device)
        if number == 0 and len(positions) < total:
            started = time.perf_counter()  # the first batch allocates
            continue
        seen += len(positions)
        if time.perf_counter() - started > most:
            return (time.perf_counter() - started) / seen
    # It is small enough to be made whole.
    started = time.perf_counter()
    training._measure(0, MODEL, None, last=False)
    return (time.perf_counter() - started) / total


def _time_statistics(training: Training) -> float:
    """Return the seconds of measuring batch-norm statistics on a minibatch; 0 if no batch norm is live."""
    context, algorithm = training.context, training.algorithm.train()  # in evaluation no batch norm is live
    if not tracking_norms(algorithm):
        return 0.0
    weights = dict(predictor_weights(algorithm))
    inputs = itertools.islice(inputs_for(algorithm, context.data, context.trained), _NORMS)
    started = time.perf_counter()
    measure_statistics(algorithm, weights, inputs)
    _finish(context.device)
    return (time.perf_counter() - started) / min(_NORMS, context.run.setting.steps)


def _time_saving(training: Training) -> float:
    """Return the seconds of writing the records and the checkpoint after an evaluation."""
    started = time.perf_counter()
    training.lease.confirm()
    views = {str(view): {"accuracy": 0.0, "loss": 0.0, "n": 0} for view in training.run.views}
    training.folder.append_records([{"step": 0, "predictor": MODEL, "views": views}])
    training._save()
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    """Wait until the device has finished its queue; otherwise only the queueing would be timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
