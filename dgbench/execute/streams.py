"""Show the views of a run to adapters as the setting's stream has it.

A stream divides the views into series, one adapter each, and a series into blocks, each with one drawn order, whose
batches don't reach into the next block. Of separate domains each view is a series. Of continual ones the views of one
role (`Fold.test`, for example) are a series, a block each, so that no model that is selected by validation views has
seen inputs of test views. Of mixed ones the views of one role are a single block.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.protocol import Fold, View
from dgbench.core.seeding import numpy_stream, seed_everything
from dgbench.core.stream import Stream
from dgbench.core.wording import group_values
from dgbench.data.views import ViewData
from dgbench.execute.context import RunContext
from dgbench.execute.evaluate import PredictedBatch
from dgbench.methods.adapter import Adapter

Block: TypeAlias = tuple[View, ...]
"""Views whose inputs come in one order."""
Series: TypeAlias = tuple[Block, ...]
"""Blocks that one adapter is shown, one after the other."""

_ROLES = ("source_val", "target_val", "test", "oracle")
"""Fields of `Fold` whose views may follow each other in a stream; all other views train."""
_SOURCE_BATCH = 128
"""Least training examples in a batch for an adapter that needs them, unless the domain has fewer."""


def divide(views: Sequence[View], fold: Fold, stream: Stream) -> tuple[Series, ...]:
    """Divide views into the series of a stream.

    Args:
        views: The views that are evaluated, in this order.
        fold: Gives each view its role.
        stream: Says which views follow each other or are mixed.
    """
    if stream.domains == "separate":
        return tuple(((view,),) for view in views)
    roles = group_values((_role(view, fold), view) for view in views)
    if stream.domains == "continual":
        return tuple(tuple((view,) for view in own) for own in roles.values())
    return tuple((tuple(own),) for own in roles.values())


def _role(view: View, fold: Fold) -> str:
    """Return the first field of a fold that holds a view; `train` for those that no selector reads."""
    return next((role for role in _ROLES if view in getattr(fold, role)), "train")


def ordered(block: Block, data: ViewData, seed: int, order: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a block's inputs in the order in which they are shown.

    Args:
        block: The views.
        data: The run's views.
        seed: Seed of the order.
        order: A key of `core.stream.ORDERS`. Sorted classes keep the random order within a class.

    Returns:
        Index of the view in the block, and position in the view, of each input: (n,) both.
    """
    views = np.repeat(np.arange(len(block)), [data.size(view) for view in block])
    positions = np.concatenate([np.arange(data.size(view)) for view in block])
    shown = numpy_stream(seed, "adapt", _name(block)).permutation(len(positions))
    if order == "by_class":
        labels = np.concatenate([data.labels(view) for view in block])
        shown = shown[np.argsort(labels[shown], kind="stable")]
    return views[shown], positions[shown]


def _name(views: Sequence[View]) -> str:
    """Return the text that names views in seeds."""
    return "+".join(map(str, views))


class StreamedViews:
    """The predictions of adapters for a run's views, computed as they are read.

    Args:
        context: The run, opened.
        make: Makes an adapter of the model that is adapted.
    """

    def __init__(self, context: RunContext, make: Callable[[], Adapter]) -> None:
        self._context, self._make = context, make
        self._stream = Stream.parse(context.run.setting.stream)
        self._running: dict[View, Iterator[tuple[View, PredictedBatch]]] = {}
        for series in divide(context.run.views, context.run.fold, self._stream):
            self._running.update(dict.fromkeys(chain.from_iterable(series), self._run(series)))
        self._waiting: dict[View, deque[PredictedBatch]] = defaultdict(deque)
        """Predictions for views that were not read yet, of mixed domains."""

    def batches_of(self, view: View) -> Iterator[PredictedBatch]:
        """Yield a view's logits in the order in which its inputs were shown; a view can be read once."""
        # Taken out, since what runs refers to this object: in a cycle of references, processes that read would stay.
        waiting, running, left = self._waiting[view], self._running.pop(view), self._context.data.size(view)
        while left:
            if waiting:
                batch = waiting.popleft()
            else:
                of, batch = next(running)
                if of != view:
                    self._waiting[of].append(batch)
                    continue
            left -= len(batch[0])
            yield batch

    def _run(self, series: Series) -> Iterator[tuple[View, PredictedBatch]]:
        """Yield the logits of a series by a fresh adapter that is shown each input once."""
        context = self._context
        # By name, so that the scores of a series don't depend on those before it.
        seed_everything(context.device, context.run.seed, "adapt", _name([*chain.from_iterable(series)]))
        adapter = self._make()
        prepare = adapter.network.prepare
        if adapter.card.needs_source:
            adapter.begin(context.interruptible(_source(context, prepare)))
        size = self._stream.batch_size or adapter.batch_size
        # Of a featurizer that trained, each of the run's models has features of its own, and sees a batch once.
        again = context.trained.setting.freeze == "featurizer"
        named = context.memory.preparing if again else lambda *_: nullcontext()
        for block in series:
            views, positions = ordered(block, context.data, context.run.seed, self._stream.order)
            read = context.reader.read_block(block, views, positions, size)
            starts = range(0, len(positions), size)
            for start, inputs in context.interruptible(zip(starts, read, strict=True)):
                of, where = views[start : start + size], positions[start : start + size]
                with named(_name(block), of.tobytes(), where.tobytes()):
                    x = prepare(inputs.to(context.device, non_blocking=inputs.is_pinned()))
                with torch.enable_grad():
                    logits = adapter.predict(x).detach().float()
                for i in np.unique(of):
                    yield block[i], (where[of == i], logits[torch.from_numpy(of == i)] if len(block) > 1 else logits)


def _source(context: RunContext, prepare: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all training examples (x, y), clean, domain after domain, in batches on the device."""
    for view in context.data.train:
        labels = torch.from_numpy(context.data.labels(view))
        batches = np.array_split(np.arange(len(labels)), max(1, len(labels) // _SOURCE_BATCH))
        for positions, inputs in zip(batches, context.reader.read(view, batches), strict=True):
            # Each series begins with these.
            with context.memory.preparing(str(view), positions.tobytes()):
                x = prepare(inputs.to(context.device, non_blocking=inputs.is_pinned()))
            yield x, labels[positions].to(context.device)
