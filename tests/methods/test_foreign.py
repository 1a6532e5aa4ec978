"""Classes written for DomainBed, in a fork of it that is made here, run as they are."""

from __future__ import annotations

import importlib
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dgbench import cli
from dgbench import list as list_command
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.foreign_reads import surely_read
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.seeding import seed_hash
from dgbench.core.setting import setting
from dgbench.core.site import Site
from dgbench.data.views import Minibatches
from dgbench.execute.job import preload
from dgbench.execute.models import predict_with
from dgbench.execute.training import CHECKPOINT
from dgbench.launchers.prepare import reopen
from dgbench.launchers.reconcile import Sweep
from dgbench.methods.batch import Batch, Task
from dgbench.methods.foreign import Inputs
from dgbench.methods.foreign_state import capture_state, restore_state
from dgbench.networks.network import IMAGENET_MEAN, IMAGENET_STD
from tests.support.commands import check, train
from tests.support.in_process import execute, execute_all, records_of, runs_of, sweep_of, training_of
from tests.support.in_process import train as train_run

FORK = {
    "__init__.py": "",
    "networks.py": """
import torch

class Featurizer(torch.nn.Module):
    def __init__(self, input_shape, hparams):
        super().__init__()
        pixels = input_shape[0] * input_shape[1] * input_shape[2]
        self.n_outputs = 12
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(pixels, 12), torch.nn.BatchNorm1d(12), torch.nn.ReLU(),
            torch.nn.Dropout(hparams["resnet_dropout"]),
        )

    def forward(self, x):
        return self.layers(x)
""",
    "hparams_registry.py": """
import hashlib
import numpy as np

def seed_hash(*args):
    return int(hashlib.md5(str(args).encode("utf-8")).hexdigest(), 16) % (2**31)

def _hparams(algorithm, dataset, random_seed):
    hparams = {}
    def _hparam(name, default_val, random_val_fn):
        random_state = np.random.RandomState(seed_hash(random_seed, name))
        hparams[name] = (default_val, random_val_fn(random_state))
    _hparam("data_augmentation", True, lambda r: True)
    _hparam("class_balanced", False, lambda r: False)
    _hparam("nonlinear_classifier", False, lambda r: bool(r.choice([False, False])))
    _hparam("resnet_dropout", 0., lambda r: r.choice([0., 0.1, 0.5]))
    _hparam("tilt", 1, lambda r: r.uniform(0.5, 1.))
    _hparam("widths", (3, np.int64(4)), lambda r: [r.choice([3, 5]), 4])
    if dataset == "Debug224":
        _hparam("lr", 5e-5, lambda r: 10**r.uniform(-5, -3.5))
    else:
        _hparam("lr", 1e-3, lambda r: 10**r.uniform(-4.5, -2.5))
    _hparam("weight_decay", 0., lambda r: 0.)
    _hparam("batch_size", 64, lambda r: int(2**r.uniform(3, 5)))
    return hparams

def default_hparams(algorithm, dataset):
    return {a: b for a, (b, c) in _hparams(algorithm, dataset, 0).items()}

def random_hparams(algorithm, dataset, seed):
    return {a: c for a, (b, c) in _hparams(algorithm, dataset, seed).items()}
""",
    "algorithms.py": '''
import collections
import copy
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from myfork import hparams_registry
from . import networks

class Algorithm(torch.nn.Module):
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super(Algorithm, self).__init__()
        self.hparams = hparams

    def update(self, minibatches, unlabeled=None):
        raise NotImplementedError

    def predict(self, x):
        raise NotImplementedError

class Tilted(Algorithm):
    """
    Empirical risk, more of the first domain
    """
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super(Tilted, self).__init__(input_shape, num_classes, num_domains, hparams)
        assert type(hparams) is dict and type(hparams["lr"]) is float
        self.num_domains = num_domains
        self.featurizer = networks.Featurizer(input_shape, self.hparams)
        self.classifier = nn.Linear(self.featurizer.n_outputs, num_classes)
        self.network = nn.Sequential(self.featurizer, self.classifier)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"]
        )

    def update(self, minibatches, unlabeled=None):
        assert unlabeled is None and self.training and len(minibatches) == self.num_domains
        losses = [F.cross_entropy(self.predict(x), y) for x, y in minibatches]
        loss = sum(losses) + (self.hparams["tilt"] - 1) * losses[0]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        all_x = torch.cat([x for x, y in minibatches])
        return {"loss": loss.item(), "low": all_x.min().item(), "high": np.float64(all_x.max()), "steps": 1}

    def predict(self, x):
        return self.network(x)

class Average(object):
    def __init__(self):
        self.ema = {}

    def update(self, name, value):
        self.ema[name] = value if name not in self.ema else 0.9 * self.ema[name] + 0.1 * value
        return self.ema[name]

class Careful(torch.optim.Optimizer):
    def __init__(self, params, base, **kwargs):
        super().__init__(params, dict(rho=0.05, **kwargs))
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure=None):
        self.base_optimizer.step()

class Hoarder(Tilted):
    """Remembers in every way that there is."""
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super(Hoarder, self).__init__(input_shape, num_classes, num_domains, hparams)
        width = self.featurizer.n_outputs
        self.register_buffer("q", torch.Tensor())
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.constant = torch.randn(3) + np.random.randn() + random.random()
        self.heads = [nn.Linear(width, num_classes) for _ in range(2)]
        self.optimizer = torch.optim.SGD(self.classifier.parameters(), lr=0.05, momentum=0.9)
        self.more = {"heads": [torch.optim.Adam(head.parameters()) for head in self.heads]}
        self.pair = (Careful(self.featurizer.parameters(), torch.optim.Adam, lr=1e-3), "and a word")
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.pair[0], 3, gamma=0.7)
        self.average, self.inner_state, self.mode = Average(), None, "early"
        self.window, self.counts = collections.deque(maxlen=4), np.zeros(num_classes)
        self.update_count, self.scale, self.late, self.history, self.alpha = 0, 1.0, False, [], None

    def update(self, minibatches, unlabeled=None):
        if not len(self.q):
            self.q = torch.ones(len(minibatches))
        if self.update_count == 5:
            self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.02, momentum=0.5)
            self.optimizer.add_param_group({"params": [p for head in self.heads for p in head.parameters()]})
            self.mode, self.late, self.featurizer.layers[1].weight.requires_grad = "late", True, False
            self.alpha = np.float32(0.3)
        features = [self.featurizer(x) for x, y in minibatches]
        losses = [F.cross_entropy(self.classifier(f), y) for f, (x, y) in zip(features, minibatches)]
        losses = torch.stack([l + F.cross_entropy(head(f), y)
                              for l, f, (x, y) in zip(losses, features, minibatches) for head in self.heads[:1]])
        for i, loss in enumerate(losses):
            self.q[i] = self.q[i] * (0.1 * loss).exp().item()
        self.q /= self.q.sum()
        self.window.append(losses.mean().item())
        self.history.append(self.window[0])
        for x, y in minibatches:
            self.counts += np.bincount(y.numpy(), minlength=len(self.counts))
        self.scratch += self.constant * self.q.sum()
        weight = self.scale * (1 + (self.mode == "late") + self.late + np.mean(self.window) + np.mean(self.history))
        weight = weight + float(self.counts[0] / self.counts.sum()) + 1e-3 * self.scratch.mean().item()
        weight = weight + float(self.alpha or 0) + random.random() + np.random.rand()
        loss = weight * (self.q.detach() * losses).sum() + self.average.update("loss", losses[0].item())
        loss = loss + 0.1 * F.cross_entropy(self.heads[1](features[0].detach()), minibatches[0][1])
        optimizers = [self.optimizer, *self.more["heads"], self.pair[0]]
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        self.scheduler.step()
        self.inner_loop(minibatches[0])
        self.update_count += 1
        self.scale *= 0.99
        return {"loss": loss.item(), **({"late": 1.0} if self.late else {})}

    def inner_loop(self, minibatch):
        self.network_inner = copy.deepcopy(self.network)
        self.optimizer_inner = torch.optim.Adam(self.network_inner.parameters(), lr=1e-3)
        if self.inner_state is not None:
            self.optimizer_inner.load_state_dict(self.inner_state)
        loss = F.cross_entropy(self.network_inner(minibatch[0]), minibatch[1])
        self.optimizer_inner.zero_grad()
        loss.backward()
        self.optimizer_inner.step()
        self.inner_state = self.optimizer_inner.state_dict()
        with torch.no_grad():
            for p, q in zip(self.network.parameters(), self.network_inner.parameters()):
                p += 0.5 * (q - p)

class Smoothed(Tilted):
    """Predicts by a mean of its weights."""
    def __init__(self, *args):
        super().__init__(*args)
        self.mean = copy.deepcopy(self.network)

    def update(self, minibatches, unlabeled=None):
        losses = [F.cross_entropy(self.network(x), y) for x, y in minibatches]
        self.optimizer.zero_grad()
        sum(losses).backward()
        self.optimizer.step()
        for mean, now in zip(self.mean.parameters(), self.network.parameters()):
            mean.data.lerp_(now.data, 0.1)
        return {"loss": sum(losses).item()}

    def predict(self, x):
        return self.mean(x)

class Watched(Smoothed):
    """Keeps a mean of its weights beside them, which predicts nothing."""
    def predict(self, x):
        return self.network(x)

class OldSchool(Tilted):
    def update(self, minibatches):
        return {"loss": super().update(minibatches)["loss"]}

class OnCuda(Tilted):
    """Wants a GPU, whatever there is."""
    def __init__(self, *args):
        super().__init__(*args)
        self.classifier.cuda()

class NoPredict(torch.nn.Module):
    predict = None
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__()
    def update(self, minibatches, unlabeled=None):
        return {}

class NoModule:
    def update(self, minibatches, unlabeled=None):
        return {}
    def predict(self, x):
        return x

class OtherConstructor(Tilted):
    def __init__(self, input_shape, hparams):
        super().__init__(input_shape, 2, 2, hparams)

class NeedsTarget(Tilted):
    def update(self, minibatches, unlabeled):
        return super().update(minibatches)

class NeedsNamed(Tilted):
    def update(self, minibatches, *, unlabelled_x):
        return super().update(minibatches)

class OtherUpdate(Tilted):
    def update(self, x, y, **kwargs):
        return {}

not_a_class = Tilted.update
''',
}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder / "algorithms.py"


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    """Whatever a test imports of forks is not there in the next."""
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if "fork" in name or name.startswith(("dgbench_include_", "lone")):
            del sys.modules[name]


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the fork's algorithms; the fork can be imported, here and in processes that are started."""
    file = write(tmp_path / "of mine" / "myfork", FORK)
    monkeypatch.syspath_prepend(str(file.parents[1]))
    monkeypatch.setenv("PYTHONPATH", str(file.parents[1]))
    return file


