"""Execute the runs that train nothing: merge finished runs into one predictor, adapt a finished model at test time.

Both read models that their input runs saved, measure what they make on the run's views, and append its records. They
keep no checkpoint: a run that was stopped starts again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from dgbench.core.connectivity import mean_barrier
from dgbench.core.protocol import View
from dgbench.core.run import BEST, LAST, MODEL, Input
from dgbench.core.seeding import seed_everything
from dgbench.core.stats import nan_as_worst
from dgbench.execute.context import RunContext
from dgbench.execute.describe import describe
from dgbench.execute.evaluate import (
    HELD,
    Predict,
    PredictedBatch,
    Read,
    examples_per_batch,
    mean_score,
    to_float64,
)
from dgbench.execute.merge_tools import MergeTools
from dgbench.execute.models import build, predict_with, save_model
from dgbench.execute.streams import StreamedViews
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.merger import Member, Merger


def execute_merge(context: RunContext, algorithm: Algorithm) -> None:
    """Merge the best models of the run's inputs, and record the result at the last step of training.

    A merger with several candidates records the last of them at that step and the others at the steps before, so that a
    selector chooses among them as among the steps of a run. If training had fewer steps, they start at step 0.

    Args:
        context: The run, opened.
        algorithm: Computes the merged model's logits; its own weights are not used.
    """
    cls, hparams = build(context.catalogue, "merger", context.run.method)
    merger: Merger = cls(hparams)
    last = context.run.setting.steps - 1
    members = [_member(context, source) for source in context.run.inputs]
    seed_everything(context.device, context.run.seed, "merge")
    if cls.card.ensemble:
        chosen = merger.ensemble(members)
        batches_of = partial(_averaged, context, algorithm, chosen)
        _record(context, last, batches_of, {}, {"members": [member.run for member in chosen]}, last=True)
        return
    tools = MergeTools(context, algorithm)
    keep = context.kept(MODEL)
    facts = describe(context, algorithm, MODEL) if keep else None
    # Steps of the records, one a candidate: the last gets the last step of training, if there are steps for all.
    first, best, named = max(0, last + 1 - merger.choices), -math.inf, dict[str, float]()
    last = first + merger.choices - 1
    for step, merged in enumerate(merger.candidates(members, tools.tools()), first):
        weights, known = tools.finished(merged.weights)
        batches_of = partial(context.predict_batches, predict_with(algorithm, weights))
        by = {"members": [member.run for member in merged.members], **merged.by}
        accuracy = _record(context, step, batches_of, named, by, merged.members, last=step == last, known=known)
        if BEST in keep and (step == first or nan_as_worst(accuracy) > best):
            save_model(context.folder.path, MODEL, BEST, weights, step, accuracy, facts)
        if LAST in keep and step == last:
            save_model(context.folder.path, MODEL, LAST, weights, step, accuracy, facts)
        best = max(nan_as_worst(accuracy), best)


def execute_adapt(context: RunContext, algorithm: Algorithm) -> None:
    """Adapt the input's best and last model to the run's views, and record both.

    Where the setting has a stream, `along` of a record holds the accuracy along it: view -> that of each tenth.

    Args:
        context: The run, opened.
        algorithm: Takes the weights of each model in turn.
    """
    cls, hparams = build(context.catalogue, "adapter", context.run.method)
    (source,) = context.run.inputs
    models = {saved.step: saved for saved in (context.find_input_model(source, which) for which in context.run.reads)}
    named = dict[str, float]()
    for step, saved in sorted(models.items()):
        # A file holds what prediction reads; other tensors of the algorithm are not needed any more.
        algorithm.load_state_dict(saved.load(context.device), strict=False)
        algorithm.eval()
        views = StreamedViews(context, lambda: cls(copy.deepcopy(algorithm.network), hparams))
        along: dict[str, list[float]] | None = {} if context.run.setting.stream else None
        _record(context, step, views.batches_of, named, last=step == max(models), along=along)


def _member(context: RunContext, source: Input) -> Member:
    """Describe an input run's best model to a merger; its weights are read when the merger wants them."""
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
    batches_of: Callable[[View], Iterable[PredictedBatch]],
    named: dict[str, float],
    extra: dict[str, Any] | None = None,
    members: Sequence[Member] = (),
    *,
    last: bool,
    along: dict[str, list[float]] | None = None,
    known: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> float:
    """Measure a model, append its record, and return its mean validation score, or NaN without validation views.

    `extra` are further fields of the record, and of several `members` whose weights were merged the record names the
    barrier, in that score; for the other arguments see `RunContext.measure`.
    """
    scores = context.measure(MODEL, batches_of, step=step, last=last, named=named, along=along, known=known)
    extra = (extra or {}) | ({} if along is None else {"along": along})
    validated = bool(context.run.validation)
    score = mean_score(scores, context.run.validation, context.data.card.metric) if validated else math.nan
    if validated and len(members) > 1:
        extra |= {"barrier": mean_barrier(1 - score, [1 - member.accuracy for member in members])}
    context.folder.append_records([{"step": step, "predictor": MODEL, "views": scores, **extra}])
    return score


def _averaged(
    context: RunContext, algorithm: Algorithm, members: Sequence[Member], view: View
) -> Iterator[PredictedBatch]:
    """Yield the mean of the members' logits of a view, in double precision.

    Held at once are the sum of the view's logits and one member. Where the sum has more than `HELD` numbers, all
    members are held instead, and the sum of one batch. Images are read once for all members, `HELD` numbers at a time.
    """
    positions, each, together = context.order(view), examples_per_batch(context.data), max(1, context.group_size)
    # Whole groups, so that splitting the view into batches doesn't split what is predicted together.
    each = max(together, each - each % together)
    held, size = list[Predict](), len(positions)
    # A transductive model's last batch is filled up with the first inputs of all.
    once = not (context.data.in_memory or context.group_size)
    if len(positions) * context.data.outputs > HELD:
        held, size = [predict_with(algorithm, member.load()) for member in members], each
    elif once:
        size = max(each, HELD // prod(context.data.shape) // each * each)
    for chunk in np.split(positions, range(size, len(positions), size)):
        inputs = list(context.reader.read(view, np.split(chunk, range(each, len(chunk), each)))) if once else []
        read = _given(inputs) if once else None
        total: list[PredictedBatch] = []
        for predict in held or (predict_with(algorithm, member.load()) for member in members):
            for i, (where, logits) in enumerate(context.predict_batches(predict, view, order=chunk, read=read)):
                if i == len(total):
                    total.append((where, to_float64(logits)))
                else:
                    total[i][1].add_(logits.to(total[i][1].device))
        yield from context.interruptible((where, logits / len(members)) for where, logits in total)


def _given(inputs: Sequence[Tensor]) -> Read:
    """Return a reader that gives these inputs for the batches that they are of."""
    return lambda view, batches: inputs
