from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import ORDER, Row, is_ensemble, parse_row, parse_rows, teacher_rows
from dgbench.core.errors import UserError


def problems(catalogue: Catalogue, *texts: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        parse_rows(texts, catalogue)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("ERM", Row("ERM", "ERM")),
        ("SAM+SWAD", Row("SAM+SWAD", "SAM", "SWAD")),
        ("SAM+DiWA", Row("SAM+DiWA", "SAM", "", "DiWA")),
        ("ERM+SWAD+T3A", Row("ERM+SWAD+T3A", "ERM", "SWAD", "", "T3A")),
        ("VREx+SMA+DiWA+T3A", Row("VREx+SMA+DiWA+T3A", "VREx", "SMA", "DiWA", "T3A")),
        ("SWAD", Row("SWAD", "ERM", "SWAD")),
        ("DiWA", Row("DiWA", "ERM", "", "DiWA")),
        ("SWAD+T3A", Row("SWAD+T3A", "ERM", "SWAD", "", "T3A")),
        ("EoA", Row("EoA", "ERM", "SMA", "EoA")),
        ("SAM+EoA", Row("SAM+EoA", "SAM", "SMA", "EoA")),
        ("SAM+SWAD+EoA", Row("SAM+SWAD+EoA", "SAM", "SWAD", "EoA")),
        ("CORAL+SAM", Row("CORAL+SAM", "CORAL+SAM")),
        ("MIRO+SAM+SWAD+T3A", Row("MIRO+SAM+SWAD+T3A", "MIRO+SAM", "SWAD", "", "T3A")),
        ("ERM+SAM", Row("ERM+SAM", "SAM")),
        ("UDIM+SAM", Row("UDIM+SAM", "UDIM")),
        ("UDIM+SAGM", Row("UDIM+SAGM", "UDIM+SAGM")),
    ],
)
def test_names_are_read_from_left_to_right(text: str, row: Row, catalogue: Catalogue) -> None:
    assert parse_row(text, catalogue) == row


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ERMM", ["unknown algorithm 'ERMM': did you mean 'ERM'?"]),
        ("swad", ["unknown algorithm 'swad': did you mean 'SWAD'?"]),
        ("ERM+SWADD", ["unknown word in 'ERM+SWADD': 'SWADD': did you mean 'SWAD'?"]),
        ("RotatedDigits", None),
        ("ERM+", None),
        ("", None),
        ("SWAD+ERM", ["'SWAD+ERM' is in the wrong order: write 'ERM+SWAD'"]),
        ("T3A+DiWA+SMA+SAM", ["'T3A+DiWA+SMA+SAM' is in the wrong order: write 'SAM+SMA+DiWA+T3A'"]),
        ("ERM+CORAL", ["'ERM+CORAL' has an algorithm twice: ERM and CORAL"]),
        ("SAM+SAGM", ["'SAM+SAGM' has a rule twice: SAM and SAGM"]),
        ("SAM+CORAL", ["'SAM+CORAL' is in the wrong order: write 'CORAL+SAM'"]),
        (
            "DANN+SAM",
            ["'DANN+SAM': DANN takes steps of its own, more than one descent of one loss, so SAM can't take them"],
        ),
        ("SWAD+SWAD", ["'SWAD+SWAD' has an average twice: SWAD and SWAD"]),
        ("DiWA+EoA", ["'DiWA+EoA' has a merger twice: DiWA and EoA"]),
        ("EoA+T3A", ["'EoA+T3A': T3A works on one network's features, EoA is an ensemble of several"]),
    ],
)
def test_what_is_no_name_is_refused(text: str, told: list[str] | None, catalogue: Catalogue) -> None:
    found = problems(catalogue, text)
    if told is None:
        assert len(found) == 1
        assert found[0].startswith("unknown ")
    else:
        assert list(found) == told


def test_everything_wrong_is_told_at_once(catalogue: Catalogue) -> None:
    found = problems(catalogue, "ERM", "SWAD+ERM", "XERM+SWAD+SMA+SWADX", "ERM+ERM")
    assert len(found) == 5
    assert [word for problem in found for word in re.findall("twice|wrong order|'XERM'|'SWADX'", problem)] == [
        "wrong order",
        "'XERM'",
        "twice",
        "'SWADX'",
        "twice",
    ]


def test_each_row_once_in_the_order_of_the_request(catalogue: Catalogue) -> None:
    rows = parse_rows(["SAM", "ERM", "SAM", "SWAD", "ERM+SWAD"], catalogue)
    assert [row.name for row in rows] == ["SAM", "ERM", "SWAD", "ERM+SWAD"]


def stepped(algorithm: str, rule: str, catalogue: Catalogue) -> str:
    """The algorithm of a row: with its rule, but for the baseline's, and for a rule that it has anyway."""
    if not rule or catalogue.entries[algorithm].card.rule == rule:
        return algorithm
    return rule if algorithm == catalogue.baseline else f"{algorithm}+{rule}"


@given(data=st.data())
def test_exactly_one_order_of_words_of_different_kinds_is_right(data: st.DataObject, catalogue: Catalogue) -> None:
    words = [data.draw(st.sampled_from([*catalogue.of_kind(kind), ""])) for kind in ORDER]
    named = [word for word in words if word]
    if not named:
        return
    shuffled = data.draw(st.permutations(named))
    algorithm, rule, average, merger, adapter, analysis = words
    ruled = not (algorithm and rule) or catalogue.entries[algorithm].ruled
    ensemble = bool(merger) and catalogue.get("merger", merger).card.ensemble
    refused = not ruled or (ensemble and (adapter or analysis)) or (adapter and analysis)
    if list(shuffled) != named:
        assert problems(catalogue, "+".join(shuffled)) == (
            f"{'+'.join(shuffled)!r} is in the wrong order: write {'+'.join(named)!r}",
        )
    elif not refused:
        row = parse_row("+".join(named), catalogue)
        implied = catalogue.get("merger", merger).card.average if merger else ""
        assert (row.average, row.merger, row.adapter) == (average or implied, merger, adapter)
        assert row.analysis == analysis
        assert row.measured.name == ("+".join(named[:-1] if analysis else named) or catalogue.baseline)
        assert row.algorithm == stepped(algorithm or catalogue.baseline, rule, catalogue)


