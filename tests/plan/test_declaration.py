"""What is asked for, by a file and by flags, and the declaration that a sweep folder keeps of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.cli import Parser
from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit, LeaveOneDomainOut, SingleSource
from dgbench.core.setting import setting
from dgbench.core.site import Site
from dgbench.core.space import choice, power, uniform
from dgbench.flags import add_options
from dgbench.launchers.launcher import Launcher
from dgbench.launchers.machine import Local
from dgbench.launchers.values import asked_of, launcher_of, leaving_of, places_of, run_of, site_of
from dgbench.plan.asking import count_training_runs, declare, open_facts
from dgbench.plan.declaration import FILE, Declaration, read_declaration, write_declaration
from dgbench.plan.options import OPTIONS
from dgbench.plan.request import Overrides
from dgbench.plan.sweep_file import KEYS, find_sweep, merge_flags_over_file, read_sweep_file, shipped_sweeps
from tests.support.places import SWEEPS

BASIC = {"algorithms": ["ERM"], "datasets": ["RotatedDigits"]}


def flags(*words: str) -> Any:
    parser = Parser()
    add_options(parser, {"all": tuple(OPTIONS.values())})
    return vars(parser.parse_args(words))


def refused(call: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    return caught.value.problems


def asking(catalogue: Catalogue, **asked: Any) -> Declaration:
    return declare({**BASIC, **asked}, catalogue)[0]


def sweep_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


# -- the file -----------------------------------------------------------------------------------------------------


def test_a_sweep_file(tmp_path: Path, catalogue: Catalogue) -> None:
    path = sweep_file(
        tmp_path,
        """
        algorithms = ["SAM+SWAD", "VREx"]
        datasets = ["RotatedDigits", "folder:/data/mine"]
        test_envs = ["75", 0]
        n_hparams = 5
        n_hparams_from = 3
        n_trials = 2
        preset = "domainbed-2024"
        [setting]
        steps = 7
        [hparams]
        batch_size = 16
        momentum = 0
        SWAD = {tolerance_ratio = 0.5}
        [space]
        lr = "10^U(-3.123456789, -2)"
        """,
    )
    declaration, paths = declare(read_sweep_file(path), catalogue)
    assert declaration.setting == setting("domainbed-2024", steps=7, momentum=0.0)
    assert declaration.overrides == Overrides(
        {"batch_size": 16}, {"SWAD": {"tolerance_ratio": 0.5}}, {"lr": power(10, -3.123456789, -2)}
    )
    (request,) = declaration.requests
    assert [row.name for row in request.rows] == ["SAM+SWAD", "VREx"]
    assert (request.datasets, paths) == (("RotatedDigits", "folder:mine"), {"folder:mine": "/data/mine"})
    assert (request.hparams_seeds, request.trials) == ((3, 4), (0, 1))
    assert request.protocol == LeaveOneDomainOut(only=("75", "0"))


def test_all_that_is_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = sweep_file(
        tmp_path,
        """
        algorithm = ["ERM"]
        algorithms = ["ERM", 3]
        datasets = "RotatedDigits"
        n_hparams = true
        n_trials = 2.0
        single_source = 1
        test_envs = [0, true, 1.5, "a"]
        [hparam]
        lr = 1
        """,
    )
    assert refused(read_sweep_file, path) == (
        f"{path}: unknown key 'algorithm': did you mean 'algorithms'?",
        f"{path}: algorithms is a list of names, 3 is none",
        f"{path}: datasets is a list, not 'RotatedDigits'",
        f"{path}: n_hparams is an int, not True",
        f"{path}: n_trials is an int, not 2.0",
        f"{path}: single_source is a bool, not 1",
        f"{path}: test_envs is a list of names, True is none",
        f"{path}: test_envs is a list of names, 1.5 is none",
        f"{path}: unknown key 'hparam': did you mean 'hparams'?",
    )


def test_a_shipped_sweep_is_found_by_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_sweeps()
    assert shipped.keys() == {path.stem for path in SWEEPS.glob("*.toml")}
    assert read_sweep_file("pacs") == read_sweep_file(shipped["pacs"])
    assert find_sweep(Path("pacs")) == shipped["pacs"]
    assert refused(find_sweep, "pac") == ("--sweep: unknown sweep 'pac': did you mean 'pacs'?",)
    assert refused(find_sweep, "sweeps/pacs.toml") == (
        "--sweep sweeps/pacs.toml: there is no such file: the sweep that is shipped is called by its name, "
        "--sweep pacs",
    )
    (tmp_path / "pacs").write_text("n_trials = 1")
    assert read_sweep_file("pacs") == {"n_trials": 1}, "a file of the user's wins"


def test_training_runs_are_counted_by_cards_where_these_suffice(catalogue: Catalogue) -> None:
    asked = {"algorithms": ["ERM", "ERM+SWAD", "ERM+SWA", "SAM"], "datasets": ["RotatedDigits", "Camelyon17"]}
    declaration, _ = declare({**asked, "datasets": ["RotatedDigits"], "n_hparams": 4, "n_trials": 2}, catalogue)
    assert count_training_runs(declaration, catalogue) == 3 * 21 * 4 * 2, "SWA feeds back, SWAD watches"
    declaration, _ = declare({**asked, "datasets": ["Camelyon17"], "n_hparams": 1, "n_trials": 1}, catalogue)
    assert count_training_runs(declaration, catalogue) == 3
    for rows, dataset in ((["KD"], "RotatedDigits"), (["ERM"], "folder:/data/mine")):
        declaration, _ = declare({"algorithms": rows, "datasets": [dataset]}, catalogue)
        assert count_training_runs(declaration, catalogue) is None


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert refused(read_sweep_file, tmp_path / "no.toml") == (f"--sweep {tmp_path}/no.toml: there is no such file",)
    (told,) = refused(read_sweep_file, tmp_path)
    assert told.startswith(f"--sweep {tmp_path} can't be read: ")
    path = sweep_file(tmp_path, "algorithms = [")
    (told,) = refused(read_sweep_file, path)
    assert told.startswith(f"--sweep {path} can't be read: ")
    path.write_bytes(b"\xff\xfe")
    assert refused(read_sweep_file, path)[0].startswith(f"--sweep {path} can't be read: ")


def test_the_shipped_sweeps_can_be_planned(catalogue: Catalogue) -> None:
    for path in sorted(SWEEPS.glob("*.toml")):
        assert declare(read_sweep_file(path), catalogue)[0].requests, path


# -- flags --------------------------------------------------------------------------------------------------------


def test_flags_say_only_what_was_given() -> None:
    assert asked_of(flags()) == {}
    given = flags(
        *("--algorithms", "ERM", "SAM", "--datasets", "PACS", "--n_hparams", "4", "--single-test-envs"),
        *("--steps", "5", "--holdout_fraction", "0.3", "--evaluate", "all", "--hparams", '{"lr": 1e-3, "SWAD": {}}'),
        *("--train_domains", "a", "b", "--preset", "dgbench"),
    )
    assert asked_of(given) == {
        "algorithms": ["ERM", "SAM"],
        "datasets": ["PACS"],
        "n_hparams": 4,
        "single_test_envs": True,
        "train_domains": ["a", "b"],
        "preset": "dgbench",
        "setting": {"steps": 5, "holdout_fraction": 0.3, "evaluate": "all"},
        "hparams": {"lr": 1e-3, "SWAD": {}},
    }


@pytest.mark.parametrize("text", ["{lr: 1}", "", "[1]", "3", "null"])
def test_hparams_that_are_no_object_are_told(text: str) -> None:
    (told,) = refused(asked_of, flags("--hparams", text))
    assert told.startswith("--hparams is ")
    assert "JSON" in told


def test_flags_go_over_a_file_value_by_value() -> None:
    file = {
        "algorithms": ["ERM"],
        "n_trials": 3,
        "setting": {"steps": 100, "checkpoint_freq": 10, "precision": "bf16"},
        "hparams": {"lr": 1.0, "batch_size": 8, "momentum": 0.5, "SWAD": {"tolerance_ratio": 1}},
        "space": {"lr": "U(0, 1)", "batch_size": "{8, 16}"},
    }
    given = {
        "algorithms": ["SAM"],
        "setting": {"steps": 5, "momentum": 0.1},
        "hparams": {"lr": 2.0, "precision": "fp32", "SWAD": {}},
    }
    assert merge_flags_over_file(file, given) == {
        "algorithms": ["SAM"],
        "n_trials": 3,
        "setting": {"steps": 5, "checkpoint_freq": 10, "momentum": 0.1},
        "hparams": {"lr": 2.0, "batch_size": 8, "precision": "fp32", "SWAD": {"tolerance_ratio": 1}},
        "space": {"batch_size": "{8, 16}"},
    }
    assert merge_flags_over_file({}, BASIC) == {**BASIC, "setting": {}, "hparams": {}}


def test_what_flags_say_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert site_of(flags()) == Site()
    given = flags("--data_dir", "d", "--include", "a.py", "--workers", "2", "--save_models", "--device", "cpu")
    assert site_of(given) == Site(
        data_dir=str(tmp_path / "d"), include=(str(tmp_path / "a.py"),), workers=2, save_models="all", device="cpu"
    )
    assert refused(site_of, flags("--workers", "-1")) == ("--workers must be at least 0, not -1",)


def test_places_that_have_moved_are_those_that_flags_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places_of(flags()) == places_of(flags("--data_dir", "", "--cache_dir", "")) == {}
    given = flags("--data_dir", "d", "--cache_dir", "c", "--include", "a.py", "b.py", "--workers", "0")
    assert places_of(given) == {
        "data_dir": str(tmp_path / "d"),
        "cache_dir": str(tmp_path / "c"),
        "include": (str(tmp_path / "a.py"), str(tmp_path / "b.py")),
        "workers": 0,
    }
    (tmp_path / "file").touch()
    (told,) = refused(places_of, flags("--cache_dir", "file/c"))
    assert told == f"--cache_dir file/c can't be: {tmp_path / 'file'} is a file"


def test_an_options_value_has_a_place_in_its_part() -> None:
    names: dict[str, set[str]] = {}
    for name, option in OPTIONS.items():
        names.setdefault(option.part, set()).add(name)
    assert names["site"] <= {field.name for field in dataclasses.fields(Site)}
    assert names["setting"] <= {field.name for field in dataclasses.fields(setting())}
    assert names["launch"] == {field.name for field in dataclasses.fields(Launcher)}
    assert names["worker"] == leaving_of(flags()).keys()
    assert names["run"] == run_of(flags()).keys()
    assert names["asked"] == KEYS.keys() - {"setting", "space", "grid", "launcher"}


def test_what_flags_say_of_the_launcher() -> None:
    def launcher(args: Any) -> Launcher:
        return launcher_of(args, {"name": "local", "jobs": 2, "jobs_per_gpu": 4})

    assert launcher(flags("--jobs", "3")) == Local(jobs=3, jobs_per_gpu=4, grace=10)
    assert launcher(flags("--launcher", "local", "jobs=3")) == Local(jobs=3, jobs_per_gpu=4)
    assert refused(launcher, flags("--detach")) == (
        "--detach: runs of the launcher local end with its command; leave the flag out",
    )
    assert refused(launcher, flags("--jobs", "0", "--jobs-per-gpu", "0", "--grace", "-1")) == (
        "--jobs must be at least 1, not 0",
        "--jobs_per_gpu must be at least 1, not 0",
        "--grace must be at least 0, not -1.0",
    )
    assert refused(places_of, flags("--retries", "-1")) == ("--retries must be at least 0, not -1",)


# -- what it comes to ---------------------------------------------------------------------------------------------


def test_defaults_are_domainbeds(catalogue: Catalogue) -> None:
    declaration = asking(catalogue)
    (request,) = declaration.requests
    assert (request.hparams_seeds, request.trials) == (tuple(range(20)), tuple(range(3)))
    assert (request.protocol, declaration.protocol) == (LeaveOneDomainOut(), "leave-one-domain-out")
    assert (declaration.setting, declaration.overrides) == (setting(), Overrides())


@pytest.mark.parametrize(
    ("asked", "protocol"),
    [
        ({"single_test_envs": True}, LeaveOneDomainOut(pairs=False)),
        ({"test_envs": [2, "0"], "single_test_envs": True}, LeaveOneDomainOut(pairs=False, only=("2", "0"))),
        ({"single_source": True}, SingleSource()),
        ({"test_domains": ["75"]}, Explicit((), ("75",))),
        ({"train_domains": [0], "val_domains": ["15"], "test_domains": [2]}, Explicit(("0",), ("2",), ("15",))),
    ],
)
def test_protocols(asked: dict[str, Any], protocol: object, catalogue: Catalogue) -> None:
    assert asking(catalogue, **asked).requests[0].protocol == protocol


@pytest.mark.parametrize(
    "asked",
    [
        {"test_domains": ["75"], "test_envs": ["0"]},
        {"train_domains": ["75"], "single_source": True},
        {"val_domains": ["75"], "single_test_envs": True},
        {"single_source": True, "test_envs": ["0"]},
    ],
)
def test_protocols_that_contradict_each_other_are_refused(asked: dict[str, Any], catalogue: Catalogue) -> None:
    (told,) = refused(asking, catalogue, **asked)
    assert "leave out" in told


def test_hparams_are_sorted_to_whom_they_belong(catalogue: Catalogue) -> None:
    asked = {"lr": 1, "rho": 0.1, "steps": 9, "init": "run", "SWAD": {"tolerance_ratio": 0.1}, "T3A": {"filter_K": 5}}
    declaration = asking(catalogue, algorithms=["SAM+SWAD+T3A"], hparams=asked)
    assert declaration.overrides.fixed == {"lr": 1, "rho": 0.1}
    assert declaration.overrides.parts == {"SWAD": {"tolerance_ratio": 0.1}, "T3A": {"filter_K": 5}}
    assert declaration.setting == setting(steps=9, init="run")
    assert asking(catalogue, hparams={"steps": 9}, setting={"steps": 8}).setting.steps == 8, "a flag of its own wins"
    implied = asking(catalogue, algorithms=["EoA"], hparams={"SMA": {"start": 5}})
    assert implied.overrides.parts == {"SMA": {"start": 5}}


def test_all_that_is_wrong_with_hparams_is_told_at_once(catalogue: Catalogue) -> None:
    hparams = {
        "lrr": 1,
        "lr": "fast",
        "batch_size": 1.5,
        "rho": 0.1,
        "SWAD": {"tolerance": 1, "form": 3},
        "SAM": {"rho": 1},
        "stepz": 5,
        "steps": "many",
    }
    space = {"lr": "U(1", "batch_size": "U(8, 64)", "weight_decay": "{a, b}", "rho": "U(0, 1)"}
    found = refused(asking, catalogue, algorithms=["ERM+SWAD"], hparams=hparams, space=space, setting={"preset": "x"})
    assert found[:3] == (
        "unknown hyperparameter 'lrr': did you mean 'lr'?",
        "ERM: lr is a float, not 'fast'",
        "ERM: batch_size is an int, not 1.5",
    )
    assert [problem.partition(":")[0] for problem in found[3:8]] == [
        "unknown hyperparameter 'rho'",
        "unknown hyperparameter of SWAD 'tolerance'",
        "SWAD",
        "unknown entry in --hparams or --set 'SAM'",
        "unknown hyperparameter 'stepz'",
    ]
    assert found[8].startswith("[space] lr: cannot read the draw 'U(1'")
    assert found[9].startswith("[space] ERM: batch_size is an int, not ")
    assert found[10].startswith("[space] ERM: weight_decay is a float, not ")
    assert found[11].startswith("unknown hyperparameter in [space] 'rho'")
    assert len(found) == 13
    assert found[12].startswith("unknown setting 'preset': there are amsgrad, augmentation, backbone, ")


def test_everything_else_wrong_is_told_at_once(catalogue: Catalogue) -> None:
    asked = {
        "algorithms": ["ERMM", "SAM"],
        "datasets": ["PACKS"],
        "n_hparams": 0,
        "n_trials": 2,
        "n_trials_from": 2,
        "preset": "domainbed-2021",
        "single_source": True,
        "test_envs": ["0"],
        "setting": {"steps": 0},
        "hparams": {"rho": 1, "SWAD": {}},
        "space": {"rho": "U(0, 1)"},
    }
    assert refused(declare, asked, catalogue) == (
        "unknown algorithm 'ERMM': did you mean 'ERM'?",
        "unknown data set 'PACKS': did you mean 'PACS'?",
        "--n_hparams 0 leaves no hyperparameter seed: it is the end of a range from 0",
        "--n_trials 2 leaves no trial: it ends a range from 2",
        "unknown preset 'domainbed-2021': did you mean 'domainbed-2024'?",
        "setting 'steps' must be at least 1, not 0",
        "--single_source tests all domains but the one that trains: leave out --test_envs",
    )
    assert refused(declare, {}, catalogue) == (
        "name at least one of --algorithms",
        "name at least one of --datasets",
    )


def test_draws_declared_for_a_sweep(catalogue: Catalogue) -> None:
    space = {"lr": "U(0, 1)", "batch_size": "{8, 16}", "resnet_dropout": "{0, 1}"}
    assert asking(catalogue, space=space).overrides.draws == {
        "lr": uniform(0, 1),
        "batch_size": choice(8, 16),
        "resnet_dropout": choice(0, 1),
    }


def test_all_data_sets_that_cannot_be_opened_are_told(catalogue: Catalogue) -> None:
    declaration = asking(catalogue, datasets=["PACS", "RotatedDigits", "VLCS"])
    found = refused(open_facts, declaration, Site(), catalogue)
    assert [problem.partition(" ")[0] for problem in found] == ["PACS", "VLCS"]


def test_a_declaration_plans_what_it_asks_for(catalogue: Catalogue) -> None:
    declaration = asking(catalogue, single_test_envs=True, n_hparams=2, n_trials=1)
    facts = open_facts(declaration, Site(), catalogue)
    assert len(declaration.plan(facts, catalogue).runs) == 2 * 6


# -- the folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "protocol",
    [
        {"test_envs": ["75", 1]},
        {"single_source": True},
        {"train_domains": ["0"], "val_domains": ["15", 2], "test_domains": ["75"]},
    ],
)
def test_a_declaration_is_read_as_it_was_written(
    protocol: dict[str, Any], catalogue: Catalogue, tmp_path: Path
) -> None:
    declaration = asking(
        catalogue,
        algorithms=["SAM+SWAD", "EoA"],
        hparams={"lr": 1, "SWAD": {"tolerance_ratio": 0.1}, "steps": 5},
        space={"weight_decay": "10^U(-3.123456789012345, -2)", "resnet_dropout": "{0.1, 0.25}"},
        n_hparams=3,
        **protocol,
    )
    declaration = declaration.extended_with(
        dataclasses.replace(declaration, requests=declaration.requests * 2), tmp_path
    )
    assert len(declaration.requests) == 1
    site = Site(data_dir="/d", paths={"folder:x": "/x"}, workers=2)
    write_declaration(tmp_path, declaration, site)
    assert read_declaration(tmp_path, catalogue) == (declaration, site)


def test_an_included_file_is_known_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dgbench.methods.algorithm import Algorithm\nfrom dgbench.core.cards import AlgorithmCard\n"
        "class MineOwn(Algorithm):\n    'x'\n    card = AlgorithmCard(paper='')\n"
    )
    site = Site(include=(str(file),))
    declaration = asking(Catalogue(site.include), algorithms=["MineOwn"])
    write_declaration(tmp_path, declaration, site)
    assert read_declaration(tmp_path) == (declaration, site)


def test_a_folder_without_a_sweep_or_of_another_format_is_told(tmp_path: Path, catalogue: Catalogue) -> None:
    assert refused(read_declaration, tmp_path) == (f"{tmp_path} holds no sweep: there is no sweep.json in it",)
    write_declaration(tmp_path, asking(catalogue), Site())
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"format": 1', '"format": 9'))
    assert refused(read_declaration, tmp_path) == (f"{tmp_path / FILE} has format 9, this version reads 1",)


def test_a_sweep_grows_by_requests_alone(catalogue: Catalogue, tmp_path: Path) -> None:
    first, second = asking(catalogue), asking(catalogue, algorithms=["SAM"], n_hparams=3)
    assert first.extended_with(second, tmp_path).requests == (*first.requests, *second.requests)
    assert first.extended_with(first, tmp_path) == first


def test_a_launch_that_leaves_the_order_in_memory_open_goes_on_as_the_sweep_was_begun(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    for begun in (True, False, "auto"):
        before = asking(catalogue, setting={"channels_last": begun})
        assert before.extended_with(asking(catalogue), tmp_path) == before
    other = asking(catalogue, setting={"channels_last": True})
    assert refused(asking(catalogue, setting={"channels_last": False}).extended_with, other, tmp_path) == (
        f"{tmp_path} holds a sweep with channels_last False, not True: use another folder",
    )


def test_other_ways_to_train_are_refused_and_named(catalogue: Catalogue, tmp_path: Path) -> None:
    other = asking(catalogue, setting={"steps": 5, "precision": "bf16"}, hparams={"lr": 0.5}, single_source=True)
    assert refused(asking(catalogue).extended_with, other, tmp_path) == (
        f"{tmp_path} holds a sweep with steps the data set's own, not 5: use another folder",
        f"{tmp_path} holds a sweep with precision 'fp32', not 'bf16': use another folder",
        f"{tmp_path} holds a sweep with other --hparams or space: use another folder",
        f"{tmp_path} holds a leave-one-domain-out sweep, not single-source: use another folder",
    )
