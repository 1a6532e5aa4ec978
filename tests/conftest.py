"""What several tests need: the catalogue, a made-up data set's facts, and plans over it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_rows
from dgbench.core.protocol import LeaveOneDomainOut, Protocol
from dgbench.core.setting import Setting, setting
from dgbench.data.facts import DatasetFacts
from dgbench.plan.plan import Plan
from dgbench.plan.planner import plan
from dgbench.plan.request import Overrides, Request
from tests.cases.make_cases import GROUPS
from tests.support.preloaded import Preloaded

MakeFacts = Callable[..., DatasetFacts]
MakePlan = Callable[..., Plan]
Cases = Callable[[str], Path]


@pytest.fixture(scope="session", autouse=True)
def catalogue() -> Catalogue:
    """Read before any test gives a class another card in this process: the index of cards would remember that one."""
    found = Catalogue()
    assert found.entries
    return found


@pytest.fixture(scope="session")
def make_facts() -> MakeFacts:
    """Facts of a data set of large images with that many domains of 100 examples."""

    def make(domains: int | Sequence[str] = 4, name: str = "Toy", **changes: Any) -> DatasetFacts:
        names = tuple("abcdefghijkl"[:domains]) if isinstance(domains, int) else tuple(domains)
        values: dict[str, Any] = {
            "counts": (100,) * len(names),
            "num_classes": 5,
            "input_shape": (3, 224, 224),
            "traits": (),
            "steps": 11,
            "checkpoint_freq": 5,
            "fingerprint": "f",
        }
        return DatasetFacts(name=name, domains=names, **{**values, **changes})

    return make


@pytest.fixture(scope="session")
def make_plan(catalogue: Catalogue, make_facts: MakeFacts) -> MakePlan:
    """The plan of one request for these rows on a data set of that many domains."""

    def make(
        *rows: str,
        domains: int = 4,
        protocol: Protocol | None = None,
        hparams: int = 2,
        trials: int = 1,
        how: Setting | None = None,
        overrides: Overrides | None = None,
        **facts: Any,
    ) -> Plan:
        request = Request(
            parse_rows(rows, catalogue),
            ("Toy",),
            protocol or LeaveOneDomainOut(),
            tuple(range(hparams)),
            tuple(range(trials)),
        )
        found, changes = {"Toy": make_facts(domains, **facts)}, {"Toy": overrides or Overrides()}
        return plan([request], found, {"Toy": how or setting()}, catalogue, changes)

    return make


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Group of cases -> its folder, made at the first call; tests don't write into it."""

    @cache
    def made(group: str) -> Path:
        place = tmp_path_factory.mktemp("cases") / group
        GROUPS[group](place)
        return place

    return made


@pytest.fixture(scope="session")
def preloaded_python(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """The command of an interpreter that has torch and dgbench imported when it begins."""
    if sys.platform != "linux":
        return sys.executable
    folder = tmp_path_factory.getbasetemp()
    server = Preloaded(str(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder))
    request.config.add_cleanup(server.close)  # not at the end of a test, whose time is limited
    return server.command


@pytest.fixture(scope="module")
def preloaded(preloaded_python: str) -> Iterator[None]:
    """Have this module's tests start processes, by `sys.executable`, that need not import torch."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", preloaded_python)
        yield