def site(file: Path, *names: str, **more: Any) -> Site:
    return Site(device="cpu", include=tuple(f"{file}:{name}" for name in names), **more)


def sweep(root: Path, file: Path, *rows: str, **asked: Any) -> Sweep:
    names = dict.fromkeys(row.partition("+")[0] for row in rows)
    return sweep_of(root, *rows, site=site(file, *(name for name in names if name != "ERM")), **asked)


def refused(file: Path, name: str) -> str:
    with pytest.raises(UserError) as caught:
        _ = Catalogue([f"{file}:{name}"]).entries
    return str(caught.value)


# -- finding it ---------------------------------------------------------------------------------------------------


def test_an_entry_says_what_the_fork_says(fork: Path) -> None:
    found = Catalogue([f"{fork}:Tilted"])
    assert found.include == (f"{fork}:Tilted",)
    entry = found.get("algorithm", "Tilted")
    assert (entry.file, entry.module, entry.summary) == (
        str(fork),
        "myfork.algorithms",
        "Empirical risk, more of the first domain",
    )
    assert {spec.name: (spec.type, spec.default) for spec in entry.space} == {
        "nonlinear_classifier": ("bool", False),
        "resnet_dropout": ("number", 0.0),
        "tilt": ("number", 1),
        "widths": ("any", [3, 4]),
        "lr": ("number", 5e-5),
        "weight_decay": ("number", 0.0),
        "batch_size": ("number", 64),
    }
    assert isinstance(entry.card, AlgorithmCard)
    assert "myfork.hparams_registry" in entry.card.paper
    assert entry.draws("tilt"), "the registry does, or may"
    cls = entry.load()
    assert (cls.__name__, cls.card) == ("Tilted", entry.card)
    assert cls is Catalogue([f"{fork}:Tilted"]).entries["Tilted"].load()


