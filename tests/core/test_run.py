from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from dgbench.core import setting as setting_module
from dgbench.core.protocol import IN, OUT, Fold, View
from dgbench.core.run import ALL_TRIALS, BEST, LAST, Input, ResolvedEntry, Run, is_json_of, run_name
from dgbench.core.seeding import seed_hash
from dgbench.core.setting import PRESETS, Setting

FOLD = Fold(
    held_out=("c",),
    train=(View("a", IN), View("b", IN)),
    source_val=(View("a", OUT), View("b", OUT)),
    test=(View("c", IN),),
    oracle=(View("c", OUT),),
    target_val=(View("d", IN),),
)
RUN = Run(
    kind="train",
    method=ResolvedEntry("Toy", {"lr": 1e-3, "batch_size": 32, "on": True, "form": "x"}),
    dataset="Data",
    fold=FOLD,
    hparams_seed=1,
    trial=2,
    setting=Setting("dgbench", steps=301, checkpoint_freq=50, backbone="SmallCNN", channels_last=False),
    averages=(ResolvedEntry("Mean", {"start": 100}),),
    inputs=(Input("0123", "Mean"),),
)
PAIRED, ALONE = PRESETS["dgbench"], PRESETS["domainbed-2020"]


def another(value: Any) -> Any:
    """A value of the same type that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else ()


def variants() -> Iterator[tuple[str, Run]]:
    """The run with each field changed in turn, those of what it is made of too."""
    for field in ("kind", "dataset", "hparams_seed", "trial", "averages", "inputs"):
        yield field, dataclasses.replace(RUN, **{field: another(getattr(RUN, field))})
    for place, part in (("setting", RUN.setting), ("fold", FOLD)):
        for field in dataclasses.fields(part):
            changed = dataclasses.replace(part, **{field.name: another(getattr(part, field.name))})
            yield f"{place}.{field.name}", dataclasses.replace(RUN, **{place: changed})
    for name, value in RUN.method.hparams.items():
        part = ResolvedEntry("Toy", {**RUN.method.hparams, name: another(value)})
        yield f"method.hparams.{name}", dataclasses.replace(RUN, method=part)
    yield "method.name", dataclasses.replace(RUN, method=ResolvedEntry("Toy2", RUN.method.hparams))
    yield "averages.name", dataclasses.replace(RUN, averages=(ResolvedEntry("Mean2", {"start": 100}),))
    yield "averages.hparams", dataclasses.replace(RUN, averages=(ResolvedEntry("Mean", {"start": 101}),))
    yield "inputs.run", dataclasses.replace(RUN, inputs=(Input("0124", "Mean"),))
    yield "inputs.predictor", dataclasses.replace(RUN, inputs=(Input("0123"),))
    yield "order of train", dataclasses.replace(RUN, fold=dataclasses.replace(FOLD, train=FOLD.train[::-1]))


def test_the_id_depends_on_every_field() -> None:
    ids = {name: run.id for name, run in variants()}
    assert {f.name for f in dataclasses.fields(Run) if f.init} <= {name.partition(".")[0] for name in ids}
    by_id: dict[str, list[str]] = {RUN.id: ["unchanged"]}
    for name, id in ids.items():
        by_id.setdefault(id, []).append(name)
    assert [names for names in by_id.values() if len(names) > 1] == []


def test_the_id_depends_on_nothing_else() -> None:
    same = dataclasses.replace(RUN, method=ResolvedEntry("Toy", dict(reversed(RUN.method.hparams.items()))))
    assert same.id == RUN.id, "the order in which hyperparameters are given is no difference"
    assert RUN.id == "729561b5c25b25330e38", (
        "ids changed: sweeps already run would be trained again. Raise FORMAT if that is meant"
    )


def test_the_id_is_the_same_in_every_process() -> None:
    code = (
        "import sys, orjson; from dgbench.core.run import Run; print(Run.from_json(orjson.loads(sys.stdin.read())).id)"
    )
    for hash_seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", code],
            input=orjson.dumps(RUN.to_json()),
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        assert said.decode().strip() == RUN.id


def test_json_gives_an_equal_run() -> None:
    plain = orjson.loads(orjson.dumps(RUN.to_json()))
    assert Run.from_json(plain) == RUN
    assert Run.from_json(plain).id == RUN.id == plain["id"]
    assert RUN.name == "Toy Data [c] hparams 1 trial 2"


def test_stored_json_is_checked_without_building_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    short = orjson.loads(orjson.dumps(RUN.to_json()))
    del short["setting"]["momentum"]
    assert is_json_of(RUN.id, short), "a field at its default may be left out"
    monkeypatch.delattr(Run, "from_json")  # slow: it would be most of the time of reading a sweep
    for run in (RUN, *(variant for _, variant in variants())):
        plain = orjson.loads(orjson.dumps(run.to_json()))
        assert is_json_of(run.id, plain)
    with pytest.raises(AttributeError, match="from_json"):
        is_json_of(RUN.id, {**RUN.to_json(), "trial": 3})


def test_a_field_that_came_later_enters_an_id_only_where_it_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = orjson.loads(orjson.dumps(RUN.to_json()))
    monkeypatch.setitem(setting_module._ADDED, "momentum", 0.9)
    plain = dataclasses.replace(RUN, setting=dataclasses.replace(RUN.setting)).to_json()
    assert "momentum" not in plain["setting"]
    assert plain["id"] != whole["id"]
    assert Run.from_json(plain) == RUN
    for written in (plain, {**whole, "id": plain["id"]}):
        assert is_json_of(plain["id"], written), "written before the field existed, or with it"
    departing = dataclasses.replace(RUN, setting=dataclasses.replace(RUN.setting, momentum=0.5))
    assert departing.to_json()["setting"]["momentum"] == 0.5
    assert departing.id not in (plain["id"], RUN.id)


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="run format 2, this version reads 1"):
        Run.from_json({**RUN.to_json(), "format": 2})
    with pytest.raises(ValueError, match="run format None"):
        Run.from_json({})


def with_(run: Run = RUN, **changes: Any) -> Run:
    return dataclasses.replace(run, **changes)


def test_paired_runs_see_the_same_minibatches() -> None:
    run = with_(setting=PAIRED)
    assert run.seed == with_(run, method=ResolvedEntry("Other"), averages=()).seed
    differing = [{"hparams_seed": 0}, {"trial": 0}, {"dataset": "D"}]
    differing += [{"fold": dataclasses.replace(FOLD, held_out=("d",))}]
    assert len({run.seed, *(with_(run, **changes).seed for changes in differing)}) == 5


def test_domainbeds_seed_mixes_in_the_algorithm() -> None:
    assert with_(setting=ALONE).seed == seed_hash("Data", "Toy", ["c"], 1, 2)
    assert with_(setting=ALONE).init_seed == with_(setting=ALONE).data_seed == with_(setting=ALONE).seed


def test_all_runs_of_a_trial_start_from_the_same_weights() -> None:
    run = with_(setting=PAIRED)
    alike = [
        {"method": ResolvedEntry("Other")},
        {"hparams_seed": 7},
        {"fold": dataclasses.replace(FOLD, held_out=("d",))},
    ]
    assert {with_(run, **changes).init_seed for changes in alike} == {run.init_seed}
    assert run.init_seed not in {with_(run, trial=1).init_seed, with_(run, dataset="D").init_seed, run.seed}
    alone = with_(run, setting=dataclasses.replace(PAIRED, init="run"))
    assert alone.init_seed == alone.seed


def test_generated_data_depend_on_the_trial_alone() -> None:
    run = with_(setting=PAIRED)
    alike = [{"method": ResolvedEntry("Other")}, {"hparams_seed": 7}, {"dataset": "D"}, {"kind": "merge"}]
    assert {with_(run, **changes).data_seed for changes in alike} == {run.data_seed}
    assert with_(run, trial=1).data_seed != run.data_seed
    alone = with_(run, setting=dataclasses.replace(PAIRED, generated_data="run"))
    assert alone.data_seed == alone.seed


def test_an_adapter_alone_reads_the_last_models_of_its_inputs() -> None:
    reads = {kind: dataclasses.replace(RUN, kind=kind).reads for kind in ("train", "merge", "adapt")}
    assert reads == {"train": (BEST,), "merge": (BEST,), "adapt": (BEST, LAST)}
    assert dataclasses.replace(RUN, inputs=()).reads == ()


def test_a_name_for_people_is_one_printable_line() -> None:
    name = run_name("ERM", "folder:bomb", ("a\x1b[31m", "c\nd", "caf\udce9"), 0, ALL_TRIALS)
    assert name == r"ERM folder:bomb [a\x1b[31m+c\nd+caf\xe9] hparams 0 all trials"


def test_json_made_for_ids_stays_out_of_what_is_written_and_compared() -> None:
    run = Run.from_json(RUN.to_json())
    for one, other in ((RUN.setting, run.setting), (RUN.fold, run.fold), (RUN.method, run.method)):
        fresh = dataclasses.replace(other)
        assert orjson.dumps(one) == orjson.dumps(fresh)
        assert one == fresh
        assert pickle.loads(pickle.dumps(one)) == one
    assert run == RUN
    assert (hash(run.setting), hash(run.fold)) == (hash(RUN.setting), hash(RUN.fold))
