from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.run import BEST, LAST, ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.execute import models
from dgbench.execute.models import build, build_algorithm, find_model, predict_with, save_model, to_bytes
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch, Task
from dgbench.store.files import model_path
from dgbench.store.sealed import CorruptFile

SHAPE, CLASSES = (1, 8, 8), 5
CPU = torch.device("cpu")
TASK = Task(SHAPE, CLASSES, ((4,) * CLASSES,) * 3)
(FOLD, *_) = LeaveOneDomainOut().folds(("a", "b", "c", "d"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(name: str = "ERM", hparams_seed: int = 0, trial: int = 0, init: str = "trial", **hparams: float) -> Run:
    values = {"lr": 0.1, "weight_decay": 0.0, "batch_size": 4, "resnet_dropout": 0.5, **hparams}
    how = setting(steps=5, backbone="SmallCNN", init=init)
    return Run("train", ResolvedEntry(name, values), "Data", FOLD, hparams_seed, trial, how)


def made(catalogue: Catalogue, *args: object, **changes: object) -> Algorithm:
    return build_algorithm(run(*args, **changes), catalogue, TASK, CPU)  # type: ignore[arg-type]


def inputs(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (6, *SHAPE), generator=generator, dtype=torch.uint8)


def test_weights_from_a_file_predict_as_those_in_memory_whatever_the_memory_order(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    asked = run()
    asked = dataclasses.replace(asked, setting=dataclasses.replace(asked.setting, channels_last=True))
    algorithm = build_algorithm(asked, catalogue, TASK, CPU)
    x = inputs()
    save_model(tmp_path, "model", LAST, algorithm.predictor_tensors(), 4, 0.5)
    predict, laid = predict_with(algorithm), predict_with(algorithm, find_model(tmp_path, "model", LAST).load(CPU))
    seen: list[list[tuple[int, ...]]] = []
    hook = algorithm.network.featurizer.register_forward_pre_hook(
        lambda module, _: seen.append([p.stride() for p in module.parameters()])
    )
    assert torch.equal(predict(x), laid(x))
    hook.remove()
    assert seen[0] == seen[1], "what a convolution rounds depends on how its weights lie"


def train(algorithm: Algorithm) -> None:
    algorithm.train()
    x = algorithm.network.prepare(inputs(1))
    algorithm.update([Batch(x, torch.arange(6) % CLASSES, torch.arange(6), i) for i in range(3)])


def copy_of(algorithm: Algorithm) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in algorithm.predictor_tensors().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_entry_is_built_from_its_part(catalogue: Catalogue) -> None:
    cls, hparams = build(catalogue, "average", ResolvedEntry("SMA", {"start": 7}))
    assert (cls.__name__, hparams.start) == ("SMA", 7)


def test_an_algorithm_knows_its_task_and_values_and_nothing_of_what_is_held_out(catalogue: Catalogue) -> None:
    algorithm = made(catalogue, lr=0.25)
    assert type(algorithm).__name__ == "ERM"
    known = {"input_shape": SHAPE, "num_classes": CLASSES, "class_counts": TASK.class_counts}
    assert vars(algorithm.task) == {**known, "kind": "classification", "normalised": False, "classes": ()}
    assert algorithm.hparams.lr == 0.25
    assert algorithm.optimizer.param_groups[0]["lr"] == 0.25
    assert algorithm.network.dropout.p == 0.5
    assert algorithm.setting.backbone == "SmallCNN"


def test_initial_weights_depend_on_the_run_alone(catalogue: Catalogue) -> None:
    first = copy_of(made(catalogue))
    torch.manual_seed(99)
    torch.rand(5)
    assert equal(first, copy_of(made(catalogue)))
    assert equal(first, copy_of(made(catalogue, "SAM", 3, rho=0.1))), "all runs of a trial begin alike"
    assert not equal(first, copy_of(made(catalogue, trial=1)))
    assert not equal(copy_of(made(catalogue, init="run")), copy_of(made(catalogue, hparams_seed=1, init="run")))


def test_predictions_are_made_in_evaluation_mode_on_prepared_inputs(catalogue: Catalogue) -> None:
    algorithm = made(catalogue).train()
    predict = predict_with(algorithm)
    assert not algorithm.training
    assert torch.equal(predict(inputs()), predict(inputs())), "no dropout"
    assert torch.equal(predict(inputs()), algorithm(inputs().float() / 255))


def test_other_weights_predict_in_place_of_its_own_and_leave_it_untouched(catalogue: Catalogue) -> None:
    algorithm = made(catalogue)
    first = copy_of(algorithm)
    expected = predict_with(algorithm)(inputs())
    train(algorithm)
    second, own = copy_of(algorithm), predict_with(algorithm)(inputs())
    assert not torch.allclose(own, expected)
    tensors = algorithm.predictor_tensors()
    kept = {name: tensor.clone() for name, tensor in first.items()}
    assert torch.equal(predict_with(algorithm, first)(inputs()), expected)
    assert equal(first, kept), "nor are the weights that were given"
    assert equal(copy_of(algorithm), second)
    assert all(tensor.data_ptr() == tensors[name].data_ptr() for name, tensor in algorithm.predictor_tensors().items())
    assert torch.equal(predict_with(algorithm)(inputs()), own)


def test_a_model_is_found_as_it_was_saved(catalogue: Catalogue, tmp_path: Path) -> None:
    algorithm = made(catalogue)
    first = copy_of(algorithm)
    accuracy = 0.1 + 0.2
    save_model(tmp_path, "model", BEST, algorithm.predictor_tensors(), 3, accuracy)
    train(algorithm)
    save_model(tmp_path, "model", LAST, algorithm.predictor_tensors(), 4, 1.0)
    best, last = find_model(tmp_path, "model", BEST), find_model(tmp_path, "model", LAST)
    assert (best.step, best.accuracy, last.step, last.accuracy) == (3, accuracy, 4, 1.0), "to the last digit"
    assert equal(best.load(CPU), first)
    assert equal(last.load(CPU), copy_of(algorithm))
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "model.best.safetensors",
        "model.last.safetensors",
    ]
    save_model(tmp_path, "model", BEST, first, 9, 0.5)
    assert find_model(tmp_path, "model", BEST).step == 9, "a later one replaces it"


def test_tensors_that_share_memory_or_are_views_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    weights = {"whole": whole, "row": whole[1], "turned": whole.t(), "count": torch.tensor(3)}
    save_model(tmp_path, "m", BEST, weights, 0, 0.0)
    assert equal(find_model(tmp_path, "m", BEST).load(CPU), weights)


def test_a_model_that_is_gone_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"SMA\.best\.safetensors is gone: `dgbench sweep retry` trains"):
        find_model(tmp_path, "SMA", BEST)


def test_a_model_with_one_bit_changed_is_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path, "SMA", BEST, {"weight": torch.arange(12.0)}, 3, 0.5)
    path = tmp_path / "models" / "SMA.best.safetensors"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    for damaged in (bytes(content), bytes(content[:-20]), b"", b"\0" * 40):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=r"SMA\.best\.safetensors is not what was written"):
            find_model(tmp_path, "SMA", BEST)


