"""Train one run: the loop from its first step, or from its checkpoint, to its last.

Each iteration takes one minibatch of each training domain, lets the algorithm make its update, and shows the new
weights to the averages. At the evaluation steps of the setting the loop measures the live model and each average on the
run's views, appends the records, and saves the best and the last models that other runs read. The loop chooses no model
for a table: that is left to `report.select`, which reads the records.

**Exact resume.** A run that is killed at any moment and executed again writes, on one CPU, the same bytes of records as
a run that was never interrupted. Three things make it so. Minibatches are a function of (run, step), not positions in a
stream of random numbers (`data.views`). The global generators of Python, NumPy and torch are seeded anew before each
step, each measurement and each survey, so a checkpoint needs no generator's state, and an evaluation that draws
random numbers can't move those of the next step. And a checkpoint, written whole and sealed with a hash, remembers the
length and hash of the records: whatever was recorded after it is cut off on resume and then computed again.

A request to stop is obeyed between steps and between the batches of an evaluation. `LoopState` keeps the part of an
evaluation that is finished, so the evaluation continues from there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dgbench.core.run import BEST, LAST, MODEL
from dgbench.core.seeding import seed_everything
from dgbench.core.stats import nan_as_worst
from dgbench.core.wording import format_scalars
from dgbench.data.views import Minibatch, Minibatches
from dgbench.execute.batch_norm import with_statistics
from dgbench.execute.context import RunContext
from dgbench.execute.describe import describe
from dgbench.execute.evaluate import concatenate_logits, mean_score, score_views
from dgbench.execute.loading import load
from dgbench.execute.models import build, predict_with, predictor_weights, save_model
from dgbench.execute.teacher import teacher_of
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import Average
from dgbench.methods.batch import Batch
from dgbench.store.files import write_atomic
from dgbench.store.lease import Stopped
from dgbench.store.run_folder import CHECKPOINT
from dgbench.store.sealed import CorruptFile, check_seal, sealed

log = logging.getLogger(__name__)


@dataclass
class LoopState:
    """The loop's own state between two steps, made of tensors and plain values; part of the checkpoint."""

    step: int = 0
    """The next step, counted from 0."""
    due: bool = False
    """Whether the evaluation after the latest step is still to be recorded."""
    measured: list[dict[str, Any]] = field(default_factory=list)
    """Records of the evaluation under way, the live model's first; empty between evaluations."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Logged scalar -> its sum since the last evaluation, on the device."""
    summed: dict[str, int] = field(default_factory=dict)
    """Logged scalar -> number of steps since then that logged it: a method may log some in some steps only."""
    copies: list[Tensor] = field(default_factory=list)
    """For each training domain how many times each example stands in it (n,); empty without a survey."""
    best: dict[str, float] = field(default_factory=dict)
    """Predictor -> its best validation score so far, with -inf for NaN."""
    named: dict[str, float] = field(default_factory=dict)
    """`PREDICTOR.SELECTOR` -> the best score so far, for models whose predictions are kept."""


