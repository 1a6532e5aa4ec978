"""The minibatches of a step, and the facts about its training domains, that every algorithm works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A minibatch of one training domain, on the device of the run; the engine makes one for each domain of a step."""

    x: Tensor
    """Inputs (B, ...) as the network takes them, after `Network.prepare`: images (B, channels, height, width) and
    vectors (B, n), float32; texts (B, 2, length) and sequences (B, length), int64; graphs (B, rows, columns), int16."""
    y: Tensor
    """Labels by `task.kind`: classes (B,), int64; numbers (B,), float32; answers (B, questions), float32, NaN where
    unknown; tokens (B, places), int64, `NOT_ASKED` where nothing is scored."""
    positions: Tensor
    """(B,), int64: which of the domain's training examples these are, from 0 to `task.sizes[domain] - 1`. Examples are
    drawn with replacement, so one may occur twice."""
    domain: int
    """Index of the domain among the training domains. A step may show only some of them (`setting.domains_per_step`),
    so this is not always the place in `batches`."""
    taught: Tensor | None = None
    """Logits (B, classes) of the teacher; None unless the card says `taught`."""


@dataclass(frozen=True)
class Task:
    """The facts about a run's data that a method may use: those of the training domains alone."""

    input_shape: tuple[int, ...]
    """Shape of one input, without the batch axis."""
    num_classes: int
    """Classes; for other labels the questions of an example, or 1 for a number."""
    class_counts: tuple[tuple[int, ...], ...]
    """Training examples by domain and class; where labels are not classes, one number for each domain."""
    kind: str = "classification"
    """Kind of the labels, a key of `data_cards.TASKS` and of `CRITERIA`."""
    normalised: bool = False
    """True if inputs arrive normalized, so that the network must not normalize them."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; empty where labels are not classes."""

    @property
    def num_domains(self) -> int:
        """Return the number of training domains: the length of `batches`, unless the setting shows fewer in a step."""
        return len(self.class_counts)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of training examples of each domain."""
        return tuple(sum(counts) for counts in self.class_counts)
