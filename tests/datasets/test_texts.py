"""Texts as bags of words and as tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dgbench.core.errors import UserError
from dgbench.datasets._texts import BAG, PackedTexts, bag_of_words, tokens
from tests.support.language_models import WORDS, save_model


def test_packed_texts_are_those_of_the_list() -> None:
    texts = ["", "kind", "ümlaut\n", "", "lone \ud800", "last"]
    packed = PackedTexts(texts)
    assert [*packed] == texts
    assert (len(packed), packed[1:3], packed[-1], packed[np.int64(2)]) == (6, texts[1:3], "last", texts[2])
    for index in (6, -7):
        with pytest.raises(IndexError):
            packed[index]
    assert [*PackedTexts([])] == []


def test_a_bag_holds_how_often_each_word_is_there_whatever_their_order_and_case() -> None:
    bags = bag_of_words(["the cat, the dog", "DOG the\nthe: Cat!", "the dog", ""])
    assert bags.shape == (4, BAG)
    assert bags.dtype == np.float32
    assert np.array_equal(bags[0], bags[1])
    assert np.linalg.norm(bags[:3], axis=1) == pytest.approx(1)
    assert not bags[3].any()
    assert sorted(bags[0][bags[0] > 0] / bags[0].max()) == pytest.approx([np.log(2) / np.log(3)] * 2 + [1])
    assert np.count_nonzero(bags[2]) == 2


def test_a_word_has_the_same_place_in_every_process() -> None:
    assert bag_of_words(["word"], 4096).argmax() == 1297


def test_tokens_are_the_models_cut_or_filled_up(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    found = tokens(["good bad", "bad " * 20, ""], model, 6)
    assert found.shape == (3, 2, 6)
    assert found.dtype == np.int64
    number = {word: place for place, word in enumerate(WORDS)}
    first, last = number["[CLS]"], number["[SEP]"]
    assert found[0].tolist() == [[first, number["good"], number["bad"], last, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert found[1].tolist() == [[first, *[number["bad"]] * 4, last], [1] * 6]
    assert found[2].tolist() == [[first, last, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]


def test_a_model_that_is_not_there_is_told_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary of .*nowhere.* could not be had .*\"backbone\": \"MLP\""):
        tokens(["text"], str(tmp_path / "nowhere"), 6)
