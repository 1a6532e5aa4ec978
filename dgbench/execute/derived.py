"""Runs that train nothing: merging finished runs into one predictor, adapting a finished model at test time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.core.run import BEST, LAST, MODEL, Input
from dgbench.core.seeding import numpy_stream, seed_everything
from dgbench.core.stats import nan_as_worst
from dgbench.execute.batch_norm import with_statistics
from dgbench.execute.context import RunContext
from dgbench.execute.evaluate import (
    HELD,
    Predict,
    PredictedBatch,
    examples_per_batch,
    mean_score,
    to_float64,
)
from dgbench.execute.merge_tools import MergeTools
from dgbench.execute.models import build, predict_with, save_model
from dgbench.methods.adapter import Adapter
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.merger import Member, Merger

_SOURCE_BATCH = 128


def execute_merge(context: RunContext, algorithm: Algorithm) -> None:
    """Merge the inputs' best models by `algorithm`, and record the result at the last step of training.

    A merger that leaves a choice records its candidates at the steps before, from step 0 on where those are too few.
    """
    cls, hparams = build(context.catalogue, "merger", context.run.method)
    merger: Merger = cls(hparams)
    last = context.run.setting.steps - 1
    members = [_member(context, source) for source in context.run.inputs]
    seed_everything(context.device, context.run.seed, "merge")
    if cls.card.ensemble:
        chosen = merger.ensemble(members)
        shown = partial(_averaged, context, algorithm, chosen)
        _record(context, last, shown, {}, {"members": [member.run for member in chosen]}, last=True)
        return
    tools = MergeTools(context, algorithm).tools()
    keep = context.kept(MODEL)
    first, best, named = max(0, last + 1 - merger.choices), -math.inf, dict[str, float]()
    last = first + merger.choices - 1
    for step, merged in enumerate(merger.candidates(members, tools), first):
        weights = with_statistics(context, algorithm, merged.weights)
        shown = partial(context.predict_batches, predict_with(algorithm, weights))
        by = {"members": [member.run for member in merged.members], **merged.by}
        accuracy = _record(context, step, shown, named, by, last=step == last)
        if BEST in keep and (step == first or nan_as_worst(accuracy) > best):
            save_model(context.folder.path, MODEL, BEST, weights, step, accuracy)
        if LAST in keep and step == last:
            save_model(context.folder.path, MODEL, LAST, weights, step, accuracy)
        best = max(nan_as_worst(accuracy), best)


def execute_adapt(context: RunContext, algorithm: Algorithm) -> None:
    """Adapt the input's best and last model, held by `algorithm`, to each view by itself, and record both."""
    cls, hparams = build(context.catalogue, "adapter", context.run.method)
    (source,) = context.run.inputs
    models = {saved.step: saved for saved in (context.find_input_model(source, which) for which in context.run.reads)}
    named = dict[str, float]()
    for step, saved in sorted(models.items()):
        algorithm.load_state_dict(saved.load(context.device), strict=False)
        algorithm.eval()
        shown = partial(_adapted, context, lambda: cls(copy.deepcopy(algorithm.network), hparams))
        _record(context, step, shown, named, last=step == max(models))


def _source(context: RunContext, prepare: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """All training examples (x, y), clean, domain after domain, in batches."""
    for view in context.data.train:
        labels = torch.from_numpy(context.data.labels(view))
        for positions in np.array_split(np.arange(len(labels)), max(1, len(labels) // _SOURCE_BATCH)):
            yield prepare(context.data.inputs(view, positions).to(context.device)), labels[positions].to(context.device)


def _member(context: RunContext, source: Input) -> Member:
    saved = context.find_input_model(source, BEST)
    return Member(
        source.run,
        nan_as_worst(saved.accuracy),
        lambda: saved.load(context.device),
        lambda name: saved.tensor(name, context.device),
    )


def _record(
    context: RunContext,
    step: int,
    shown: Callable[[View], Iterable[PredictedBatch]],
    named: dict[str, float],
    extra: dict[str, Any] | None = None,
    *,
    last: bool,
) -> float:
    """Record the scores of one model, by which each view is `shown`; returns its mean one in validation, or NaN.

    The rest is as in `RunContext.measure`.
    """
    scores = context.measure(MODEL, shown, step=step, last=last, named=named)
    context.folder.append_records([{"step": step, "predictor": MODEL, "views": scores, **(extra or {})}])
    return mean_score(scores, context.run.validation, context.data.card.metric) if context.run.validation else math.nan


def _averaged(
    context: RunContext, algorithm: Algorithm, members: Sequence[Member], view: View
) -> Iterator[PredictedBatch]:
    """The members' mean logits of a view, in double precision.

    What is held is the sum of the logits, and one member at a time; or where that is too much, all members at once.
    """
    positions, each, together = context.order(view), examples_per_batch(context.data), max(1, context.group_size)
    each = max(together, each - each % together)
    models: Iterable[Predict] = (predict_with(algorithm, member.load()) for member in members)
    parts = [positions]
    if len(positions) * context.data.outputs > HELD:
        models, parts = list(models), np.split(positions, range(each, len(positions), each))
    for part in parts:
        total: list[PredictedBatch] = []
        for predict in models:
            for i, (where, logits) in enumerate(context.predict_batches(predict, view, order=part)):
                if i == len(total):
                    total.append((where, to_float64(logits)))
                else:
                    total[i][1].add_(logits.to(total[i][1].device))
        yield from context.interruptible((where, logits / len(members)) for where, logits in total)


def _adapted(context: RunContext, make: Callable[[], Adapter], view: View) -> Iterator[PredictedBatch]:
    """A view by a fresh adapter that is shown its inputs, shuffled by the run's seed, each once."""
    seed_everything(context.device, context.run.seed, "adapt", str(view))
    adapter = make()
    prepare = adapter.network.prepare
    if adapter.card.needs_source:
        adapter.begin(context.interruptible(_source(context, prepare)))
    order = numpy_stream(context.run.seed, "adapt", str(view)).permutation(context.data.size(view))

    def predict(x: Tensor) -> Tensor:
        with torch.enable_grad():
            return adapter.predict(prepare(x)).detach()

    return context.predict_batches(predict, view, batch_size=adapter.batch_size, order=order)