@given(words=st.lists(st.sampled_from(["ERM", "SAM", "SWAD", "SMA", "DiWA", "EoA", "T3A", "x", ""]), max_size=5))
def test_a_name_is_read_or_refused_whatever_its_words(words: list[str], catalogue: Catalogue) -> None:
    text = "+".join(words)
    kinds = [catalogue.entries[word].kind if word in catalogue.entries else "" for word in words]
    ranks = [ORDER.index(kind) if kind else -1 for kind in kinds]
    if not words or -1 in ranks or ranks != sorted(set(ranks)) or {"EoA", "T3A"} <= set(words):
        assert problems(catalogue, text)
        return
    row = parse_row(text, catalogue)
    assert row.name == text
    named = [word for word in words if not (word == "ERM" and "SAM" in words)]
    assert [word for word in (row.algorithm, row.average, row.merger, row.adapter) if word in words] == named


def test_a_student_stands_on_the_row_that_its_hyperparameters_name_and_others_on_none(catalogue: Catalogue) -> None:
    assert teacher_rows("KD", {"teacher": "SAM+SWAD"}, catalogue) == (Row("SAM+SWAD", "SAM", "SWAD"),)
    assert teacher_rows("ERM", {"teacher": "SAM+SWAD"}, catalogue) == ()
    with pytest.raises(UserError, match="unknown algorithm 'SMA2': did you mean 'SMA'"):
        teacher_rows("KD", {"teacher": "SMA2"}, catalogue)


def test_an_ensemble_is_what_its_merger_says(catalogue: Catalogue) -> None:
    found = {name: is_ensemble(parse_row(name, catalogue), catalogue) for name in ("ERM+SWAD", "DiWA", "EoA")}
    assert found == {"ERM+SWAD": False, "DiWA": False, "EoA": True}


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("SAM:rho=.10", Row("SAM:rho=0.1", "SAM:rho=0.1")),
        ("SAM:rho=1e+0,lr=1e-3", Row("SAM:lr=0.001,rho=1", "SAM:lr=0.001,rho=1")),
        ("SAM:rho=1,lr=.001", Row("SAM:lr=0.001,rho=1", "SAM:lr=0.001,rho=1")),
        ("SAM+SWAD:tolerance_ratio=.2", Row("SAM+SWAD:tolerance_ratio=0.2", "SAM", "SWAD:tolerance_ratio=0.2")),
        ("ERM:lr=.01+DiWA", Row("ERM:lr=0.01+DiWA", "ERM:lr=0.01", "", "DiWA")),
        ("T3A:filter_K=20", Row("T3A:filter_K=20", "ERM", "", "", "T3A:filter_K=20")),
        ("CORAL:lr=.01+SAM:rho=.1", Row("CORAL+SAM:lr=0.01,rho=0.1", "CORAL+SAM:lr=0.01,rho=0.1")),
        ("ERM:lr=.01+SAM", Row("ERM+SAM:lr=0.01", "SAM:lr=0.01")),
        ("ERM+Sharpness:m=16", Row("ERM+Sharpness:m=16", "ERM", analysis="Sharpness:m=16")),
    ],
)
def test_words_may_have_values_which_are_written_in_one_way(text: str, row: Row, catalogue: Catalogue) -> None:
    assert parse_row(text, catalogue) == row
    assert parse_row(row.name, catalogue) == row


def test_one_row_named_in_two_ways_is_one(catalogue: Catalogue) -> None:
    assert len(parse_rows(["SAM:rho=.1", "SAM:rho=0.10", "SAM:rho=1e-1"], catalogue)) == 1


def test_the_measured_row_of_an_analysis_with_values_has_none_of_them(catalogue: Catalogue) -> None:
    assert parse_row("SAM:rho=.1+SWAD+Sharpness:m=16", catalogue).measured == parse_row("SAM:rho=.1+SWAD", catalogue)
    assert parse_row("Sharpness:m=16", catalogue).measured == parse_row("ERM", catalogue)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SAM:rh=1", ["unknown hyperparameter of SAM 'rh': did you mean 'rho'?"]),
        ("SAM:rho=x,batch_size=.5", ["SAM: rho is a float, not 'x'", "SAM: batch_size is an int, not '.5'"]),
        ("SAM:", ["'SAM:': write NAME=VALUE behind the colon, not ''"]),
        ("SAM:rho=-1+SWAD:x=1", ["SAM: rho must be at least 0, not -1.0", "unknown hyperparameter of SWAD 'x'"]),
        ("SWAD:n_tolerance=2+SAM:rho=1", ["write 'SAM:rho=1+SWAD:n_tolerance=2'"]),
        ("ERM+ERM:lr=1", ["has an algorithm twice"]),
    ],
)
def test_invalid_values_are_refused_in_the_words_of_their_space(
    text: str, told: list[str], catalogue: Catalogue
) -> None:
    found = problems(catalogue, text)
    assert len(found) == len(told)
    assert all(part in problem for part, problem in zip(told, found, strict=True))
