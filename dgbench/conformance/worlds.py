"""Make tiny data of each kind of input and label, to check which of them an algorithm trains on.

Inputs and labels are random: there is nothing to learn from them, but every step must be possible.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from dgbench.conformance.rehearsal import Material
from dgbench.core.setting import Setting, setting
from dgbench.data.facts import lacking
from dgbench.networks.graphs import ATOM, BOND, COLUMNS

EXAMPLES = 24
"""Examples of a domain."""
_STEPS, _FEW_STEPS = 7, 2
"""Steps of a rehearsal: with the cards' `rehearsal` the last phase of a method begins before. Fewer with the GIN, the
one network that isn't tiny."""
_CLASSES, _TOKENS, _LENGTH, _ROWS = 3, 11, 6, 5
"""Classes, size of the vocabulary, tokens of a text, and rows of a graph's table."""
_WORLDS = (
    ("images", "classification", (1, 8, 8), _CLASSES, "SmallCNN"),
    ("vectors", "classification", (6,), _CLASSES, "MLP"),
    ("vectors", "regression", (6,), 1, "MLP"),
    ("vectors", "multilabel", (6,), _CLASSES, "MLP"),
    ("graphs", "classification", (_ROWS, COLUMNS), _CLASSES, "GIN"),
)
"""Kind of inputs, kind of labels, shape, outputs and network of each world without a language model."""
_TEXT_MODEL = {"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
"""Configuration of the smallest language model of each kind, for transformers."""
_CAUSAL_MODEL = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 1}


@dataclass(frozen=True)
class World:
    """One kind of input with one kind of label, and a setting whose network takes them; `worlds` makes them."""

    kind: str
    """Kind of inputs, a key of `data_cards.INPUTS`."""
    task: str
    """Kind of labels, a key of `data_cards.TASKS`."""
    shape: tuple[int, ...]
    """Shape of one input."""
    outputs: int
    """Number of classes or questions, or 1 for a number."""
    setting: Setting
    """The setting, with the network."""

    @property
    def name(self) -> str:
        """Inputs and labels in the user's words, `graphs` or `vectors (multilabel)`."""
        return self.kind if self.task == "classification" else f"{self.kind} ({self.task})"

    @property
    def lacks(self) -> frozenset[str]:
        """The needs of methods that the world doesn't meet, of `needs.NEEDS`."""
        return lacking(self.kind, self.shape, self.task, self.setting)

    def material(self, domains: int) -> Material:
        """Return inputs (EXAMPLES, *shape) and labels of `domains` training domains, the same at each call."""
        seen = []
        for number in range(domains):
            generator = torch.Generator().manual_seed(number)
            seen.append((_INPUTS[self.kind](generator, self.shape), _LABELS[self.task](generator, self.outputs)))
        return Material(self.shape, self.outputs, self.task, seen, seen)


@contextmanager
def worlds() -> Iterator[list[World]]:
    """Yield the list of worlds; within the block new floating-point tensors are float32, as language models are.

    Worlds of language models are left out where the package transformers is not installed.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with TemporaryDirectory() as folder:
            yield [_world(*of) for of in (*_WORLDS, *_of_language_models(Path(folder)))]
    finally:
        torch.set_default_dtype(dtype)


def _world(kind: str, task: str, shape: tuple[int, ...], outputs: int, backbone: str) -> World:
    steps = _FEW_STEPS if backbone == "GIN" else _STEPS
    resolved = setting(steps=steps, backbone=backbone, pretrained=False, batch_norm="live")
    return World(kind, task, shape, outputs, resolved)


def _of_language_models(folder: Path) -> Iterator[tuple[str, str, tuple[int, ...], int, str]]:
    """Write the files from which untrained language models are built, and yield their worlds."""
    if find_spec("transformers") is None:
        return
    sizes = {"vocab_size": _TOKENS, "max_position_embeddings": _LENGTH, "n_positions": _LENGTH}
    for config in (_TEXT_MODEL, _CAUSAL_MODEL):
        (model := folder / str(config["model_type"])).mkdir()
        (model / "config.json").write_text(json.dumps(config | sizes))
        if config is _TEXT_MODEL:
            yield "texts", "classification", (2, _LENGTH), _CLASSES, str(model)
        else:
            yield "sequences", "tokens", (_LENGTH,), _TOKENS, str(model)


def _reals(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(EXAMPLES, *shape, generator=generator)


def _texts(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return tokens, and below them 1 up to a random length and 0 after it: (EXAMPLES, 2, _LENGTH)."""
    tokens = torch.randint(_TOKENS, (EXAMPLES, _LENGTH), generator=generator)
    lengths = torch.randint(1, _LENGTH + 1, (EXAMPLES, 1), generator=generator)
    return torch.stack([tokens, (torch.arange(_LENGTH) < lengths).long()], dim=1)


def _sequences(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(_TOKENS, (EXAMPLES, *shape), generator=generator)


def _graphs(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return tables of molecules of three atoms in a row."""
    x = torch.zeros(EXAMPLES, *shape, dtype=torch.int16)
    x[:, :3, 0], x[:, 3:5, 0] = ATOM, BOND
    x[:, :3, 1:] = torch.randint(2, (EXAMPLES, 3, COLUMNS - 1), generator=generator).short()
    x[:, 3:5, 1:3] = torch.tensor([[0, 1], [1, 2]], dtype=torch.int16)
    return x


def _classes(generator: torch.Generator, outputs: int) -> Tensor:
    return torch.arange(EXAMPLES) % outputs


def _numbers(generator: torch.Generator, outputs: int) -> Tensor:
    return torch.randn(EXAMPLES, generator=generator)


def _answers(generator: torch.Generator, outputs: int) -> Tensor:
    """Return answers 0 and 1, and NaN for a third of them, which are unknown."""
    y = torch.randint(3, (EXAMPLES, outputs), generator=generator).to(torch.get_default_dtype())
    return y.masked_fill(y == 2, torch.nan)


def _next_tokens(generator: torch.Generator, outputs: int) -> Tensor:
    return torch.randint(outputs, (EXAMPLES, _LENGTH), generator=generator)


_INPUTS: dict[str, Callable[[torch.Generator, tuple[int, ...]], Tensor]] = {
    "images": _reals,
    "vectors": _reals,
    "texts": _texts,
    "sequences": _sequences,
    "graphs": _graphs,
}
_LABELS: dict[str, Callable[[torch.Generator, int], Tensor]] = {
    "classification": _classes,
    "regression": _numbers,
    "multilabel": _answers,
    "tokens": _next_tokens,
}
