from __future__ import annotations

import pytest

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting, setting, stored_fields
from dgbench.core.stream import Stream, canonical


def test_a_stream_has_one_text_whatever_order_its_words_came_in() -> None:
    text = "batch_size=1 order=by_class domains=separate"
    assert canonical("order=by_class  batch_size=1") == canonical(text) == text
    assert Stream.parse(text) == Stream(1, "by_class", "separate")
    assert canonical("order=shuffled") == str(Stream()) == "order=shuffled domains=separate"
    assert canonical(" ") == ""


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        Stream.parse("batch_size=0 order=by_clas domain=mixed sorted order=shuffled domains=each")
    assert list(error.value.problems) == [
        "stream: batch_size is a number of inputs, at least 1, not '0'",
        "unknown order of a stream 'by_clas': did you mean 'by_class'?",
        "unknown word of a stream 'domain': did you mean 'domains'?",
        "stream: write NAME=VALUE, not 'sorted'",
        "stream gives order twice",
        "unknown domains of a stream 'each': there are continual, mixed, separate",
    ]


@pytest.mark.parametrize("size", ["-1", "1.5", "x", "", "9" * 30, "²"])
def test_a_batch_has_a_number_of_inputs(size: str) -> None:
    with pytest.raises(UserError, match="batch_size is a number of inputs"):
        Stream.parse(f"batch_size={size}")


def test_a_setting_holds_the_one_text_and_stores_it_only_where_it_is_given() -> None:
    assert setting(stream="order=by_class batch_size=2").stream == "batch_size=2 order=by_class domains=separate"
    with pytest.raises(UserError, match="unknown word of a stream 'orders'"):
        setting(stream="orders=by_class")
    assert "stream" not in stored_fields(setting())
    assert stored_fields(setting(stream="batch_size=2"))["stream"]
    assert Setting("dgbench").stream == ""