def test_it_is_listed(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    include = ["--include", f"{fork}:Tilted", f"{fork}:Hoarder"]
    assert list_command.main(["algorithms", *include]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["Tilted"] == "Empirical risk, more of the first domain"
    assert {"ERM", "Hoarder"} <= lines.keys()
    assert list_command.main(["algorithms", "Tilted", *include]) == 0
    said = capsys.readouterr().out
    assert f"written for DomainBed, {fork}" in said
    assert "\n        tilt = 1\n" in said


def test_its_file_is_included_as_well_as_others(fork: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(fork)
    other = tmp_path / "other.py"
    other.write_text("from dgbench.rules.sam import SAM\nclass Other(SAM):\n    'Mine.'\n")
    found = Catalogue([f"{link}:Tilted", f"{fork}:Tilted", f"{fork}:OldSchool", other])
    assert {"Tilted", "OldSchool", "Other", "ERM"} <= found.entries.keys()
    assert found.include[0] == f"{fork}:Tilted"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Tiltd", "unknown class 'Tiltd': did you mean 'Tilted'?"),
        ("not_a_class", "unknown class 'not_a_class'"),
        ("NoPredict", "a class for DomainBed has no predict()"),
        ("NoModule", "a class for DomainBed is no torch.nn.Module"),
        ("OtherConstructor", "must be made by (input_shape, num_classes, num_domains, hparams)"),
        ("OtherUpdate", "must have update(minibatches, unlabeled=None), not update(self, x, y, **kwargs)"),
        (
            "NeedsTarget",
            "that needs unlabelled data of the test domain, update(self, minibatches, unlabeled), can't be",
        ),
        ("NeedsNamed", "that needs unlabelled data of the test domain, update(self, minibatches, *, unlabelled_x), ca"),
    ],
)
def test_what_is_no_class_for_domainbed_is_refused(name: str, message: str, fork: Path) -> None:
    said = refused(fork, name)
    assert said.startswith(f"--include {fork}:{name}: ")
    assert message in said
    assert "\n" not in said


def test_a_missing_file_is_refused_before_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"--include {tmp_path}/no\.py: there is no such file"):
        Catalogue([f"{tmp_path}/no.py:Tilted"])


def test_a_fork_that_cannot_be_imported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write(tmp_path / "away" / "hidden_fork", FORK)
    said = refused(package, "Tilted")
    assert said.endswith(f"put the folder that its imports start from on PYTHONPATH, perhaps {tmp_path / 'away'}")
    missing = write(tmp_path / "poor_fork", {"__init__.py": "", "algorithms.py": "import no_such_library\n"})
    bare = write(tmp_path / "bare_fork", {"algorithms.py": "from bare_fork import networks\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "importing poor_fork.algorithms failed: ModuleNotFoundError: No module named 'no_such_l" in refused(
        missing, "Any"
    )
    assert "importing bare_fork.algorithms failed: ImportError: cannot import name 'networks'" in refused(bare, "Any")
    lone = write(tmp_path / "lone" / "lonely_fork", {"algorithms.py": "from lonely_fork import networks\n"})
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    assert refused(lone, "Any").endswith(f"No module named 'lonely_fork'; put {tmp_path / 'lone'} on PYTHONPATH")


def test_another_fork_of_the_same_name_is_not_taken_for_it(
    fork: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "theirs" / "myfork", FORK)
    assert Catalogue([f"{fork}:Tilted"]).entries
    monkeypatch.syspath_prepend(str(tmp_path / "theirs"))
    assert f"myfork.algorithms is {fork} here; put the folder of the other first" in refused(other, "Tilted")


def test_a_fork_without_init_files_is_found_by_where_it_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: text for name, text in FORK.items() if name != "__init__.py"}
    file = write(tmp_path / "myfork", files)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = Catalogue([f"{file}:Tilted"]).entries["Tilted"]
    assert entry.module == "myfork.algorithms"
    assert entry.takes("tilt")
    assert not entry.takes("lrr")


