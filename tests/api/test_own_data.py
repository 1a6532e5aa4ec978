"""`dgbench.from_dataset`: data sets of PyTorch and Hugging Face, written to files that runs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import dgbench
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.core.site import Site
from dgbench.data.dataset import Dataset

BRIEF = {"steps": 4, "checkpoint_freq": 2, "hparams": {"batch_size": 8}, "device": "cpu", "threads": 1, "quiet": True}
DOMAINS = ["a", "b", "c"] * 20


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def vectors(*shape: int) -> TensorDataset:
    """60 examples of labels 0 to 11, five each."""
    torch.manual_seed(0)
    labels = torch.arange(60) // 5
    return TensorDataset(torch.rand(60, *(shape or (4,))), labels)


def pictures(number: int = 36) -> list[dict[str, Any]]:
    """Images of two sizes and modes, with a label and a place."""
    rng = np.random.default_rng(0)
    sides = [(8, 8), (12, 9)]
    return [
        {
            "image": Image.fromarray(rng.integers(0, 255, (*sides[i % 2], 3), np.uint8)).convert("RGBA"),
            "species": ("crow", "owl", "finch")[i % 3],
            "place": i // 3 % 3,
        }
        for i in range(number)
    ]


def opened(data: dgbench.OwnData, **site: Any) -> Dataset:
    catalogue = Catalogue()
    paths = split_datasets([data.name], catalogue)
    return open_dataset(next(iter(paths)), Site(paths=paths, **site), catalogue)


def refusal(*args: Any, **words: Any) -> tuple[str, ...]:
    with pytest.raises(dgbench.UserError) as caught:
        dgbench.from_dataset(*args, **words)
    assert list(Path().iterdir()) == [], "nothing is left"
    return caught.value.problems


def test_tensors_are_used_as_they_are(tmp_path: Path) -> None:
    given = vectors()
    data = dgbench.from_dataset(given, domains=DOMAINS, name="table")
    assert dict(data.counts) == {"a": 20, "b": 20, "c": 20}
    assert data.classes == tuple(map(str, range(12))), "in the order of their numbers"
    found = opened(data)
    assert (found.input_kind, found.input_shape, found.classes) == ("vectors", (4,), data.classes)
    examples = found.examples("b", 0)
    assert (examples.batch(np.array([3, 0]), None) == given.tensors[0][[10, 1]].numpy()).all()
    assert (examples.labels == given.tensors[1][1::3].numpy()).all()
    assert dgbench.from_dataset(given, domains=DOMAINS, name="table") == data, "the same content, the same folder"
    assert len([*tmp_path.glob("train_output/.data/*")]) == 1
    assert dgbench.from_dataset(given, domains=[*reversed(DOMAINS)], name="table") != data


def test_a_tensor_data_set_is_trained(tmp_path: Path) -> None:
    data = dgbench.from_dataset(vectors(1, 8, 8), domains=lambda example: int(example[1]) % 2, name="small")
    with pytest.raises(dgbench.UserError, match="domain '0' lacks the class"):
        dgbench.train("ERM", data, test="0", **BRIEF)
    data = dgbench.from_dataset(vectors(1, 8, 8), domains=DOMAINS, output_dir="data/small")
    assert data.name == f"arrays:{tmp_path}/data/small"
    result = dgbench.train("ERM", data, test="b", **BRIEF, save_models=True)
    assert "arrays:small" in repr(result)
    assert len(result.predict(np.zeros((2, 1, 8, 8), np.uint8)).predicted) == 2
    with pytest.raises(dgbench.UserError, match="1 x 8 x 8 and are not resized: leave out image_size"):
        dgbench.train("ERM", data, test="b", **BRIEF, image_size=16)


def test_images_become_files_that_are_resized(tmp_path: Path) -> None:
    data = dgbench.from_dataset(
        pictures(), domains="place", labels="species", name="birds", output_dir=tmp_path / "birds"
    )
    assert data.name == f"csv:{tmp_path}/birds/birds.csv"
    assert (data.domains, data.classes) == (("0", "1", "2"), ("crow", "finch", "owl"))
    found = opened(data)
    assert (found.domains, found.classes, list(found.counts())) == (data.domains, data.classes, [12, 12, 12])
    table = (tmp_path / "birds/birds.csv").read_text().splitlines()
    assert table[2].endswith(",0,owl")
    with Image.open(tmp_path / "birds" / table[2].split(",")[0]) as image:
        assert image.size == (9, 12)
        assert (np.asarray(image) == np.asarray(pictures()[1]["image"].convert("RGB"))).all()
    other = pictures()
    other[7]["image"].putpixel((0, 0), (1, 2, 3))
    again = dgbench.from_dataset(other, domains="place", labels="species", name="birds")
    assert opened(again).fingerprint() != found.fingerprint(), "one pixel differs"
    result = dgbench.train("ERM", data, test="2", **BRIEF, image_size=16)
    assert list(result.curve().index) == [0, 2, 3]


def test_normalized_images_are_not_normalized_again() -> None:
    images = TensorDataset(4 * torch.randn(60, 3, 8, 8), torch.arange(60) // 5)
    assert opened(dgbench.from_dataset(images, domains=DOMAINS)).card.normalised
    assert not opened(dgbench.from_dataset(vectors(3, 8, 8), domains=DOMAINS)).card.normalised


def test_a_hugging_face_data_set_has_names() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "place": datasets.ClassLabel(names=["zoo", "field"]),
            "species": datasets.ClassLabel(names=["owl", "crow", "none"]),
        }
    )
    rows = pictures(12)
    columns = {
        "image": [row["image"].convert("RGB") for row in rows],
        "place": [i % 2 for i in range(12)],
        "species": [i // 6 for i in range(12)],
    }
    both = datasets.Dataset.from_dict(columns, features=features)
    data = dgbench.from_dataset(both, domains="place", labels="species")
    assert (dict(data.counts), data.classes) == ({"field": 6, "zoo": 6}, ("crow", "owl"))
    by_split = datasets.DatasetDict(
        {"zoo": both.select(range(3, 9)), "field": both.select([0, 1, 2, 6, 7, 11])}
    ).remove_columns("place")
    data = dgbench.from_dataset(by_split)
    assert (dict(data.counts), data.classes) == ({"field": 6, "zoo": 6}, ("crow", "owl"))
    parts = datasets.DatasetDict({"train": both.select(range(8)), "test": both.select(range(8, 12))})
    assert dict(dgbench.from_dataset(parts, domains="place", labels="species").counts) == {"field": 6, "zoo": 6}
    numbers = datasets.Dataset.from_dict({"x": [[0.5, 1.0]] * 12, "y": ["b", "a"] * 6, "d": ["p", "q", "q"] * 4})
    found = opened(dgbench.from_dataset(numbers, domains="d", labels="y"))
    assert (found.input_shape, found.classes) == ((2,), ("a", "b"))


def test_columns_that_do_not_fit_are_refused_at_once() -> None:
    said = refusal(vectors())
    assert said == (
        "name the domain of an example by domains=, a position from 0 to 1, a value for each example, or a function of "
        "an example",
    )
    said = refusal(pictures(), domains="places", labels=["a"] * 5)
    assert said == (
        "labels has 5 values, and there are 36 examples",
        "unknown column for domains 'places': did you mean 'place'?",
    )
    assert "domains is 2, and an example has 2 parts" in refusal(vectors(), domains=2)[0]
    assert "labels is 'y', and examples have no names" in refusal(vectors(), domains=0, labels="y")[0]
    assert refusal(iter(()), domains=0)[0].startswith("the data set, a tuple_iterator, can't be read by position")
    assert refusal({"a": vectors(), "b": []}) == ("data set 'b' has no examples",)
    assert "labels is a float, not a position" in refusal(vectors(), domains=DOMAINS, labels=0.5)[0]


@pytest.mark.parametrize(
    ("labels", "domains", "problem"),
    [
        (
            [0.5] * 60,
            DOMAINS,
            "labels are fractions, not whole numbers or names in 60 examples, first in number 0 (0.5)",
        ),
        ([None, *"ab" * 29, "b"], DOMAINS, "labels are missing in 1 example, first in number 0 (None)"),
        ([*"ab" * 30], [[1]] * 60, "domains are no whole numbers or names in 60 examples, first in number 0 ([1])"),
        ([*"ab" * 30], ["a"] * 60, "all 60 examples are of the domain 'a', and one is to be held out"),
        (["a"] * 60, DOMAINS, "all 60 examples are of the class 'a'"),
    ],
)
def test_labels_and_domains_that_name_nothing_are_refused(labels: Any, domains: Any, problem: str) -> None:
    assert refusal(vectors(), labels=labels, domains=domains) == (problem,)


def test_inputs_that_no_network_takes_are_refused() -> None:
    def with_input(number: int, value: Any) -> list[Any]:
        return [(value if i == number else x, y) for i, (x, y) in enumerate(vectors())]

    def only(value: Any, number: int = 4) -> str:
        (problem,) = refusal(with_input(number, value), domains=DOMAINS)
        return problem

    assert only(torch.rand(5)) == "the input of example 4 has the shape (5,), and the first (4,): make them equal"
    assert (
        only(torch.tensor([0, 1, 2, torch.nan]))
        == "the input of example 4 has numbers that are infinite or not a number"
    )
    assert only(Image.new("RGB", (2, 2))) == "the input of example 4 is an image, and the first is a tensor"
    assert only("a word", 0).startswith("the input of example 0 is a text ('a word')")
    assert "of which no range is known" in only(torch.zeros(3, 4, 4, dtype=torch.int64), 0)
    assert "has the shape (1, 1, 1, 1)" in only(torch.rand(1, 1, 1, 1), 0)
    images = pictures()
    images[3]["image"] = Image.new("F", (4, 4))
    assert "of which no range is known" in refusal(images, domains="place", labels="species")[0]
    (said,) = refusal([{"x": [1.0], "z": [2.0], "y": 1}] * 4, domains=lambda _: "a", labels="y")
    assert said == "name the input of an example by inputs=: of its columns, 'x', 'z' may be one"


def test_a_data_set_that_draws_or_fails_is_refused() -> None:
    class Drawing(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return torch.rand(4), index % 2

    class Failing(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return (self.tensors[0][index], index % 2) if index < 7 else {}[index]

    assert "leave out transforms that draw" in refusal(Drawing(*vectors().tensors), domains=DOMAINS)[0]
    assert refusal(Failing(*vectors().tensors), domains=DOMAINS) == ("example 7 can't be read: KeyError: 7",)


def test_a_folder_with_other_content_is_kept(tmp_path: Path) -> None:
    data = dgbench.from_dataset(vectors(), domains=DOMAINS, output_dir="own")
    assert dgbench.from_dataset(vectors(), domains=DOMAINS, output_dir="own") == data
    with pytest.raises(dgbench.UserError, match="own holds something else: remove it"):
        dgbench.from_dataset(vectors(), domains=[*reversed(DOMAINS)], output_dir="own")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert opened(data).fingerprint()


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            if index == 20:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        dgbench.from_dataset(Interrupted(*vectors().tensors), domains=DOMAINS)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgbench.api.sweep._start", lambda *_: None)
    data = dgbench.from_dataset(vectors(), domains=DOMAINS, name="table")
    launched = dgbench.sweep(
        "runs/a", algorithms="ERM", datasets=["RotatedDigits", data], quick=True, hparams={"batch_size": 8}
    )
    assert sum(launched.status().runs.values()) == 6 + 3
