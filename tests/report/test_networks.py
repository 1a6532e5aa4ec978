"""The line that names the network of a data set, and the mark of what its pretraining may have seen."""

from __future__ import annotations

import dataclasses
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

import dgbench
from dgbench.core.setting import setting
from dgbench.data.facts import DatasetFacts
from dgbench.report.latex import latex
from dgbench.report.networks import describe_networks
from dgbench.report.origin import Origin, Started
from dgbench.report.reader import read_results
from dgbench.report.render import as_domainbed, as_json, markdown, text
from dgbench.report.results import Results
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import build
from dgbench.store.run_folder import RunFolder
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
HASH = "0123456789abcdef" * 4


def results(dataset: str, *started: Started, own: bool = True, facts: Any = None, **changes: Any) -> Results:
    how = setting(**{"backbone": "resnet50.tv_in1k", **changes})
    shape = DatasetFacts(dataset, ("a",), (9,), 2, (3, 224, 224), (), 10, 5, "f00d", **(facts or {}))
    return Results(
        "p", "dgbench", 1, (), {dataset: ()}, (), {},
        origin=Origin(networks={dataset: Counter(started)}),
        setting=dataclasses.asdict(how) if own else {},
        settings={dataset: how},
        facts={dataset: shape} if own else {},
    )  # fmt: skip


def line(*args: Any, **changes: Any) -> Any:
    (found,) = describe_networks(results(*args, **changes))
    return found


def test_the_whole_line() -> None:
    started = Started(HASH, 23_508_032, "frozen", "tv_in1k")
    assert str(line("VLCS", started)) == (
        "network on VLCS: resnet50.tv_in1k | trained on ImageNet-1k | weights 0123456789ab | 23.5 M parameters | "
        "inputs 3 x 224 x 224 | batch norm frozen | precision fp32"
    )


def test_what_a_folder_does_not_record_is_said() -> None:
    assert line("VLCS", Started()).facts == (
        "resnet50.tv_in1k | trained on ImageNet-1k | weights not recorded | parameters not recorded | "
        "inputs 3 x 224 x 224 | batch norm frozen | precision fp32"
    )
    assert line("VLCS", own=False).facts == (
        "resnet50.tv_in1k | trained on ImageNet-1k | weights not recorded | parameters not recorded | "
        "inputs not recorded | batch norm not recorded | precision not recorded"
    )


def test_a_tag_that_the_name_lacks_is_read_from_the_runs() -> None:
    found = line("VLCS", Started(HASH, 1, "live", "a1_in1k"), backbone="resnet50", precision="bf16")
    assert found.facts.startswith("resnet50.a1_in1k | trained on ImageNet-1k | ")
    assert found.facts.endswith("batch norm live | precision bf16")
    unknown = line("VLCS", Started(HASH), backbone="resnet50")
    assert unknown.facts.startswith("resnet50 | trained on data that dgbench does not know | weights 0123456789ab")


def test_rows_with_networks_of_their_own_and_machines_with_other_weights() -> None:
    found = line("VLCS", Started("", 900, "none"), Started("", 23_000_000, "none"), backbone="SmallCNN")
    assert found.facts.startswith("SmallCNN | random weights | 900 to 23 M parameters | inputs")
    found = line("VLCS", Started(HASH), Started("f" * 64))
    assert "weights 0123456789ab|ffffffffffff" in found.facts
    assert "no batch norm" in line("VLCS", Started(), backbone="SmallCNN").facts


def test_weights_of_a_file_are_named_by_their_hash() -> None:
    found = line("PACS", Started(), backbone="resnet50", weights=HASH)
    assert found.facts.startswith("resnet50, weights of a file | trained on data that dgbench does not know | ")
    assert "weights 0123456789ab" in found.facts
    assert found.shares == ()