class Training:
    """A training run under way; `job.execute` makes one and calls `execute` once.

    Between two steps the algorithm, the averages and `loop` are all that the rest of the run depends on. A
    checkpoint holds these three.
    """

    def __init__(self, context: RunContext, algorithm: Algorithm) -> None:
        assert context.lease, "training needs the lease of the run"
        self.context, self.algorithm, self.lease = context, algorithm, context.lease
        self.run, self.folder, self.data = context.run, context.folder, context.data
        self.site, self.device = context.site, context.device
        self.teacher = teacher_of(context) if context.run.inputs else None
        self.averages: dict[str, Average] = {}
        for entry in context.run.averages:
            cls, hparams = build(context.catalogue, "average", entry)
            self.averages[entry.name] = cls(hparams)
        self.keep = {name: context.kept(name) for name in (MODEL, *self.averages)}
        """Predictor -> which of its models are saved."""
        self.best_kept = [name for name, models in self.keep.items() if BEST in models]
        self.best_kept += {"": [], "chosen": ["predictions"], "all": ["predictions", "all predictions"]}[
            self.site.save_predictions
        ]
        """Predictors whose best models are saved, and which predictions: a checkpoint without some can't be resumed."""
        self.checkpoint = self.folder.path / CHECKPOINT
        self.loop = LoopState()
        self.evaluation_steps = frozenset(self.run.setting.evaluation_steps)
        self.ends_for_good = True
        """Whether `done` follows the last step, and not a wait for others."""
        self.saved_at = time.monotonic()
        """When the last checkpoint was written, by the monotonic clock."""

    def execute(self, until: int | None = None) -> None:
        """Train to the last step, or to one at which the run waits for others.

        Args:
            until: The evaluated step after which to leave, with the state saved; None: the last.

        Raises:
            Stopped: The lease asked to stop; the state is saved.
            LeaseLost: Another process has taken the run over; nothing more was written.
        """
        self._resume()
        steps = self.run.setting.steps
        end = steps if until is None else until + 1
        self.ends_for_good = until is None
        pauses = ((self.algorithm.survey_at, self._survey), (self.algorithm.validate_at, self._validate))
        self.algorithm.train()
        if self.loop.step == 0:
            for average in self.averages.values():
                average.begin(predictor_weights(self.algorithm), steps)
        try:
            # A resumed run may owe an evaluation, in which it was stopped.
            self._after_step()
            # The sort is stable: at the same step, a survey comes before a validation.
            for pause, action in sorted(pauses, key=lambda pair: pair[0]):
                if self.loop.step <= pause < end:
                    self._train(pause)
                    action()
            self._train(end)
        except Stopped:
            # A lost lease asks to stop, too, and then another process writes the checkpoint.
            self.lease.confirm()
            # Before the first step there is nothing to save.
            if self.loop.step > 0:
                self._save()
            raise

    def score_at(self, step: int) -> float:
        """Return the live model's validation score after an evaluated step as it was recorded, with -inf for NaN."""
        for record in self.folder.recorded():
            if record["step"] == step and record["predictor"] == MODEL:
                validation, metric = self.run.fold.validation, self.data.card.metric
                values = {str(view): record["views"][str(view)] for view in validation}
                known = all(scores[metric] is not None for scores in values.values())  # JSON has null for NaN
                return nan_as_worst(mean_score(values, validation, metric)) if known else -math.inf
        raise LookupError(f"nothing was recorded after step {step}")

    def _train(self, end: int) -> None:
        """Make all steps before `end`."""
        # Made anew after a survey, which changes what they are drawn from.
        minibatches = Minibatches(self.data, self.run, self.loop.copies)
        threads, asked = torch.get_num_threads(), self.site.workers
        batches = load(minibatches, self.loop.step, end, asked=asked, device=self.device, threads=threads)
        for step, minibatch in enumerate(self.context.interruptible(batches), self.loop.step):
            self._step(step, minibatch)
            self.lease.beat(step + 1, self.run.setting.steps)
            self.context.display.stepped(step + 1, self.run.setting.steps)
            self._after_step()

    def _after_step(self) -> None:
        """Evaluate if it is due; save a checkpoint then, and when the last one is old, unless the run is over."""
        evaluated = self.loop.due
        if evaluated:
            self.lease.confirm()
            self._evaluate(self.loop.step - 1)
        if self.ends_for_good and self.loop.step == self.run.setting.steps:
            # Killed before `done`, the run goes on from the checkpoint before: to write one would take longer.
            return
        if evaluated or time.monotonic() - self.saved_at > 60 * self.site.checkpoint_minutes:
            self.lease.confirm()
            self._save()

    def _survey(self) -> None:
        """Show the algorithm its logits on all training examples, clean, unless it has had its survey."""
        if self.loop.copies:
            return
        predict, views = predict_with(self.algorithm), self.data.train
        logits = [
            concatenate_logits(self.context.predict_batches(predict, view), self.data.size(view)) for view in views
        ]
        labels = [torch.from_numpy(self.data.labels(view)) for view in views]
        seed_everything(self.device, self.run.seed, "survey")
        self.loop.copies = [copies.cpu() for copies in self.algorithm.survey(logits, labels)]
        self.algorithm.train()

    def _validate(self) -> None:
        """Pass the algorithm its validation score at a step without an evaluation; nothing is recorded."""
        step, views = self.loop.step - 1, self.run.fold.validation
        if step >= 0 and step not in self.evaluation_steps:
            seed_everything(self.device, self.run.seed, step, MODEL)
            scores = score_views(partial(self.context.predict_batches, predict_with(self.algorithm)), self.data, views)
            self.algorithm.validated(mean_score(scores, views, self.data.card.metric))
            self.algorithm.train()

    def _batch(self, x: Tensor, y: Tensor, positions: Tensor, domain: int) -> Batch:
        """Prepare one domain's minibatch, and add the teacher's logits if the run has a teacher."""
        taught = self.teacher(x) if self.teacher else None
        return Batch(self.algorithm.network.prepare(x), y, positions, domain, taught)

    def _step(self, step: int, minibatch: Minibatch) -> None:
        """Make one step: the algorithm's update, sums of its logged scalars, and the averages' look at the weights.

        Args:
            step: Its number, from 0.
            minibatch: On the device.
        """
        algorithm, loop = self.algorithm, self.loop
        # The batches first, then the seed: drawn numbers may not depend on the teacher or on how inputs are prepared.
        batches = [self._batch(*tensors) for tensors in minibatch]
        seed_everything(self.device, self.run.seed, step)
        algorithm.step = step
        algorithm.lr_scale = math.prod(average.lr_factor(step) for average in self._feeding_back())
        for name, value in algorithm.logged_update(batches).items():
            # Summed on the device: `.item()` would make the step wait for it.
            loop.sums[name] = loop.sums[name] + value if name in loop.sums else value
            loop.summed[name] = loop.summed.get(name, 0) + 1
        loop.step, loop.due = step + 1, step in self.evaluation_steps
        if self.averages:
            weights = predictor_weights(algorithm)
            for average in self.averages.values():
                average.observe(weights)

    def _evaluate(self, step: int) -> None:
        """Measure the live model and the averages that yield one after `step`, and append their records.

        If the run is stopped meanwhile, `loop` keeps the finished measurements.
        """
        last = step + 1 == self.run.setting.steps
        loop, validation, metric = self.loop, self.run.fold.validation, self.data.card.metric
        if not loop.measured:
            self._evaluate_live(step, last)
        known = {record["predictor"] for record in loop.measured}
        for name, average in self.averages.items():
            if name not in known and (last or average.card.when == "always"):
                weights = average.weights()
                if weights is not None:
                    if average.card.batch_norm == "measured":
                        weights = with_statistics(self.context, self.algorithm, weights)
                    views = self._measure(step, name, weights, last)
                    loop.measured.append({"step": step, "predictor": name, "views": views})
        # Records first, checkpoint after (in `_after_step`): a kill in between costs a repetition, as the older
        # checkpoint cuts these records off again.
        self.folder.append_records(loop.measured)
        mean = mean_score(loop.measured[0]["views"], validation, metric)
        loop.due, loop.measured = False, []
        self.algorithm.validated(mean)
        # After the records, which describe the weights that the step left.
        self._feed_back()
        self.algorithm.train()

    def _evaluate_live(self, step: int, last: bool) -> None:
        """Measure the live model, and pass its validation scores to the averages."""
        loop, validation, metric = self.loop, self.run.fold.validation, self.data.card.metric
        scores = self._measure(step, MODEL, None, last)
        train = {name: (total / loop.summed[name]).item() for name, total in sorted(loop.sums.items())}
        loop.sums, loop.summed = {}, {}
        loop.measured.append({"step": step, "predictor": MODEL, "views": scores, "train": train})
        losses, values = ({view.domain: scores[str(view)][what] for view in validation} for what in ("loss", metric))
        score = mean_score(scores, validation, metric)
        shown = {**train, f"{metric} in validation": score}
        log.info("after %d of %d steps: %s", step + 1, self.run.setting.steps, format_scalars(shown))
        self.context.display.evaluated(shown)
        for average in self.averages.values():
            average.validate(step, losses, values)

    def _feeding_back(self) -> list[Average]:
        """Return the averages that influence the training that they watch."""
        return [average for average in self.averages.values() if average.card.feeds_back]

    @torch.no_grad()
    def _feed_back(self) -> None:
        """Let averages overwrite the weights that training continues from."""
        for average in self._feeding_back():
            if fed := average.feedback():
                for name, tensor in self.algorithm.trained_tensors().items():
                    tensor.copy_(fed[name])

    def _measure(
        self, step: int, predictor: str, weights: Mapping[str, Tensor] | None, last: bool
    ) -> dict[str, dict[str, float]]:
        """Score a predictor on the run's views and save its weights if other runs read this model of it."""
        predict = predict_with(self.algorithm, weights)
        # By predictor, so that a score doesn't depend on which others were measured before it, as after a resume.
        seed_everything(self.device, self.run.seed, step, predictor)
        batches_of = partial(self.context.predict_batches, predict)
        scores = self.context.measure(predictor, batches_of, step=step, last=last, named=self.loop.named)
        if keep := self.keep[predictor]:
            score = mean_score(scores, self.run.fold.validation, self.data.card.metric)
            tensors = weights or predictor_weights(self.algorithm)
            facts = describe(self.context, self.algorithm, predictor)
            if BEST in keep and (predictor not in self.loop.best or nan_as_worst(score) > self.loop.best[predictor]):
                self.loop.best[predictor] = nan_as_worst(score)
                save_model(self.folder.path, predictor, BEST, tensors, step, score, facts)
            if LAST in keep and last:
                save_model(self.folder.path, predictor, LAST, tensors, step, score, facts)
        return scores

    def _save(self) -> None:
        """Write the checkpoint."""
        state = {
            "algorithm": self.algorithm.training_state(),
            "averages": {name: average.state() for name, average in self.averages.items()},
            "progress": vars(self.loop),
            "records": self.folder.mark_records(),
            "keep": self.best_kept,
        }
        try:
            write_atomic(self.checkpoint, sealed(lambda file: torch.save(state, file)))
        except RuntimeError as error:
            # torch hides the OSError of a full disk behind a RuntimeError about file positions.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        """Restore the state from the checkpoint; without one that can be used, start from step 0."""
        if not self.checkpoint.is_file():
            self.folder.truncate_records(0)
            return
        try:
            check_seal(self.checkpoint)
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.folder.truncate_records(*state["records"])
        except CorruptFile as error:
            log.warning("begun anew: %s", error)
            self.folder.record_restart(str(error))
            self._begin_anew()
            return
        # This launch may want best models that the earlier one didn't save: they lie at steps that are gone.
        if not set(self.best_kept).issubset(state["keep"]):
            log.info("begun anew: what is to be kept of the best models now was not kept of those so far")
            self._begin_anew()
            return
        self.algorithm.load_training_state(state["algorithm"])
        for name, average in self.averages.items():
            average.load(state["averages"][name])
        self.loop = LoopState(**state["progress"])
        # As it stood when the checkpoint was written: an evaluation that is due may let hooks read it.
        self.algorithm.step = max(0, self.loop.step - 1)
        log.info("resumed at step %d", self.loop.step)

    def _begin_anew(self) -> None:
        """Drop the checkpoint and all records."""
        self.checkpoint.unlink()
        self.folder.truncate_records(0)