def test_a_registry_beside_a_file_without_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = FORK["algorithms.py"].replace(
        "from myfork import hparams_registry\nfrom . import networks", "import networks"
    )
    file = write(tmp_path / "flat_fork", {**FORK, "algorithms.py": flat})
    file.with_name("__init__.py").unlink()
    assert "put the folder that its imports start from on PYTHONPATH" in refused(file, "Tilted")
    monkeypatch.syspath_prepend(str(file.parent))
    known = set(sys.modules)
    entry = Catalogue([f"{file}:Tilted"]).entries["Tilted"]
    for name in set(sys.modules) - known:
        del sys.modules[name]
    assert (entry.module, entry.open) == ("algorithms", False)


def test_the_registry_may_lie_further_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = FORK["algorithms.py"].replace("from . import", "from .. import")
    file = write(tmp_path / "myfork" / "inner", {"__init__.py": "", "algorithms.py": deep})
    write(tmp_path / "myfork", {name: text for name, text in FORK.items() if name != "algorithms.py"})
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = Catalogue([f"{file}:Tilted"]).entries["Tilted"]
    assert (entry.module, entry.open) == ("myfork.inner.algorithms", False)


# -- its hyperparameters ------------------------------------------------------------------------------------------


def test_values_are_those_that_domainbeds_rule_draws_from_the_registry(fork: Path, tmp_path: Path) -> None:
    asked = {"n_hparams": 3, "n_trials": 2, "hparams": {"SWAD": {}, "batch_size": 16}}
    found = sweep(tmp_path / "s", fork, "Tilted+SWAD", **asked)
    registry = importlib.import_module("myfork.hparams_registry")
    for run in found.plan.runs:
        values = registry.random_hparams("Tilted", "RotatedDigits", seed_hash(run.hparams_seed, run.trial))
        if run.hparams_seed == 0:
            values = registry.default_hparams("Tilted", "RotatedDigits")
        assert run.method.hparams == {**values, "widths": list(values["widths"]), "batch_size": 16}
        assert [type(value) for value in run.method.hparams["widths"]] == [int, int]
        assert run == type(run).from_json(json.loads(json.dumps(run.to_json())))
    assert len({run.method.hparams["lr"] for run in found.plan.runs}) == 5
    assert found.plan.runs[0].method.hparams["lr"] == 1e-3


HEIR = """
import torch
from myfork.algorithms import Tilted

class Heir(Tilted):
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.margin = hparams["margin"]

    def update(self, minibatches, unlabeled=None):
        logged = super().update(minibatches)
        return {**logged, "margin": self.margin, "warmth": self.hparams["warmth"]}

class Child(Tilted):
    pass
"""


def test_a_class_that_inherits_from_a_forks_has_the_forks_registry(fork: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "own", {"algorithms.py": HEIR})
    entry = Catalogue([f"{file}:Child"]).get("algorithm", "Child")
    assert {spec.name for spec in entry.space} >= {"tilt", "widths", "lr", "batch_size"}
    assert "as myfork.hparams_registry has and draws them for Tilted" in entry.card.paper
    asked = {"n_hparams": 2, "n_trials": 2, "hparams": {"batch_size": 16}}
    found = sweep(tmp_path / "s", file, "Child", **asked)
    theirs = sweep(tmp_path / "t", fork, "Tilted", **asked)
    for mine, other in zip(found.plan.runs, theirs.plan.runs, strict=True):
        assert mine.method.hparams == other.method.hparams
    execute_all(found)
    execute_all(theirs)
    for mine, other in zip(found.plan.runs, theirs.plan.runs, strict=True):
        assert records_of(found.store.folder(mine.id)) == records_of(theirs.store.folder(other.id))


@pytest.mark.parametrize("side", [28, 64])
def test_a_class_for_images_of_one_size_can_be_tried_without_a_download(fork: Path, tmp_path: Path, side: int) -> None:
    only = f"""
from myfork.algorithms import Tilted

class Only(Tilted):
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        if input_shape[1:] != ({side}, {side}):
            raise NotImplementedError
        super().__init__(input_shape, num_classes, num_domains, hparams)
"""
    file = write(tmp_path / "own", {"algorithms.py": only})
    execute_all(sweep(tmp_path / "s", file, "Only", hparams={"image_size": side}))


def test_everything_that_has_no_value_is_named_at_once(fork: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "own", {"algorithms.py": HEIR})
    with pytest.raises(UserError) as caught:
        sweep(tmp_path / "s", file, "Heir")
    assert caught.value.problems == (
        "Heir reads margin, warmth, and nothing gives them a value: "
        'add --hparams \'{"Heir": {"margin": ..., "warmth": ...}}\'',
    )
    own = {"Heir": {"margin": 2, "warmth": 0.5}}
    (run,) = execute_all(found := sweep(tmp_path / "s", file, "Heir", hparams=own)).plan.runs
    assert records_of(found.store.folder(run.id))[-1]["train"]["warmth"] == 0.5


