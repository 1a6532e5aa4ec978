"""Hold a trained model in memory, ready to predict: a network with the names of its classes and its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.models.facts import ModelFacts, Preprocessing
from dgbench.models.images import read_images

BATCH = 64
"""Inputs that are predicted at once, unless another number is asked for."""

Inputs = Tensor | NDArray[Any] | Path | str | Image.Image | Sequence[Path | str | Image.Image]
"""Arrays (n, *input_shape), one image, or several: files or images in memory."""


@dataclass(frozen=True)
class Answers:
    """The predictions of a model for several inputs, in their order."""

    logits: NDArray[np.float32]
    """(n, ...), as the network gives them; of classes (n, classes)."""
    classes: tuple[str, ...]
    """Names of the classes; empty where logits are of no classes."""
    temperature: float = 1.0
    """Divisor of the logits before the softmax."""

    @property
    def predicted(self) -> list[str]:
        """Return the name of the class with the largest logit for each input; raise `UserError` without classes."""
        self._refuse_without_classes()
        return [self.classes[place] for place in self.logits.argmax(axis=1).tolist()]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Return the softmax of logits divided by `temperature`, (n, classes); raise `UserError` without classes."""
        from scipy.special import softmax  # takes longer to import than most uses of a model take

        self._refuse_without_classes()
        return np.asarray(softmax(self.logits.astype(np.float64) / self.temperature, axis=1))

    def top(self, number: int) -> list[list[tuple[str, float]]]:
        """Return for each input the likeliest classes with their probabilities, the likeliest first.

        Args:
            number: Classes of an input; with more than there are, all.

        Raises:
            UserError: Logits are of no classes.
        """
        # Stable on the negated values: of classes that tie the first counts, as in `predicted`.
        order = np.argsort(-self.logits, axis=1, kind="stable")[:, :number]
        found = self.probabilities
        return [
            [(self.classes[place], float(row[place])) for place in places]
            for row, places in zip(found, order.tolist(), strict=True)
        ]

    def _refuse_without_classes(self) -> None:
        if not self.classes:
            raise UserError("this model predicts no classes: its logits alone have a meaning")


class ReadyModel:
    """A trained model that predicts; made by `execute.kept.load_kept_model`, or from an exported folder.

    Args:
        network: Maps inputs (B, *input_shape), images as uint8 or as floats in [0, 1], to logits. It normalizes by
            itself, and is put into evaluation mode.
        facts: The facts about the model.
        temperature: Divisor of the logits that calibrates probabilities; 1: they are the network's own.
    """

    def __init__(self, network: nn.Module, facts: ModelFacts, temperature: float = 1.0) -> None:
        self.network = network.eval()
        self.facts = facts
        self.temperature = temperature

    def __repr__(self) -> str:
        facts = self.facts
        return f"<{facts.row} on {facts.dataset} without {'+'.join(facts.held_out)}, {facts.backbone}, run {facts.run}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the logits; empty where labels are no classes."""
        return self.facts.classes

    @property
    def preprocess(self) -> Preprocessing | None:
        """Return the way from an image file to an input; None where inputs are no images of one or three channels."""
        return self.facts.preprocessing

    @property
    def device(self) -> torch.device:
        """Return the device of the network's weights."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    def predict(self, inputs: Inputs, batch_size: int = BATCH) -> Answers:
        """Predict images or other inputs.

        Args:
            inputs: Arrays (n, *input_shape) as the data set gives them, images as uint8 or as floats in [0, 1]; or one
                image or several, as paths or as PIL images, which are read as in training.
            batch_size: Inputs that are predicted at once. A model that predicts inputs together takes its own number.

        Returns:
            Logits, classes and probabilities, in the order of the inputs.

        Raises:
            UserError: Files can't be read, or the model doesn't take such inputs.
        """
        if isinstance(inputs, Path | str | Image.Image):
            inputs = [inputs]
        size = self.facts.together or batch_size
        found = [self.logits(inputs[start : start + size]) for start in range(0, len(inputs), size)]
        logits = np.concatenate(found) if found else np.empty((0, max(1, len(self.classes))), np.float32)
        return Answers(logits, self.classes, self.temperature)

    @torch.inference_mode()
    def logits(self, inputs: Tensor | NDArray[Any] | Sequence[Path | str | Image.Image]) -> NDArray[np.float32]:
        """Return the logits of one batch, (n, ...) in float32, on the CPU; inputs and errors as of `predict`."""
        x = inputs if isinstance(inputs, Tensor) else torch.from_numpy(self._array(inputs))
        if tuple(x.shape[1:]) != self.facts.input_shape:
            expected, given = (" x ".join(map(str, shape)) for shape in (self.facts.input_shape, x.shape[1:]))
            raise UserError(f"the model takes inputs of {expected}, and these are of {given}")
        found: NDArray[np.float32] = self.network(x.to(self.device)).float().cpu().numpy()
        return found

    def _array(self, inputs: NDArray[Any] | Sequence[Path | str | Image.Image]) -> NDArray[Any]:
        if isinstance(inputs, np.ndarray):
            return inputs
        if self.preprocess is None:
            shape = " x ".join(map(str, self.facts.input_shape))
            raise UserError(f"the model takes arrays of {shape} for each example, and no image files")
        return read_images(inputs, self.preprocess)