def test_a_model_of_an_earlier_version_is_believed_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "models").mkdir()
    content = save({"weight": torch.arange(12.0)}, metadata={"step": "3", "accuracy": "0.5"})
    (tmp_path / "models" / "model.best.safetensors").write_bytes(content)
    models._warn_unsealed.cache_clear()
    for _ in range(2):
        assert find_model(tmp_path, "model", BEST).step == 3
    assert [record.message for record in caplog.records] == [
        "weights that an earlier version kept carry no sha256: they are believed as they are"
    ]
    (tmp_path / "models" / "model.best.safetensors").write_bytes(save({"weight": torch.arange(12.0)}))
    with pytest.raises(CorruptFile, match="damaged"):
        find_model(tmp_path, "model", BEST)


def test_inputs_that_come_normalised_are_left_as_they_are(catalogue: Catalogue) -> None:
    found = dataclasses.replace(run(), setting=setting(steps=5, backbone="resnet18", pretrained=False))
    x = torch.randn(2, 3, 32, 32)
    for normalised in (False, True):
        task = Task((3, 32, 32), CLASSES, ((4,) * CLASSES,) * 3, normalised=normalised)
        network = build_algorithm(found, catalogue, task, CPU).network
        assert torch.equal(network.prepare(x), x) is normalised


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    """The library writes metadata in another order each time."""
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2), "c": torch.ones(1, dtype=torch.int64)}
    about = {"step": "1", "accuracy": "0.5", "é": '["\\"quoted\\""]', "x": ""}
    assert len({to_bytes(tensors, about) for _ in range(20)}) == 1
    path = tmp_path / "x.safetensors"
    path.write_bytes(to_bytes(tensors, about))
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == about
    written = set()
    for _ in range(20):
        save_model(tmp_path, "model", "best", tensors, 7, 0.25)
        written.add(model_path(tmp_path, "model", "best").read_bytes())
    assert len(written) == 1