def test_without_a_registry_too_everything_that_has_no_value_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "lone", {"algorithms.py": LONE})
    with pytest.raises(UserError) as caught:
        sweep(tmp_path / "s", file, "Lone", hparams={"Lone": {"batch_size": 0}})
    first, second = caught.value.problems
    assert first.startswith("Lone needs batch_size, a whole number")
    assert second == 'Lone reads lr, and nothing gives it a value: add --hparams \'{"Lone": {"lr": ...}}\''


def test_only_what_is_read_for_certain_is_asked_for(fork: Path) -> None:
    algorithms = importlib.import_module("myfork.algorithms")
    assert surely_read(algorithms.Tilted) == ("resnet_dropout", "lr", "weight_decay", "tilt")


def test_what_is_fixed_or_drawn_otherwise_holds(fork: Path, tmp_path: Path) -> None:
    asked = {"lr": 1, "tilt": 0.25, "nonlinear_classifier": True, "class_balanced": True, "Tilted": {"widths": [1]}}
    space = {"resnet_dropout": "{0.2}"}
    found = sweep(tmp_path / "s", fork, "Tilted", "ERM", n_hparams=2, hparams=asked, space=space)
    (first, second), ours = runs_of(found, "Tilted"), runs_of(found, "ERM")
    for run in (first, second):
        values = run.method.hparams
        assert (values["lr"], values["tilt"], values["widths"], values["batch_size"]) == (1, 0.25, [1], 16)
        assert values["nonlinear_classifier"] is True
        assert values["class_balanced"] is False, "DomainBed's loop reads it, ours reads the setting"
    assert (first.method.hparams["resnet_dropout"], second.method.hparams["resnet_dropout"]) == (0.0, 0.2)
    for run in (*ours, first):
        assert run.setting.nonlinear_classifier
        assert run.setting.class_balanced
    assert ours[0].method.hparams["lr"] == 1.0
    assert "tilt" not in ours[0].method.hparams


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"tillt": 1}, "unknown hyperparameter 'tillt': did you mean 'tilt'?"),
        ({"tilt": "much"}, "Tilted: tilt is a number, not 'much'"),
        ({"data_augmentation": False}, "unknown hyperparameter 'data_augmentation': did you mean 'augmentation'?"),
        ({"Tilted": {"tillt": 1}}, "unknown hyperparameter of Tilted 'tillt': did you mean 'tilt'?"),
        (
            {"Tilted": {"batch_size": 2.5}},
            "Tilted needs batch_size, a whole number of examples of each domain, not 2.5",
        ),
        ({"batch_size": 8.5}, "batch_size is an int, not 8.5"),
        ({"optimizer": "sgd", "Tilted": {}}, "optimizer 'sgd' would not reach it"),
        ({"freeze": "embedding"}, "Tilted is written for DomainBed and makes its own network and optimizers: freeze"),
    ],
)
def test_what_it_cannot_be_asked_for_is_refused(
    hparams: dict[str, Any], message: str, fork: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        sweep(tmp_path / "s", fork, "Tilted", "ERM", hparams=hparams)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems
    assert not (tmp_path / "s").exists()


def test_features_that_it_does_not_show_are_refused(fork: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sweep(tmp_path / "s", fork, "Tilted+SWAD+T3A", "ERM+T3A", "Tilted+HeadHessians", "ERM+HeadHessians")
    assert caught.value.problems == (
        "Tilted+SWAD+T3A: T3A works on a network's features, and Tilted shows only its predictions",
        "Tilted+HeadHessians: HeadHessians works on a network's features, and Tilted shows only its predictions",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def default_hparams(a, d):\n    raise KeyError(d)\n", r"\('Any', 'Debug224'\) failed: KeyError: 'Debug224'"),
        ("import no_such_library\n", "failed: ModuleNotFoundError: No module named 'no_such_library'"),
        ("", r"ill_fork.hparams_registry.default_hparams\('Any', 'Debug224'\) failed: AttributeError"),
        ("def default_hparams(a, d):\n    return {'f': print}\n", "gives 'f' a builtin_function_or_method, which JSON"),
        ("def default_hparams(a, d):\n    return {'f': float('inf')}\n", "gives 'f' the value inf, which JSON"),
    ],
)
def test_a_registry_that_fails_is_told(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithms = (
        "import torch\nclass Any(torch.nn.Module):\n    def update(self, minibatches): ...\n    predict = update\n"
    )
    files = {"__init__.py": "", "algorithms.py": algorithms, "hparams_registry.py": text}
    file = write(tmp_path / "ill_fork", files)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=message):
        _ = Catalogue([f"{file}:Any"]).entries


def test_a_registry_that_does_not_know_the_data_is_told(fork: Path, tmp_path: Path) -> None:
    registry = fork.with_name("hparams_registry.py")
    registry.write_text(registry.read_text() + "\n\ndef random_hparams(algorithm, dataset, seed):\n    return []\n")
    with pytest.raises(UserError, match=r"random_hparams\('Tilted', 'RotatedDigits', \d+\) failed: AttributeError"):
        sweep(tmp_path / "s", fork, "Tilted", n_hparams=2)


LONE = """
import torch

class Lone(torch.nn.Module):
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__()
        self.layer = torch.nn.Linear(64, num_classes)
        self.lr, self.again = hparams["lr"], hparams.get("again", 1)

    def update(self, minibatches, unlabeled=None):
        x, y = (torch.cat(both) for both in zip(*minibatches))
        for _ in range(self.again):
            self.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.predict(x), y)
            loss.backward()
            with torch.no_grad():
                for p in self.parameters():
                    p -= self.lr * p.grad
        return {"loss": loss}

    def predict(self, x):
        return self.layer(x.flatten(1))
"""


def test_a_lone_file_takes_all_that_hparams_says(tmp_path: Path) -> None:
    file = write(tmp_path, {"algorithms.py": LONE})
    own = {"lr": 0.3, "Lone": {"again": 2}, "SWAD": {}}
    found = execute_all(sweep(tmp_path / "s", file, "Lone+SWAD", "ERM", hparams={**own, "weight_decay": 0.1}))
    (run,) = runs_of(found, "Lone")
    assert run.method.hparams == {"lr": 0.3, "batch_size": 16, "again": 2, "weight_decay": 0.1}
    loss = [record["train"]["loss"] for record in records_of(found.store.folder(run.id), "model")]
    assert loss == sorted(loss, reverse=True)


def test_a_lone_file_must_be_told_a_batch_size(tmp_path: Path) -> None:
    file = write(tmp_path, {"algorithms.py": LONE})
    words = ["--algorithm", "Lone", "--dataset", "RotatedDigits", "--test", "75", "--output_dir", str(tmp_path / "s")]
    with pytest.raises(UserError) as caught:
        train.main([*words, "--include", f"{file}:Lone", "--hparams", '{"Lone": {"lr": 0.1}}'])
    assert caught.value.problems == (
        "Lone needs batch_size, a whole number of examples of each domain, not None: add "
        f'--hparams \'{{"Lone": {{"batch_size": 32}}}}\'; {file} has no hparams_registry, so all that it reads must be '
        "given",
    )


# -- training it --------------------------------------------------------------------------------------------------


def test_it_trains_as_a_plain_loop_over_the_same_minibatches_does(fork: Path, tmp_path: Path) -> None:
    found = sweep(tmp_path / "s", fork, "Tilted", setting={"steps": 5, "checkpoint_freq": 5}, hparams={"tilt": 2})
    (run,) = found.plan.runs
    training = training_of(found, run)
    assert not list(training.algorithm.network.parameters())
    assert not train_run(training)

    cls = importlib.import_module("myfork.algorithms").Tilted
    torch.manual_seed(run.init_seed)
    other = cls((1, 8, 8), 10, 5, dict(run.method.hparams))
    data = training.data
    minibatches = ([(x.float() / 255, y) for x, y, *_ in batch] for batch in Minibatches(data, run).between(0, 5, 0))
    losses = [other.update(minibatch)["loss"] for minibatch in minibatches]
    state = training.algorithm.inner.state_dict()
    assert state.keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
    first, last = records_of(found.store.folder(run.id), "model")
    assert first["train"]["loss"] == pytest.approx(losses[0])
    assert last["train"]["loss"] == pytest.approx(np.mean(losses[1:]))
    assert (last["train"]["low"], last["train"]["high"], last["train"]["steps"]) == (0, 1, 1)
    other.eval()
    test_view = next(view for view in run.views if view.domain == "75" and view.part == "in")
    x = data.inputs(test_view, np.arange(data.size(test_view))).float() / 255
    accuracy = (other.predict(x).argmax(1).numpy() == data.labels(test_view)).mean()
    assert last["views"][str(test_view)]["accuracy"] == pytest.approx(accuracy)


def test_inputs_are_normalised_where_domainbeds_are() -> None:
    photo = torch.randint(256, (2, 3, 5, 5), dtype=torch.uint8)
    expected = torch.stack([(photo[:, c] / 255 - IMAGENET_MEAN[c]) / IMAGENET_STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Inputs((3, 5, 5), setting()).prepare(photo), expected)
    for shape in ((2, 5, 5), (1, 5, 5)):
        digits = torch.randint(256, (4, *shape), dtype=torch.uint8)
        torch.testing.assert_close(Inputs(shape, setting()).prepare(digits), digits / 255)
    vectors = torch.randn(4, 3)
    torch.testing.assert_close(Inputs((3,), setting()).prepare(vectors), vectors)
    last = Inputs((3, 5, 5), setting(channels_last=True)).prepare(photo)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_an_update_without_unlabelled_data_is_called_so(fork: Path, tmp_path: Path) -> None:
    found = execute_all(sweep(tmp_path / "s", fork, "OldSchool"))
    (run,) = found.plan.runs
    assert records_of(found.store.folder(run.id), "model")[0]["train"].keys() == {"loss"}


def test_what_it_was_made_with_is_averaged_each_tensor_once(fork: Path) -> None:
    cls = Catalogue([f"{fork}:Hoarder"]).entries["Hoarder"].load()
    task = Task((1, 8, 8), 10, ((5,) * 10,) * 3)
    hparams = {"lr": 1e-3, "weight_decay": 0.0, "resnet_dropout": 0.0, "tilt": 1}
    algorithm = cls(cls.make_network((1, 8, 8), 10, hparams, setting()), hparams, task, setting())
    before = set(algorithm.predictor_tensors())
    batches = [Batch(torch.rand(4, 1, 8, 8), torch.randint(10, (4,)), torch.arange(4), i) for i in range(3)]
    algorithm.update(batches)
    assert any(name.startswith("network_inner") for name in algorithm.inner.state_dict())
    tensors = algorithm.predictor_tensors()
    assert set(tensors) == before
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    shifted = {name: tensor.clone() + 1.0 for name, tensor in tensors.items()}
    x = torch.rand(6, 1, 8, 8)
    own = [predict_with(algorithm)(x), *algorithm.inner.parameters()]
    others = predict_with(algorithm, shifted)(x)
    assert all(a is b for a, b in zip(own[1:], algorithm.inner.parameters(), strict=True))
    assert torch.equal(own[0], predict_with(algorithm)(x))
    with torch.no_grad():
        for tensor in tensors.values():
            tensor += 1
    torch.testing.assert_close(others, predict_with(algorithm)(x))


def test_training_goes_on_from_the_average_where_it_predicts_by_what_it_trains(fork: Path, tmp_path: Path) -> None:
    plain, switched = (
        sweep(tmp_path / name, fork, f"Watched+{name}", hparams={name: {"decay": 0.5}}, setting={"steps": 1})
        for name in ("EMA", "SwitchEMA")
    )
    ours, theirs = (training_of(found, found.plan.runs[0]) for found in (plain, switched))
    for training in (ours, theirs):
        train_run(training)
    live, fed = theirs.algorithm.predictor_tensors(), theirs.averages["SwitchEMA"].weights()
    before, averaged = ours.algorithm.predictor_tensors(), ours.averages["EMA"].weights()
    assert fed is not None
    assert averaged is not None
    for name, tensor in live.items():
        trained = not name.startswith("inner.mean.")
        assert torch.equal(fed[name], averaged[name]), "after one step nothing differs yet"
        assert torch.equal(tensor, averaged[name] if trained else before[name]), name
    assert set(theirs.algorithm.trained_tensors()) == {name for name in live if not name.startswith("inner.mean.")}
    execute_all(switched)


def test_training_cannot_go_on_from_an_average_of_what_nobody_trains(fork: Path, tmp_path: Path) -> None:
    found = sweep(tmp_path / "s", fork, "Smoothed+SwitchEMA")
    (run,) = found.plan.runs
    assert execute(found, run) == 1
    (failure,) = found.store.folder(run.id).failures()
    assert failure["error"] == (
        "UserError: Smoothed predicts by weights that none of its optimizers steps, so an average can't set the "
        "weights that its training goes on from"
    )
    execute_all(sweep(tmp_path / "watched", fork, "Smoothed+EMA"))


# -- going on after an interruption -------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 3, 5, 6, 13])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(stop_after: int, fork: Path, tmp_path: Path) -> None:
    whole, parted = (sweep(tmp_path / name, fork, "Hoarder+SWAD") for name in ("whole", "parted"))
    (run,) = whole.plan.runs
    assert not train_run(training_of(whole, run))
    assert train_run(training_of(parted, run), stop_after)
    assert not train_run(training_of(parted, run))
    records = [found.store.folder(run.id).path / "records.jsonl" for found in (whole, parted)]
    assert records[0].read_bytes() == records[1].read_bytes()
    assert all(math.isfinite(record["train"]["loss"]) for record in records_of(whole.store.folder(run.id), "model"))


def test_what_it_made_on_its_way_and_is_not_kept_is_told(
    fork: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = sweep(tmp_path / "s", fork, "Hoarder")
    (run,) = found.plan.runs
    assert train_run(training_of(found, run), 3)
    with caplog.at_level("WARNING"):
        assert not train_run(training_of(found, run))
    told = [message.partition(" in training")[0] for message in caplog.messages if "in training" in message]
    assert sorted(told) == ["Hoarder made network_inner", "Hoarder made optimizer_inner"]


def test_a_checkpoint_holds_no_code(fork: Path, tmp_path: Path) -> None:
    found = sweep(tmp_path / "s", fork, "Hoarder")
    (run,) = found.plan.runs
    assert train_run(training_of(found, run), 7)
    state = torch.load(found.store.folder(run.id).path / CHECKPOINT, weights_only=True)
    assert state["algorithm"]["inner"]["values"]["update_count",] == 7


class Piece(torch.nn.Module):
    """Whatever a test gives it."""

    def __init__(self, **content: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        for name, value in content.items():
            setattr(self, name, value)


def carried(old: Piece, new: Piece) -> list[str]:
    file = io.BytesIO()
    torch.save(capture_state(old), file)
    file.seek(0)
    return restore_state(new, torch.load(file, weights_only=True))


def test_values_come_back_as_what_they_were() -> None:
    shared = {"a": 1}
    old = Piece(
        count=np.int64(3), table=np.eye(2), none=None, word="w", nested={"a": [1, (2.5, None)], 3: torch.ones(2)}
    )
    new = Piece(count=0, table=None, none=1, word="", nested={}, alias=shared, shared=shared)
    old.alias = old.shared = {"a": 2, "b": torch.zeros(1)}
    assert carried(old, new) == []
    assert (type(new.count), new.count) == (np.int64, 3)
    assert isinstance(new.table, np.ndarray)
    assert (new.table == np.eye(2)).all()
    assert (new.none, new.word) == (None, "w")
    assert new.nested["a"] == [1, (2.5, None)]
    assert new.nested[3].tolist() == [1, 1]
    assert new.alias is new.shared is shared
    assert torch.equal(new.layer.weight, old.layer.weight)


class Colour(Enum):
    RED, BLUE = 1, 2


def test_parts_of_tuples_come_back_and_what_others_share_is_left_alone() -> None:
    old = Piece(pair=(Piece(count=2), torch.ones(2)), colour=Colour.BLUE)
    new = Piece(pair=(Piece(count=1), torch.zeros(2)), colour=Colour.RED)
    assert carried(old, new) == []
    assert (new.pair[0].count, new.pair[1].tolist()) == (2, [1, 1])
    assert (new.colour, Colour.RED.value) == (Colour.RED, 1)


def test_an_optimizer_over_other_parameters_comes_back_with_them() -> None:
    def made(parameters: Any) -> Piece:
        piece = Piece()
        piece.optimizer = torch.optim.Adam(parameters(piece), lr=0.5)
        return piece

    old = made(lambda piece: [{"params": [piece.layer.bias], "lr": 0.1}, {"params": [piece.layer.weight]}])
    old.layer(torch.ones(2)).sum().backward()
    old.optimizer.step()
    new = made(lambda piece: [piece.layer.weight])
    assert carried(old, new) == []
    assert [group["lr"] for group in new.optimizer.param_groups] == [0.1, 0.5]
    assert new.optimizer.param_groups[0]["params"][0] is new.layer.bias
    assert torch.equal(new.optimizer.state[new.layer.bias]["exp_avg"], old.optimizer.state[old.layer.bias]["exp_avg"])
    for piece in (old, new):
        piece.zero_grad()
        piece.layer(torch.ones(2)).sum().backward()
        piece.optimizer.step()
    assert torch.equal(new.layer.weight, old.layer.weight)


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ({"part": Piece()}, {"part": None}, ["part"]),
        ({"parts": [Piece(), Piece()]}, {"parts": [Piece()]}, ["parts"]),
        ({"part": Piece()}, {"part": torch.nn.Linear(2, 2)}, ["part"]),
        ({"step": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])}, {"step": None}, ["step"]),
        ({"part": [Piece()]}, {"part": {"a": Piece()}}, ["part"]),
    ],
)
def test_what_has_no_place_is_told(old: dict[str, Any], new: dict[str, Any], lost: list[str]) -> None:
    assert carried(Piece(**old), Piece(**new)) == lost


