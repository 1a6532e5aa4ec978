"""Run folders as DomainBed writes them: names of files, arguments and accuracies, and how to write one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgbench.core.plain import fields_of
from dgbench.core.seeding import seed_hash
from dgbench.store.files import write_atomic

RECORDS, DONE = "results.jsonl", "done"
"""Names of DomainBed's files in a run's folder."""

ALGORITHMS = (
    "ERM", "ERMPlusPlus", "Fish", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL",
    "SagNet", "ARM", "VREx", "RSC", "SD", "ANDMask", "SANDMask", "IGA", "SelfReg", "Fishr", "TRM", "IB_ERM",
    "IB_IRM", "CAD", "CondCAD", "Transfer", "CausIRL_CORAL", "CausIRL_MMD", "EQRM", "RDM", "ADRMX", "URM",
)  # fmt: skip
"""DomainBed's algorithms, in the order of its tables."""

ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    name: tuple(domains.split())
    for name, domains in {
        "Debug28": "0 1 2",
        "Debug224": "0 1 2",
        "ColoredMNIST": "+90% +80% -90%",
        "RotatedMNIST": "0 15 30 45 60 75",
        "VLCS": "C L S V",
        "PACS": "A C P S",
        "OfficeHome": "A C P R",
        "TerraIncognita": "L100 L38 L43 L46",
        "DomainNet": "clip info paint quick real sketch",
        "SVIRO": "aclass escape hilux i3 lexus tesla tiguan tucson x5 zoe",
        "WILDSCamelyon": "hospital_0 hospital_1 hospital_2 hospital_3 hospital_4",
        "WILDSFMoW": "region_0 region_1 region_2 region_3 region_4 region_5",
        "SpawriousO2O_easy": "Test SC_group_1 SC_group_2",
        "SpawriousO2O_medium": "Test SC_group_1 SC_group_2",
        "SpawriousO2O_hard": "Test SC_group_1 SC_group_2",
        "SpawriousM2M_easy": "Test SC_group_1 SC_group_2",
        "SpawriousM2M_medium": "Test SC_group_1 SC_group_2",
        "SpawriousM2M_hard": "Test SC_group_1 SC_group_2",
    }.items()
}
"""DomainBed's data sets, in the order of its tables -> names of the domains there."""


@dataclass(frozen=True)
class RunArgs:
    """The arguments of DomainBed's `train` that place a run in tables."""

    dataset: str
    algorithm: str
    test_envs: tuple[int, ...]
    """Numbers of the test domains, ascending."""
    hparams_seed: int
    trial_seed: int

    def to_json(self, steps: int, holdout_fraction: float) -> dict[str, Any]:
        """Return all arguments of DomainBed's `train`, as its sweep sets them; the data directory is empty.

        Args:
            steps: Number of training steps.
            holdout_fraction: Share of each domain that is held out for validation.
        """
        test_envs = list(self.test_envs)
        return {
            **fields_of(self),
            "test_envs": test_envs,
            "holdout_fraction": holdout_fraction,
            "data_dir": "",
            "task": "domain_generalization",
            "seed": seed_hash(self.dataset, self.algorithm, test_envs, self.hparams_seed, self.trial_seed),
            "steps": steps,
        }


def folder_name(args: Mapping[str, Any]) -> str:
    """Return the name that DomainBed's sweep gives the folder of a run with these arguments."""
    return hashlib.md5(json.dumps(args, sort_keys=True).encode()).hexdigest()


def write_run(
    root: Path, args: Mapping[str, Any], hparams: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
) -> Path:
    """Write a finished run as DomainBed does, its `done` last.

    Args:
        root: The sweep folder, in which the run's folder is created.
        args: All arguments of DomainBed's `train`; added to each record.
        hparams: The run's hyperparameters; added to each record.
        records: `step`, accuracies and other values of each evaluation.

    Returns:
        The run's folder.
    """
    folder = root / folder_name(args)
    folder.mkdir(parents=True)
    every = {"args": {**args, "output_dir": str(folder)}, "hparams": hparams}
    lines = (json.dumps({**every, **record}, sort_keys=True) + "\n" for record in records)
    # `done` comes last: it says that the records are whole.
    write_atomic(folder / RECORDS, "".join(lines).encode())
    write_atomic(folder / DONE, b"done")
    return folder


def accuracy_key(domain: int, part: str) -> str:
    """Return the key in a record of the accuracy on a part, `in` or `out`, of the domain with that number."""
    return f"env{domain}_{part}_acc"
