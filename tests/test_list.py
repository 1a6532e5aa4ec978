from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.cards import TAGS
from dgbench.core.errors import UserError
from dgbench.core.optimizers import LEFT_OUT, OPTIMIZERS
from dgbench.core.setting import FIELD_NAMES, PRESETS
from dgbench.list import KINDS, main
from dgbench.networks.backbones import ALIASES, BUILTIN_BACKBONES
from dgbench.report.selectors import ALL_SELECTORS
from tests.support.places import SWEEPS


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("what", KINDS)
def test_every_entry_is_listed_in_a_line(what: str, capsys: pytest.CaptureFixture[str], catalogue: Catalogue) -> None:
    entries = catalogue.of_kind(KINDS[what])
    width = max(map(len, entries))
    assert listed(capsys, what).splitlines() == [f"{name:<{width}}  {entry.summary}" for name, entry in entries.items()]


@pytest.mark.parametrize("what", KINDS)
def test_what_is_named_is_described_in_full(
    what: str, capsys: pytest.CaptureFixture[str], catalogue: Catalogue
) -> None:
    entries = catalogue.of_kind(KINDS[what])
    said = listed(capsys, what, *entries)
    for name, entry in entries.items():
        block = said[said.index(f"\n{name}\n" if not said.startswith(name) else name) :]
        assert f"\n    {entry.card.paper}" in block
        assert entry.card.link in block
        for line in filter(None, entry.doc.splitlines()):
            assert f"\n    {line}\n" in block
        for spec in entry.space:
            assert f"\n        {spec.name} = {spec.default}" in block
            assert spec.draw is None or f"~ {spec.draw}" in block


def test_a_row_is_described_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    main(["methods", "MIRO+SAM+SWAD+T3A", "CORAL+SAM"])
    titles = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]
    assert titles == ["MIRO+SAM", "SWAD", "T3A", "CORAL+SAM"]
    with pytest.raises(UserError, match="SWAD is an average: dgbench list averages SWAD"):
        main(["algorithms", "MIRO+SAM+SWAD"])


def test_a_line_is_cut_to_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = listed(capsys, "mergers").splitlines()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    cut = listed(capsys, "mergers").splitlines()
    assert cut == [line if len(line) <= 60 else line[:59] + "…" for line in whole]
    assert any(line.endswith("…") for line in cut)


def test_a_search_looks_into_names_and_lines_and_then_into_everything(capsys: pytest.CaptureFixture[str]) -> None:
    def found(*words: str) -> list[str]:
        return [line.split()[0] for line in listed(capsys, *words).splitlines()]

    assert found("averages", "--search", "swa") == ["IIDMax", "SWA", "SWAD"], "IIDMax is from SWAD's paper"
    assert found("averages", "--search", "Ensemble of Averages") == ["SMA"], "its title"
    assert "MIRO" in found("--search", "pretraining"), "its tag"
    assert found("adapters", "--search", "PROTOTYPES") == ["T3A"]
    assert found("adapters", "--search", "Iwasawa") == ["T3A"], "its paper"
    assert {"SAM", "ASAM", "GSAM"} <= set(found("rules", "--search", "sharpness"))
    with pytest.raises(UserError, match="--search nowhere: nothing in the list of mergers mentions it"):
        main(["mergers", "--search", "nowhere"])


def test_methods_are_found_by_their_ideas(capsys: pytest.CaptureFixture[str], catalogue: Catalogue) -> None:
    def of(tag: str) -> list[str]:
        kinds = ("algorithm", "rule", "average", "merger", "adapter")
        return [e.name for kind in kinds for e in catalogue.of_kind(kind).values() if tag in e.card.tags]

    flat = [line.split()[0] for line in listed(capsys, "--tag", "flat").splitlines()]
    assert flat == of("flat-minima")
    assert {"SAM", "SWAD", "SAR"} <= {*flat}
    assert [line.split()[0] for line in listed(capsys, "averages", "--tag", "flat").splitlines()] == [
        name for name in flat if catalogue.entries[name].kind == "average"
    ]
    groups = [group.splitlines() for group in listed(capsys, "--by", "tag").strip().split("\n\n")]
    assert {head.partition(":")[0]: [line.split()[0] for line in lines] for head, *lines in groups} == {
        tag: of(tag) for tag in TAGS
    }
    said = listed(capsys, "methods", "SAM", "T3A")
    assert f"    idea: flat-minima, {TAGS['flat-minima']}\n" in said
    assert "\nT3A\n" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--tag", "flatt-minima"), "unknown tag 'flatt-minima': did you mean 'flat-minima'"),
        (("--tag", "quant", "--search", "Fisher"), "--search Fisher: nothing in the list of methods of the tag quant"),
        (("backbones", "--tag", "flat"), "--tag and --by look at methods, and backbones are none"),
        (("datasets", "--by", "tag"), "--tag and --by look at methods, and datasets are none"),
    ],
)
def test_ideas_that_lead_nowhere_are_refused(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        main(words)


def test_methods_without_a_tag_come_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "from dgbench.core.cards import AdapterCard\nfrom dgbench.methods.adapter import Adapter\n"
        "class Mine(Adapter):\n    'Bold.'\n    card = AdapterCard(paper='none')\n"
    )
    said = listed(capsys, "adapters", "--by", "tag", "--include", str(tmp_path / "mine.py"))
    assert said.endswith("\n\nwithout a tag\n  Mine  Bold.\n\n")


