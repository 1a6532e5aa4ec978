"""Runs that learn from a finished model: which one, what it shows, and what the plan makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench import collect
from dgbench.core.errors import UserError
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.run import BEST, MODEL, Input, Run
from dgbench.core.setting import setting
from dgbench.execute.context import RunContext, open_context
from dgbench.execute.models import find_model, predict_with
from dgbench.execute.teacher import teacher_of
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.plan import Plan
from dgbench.plan.request import Overrides
from dgbench.store import removal
from dgbench.store.state import State
from tests.conftest import MakePlan
from tests.support.in_process import execute, execute_all, records_of, runs_of, sweep_of, train, training_of


def taught(**values: Any) -> Overrides:
    return Overrides(parts={"KD": values})


def students(plan: Plan) -> list[Run]:
    return [run for run in plan.runs if run.method.name == "KD"]


def test_a_student_stands_on_every_candidate_of_its_teachers_row(make_plan: MakePlan) -> None:
    found = make_plan("KD", hparams=3, trials=2)
    by_id = {run.id: run for run in found.runs}
    assert {run.method.name for run in found.runs} == {"ERM", "KD"}
    for student in students(found):
        assert [source.predictor for source in student.inputs] == ["SWAD"] * 3
        teachers = [by_id[source.run] for source in student.inputs]
        assert [teacher.hparams_seed for teacher in teachers] == [0, 1, 2]
        assert {(t.fold, t.trial, t.method.name) for t in teachers} == {(student.fold, student.trial, "ERM")}


def problems(make: MakePlan, *rows: str, **asked: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        make(*rows, **asked)
    return caught.value.problems


def test_teachers_are_the_runs_that_the_sweep_has_anyway(make_plan: MakePlan) -> None:
    alone = make_plan("ERM+SWAD", "ERM+SMA")
    both = make_plan("ERM+SWAD", "ERM+SMA", "KD", "KD+WAKD")
    assert {run.id for run in alone.runs} < {run.id for run in both.runs}
    assert len(students(both)) == len(alone.runs)
    assert [key for key in both.candidates if key[0].startswith("ERM")] == list(alone.candidates)


def test_a_teacher_may_have_another_network(make_plan: MakePlan) -> None:
    found = make_plan("ERM+SWAD", "KD", overrides=taught(teacher_backbone="resnet18.tv_in1k"))
    networks = {(run.method.name, run.setting.backbone) for run in found.runs}
    assert networks == {("ERM", "resnet50.tv_in1k"), ("ERM", "resnet18.tv_in1k"), ("KD", "resnet50.tv_in1k")}
    by_id = {run.id: run for run in found.runs}
    assert {by_id[s.run].setting.backbone for run in students(found) for s in run.inputs} == {"resnet18.tv_in1k"}


def test_weights_of_a_file_are_those_of_the_network_that_they_were_given_for(make_plan: MakePlan) -> None:
    given = setting(weights="0" * 64)
    found = make_plan("ERM+SWAD", "KD", how=given, overrides=taught(teacher_backbone="resnet18.tv_in1k"))
    weights = {(run.setting.backbone, run.setting.weights) for run in found.runs}
    assert weights == {("resnet50.tv_in1k", "0" * 64), ("resnet18.tv_in1k", "")}
    alike = make_plan("KD", how=given, overrides=taught(teacher_backbone="resnet50.tv_in1k"))
    assert {run.setting.weights for run in alike.runs} == {"0" * 64}


def test_a_teacher_learns_from_images_as_its_student_will_show_them(make_plan: MakePlan) -> None:
    found = make_plan("KD", how=setting(backbone="resnet18"), overrides=taught(teacher_backbone="resnet18.tv_in1k"))
    assert {run.setting.interpolation for run in found.runs} == {"bicubic"}, "that of resnet18.tv_in1k is bilinear"


def test_merged_models_teach_and_ensembles_by_their_members(make_plan: MakePlan) -> None:
    merged = make_plan("KD", overrides=taught(teacher="SAM+DiWA"), hparams=3)
    by_id = {run.id: run for run in merged.runs}
    for student in students(merged):
        (source,) = student.inputs
        assert by_id[source.run].method.name == "DiWA"
        assert by_id[by_id[source.run].inputs[0].run].method.name == "SAM"
    ensemble = make_plan("KD", overrides=taught(teacher="SAM+EoA"), hparams=3)
    assert {run.method.name for run in ensemble.runs} == {"SAM", "KD"}
    assert {tuple(s.predictor for s in run.inputs) for run in students(ensemble)} == {("SMA",) * 3}


def test_every_run_comes_after_its_inputs(make_plan: MakePlan) -> None:
    found = make_plan("KD+DiWA+T3A", "KD+SWAD", overrides=taught(teacher="SAM+SWAD+DiWA"))
    seen: set[str] = set()
    for run in found.runs:
        assert {source.run for source in run.inputs} <= seen, run.name
        seen.add(run.id)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"teacher": "ERN"}, "KD's teacher: unknown algorithm 'ERN': did you mean 'ERM'?"),
        ({"teacher": "KD+SWAD"}, "KD's teacher: KD is taught itself, so 'KD+SWAD' can't be a teacher"),
        (
            {"teacher": "ERM+T3A"},
            "KD's teacher: an adapter learns from what it is shown, so 'ERM+T3A' can't be a teacher",
        ),
        ({"teacher_backbone": "resnet5"}, "KD's teacher: unknown backbone 'resnet5': did you mean 'resnet50'?"),
        (
            {"teacher_backbone": "distilbert-base-uncased"},
            "KD's teacher: backbone 'distilbert-base-uncased' takes texts or sequences, and these inputs are images "
            "(3 x 224 x 224): leave it out, or say 'MLP'",
        ),
        (
            {"teacher_backbone": "darknet17"},
            "KD's teacher: there are no pretrained weights for backbone 'darknet17': give a file by "
            "--backbone_weights, or train from scratch with --set pretrained=false",
        ),
    ],
)
def test_what_can_not_teach_is_refused(values: Mapping[str, Any], why: str, make_plan: MakePlan) -> None:
    with pytest.raises(UserError) as caught:
        make_plan("KD", overrides=taught(**values))
    assert caught.value.problems == (why,)


def test_a_teacher_must_follow_the_setting_and_have_what_it_needs(make_plan: MakePlan) -> None:
    assert problems(make_plan, "KD", overrides=taught(teacher="IGA"), how=setting(compile=True)) == (
        "KD's teacher: IGA can't be trained with compile true: it takes gradients of gradients, which PyTorch has no "
        "compiled form of",
    )
    maps = taught(teacher="DSU", teacher_backbone="vit_tiny_patch16_224")
    assert problems(make_plan, "KD", overrides=maps) == (
        "KD's teacher: DSU needs images and a convolutional backbone, which it would not have on Toy",
    )


def test_a_teacher_needs_its_training_domains_too(make_plan: MakePlan) -> None:
    asked = {"overrides": taught(teacher="VREx"), "domains": 3}
    assert problems(make_plan, "KD", **asked) == (
        "KD's teacher: VREx needs at least 2 training domains; on Toy a fold has 1. "
        "--single_test_envs leaves out the folds with two test domains",
    )
    assert make_plan("KD", protocol=LeaveOneDomainOut(pairs=False), **asked).runs
    assert problems(make_plan, "KD", domains=1) == ("Toy: leave-one-domain-out needs at least 2 domains, there is 1",)


def test_a_model_of_all_trials_can_not_teach(make_plan: MakePlan) -> None:
    with pytest.raises(UserError, match="have seen what this trial validates on"):
        make_plan("KD", overrides=taught(teacher="DiWADagger"), how=setting(init="sweep"))


def test_who_taught_is_known_and_stands_below_the_table(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_plan("ERM+SWAD", "KD", "KD+WAKD").provenance.taught == {"KD": "ERM+SWAD", "KD+WAKD": "ERM+SWAD"}
    assert make_plan("ERM").provenance.taught == {}
    other = taught(teacher="SAM+EoA", teacher_backbone="resnet18.tv_in1k")
    assert make_plan("KD", overrides=other).provenance.taught == {"KD": "SAM+EoA with resnet18.tv_in1k"}
    assert make_plan("KD", overrides=taught(teacher_backbone="resnet50.tv_in1k")).provenance.taught == {
        "KD": "ERM+SWAD"
    }
    execute_all(sweep(tmp_path, "ERM+SMA"))
    assert collect.main(["--input_dir", str(tmp_path), "--selector", "training-domain"]) == 0
    assert re.search(r"taught by:? +KD: ERM\+SMA with MLP", capsys.readouterr().out)


def sweep(root: Path, teacher: str = "ERM+SMA", *rows: str, **asked: Any) -> Sweep:
    kd = {"teacher": teacher, "teacher_backbone": "MLP"}
    return sweep_of(root, *rows, "ERM+SMA", "KD", hparams={"KD": kd, "SMA": {"start": 5}}, **asked)


def context(swept: Sweep, run: Run) -> RunContext:
    return open_context(run, swept.store, swept.site, swept.catalogue)


def logits(swept: Sweep, source: Input, x: torch.Tensor) -> torch.Tensor:
    """Of a saved model, by its own workbench."""
    run = swept.store.folder(source.run).run()
    own = context(swept, run)
    weights = find_model(swept.store.folder(source.run).path, source.predictor, BEST).load(own.device)
    with torch.no_grad():
        return predict_with(own.algorithm(), weights)(x)


@pytest.mark.parametrize("teacher", ["ERM+SMA", "ERM+DiWA", "ERM+EoA"])
def test_the_best_model_on_the_training_domains_teaches(teacher: str, tmp_path: Path) -> None:
    swept = execute_all(sweep(tmp_path, teacher, n_hparams=3))
    student = runs_of(swept, "KD")[0]
    x = torch.from_numpy(context(swept, student).data.examples["0"].batch([0, 1, 2], None))  # type: ignore[arg-type]
    each = [logits(swept, source, x) for source in student.inputs]
    found = teacher_of(context(swept, student))(x)
    if teacher == "ERM+EoA":
        expected = torch.stack(each).mean(dim=0)
    else:
        scores = [
            find_model(swept.store.folder(source.run).path, source.predictor, BEST).accuracy
            for source in student.inputs
        ]
        expected = each[max(range(len(scores)), key=lambda i: (scores[i], i))]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not found.requires_grad


def test_a_student_of_another_network_learns_what_its_teacher_says(tmp_path: Path) -> None:
    swept = execute_all(sweep(tmp_path, "ERM+SMA", setting={"steps": 200, "checkpoint_freq": 100}))
    (student,) = runs_of(swept, "KD")
    assert student.setting.backbone == "SmallCNN"
    record = records_of(swept.store.folder(student.id), MODEL)[-1]
    assert record["views"]["0/out"]["accuracy"] > 0.4
    first = records_of(swept.store.folder(student.id), MODEL)[0]
    assert record["train"]["loss"] < 0.7 * first["train"]["loss"]


def test_resumes_with_its_teacher(tmp_path: Path) -> None:
    swept = sweep(tmp_path)
    teachers = [run for run in swept.plan.runs if run.method.name == "ERM"]
    for run in teachers:
        assert execute(swept, run) == 0
    (student,) = runs_of(swept, "KD")
    training = training_of(swept, student)
    assert train(training, stop_after=9)
    train(training_of(swept, student))
    resumed = swept.store.folder(student.id).path / "records.jsonl"
    stopped = resumed.read_bytes()
    removal.reset(swept.store.folder(student.id), done_too=True)
    train(training_of(swept, student))
    assert resumed.read_bytes() == stopped


def test_a_student_waits_for_a_teacher_that_is_not_there(tmp_path: Path) -> None:
    swept = sweep(tmp_path)
    (student,) = runs_of(swept, "KD")
    assert execute(swept, student) == 1
    failure = swept.store.folder(student.id).failures()[-1]["error"]
    assert "trains that run again" in failure or "FileNotFoundError" in failure
    assert swept.store.states([student.id], retries=0)[student.id] is State.FAILED