def test_an_optimizer_of_parameters_that_nothing_else_holds_is_told() -> None:
    old, new = (Piece(step=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])) for _ in range(2))
    assert carried(old, new) == ["step"]


# -- in sweeps ----------------------------------------------------------------------------------------------------


def test_averages_and_mergers_work_on_it(fork: Path, tmp_path: Path) -> None:
    found = execute_all(sweep(tmp_path / "s", fork, "Tilted", "Tilted+SWAD", "Tilted+DiWA", "Tilted+EoA", n_hparams=2))
    assert {(run.kind, run.method.name) for run in found.plan.runs} == {
        ("train", "Tilted"),
        ("merge", "DiWA"),
        ("merge", "EoA"),
    }
    (merged,) = runs_of(found, "DiWA")
    (record,) = records_of(found.store.folder(merged.id))
    assert record["views"]["75/in"]["accuracy"] > 0.1


def test_a_class_that_wants_a_gpu_fails_with_its_traceback(fork: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("it would not fail here")
    found = sweep(tmp_path / "s", fork, "OnCuda")
    (run,) = found.plan.runs
    assert execute(found, run) == 1
    (failure,) = found.store.folder(run.id).failures()
    assert "self.classifier.cuda()" in failure["traceback"]


def test_by_hand(fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--algorithm", "Tilted+SWAD", "--dataset", "RotatedDigits", "--test", "75", "--threads", "1"]
    brief = ["--steps", "4", "--checkpoint_freq", "2", "--device", "cpu", "--output_dir", str(tmp_path / "s")]
    assert cli.run(train.main, [*words, *brief, "--include", f"{fork}:Tilted"]) == 0
    assert "Tilted+SWAD" in capsys.readouterr().out
    again = reopen(tmp_path / "s")
    assert again.site.include == (f"{fork}:Tilted",)
    preload({**again._preloaded(), "datasets": []})
    assert cli.run(train.main, [*words, *brief, "--include", f"{fork}:Tiltd"]) == 2
    assert "did you mean 'Tilted'?" in capsys.readouterr().err


@pytest.mark.slow
def test_it_can_be_checked(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(check.main, ["--draws", "1", f"{fork}:Tilted"]) == 0
    assert "\nTilted  6 ok" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_a_launched_sweep_finds_it_in_its_own_processes(fork: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "dgbench.sweep", "launch", "--algorithms", "Tilted+SWAD", "ERM", "OnCuda"),
        *("--include", f"{fork}:Tilted", f"{fork}:OnCuda", "--datasets", "RotatedDigits", "--test_envs", "75"),
        *("--single_test_envs", "--n_hparams", "2", "--n_trials", "1", "--steps", "6", "--checkpoint_freq", "3"),
        *("--device", "cpu", "--jobs", "2", "--retries", "0", "--output_dir", str(tmp_path / "s")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stderr
    found = reopen(tmp_path / "s")
    states = {run.method.name: found.states(0)[run.id].value for run in found.plan.runs}
    assert states == {"Tilted": "done", "ERM": "done", "OnCuda": "failed"}, done.stdout + done.stderr
    shown = subprocess.run(
        [sys.executable, "-m", "dgbench.collect", "--input_dir", str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Tilted+SWAD" in shown