def test_backbones_are_ours_and_those_of_timm_that_are_searched_for(capsys: pytest.CaptureFixture[str]) -> None:
    ours = listed(capsys, "backbones").splitlines()
    assert [line.split()[0] for line in ours] == [*ALIASES, *BUILTIN_BACKBONES, "clip:...", "..."]
    assert "MLP for vectors" in ours[0]
    said = listed(capsys, "backbones", "--search", "resnet18")
    assert "\nresnet18.a1_in1k " in said
    assert "timm's, pretrained, for images of 3 x 224 x 224\n" in said
    assert "MLP" not in said
    said = listed(capsys, "backbones", "MLP", "resnet18.a3_in1k")
    assert "MLP\n    takes vectors or images\n    has not what some methods need: a network with batch norm; " in said
    assert "    made for images of 3 x 160 x 160, resized by bicubic interpolation\n" in said
    assert "    pretrained weights: timm/resnet18.a3_in1k\n    has what every method needs\n" in said
    with pytest.raises(UserError, match="unknown name in the list of backbones 'MLQ': did you mean 'MLP'"):
        main(["backbones", "MLQ"])


def test_backbones_of_clip_are_found_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("open_clip", reason="extra `clip` is not installed")
    found = listed(capsys, "backbones", "--search", "clip:vit-b-32").splitlines()
    names = [line.split()[0] for line in found]
    assert {"clip:ViT-B-32.openai", "clip:ViT-B-32-256.datacomp_s34b_b86k"} <= set(names)
    assert not [name for name in names if not name.startswith("clip:ViT-B-32")]
    assert found[0].endswith("open_clip's, with a text tower, for images of 3 x 224 x 224")
    said = listed(capsys, "backbones", "clip:ViT-B-32.openai")
    assert said.startswith(
        "clip:ViT-B-32.openai\n    takes images\n    made for images of 3 x 224 x 224, resized by bic"
    )
    assert "\n    pretrained weights: timm/vit_base_patch32_clip_224.openai\n    has not what some methods need" in said
    with pytest.raises(UserError, match=r"unknown weights of a backbone 'clip:ViT-B-32.opena': did you mean"):
        main(["backbones", "clip:ViT-B-32.opena"])


def test_selectors_presets_and_settings_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in listed(capsys, "selectors").splitlines()] == list(ALL_SELECTORS)
    assert "    in tables: test-domain validation set (oracle)\n    reads labelled data" in listed(
        capsys, "selectors", "oracle"
    )
    first, *others = listed(capsys, "presets").splitlines()
    assert first.startswith("dgbench         the default: DomainBed's data splits")
    assert [line.split()[0] for line in (first, *others)] == list(PRESETS)
    said = listed(capsys, "presets", "swad")
    assert re.search(r"setting.VLCS.checkpoint_freq +50 +khanrc/swad README.md\n", said)
    assert re.search(r"hparams.VLCS.SWAD.tolerance_ratio +0.2 +khanrc/swad README.md\n", said)
    assert "not known: The paper's search space" in said
    assert re.search("^    batch_norm +live$", listed(capsys, "presets", "domainbed-2024"), re.MULTILINE)
    lines = listed(capsys, "settings").splitlines()
    assert [line.split()[0] for line in lines] == list(FIELD_NAMES)
    for name, line in zip(FIELD_NAMES, lines, strict=True):
        assert line.split(maxsplit=1)[1].startswith(f"{getattr(PRESETS['dgbench'], name)!r} ")
        assert len(line.split()) > 4, f"{name} has no meaning"
    said = listed(capsys, "settings", "optimizer", "steps")
    assert "    values: str\n    changed by: --optimizer\n    in the preset dgbench: 'adam'\n" in said
    assert "    changed by: --set clip_norm=VALUE\n" in listed(capsys, "settings", "clip_norm")
    assert "    values: int\n" in said


def test_optimizers_are_listed_with_those_left_out_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys, "optimizers").splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [*OPTIMIZERS, *LEFT_OUT]
    said = listed(capsys, "optimizers", "lion", "bnblion")
    assert "lion\n    Lion: steps along the sign of a mean of momentum and gradient\n" in said
    assert "bnblion\n    left out: it needs bitsandbytes, which is no part of dgbench\n" in said
    with pytest.raises(UserError, match="unknown name in the list of optimizers 'lino': did you mean 'lion'"):
        main(["optimizers", "lino"])


