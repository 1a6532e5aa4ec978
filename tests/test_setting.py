from __future__ import annotations

import dataclasses
import hashlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.errors import UserError
from dgbench.setting import PRESETS, Setting, setting

DIGESTS = {
    "dgbench": "5f13cc0e2248e643896e8f2a0766b048711b0db7e0f91499c57f4b2100598f75",
    "domainbed-2020": "d2ccf3ecdb4c9869847dc5380effa5bc4c545be8deb3bbefa0fa7f1b82c7bda1",
    "domainbed-2024": "28224b84cc9f90feeb609c75f5c5e1dc762fc5d6670b488942fd9d72cffb891f",
}


def test_presets_never_change() -> None:
    found = {
        name: hashlib.sha256(orjson.dumps(preset, option=orjson.OPT_SORT_KEYS)).hexdigest()
        for name, preset in PRESETS.items()
    }
    assert found == DIGESTS, (
        "a preset never changes: results already recorded under its name were made with its old values. "
        "A new default is a new preset with a name of its own; a new field must not change what the old ones mean"
    )


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
        "unknown setting 'preset': did you mean 'precision'?",
        "setting 'steps' must be at least 1, not 0",
        "setting 'checkpoint_freq' is a int, not True",
        "setting 'holdout_fraction' must lie between 0 and 1, so that both parts hold something, not 1",
        "setting 'pretrained' is a bool, not 1",
        "setting 'optimizer' is one of adam, adamw, sgd, not 'adams'",
        "setting 'ddof' is one of 0, 1, not '1'",
        "setting 'backbone' is a str, not 18",
        "setting 'image_size' must be at least 8, not 7",
        "setting 'momentum' must lie in [0, 1), not nan",
        "setting 'init' is one of trial, run, sweep, not ['trial']",
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
