from __future__ import annotations

import dataclasses
import hashlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.core.errors import UserError
from dgbench.core.presets import read_preset
from dgbench.core.setting import FIELD_NAMES, PRESETS, Setting, setting, stored_fields

DIGESTS = {
    "dgbench": "4816d25396999327097f31ec2a0aaaa5ab7bd3ad6d14b157c3762d79e6353f40",
    "domainbed-2020": "ec5cef9f3bddfd08ccfd03609e077c657b7d6964beaf2751e0a29d3bc0bb3f68",
    "domainbed-2024": "10914e418761dd4ecec0889a3bcf4216385a56d5e6ec7e296e530ab7091094e7",
}
OF_PAPERS = {
    "dgbench-2026": "0554491d30bbf8ec",
    "diwa": "5904ebedc23d4fff",
    "eoa": "3e73eba87e074cf9",
    "erm++": "3a542631d8da4dd5",
    "fish-wilds": "bcaa8a4101c909ed",
    "miro": "bd5f516ff166b195",
    "sagm": "f2eea5a3ee232ac4",
    "scratch": "8a6a1dd3a0fa6e80",
    "swad": "16807ae2f1541684",
    "tram": "668fa549f1fb3ba8",
    "udim": "ede075754e881e54",
    "udim-sdg": "7054062454b6585f",
    "wilds": "362eabe12438cf2b",
}


def test_presets_never_change() -> None:
    of_suites = {name: hashlib.sha256(orjson.dumps(stored_fields(PRESETS[name]))).hexdigest() for name in DIGESTS}
    of_papers = {
        name: hashlib.sha256(orjson.dumps([preset.asked, preset.tables], option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        for name in PRESETS
        if name not in DIGESTS and (preset := read_preset(name))
    }
    assert (of_suites, of_papers) == (DIGESTS, OF_PAPERS), (
        "a preset never changes: results already recorded under its name were made with its old values. "
        "A new default is a new preset with a name of its own; a new field must not change what the old ones mean"
    )


def test_the_order_in_memory_is_named_where_it_is_not_torchs_own() -> None:
    assert setting(channels_last=True).departures() == {"channels_last": True}
    assert setting(channels_last=False).departures() == {}, "as sweeps from before there was `auto`"
    assert all(not PRESETS[name].channels_last for name in ("domainbed-2020", "domainbed-2024"))
    with pytest.raises(UserError, match="setting 'channels_last' is one of auto, True, False, not 1"):
        setting(channels_last=1)


def test_a_preset_carries_its_name() -> None:
    for name, preset in PRESETS.items():
        assert preset.preset == name
        assert setting(name) == preset
    assert setting() == PRESETS["dgbench"]


def test_the_domainbed_presets_say_what_domainbed_does() -> None:
    for name, batch_norm in (("domainbed-2020", "frozen"), ("domainbed-2024", "live")):
        preset = PRESETS[name]
        assert (preset.batch_norm, preset.backbone, preset.ddof) == (batch_norm, name, 0)
        assert (preset.init, preset.data_order, preset.generated_data) == ("run", "run", "run")
        assert (preset.cache, preset.interpolation) == ("off", "bilinear")
        assert (preset.holdout_fraction, preset.validation_augmented, preset.optimizer) == (0.2, True, "adam")


def test_changes_replace_values() -> None:
    changed = setting("domainbed-2020", steps=7, precision="bf16", ddof=1, pretrained=False)
    assert changed == dataclasses.replace(
        PRESETS["domainbed-2020"], steps=7, precision="bf16", ddof=1, pretrained=False
    )


def test_a_whole_number_given_for_a_float_is_one() -> None:
    assert type(setting(momentum=0).momentum) is float, "0 and 0.0 must give one run"


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        setting(
            "domainbed",
            stepz=5,
            preset="dgbench",
            steps=0,
            checkpoint_freq=True,
            holdout_fraction=1,
            pretrained=1,
            optimizer="adams",
            ddof="1",
            backbone=18,
            image_size=7,
            momentum=float("nan"),
            init=["trial"],
        )
    assert caught.value.problems == (
        "unknown preset 'domainbed': did you mean 'domainbed-2024'?",
        "unknown setting 'stepz': did you mean 'steps'?",
        f"unknown setting 'preset': there are {', '.join(sorted(FIELD_NAMES))}",
        "setting 'steps' must be at least 1, not 0",
        "setting 'checkpoint_freq' is an int, not True",
        "setting 'holdout_fraction' must lie between 0 and 1, so that both parts hold something, not 1",
        "setting 'pretrained' is a bool, not 1",
        "setting 'ddof' is one of 0, 1, not '1'",
        "setting 'backbone' is a str, not 18",
        "setting 'image_size' must be at least 8, not 7",
        "setting 'momentum' must lie in [0, 1), not nan",
        "setting 'init' is one of trial, run, sweep, not ['trial']",
        "unknown optimizer 'adams': did you mean 'adam'?",
    )


@pytest.mark.parametrize("ddof", [True, 1.0, 2, None])
def test_an_option_must_be_of_the_same_type_too(ddof: object) -> None:
    with pytest.raises(UserError, match="setting 'ddof' is one of 0, 1"):
        setting(ddof=ddof)


@pytest.mark.parametrize("fraction", [0, 1, 0.0, 1.0, -0.1, float("inf")])
def test_a_part_without_examples_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="both parts hold something"):
        setting(holdout_fraction=fraction)


def test_a_data_set_fills_in_what_was_not_said() -> None:
    assert setting().for_dataset(301, 50) == setting(steps=301, checkpoint_freq=50)
    assert setting(steps=7).for_dataset(301, 50) == setting(steps=7, checkpoint_freq=50)
    assert setting(checkpoint_freq=3).for_dataset(301, 50) == setting(steps=301, checkpoint_freq=3)


def test_weights_are_named_by_the_hash_of_their_file() -> None:
    digest = "0123456789abcdef" * 4
    assert setting(weights=digest).weights == digest
    assert setting(weights=digest, pretrained=True).pretrained
    for wrong in ("resnet50.pth", digest[1:], digest.upper()):
        with pytest.raises(UserError, match="is the sha256 of a file, in 64 hexadecimal digits"):
            setting(weights=wrong)
    with pytest.raises(UserError, match="a file of weights is given, and pretrained is false: leave out one"):
        setting(weights=digest, pretrained=False)


@given(st.integers(1, 400), st.integers(1, 450))
def test_evaluation_steps_are_domainbeds(steps: int, freq: int) -> None:
    expected = [step for step in range(steps) if step % freq == 0 or step == steps - 1]
    assert list(Setting("x", steps=steps, checkpoint_freq=freq).evaluation_steps) == expected
    assert Setting("x", steps=steps, checkpoint_freq=freq).evaluations == len(expected)