def test_shared_examples_are_marked_only_where_the_network_saw_them() -> None:
    assert line("PACS").footnote.startswith("‡ PACS: its network may have seen such examples in pretraining: ImageNet-")
    assert line("PACS", own=False).shares == line("PACS").shares, "DomainBed's folders have the package's cards"
    assert line("PACS", backbone="vit_base_patch16_clip_224.openai").footnote.count("web: ") == 1
    for unseen in ({"backbone": "SmallCNN"}, {"pretrained": False}):
        assert line("PACS", **unseen).footnote == ""
    assert line("TerraIncognita").footnote == ""
    assert line("no data set of ours").footnote == ""


def test_the_card_of_a_users_own_data_set_counts() -> None:
    mine = {"shares": {"ImageNet-1k": "photos of mine are in it"}}
    assert line("mine", facts=mine).footnote.endswith("in pretraining: ImageNet-1k: photos of mine are in it")
    features = line("mine", facts={**mine, "features_of": "tf_efficientnet_lite0"}, backbone="Linear")
    assert features.facts.startswith("Linear on features of tf_efficientnet_lite0 | trained on ImageNet-1k | ")
    assert features.shares


@pytest.fixture
def marked(tmp_path: Path) -> Results:
    OWN["make"](tmp_path, dataset="PACS", domains=("art_painting", "cartoon"), preset="dgbench")
    found = read_results(tmp_path)
    facts = dataclasses.replace(found.facts["PACS"], shares={"ImageNet-1k": "files are named after its synsets"})
    how = {"PACS": setting(backbone="resnet50.tv_in1k")}
    return dataclasses.replace(found, facts={"PACS": facts}, settings=how)


def test_tables_for_readers_have_the_mark_and_its_note(marked: Results) -> None:
    report = build(marked, [SELECTORS["training-domain"]])
    (found,) = report.networks
    for made in (text(report), markdown(report)):
        assert "Dataset: PACS‡, model selection method" in made
        assert made.count("‡ PACS: its network may have seen") == 1
        assert made.count("network on PACS: resnet50") == 1
    tex = latex(report)
    assert tex.isascii()
    assert r"on PACS$^\ddagger$;" in tex
    assert r"$^\ddagger$ PACS: its network may have seen" in tex
    assert "network on PACS" in latex(report, "full")
    assert orjson.loads(as_json(report))["networks"][0]["shares"] == list(found.shares)


def test_the_form_of_domainbed_has_neither(marked: Results) -> None:
    made = as_domainbed(build(marked, [SELECTORS["training-domain"]]))
    assert "‡" not in made
    assert "network on" not in made


def test_averages_over_data_sets_mark_their_columns(marked: Results) -> None:
    report = build(marked, [SELECTORS["oracle"]])
    (table, whole) = report.tables
    other = dataclasses.replace(table, dataset="Other")
    rows = {row: (cells[0], *cells) for row, cells in whole.rows.items()}
    whole = dataclasses.replace(whole, columns=("PACS", "Other", "Avg"), rows=rows)
    made = text(dataclasses.replace(report, tables=(table, other, whole)))
    assert "PACS‡" in made.partition("Averages")[2].splitlines()[1]
    assert "Dataset: Other, " in made


def test_the_frame_has_what_is_recorded(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path)
    frame = dgbench.load_results(tmp_path).networks
    (only,) = frame.to_dict("records")
    assert (only["architecture"], only["pretrained"], only["inputs"]) == ("MNIST_CNN", False, "2 x 28 x 28")
    assert frame["parameters"].isna().all()
    network = {"parameters": 123, "batch_norm": "none", "tag": ""}
    for number, run in enumerate(table.runs):
        summary = {**OWN["SUMMARY"], "weights": "", "network": {**network, "parameters": 123 + number % 2}}
        RunFolder(tmp_path, run.id).finish(summary)
    (only,) = dgbench.load_results(tmp_path).networks.to_dict("records")
    assert (only["parameters"], only["most_parameters"], only["batch_norm"]) == (123, 124, "none")
