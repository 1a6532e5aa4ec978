from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.protocol import IN, OUT, Explicit, Fold, LeaveOneDomainOut, View
from dgbench.core.run import ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.core.site import Site
from dgbench.data import views
from dgbench.data.dataset import Dataset
from dgbench.data.splits import split
from dgbench.data.views import Minibatch, Minibatches, ViewData, keep_domains
from tests.support.layouts import write_folders

STEPS = 70
"""More than the sampler draws at a time."""


@pytest.fixture(scope="module")
def images(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = write_folders(tmp_path_factory.mktemp("data") / "toy", {"a": 12, "b": 15, "c": 10}, ["x", "y"])
    return open_dataset("folder:toy", Site(paths={"folder:toy": str(root)}), catalogue, image_size=16)


@pytest.fixture(scope="module")
def digits(catalogue: Catalogue) -> Dataset:
    return open_dataset("ColoredDigits", Site(), catalogue)


def fold_of(dataset: Dataset, held_out: int = 2) -> Fold:
    return list(LeaveOneDomainOut().folds(dataset.domains))[held_out]


def make_run(dataset: Dataset, fold: Fold | None = None, batch_size: int = 4, trial: int = 0, **changes: Any) -> Run:
    how = setting(changes.pop("preset", "dgbench"), **{"steps": STEPS, "checkpoint_freq": 5, **changes})
    hparams = {"batch_size": batch_size}
    return Run("train", ResolvedEntry("Toy", hparams), "Data", fold or fold_of(dataset), 0, trial, how)


def make(dataset: Dataset, *args: Any, **changes: Any) -> Minibatches:
    run = make_run(dataset, *args, **changes)
    return Minibatches(ViewData(dataset, run), run)


def same(one: Minibatch, other: Minibatch) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def positions(dataset: Dataset, view: View, x: NDArray[Any]) -> list[int]:
    """Which examples of a domain of distinct, clean inputs these are."""
    examples = dataset.examples(view.domain, 0)
    known = {row.tobytes(): i for i, row in enumerate(examples.batch(np.arange(len(examples.labels)), None))}
    return [known[row.tobytes()] for row in x]


# -- views --------------------------------------------------------------------------------------------------------


def test_views_are_domainbeds_splits(images: Dataset) -> None:
    data = ViewData(images, make_run(images, trial=3, holdout_fraction=0.25))
    assert data.input_shape == (3, 16, 16)
    for number, domain in enumerate(images.domains):
        parts = split(len(images.examples(domain, 0).labels), 0.25, 3, number)
        for part, indices in parts.items():
            view = View(domain, part)
            assert data.size(view) == len(indices)
            assert np.array_equal(data.labels(view), images.examples(domain, 0).labels[indices])
            clean = images.examples(domain, 0).batch(indices, None)
            assert np.array_equal(data.inputs(view, np.arange(len(indices))).numpy(), clean)


def test_only_what_the_fold_needs_is_read(images: Dataset) -> None:
    (fold,) = Explicit(("a",), ("b",)).folds(images.domains)
    assert set(ViewData(images, make_run(images, fold)).examples) == {"a", "b"}


def test_evaluated_views_are_clean_unless_the_preset_augments_validation(images: Dataset) -> None:
    fold = fold_of(images)
    for preset, augmented in (("dgbench", False), ("domainbed-2020", True)):
        data = ViewData(images, make_run(images, fold, preset=preset))
        for view in fold.evaluated:
            everything = np.arange(data.size(view))
            found = data.inputs(view, everything).numpy()
            clean = images.examples(view.domain, 0).batch(data.indices[view], None)
            changed = augmented and view in fold.source_val
            assert np.array_equal(found, clean) is not changed, (preset, view)
            assert np.array_equal(found, data.inputs(view, everything).numpy()), "again the same"
    data = ViewData(images, make_run(images, fold, preset="domainbed-2020", augmentation=False))
    assert not data.augmented


def test_generated_data_depend_on_the_trial_or_on_the_run(digits: Dataset) -> None:
    def labels(**changes: Any) -> NDArray[np.int64]:
        run = make_run(digits, **changes)
        other = dataclasses.replace(run, method=ResolvedEntry("Other", run.method.hparams))
        one, two = (ViewData(digits, r).labels(View(digits.domains[0], IN)) for r in (run, other))
        assert np.array_equal(one, two) is (run.setting.generated_data == "trial")
        return one

    assert not np.array_equal(labels(), labels(trial=1))
    labels(generated_data="run", data_order="run")


def test_domains_that_are_kept_are_shared_by_the_runs_to_which_they_look_alike(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset("ColoredDigits", Site(), Catalogue(catalogue.include))
    run, domain = make_run(dataset), dataset.domains[0]
    alone = ViewData(dataset, run)
    keep_domains(dataset, run)
    shared = ViewData(dataset, make_run(dataset, batch_size=8))
    again = ViewData(dataset, dataclasses.replace(run, kind="adapt"), run)
    assert shared.examples[domain] is again.examples[domain] is not alone.examples[domain]
    for view, indices in alone.indices.items():
        assert shared.indices[view] is again.indices[view] is not indices
        assert np.array_equal(shared.indices[view], indices)
        assert torch.equal(shared.inputs(view, np.arange(5)), alone.inputs(view, np.arange(5)))
    others = make_run(dataset, trial=1), make_run(dataset, holdout_fraction=0.25), make_run(dataset, cache="off")
    assert all(ViewData(dataset, other).examples[domain] is not shared.examples[domain] for other in others)
    kept = len(dataset.kept)
    monkeypatch.setattr(views, "KEPT_BYTES", 1)
    keep_domains(dataset, others[0])
    assert len(dataset.kept) == kept == 3, "of data that each trial makes anew, only so many"


# -- minibatches --------------------------------------------------------------------------------------------------


def test_a_minibatch_has_so_many_of_each_training_view_and_nothing_else(images: Dataset) -> None:
    found = make(images, batch_size=5, augmentation=False)
    data = ViewData(images, make_run(images))
    assert len(found) == STEPS
    drawn: dict[View, set[int]] = {view: set() for view in found.views}
    for step in range(STEPS):
        for number, (view, (x, y, places, domain)) in enumerate(zip(found.views, found[step], strict=True)):
            assert domain == number
            assert (x.shape, x.dtype, y.dtype) == ((5, 3, 16, 16), torch.uint8, torch.int64)
            chosen = positions(images, view, x.numpy())
            assert chosen == data.indices[view][places.numpy()].tolist()
            assert y.tolist() == images.examples(view.domain, 0).labels[chosen].tolist()
            drawn[view].update(chosen)
    assert [view.domain for view in drawn] == ["a", "b"]
    for view, chosen_of_view in drawn.items():
        assert chosen_of_view == set(data.indices[view].tolist()), "all of the in part, nothing of the out part"
        assert chosen_of_view.isdisjoint(data.indices[View(view.domain, OUT)].tolist())


@pytest.mark.parametrize("kind", ["images", "digits"])
def test_a_step_has_the_same_minibatch_however_it_is_reached(kind: str, request: pytest.FixtureRequest) -> None:
    dataset: Dataset = request.getfixturevalue(kind)
    from_start = list(make(dataset).between(0, STEPS, workers=0))
    assert len(from_start) == STEPS
    for start in (1, 63, 64, 69):
        resumed = list(make(dataset).between(start, STEPS, workers=0))
        assert len(resumed) == STEPS - start
        assert all(same(one, other) for one, other in zip(from_start[start:], resumed, strict=True))
    assert list(make(dataset).between(STEPS, STEPS, workers=0)) == []
    assert not same(from_start[0], from_start[1])
    backwards = make(dataset)
    assert all(same(backwards[step], from_start[step]) for step in (69, 3, 64, 0))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("start", "cache"), [(0, "auto"), (5, "auto"), (5, "off")])
def test_workers_change_nothing(start: int, cache: str, images: Dataset) -> None:
    alone, helped = (list(make(images, steps=8, cache=cache).between(start, 8, workers)) for workers in (0, 2))
    assert len(helped) == 8 - start
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


def test_what_lies_in_memory_needs_no_workers(
    digits: Dataset, images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a loader was made")

    monkeypatch.setattr("dgbench.data.views.Ahead", refuse)
    assert len(list(make(digits).between(60, STEPS, workers=2))) == 10
    assert len(list(make(images, augmentation=False).between(60, STEPS, workers=2))) == 10
    for changes in ({}, {"cache": "off", "augmentation": False}):
        with pytest.raises(AssertionError, match="a loader was made"):
            make(images, **changes).between(0, STEPS, workers=2)


def test_training_views_are_augmented_where_asked(images: Dataset) -> None:
    clean, augmented = make(images, augmentation=False), make(images)
    for step in range(3):
        for one, other in zip(clean[step], augmented[step], strict=True):
            assert torch.equal(one[1], other[1]), "the same examples"
            assert not torch.equal(one[0], other[0])
    again = make(images)
    assert same(again[2], augmented[2])


def test_minibatches_differ_between_trials_and_not_between_algorithms(images: Dataset) -> None:
    run = make_run(images)
    other = dataclasses.replace(run, method=ResolvedEntry("Other", run.method.hparams))
    later = dataclasses.replace(run, trial=1)
    batches = {name: Minibatches(ViewData(images, r), r)[0] for name, r in (("o", other), ("l", later), ("r", run))}
    assert same(batches["r"], batches["o"])
    assert not same(batches["r"], batches["l"])


def test_class_balanced_sampling_reaches_the_minibatch(images: Dataset, tmp_path: Path, catalogue: Catalogue) -> None:
    root = write_folders(tmp_path / "uneven", {"a": 20, "b": 20}, ["x", "x", "x", "x", "y"])
    uneven = open_dataset("folder:uneven", Site(paths={"folder:uneven": str(root)}), catalogue, image_size=8)
    fold = fold_of(uneven, 0)
    shares = {
        balanced: np.mean(
            [
                batch[0][1].double().mean().item()
                for batch in make(uneven, fold, 8, class_balanced=balanced).between(0, STEPS, 0)
            ]
        )
        for balanced in (False, True)
    }
    assert shares[True] == pytest.approx(0.5, abs=0.08)
    assert shares[False] < 0.35


@dataclasses.dataclass
class Drawn:
    """Examples whose inputs are nothing but what their augmentation draws; 0 where there is none."""

    labels: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(40, np.int64))

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[np.float64]:
        return rng.random((len(indices), 1)) if rng else np.zeros((len(indices), 1))


def test_no_two_domains_of_a_step_nor_steps_nor_batches_of_a_view_share_their_draws(images: Dataset) -> None:
    """Else one crop and one jitter would be that of all domains, or of a view's every batch."""
    run = make_run(images, preset="domainbed-2020")
    data = ViewData(images, run)
    data.examples = dict.fromkeys(data.examples, Drawn())  # type: ignore[arg-type]
    data.indices = {view: np.arange(20) for view in data.indices}
    minibatches = Minibatches(data, run)
    inputs = [x for step in range(3) for x, *_ in minibatches[step]]
    inputs += [data.inputs(view, np.arange(s, s + 4)) for view in run.fold.source_val for s in (0, 4, 8)]
    draws = [tuple(x.flatten().tolist()) for x in inputs]
    assert len(draws) == 3 * 2 + 2 * 3
    assert len(set(draws)) == len(draws)
    assert all(any(draw) for draw in draws)