def test_the_wrong_kind_is_told_with_the_right_one() -> None:
    with pytest.raises(UserError) as caught:
        main(["algorithms", "SWAD", "PACS", "SAM"])
    assert caught.value.problems == (
        "SWAD is an average: dgbench list averages SWAD",
        "PACS is a dataset: dgbench list datasets PACS",
        "SAM is a rule: dgbench list rules SAM",
    )
    with pytest.raises(UserError, match="unknown name in the list of mergers 'DiVA': did you mean 'DiWA'"):
        main(["mergers", "DiVA"])
    with pytest.raises(UserError, match="--markdown makes tables of algorithms"):
        main(["selectors", "--markdown"])


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        ("algorithms", ["cost: 2 forward, 2 backward passes a step", "needs 2 training domains"]),
        ("averages", ["evaluated: when training is over; cost: 8 copies of the model in memory"]),
        (
            "mergers",
            [
                "merges: at least 2 runs of a trial, of models averaged by SMA, into several networks, logits averaged",
                "merges: at least 2 runs of a trial, of models at their best validation, into one network",
            ],
        ),
        ("adapters", ["cost: 1 forward, 0 backward a batch at test time"]),
        (
            "datasets",
            [
                "domains: 0, 15, 30, 45, 60, 75",
                "10 classes; images 1 x 8 x 8; 301 steps, evaluated every 50",
                "examples: 1,797 (300, 300, 300, 299, 299, 299)",
                "domains: the folders or values found",
                "lies in: DATA_DIR/PACS",
                "protocol: leave one domain out; scored by accuracy",
                "protocol: Test is tested, the others train; scored by accuracy",
                "examples: 24,330 (4,741, 9,736, 3,970, 5,883): "
                "the generation of 24,330 images (annotations of 2021 and later)",
                "known: sketch/dog/n02103406_4068-1.png: Dassl leaves it out, DomainBed does not",
                "or from: https://sviro.kl.dfki.de",
                "note: 586,575 images; the 596,006 of the archives hold duplicates, which `download` removes",
            ],
        ),
    ],
)
def test_what_is_said_of_each_kind(
    what: str, lines: list[str], capsys: pytest.CaptureFixture[str], catalogue: Catalogue
) -> None:
    said = listed(capsys, what, *catalogue.of_kind(KINDS[what])).splitlines()
    for line in lines:
        assert f"    {line}" in said


def test_a_data_set_with_splits_of_its_own_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "split.py"
    file.write_text(
        "from dgbench.core.cards import DatasetCard\nfrom dgbench.data.dataset import Dataset\n"
        "class Split(Dataset):\n    'Cut.'\n    card = DatasetCard(source='sky', licence='free', "
        "input_shape=(3, 8, 8), domains=('official',), parts={'train': 5, 'test': 2}, metric='F1')\n"
    )
    said = listed(capsys, "datasets", "Split", "--include", str(file))
    assert "    protocol: its own split into train, test; scored by F1\n" in said


def test_included_files_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stars.py"
    file.write_text(
        "from dgbench.core.cards import DatasetCard\nfrom dgbench.data.dataset import Dataset\n"
        "class Stars(Dataset):\n    'Bright.'\n    card = DatasetCard(source='sky', licence='free', "
        "input_shape=(3, 8, 8))\n"
    )
    assert [line for line in listed(capsys, "datasets", "--include", str(file)).splitlines() if "Bright." in line]


def test_sweeps_are_listed_with_what_their_files_say_first_and_ask_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.toml").write_text(
        '# Second.\n# More.\nalgorithms = ["ERM", "SAM"]\ndatasets = ["RotatedDigits"]\nn_trials = 1\n# not this\n'
    )
    (tmp_path / "a.toml").write_text("n_trials = 1\n")
    where = ["--sweeps_dir", str(tmp_path)]
    assert [line.split(maxsplit=1)[1] for line in listed(capsys, "sweeps", *where).splitlines()] == [
        "0 rows, 0 data sets.",
        "2 rows, RotatedDigits, 840 training runs. Second.",
    ]
    assert listed(capsys, "sweeps", f"{tmp_path}/b.toml", *where) == (
        f"{tmp_path}/b.toml\n    Second.\n    More.\n    algorithms: ERM, SAM\n    datasets: RotatedDigits\n"
        f"    training runs: 840\n    file: {tmp_path}/b.toml\n\n"
    )


def test_the_shipped_sweeps_are_listed_from_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = listed(capsys, "sweeps").splitlines()
    assert [line.split()[0] for line in lines] == sorted(file.stem for file in SWEEPS.glob("*.toml"))
    (pacs,) = (line for line in lines if line.startswith("pacs "))
    assert pacs.split(maxsplit=1)[1].startswith("12 rows, PACS, 1,920 training runs. PACS (9,991 images")


def test_what_there_is_none_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        main(["sweeps", "--sweeps_dir", str(tmp_path / "no")])
    with pytest.raises(UserError, match="algorithm"):
        main(["algorithm"])
