"""Turn texts into inputs: bags of hashed words for an MLP, or the tokens of a language model. Needs no torch.

A language model is a folder that the transformers library wrote, or a name under which that library finds one.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.networks.hub import cached_file, from_hub


class PackedTexts(Sequence[str]):
    """Texts in two arrays, which processes share that are forked from the one that made it.

    Reading a string of a list writes to it, as strings count their references: each run would soon have a copy of all.

    Args:
        texts: Any texts, also with lone surrogates.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        place = index % len(self)
        return self._bytes[self._ends[place] : self._ends[place + 1]].tobytes().decode("utf-8", "surrogatepass")


BAG = 4096
"""Length of a bag of words."""
_WORD = re.compile(r"\w+")


def bag_of_words(texts: Sequence[str], size: int = BAG) -> NDArray[np.float32]:
    """Count the hashed words of texts.

    Args:
        texts: B texts; words are compared in lower case.
        size: Number of places that words are hashed to.

    Returns:
        (B, size) float32: log(1 + count) at each place, scaled to length 1 for each text; zeros for a text without a
        word.
    """
    found = np.zeros((len(texts), size), np.float32)
    for row, text in enumerate(texts):
        # `+=` would add 1 once however often a place occurs in the list. crc32 and not `hash`, which differs from
        # process to process.
        np.add.at(found[row], [zlib.crc32(word.encode()) % size for word in _WORD.findall(text.lower())], 1)
    np.log1p(found, out=found)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    found /= np.where(length == 0, 1, length)
    return found


def tokens(texts: Sequence[str], model: str, length: int) -> NDArray[np.int64]:
    """Tokenize texts for a language model.

    Args:
        texts: B texts.
        model: The language model.
        length: Tokens that each text is cut or filled up to.

    Returns:
        (B, 2, length) int64: the tokens, and below them 1 where there is one and 0 where the text was filled up.

    Raises:
        UserError: As `check_tokenizer`.
    """
    made = _tokenizer(model)(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return np.stack([made["input_ids"], made["attention_mask"]], axis=1).astype(np.int64)


def check_tokenizer(model: str) -> None:
    """Load the tokenizer of a language model, downloading it if needed.

    Raises:
        UserError: It can't be loaded; the message lists the ways out.
    """
    _tokenizer(model)


@cache
def _tokenizer(model: str) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would not survive the fork of loaders
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(f"{model} needs the package transformers: pip install 'dgbench[text]'") from error
    try:
        return from_hub(_whole_tokenizer, model)
    except OSError as error:
        raise UserError(
            f"the vocabulary of {model!r} could not be had ({error}). Fetch the model once where "
            "there is a network and copy ~/.cache/huggingface here, name a folder that holds it, or use "
            '--hparams \'{"backbone": "MLP"}\' on bags of words'
        ) from error


def _whole_tokenizer(model: str, local_files_only: bool) -> Any:
    """Load a tokenizer; raise OSError if its vocabulary is missing.

    Without this check the library makes a tokenizer that knows no words, and every text becomes the same tokens.
    """
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(model, local_files_only=local_files_only)
    files = {"tokenizer.json": None, **dict.fromkeys(found.vocab_files_names.values())}
    if found.vocab_files_names and not any(cached_file(model, file) for file in files):
        raise OSError(f"it has no {' or '.join(files)}")
    return found
