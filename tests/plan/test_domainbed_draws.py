"""Hyperparameters of DomainBed's 34 algorithms, defaults and draws, against its rule written down a second time.

Every name is drawn by `RandomState(seed_hash(seed_hash(hparams_seed, trial), name))`; hyperparameter seed 0 is the
default. The vectors of all seeds are recorded by their digest, so that rule and declarations can't drift together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.random import RandomState

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.seeding import seed_hash
from dgbench.core.space import resolve

Rule = tuple[Any, Callable[[RandomState], Any]]
"""Default, and how a value is drawn."""

NAMES = [
    "ERM",
    "ERMPlusPlus",
    "Fish",
    "IRM",
    "GroupDRO",
    "Mixup",
    "MLDG",
    "CORAL",
    "MMD",
    "DANN",
    "CDANN",
    "MTL",
    "SagNet",
    "ARM",
    "VREx",
    "RSC",
    "SD",
    "ANDMask",
    "SANDMask",
    "IGA",
    "SelfReg",
    "Fishr",
    "TRM",
    "IB_ERM",
    "IB_IRM",
    "CAD",
    "CondCAD",
    "Transfer",
    "CausIRL_CORAL",
    "CausIRL_MMD",
    "EQRM",
    "RDM",
    "ADRMX",
    "URM",
]
DATASETS = ("RotatedMNIST", "PACS", "DomainNet", "TerraIncognita", "OfficeHome")

DIGESTS = {
    "ERM": "b26b4f95c8be483b",
    "ERMPlusPlus": "3bf88e02de2720d3",
    "Fish": "d34a808fec36c73c",
    "IRM": "2d5ba6233c2492ef",
    "GroupDRO": "ae65f028693b5f32",
    "Mixup": "fc33a76afdd954d2",
    "MLDG": "9ff657a964feced7",
    "CORAL": "81194e123d5203ad",
    "MMD": "81194e123d5203ad",
    "DANN": "579d5d2608f78204",
    "CDANN": "579d5d2608f78204",
    "MTL": "4583c12c646b2fe8",
    "SagNet": "3786b852841cefc4",
    "ARM": "1b0910b814b4245a",
    "VREx": "424de2aae43570ff",
    "RSC": "f1a2cac621d89919",
    "SD": "45e8ae0a223e10c0",
    "ANDMask": "1260649e0d78e5b4",
    "SANDMask": "381e172078a60f0e",
    "IGA": "83fc1903b5027ac3",
    "SelfReg": "b26b4f95c8be483b",
    "Fishr": "0f915f2e9f0b89fb",
    "TRM": "0c75d7b7de1214b5",
    "IB_ERM": "2a987459195b1b6a",
    "IB_IRM": "cb64c3f5af9ba626",
    "CAD": "2b38593049f3199e",
    "CondCAD": "2b38593049f3199e",
    "Transfer": "70ec5e58e2a95eac",
    "CausIRL_CORAL": "81194e123d5203ad",
    "CausIRL_MMD": "81194e123d5203ad",
    "EQRM": "2960c96f1824b52d",
    "RDM": "5c2515b260db1a75",
    "ADRMX": "f6f9677eee690103",
    "URM": "0165bfe647c6bbcf",
}
"""Recorded of what the rule gives, over all data sets, seeds and names."""

OTHER_DEFAULTS = {("SANDMask", "tau"), ("MLDG", "n_meta_test")}
"""Defaults with which DomainBed's method does not train."""


def power(base: float, low: float, high: float) -> Callable[[RandomState], float]:
    return lambda r: base ** r.uniform(low, high)


def uniform(low: float, high: float) -> Callable[[RandomState], float]:
    return lambda r: r.uniform(low, high)


def whole(draw: Callable[[RandomState], float]) -> Callable[[RandomState], int]:
    return lambda r: int(draw(r))


def choice(*options: Any) -> Callable[[RandomState], Any]:
    return lambda r: r.choice(list(options)).item()


def always(value: Any) -> Rule:
    return value, lambda r: value


def of_network(small: bool) -> dict[str, Rule]:
    """DANN's discriminator and optimizers."""
    lr = (1e-3, power(10, -4.5, -2.5)) if small else (5e-5, power(10, -5, -3.5))
    return {
        "lambda": (1.0, power(10, -2, 2)),
        "weight_decay_d": (0.0, power(10, -6, -2)),
        "d_steps_per_g_step": (1, whole(power(2, 0, 3))),
        "grad_penalty": (0.0, power(10, -2, 1)),
        "beta1": (0.5, choice(0.0, 0.5)),
        "mlp_width": (256, whole(power(2, 6, 10))),
        "mlp_depth": (3, choice(3, 4, 5)),
        "mlp_dropout": (0.0, choice(0.0, 0.1, 0.5)),
        "lr_g": lr,
        "lr_d": lr,
        "weight_decay_g": always(0.0) if small else (0.0, power(10, -6, -2)),
    }


def of_rdm(dataset: str) -> dict[str, Rule]:
    net, terra = dataset == "DomainNet", dataset == "TerraIncognita"
    if net:
        weight: Rule = (0.5, uniform(0.1, 1.0))
    else:
        weight = (5.0, uniform(1.0, 10.0) if dataset in ("PACS", "TerraIncognita") else uniform(0.1, 10.0))
    return {
        "rdm_lambda": weight,
        "rdm_penalty_anneal_iters": (2400, whole(uniform(1500, 3000))) if net else (1500, whole(uniform(800, 2700))),
        "variance_weight": always(0.0) if net or terra or dataset == "OfficeHome" else (0.004, uniform(0.001, 0.007)),
        "rdm_lr": (1.5e-5, uniform(8e-6, 2e-5)),
    }


def of_algorithm(name: str, dataset: str, small: bool) -> dict[str, Rule]:
    irm = {
        "irm_lambda": (1e2, power(10, -1, 5)),
        "irm_penalty_anneal_iters": (500, whole(power(10, 0, 4))),
    }
    ib = {"ib_lambda": (1e2, power(10, -1, 5)), "ib_penalty_anneal_iters": (500, whole(power(10, 0, 4)))}
    mmd: dict[str, Rule] = {"mmd_gamma": (1.0, power(10, -1, 1))}
    cad: dict[str, Rule] = {
        "lmbda": (1e-1, choice(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)),
        "temperature": (0.1, choice(0.05, 0.1)),
        "is_normalized": always(False),
        "is_project": always(False),
        "is_flipped": always(True),
    }
    urm_lr = (1e-3, power(10, -5.5, -3.5)) if small else (5e-5, power(10, -6, -4.5))
    table: dict[str, dict[str, Rule]] = {
        "ERMPlusPlus": {"linear_lr": (5e-5, power(10, -5, -3.5)), "linear_steps": always(500)},
        "Fish": {"meta_lr": (0.5, choice(0.05, 0.1, 0.5))},
        "IRM": irm,
        "GroupDRO": {"groupdro_eta": (1e-2, power(10, -3, -1))},
        "Mixup": {"mixup_alpha": (0.2, power(10, -1, 1))},
        "MLDG": {"mldg_beta": (1.0, power(10, -1, 1)), "n_meta_test": (2, choice(1, 2))},
        "CORAL": mmd,
        "MMD": mmd,
        "CausIRL_CORAL": mmd,
        "CausIRL_MMD": mmd,
        "DANN": of_network(small),
        "CDANN": of_network(small),
        "MTL": {"mtl_ema": (0.99, choice(0.5, 0.9, 0.99, 1.0))},
        "SagNet": {"sag_w_adv": (0.1, power(10, -2, 1))},
        "VREx": {
            "vrex_lambda": (1e1, power(10, -1, 5)),
            "vrex_penalty_anneal_iters": (500, whole(power(10, 0, 4))),
        },
        "RSC": {"rsc_f_drop_factor": (1 / 3, uniform(0, 0.5)), "rsc_b_drop_factor": (1 / 3, uniform(0, 0.5))},
        "SD": {"sd_reg": (0.1, power(10, -5, -1))},
        "ANDMask": {"tau": (1.0, uniform(0.5, 1.0))},
        "SANDMask": {"tau": (1.0, uniform(0.0, 1.0)), "k": (1e1, power(10, -3, 5))},
        "IGA": {"penalty": (1000.0, power(10, 1, 5))},
        "Fishr": {
            "lambda": (1000.0, power(10, 1, 4)),
            "penalty_anneal_iters": (1500, whole(uniform(0, 5000))),
            "ema": (0.95, uniform(0.90, 0.99)),
        },
        "TRM": {
            "cos_lambda": (1e-4, power(10, -5, 0)),
            "iters": (200, whole(power(10, 0, 4))),
            "groupdro_eta": (1e-2, power(10, -3, -1)),
        },
        "IB_ERM": ib,
        "IB_IRM": irm | ib,
        "CAD": cad,
        "CondCAD": cad,
        "Transfer": {
            "t_lambda": (1.0, power(10, -2, 1)),
            "delta": (2.0, uniform(0.1, 3.0)),
            "d_steps_per_g": (10, choice(1, 2, 5)),
            "weight_decay_d": (0.0, power(10, -6, -2)),
            "gda": (False, lambda r: True),
            "beta1": (0.5, choice(0.0, 0.5)),
            "lr_d": (1e-3, power(10, -4.5, -2.5)),
        },
        "EQRM": {
            "eqrm_quantile": (0.75, uniform(0.5, 0.99)),
            "eqrm_burnin_iters": (2500, whole(power(10, 2.5, 3.5))),
            "eqrm_lr": (1e-6, power(10, -7, -5)),
        },
        "RDM": of_rdm(dataset),
        "ADRMX": {
            "cnt_lambda": always(1.0),
            "dclf_lambda": always(1.0),
            "rmxd_lambda": always(1.0),
            "disc_lambda": always(0.75),
            "d_steps_per_g_step": always(2),
            "beta1": always(0.5),
            "mlp_width": always(256),
            "mlp_depth": (9, choice(8, 9, 10)),
            "mlp_dropout": always(0.0),
        },
        "URM": {
            "urm_adv_lambda": (0.1, uniform(0, 0.2)),
            "urm_discriminator_label_smoothing": always(0.0),
            "urm_discriminator_hidden_layers": (1, choice(1, 2, 3)),
            "urm_generator_output": ("tanh", choice("tanh", "relu")),
            "urm_discriminator_lr": urm_lr,
        },
    }
    return table.get(name, {})


def of_all(name: str, dataset: str, small: bool) -> dict[str, Rule]:
    """What every run carries, after DomainBed's order of cases."""
    if name == "ADRMX":
        lr: Rule = (3e-3, choice(5e-4, 1e-3, 2e-3, 3e-3)) if small else (3e-5, choice(2e-5, 3e-5, 4e-5, 5e-5))
    else:
        lr = (1e-3, power(10, -4.5, -2.5)) if small else (5e-5, power(10, -5, -3.5))
    if small:
        batch: Rule = (64, whole(power(2, 3, 9)))
    elif name == "ARM":
        batch = always(8)
    elif name == "RDM":
        few = dataset in ("DomainNet", "TerraIncognita")
        batch = (40, whole(uniform(30, 60))) if few else (88, whole(uniform(70, 100)))
    else:
        batch = (32, whole(power(2, 3, 5 if dataset == "DomainNet" else 5.5)))
    return {
        "lr": lr,
        "weight_decay": always(0.0) if small else (0.0, power(10, -6, -2)),
        "batch_size": batch,
        "resnet_dropout": (0.0, choice(0.0, 0.1, 0.5)),
    }


def vectors(name: str, dataset: str) -> Iterator[dict[str, Any]]:
    """By the rule: the values of hyperparameter seeds 0 to 19, trial 0, then of seeds 1 and 2 in trial 1."""
    small = dataset == "RotatedMNIST"
    rules = of_all(name, dataset, small) | of_algorithm(name, dataset, small)
    for seed, trial in ((s, t) for t, seeds in ((0, range(20)), (1, (1, 2))) for s in seeds):
        stream = seed_hash(seed, trial)
        yield {
            key: default if seed == 0 else draw(RandomState(seed_hash(stream, key)))
            for key, (default, draw) in rules.items()
        }


def test_the_rule_is_the_one_recorded() -> None:
    found = {
        name: hashlib.sha256(
            json.dumps([list(vectors(name, dataset)) for dataset in DATASETS], sort_keys=True).encode()
        ).hexdigest()[:16]
        for name in NAMES
    }
    assert found == DIGESTS


@pytest.mark.parametrize("name", NAMES)
def test_defaults_and_draws_are_domainbeds(name: str, catalogue: Catalogue) -> None:
    space = catalogue.get("algorithm", name).space
    for dataset in DATASETS:
        traits = {"RotatedMNIST": ("small_images",), "DomainNet": ("many_classes",)}.get(dataset, ())
        pairs = ((s, t) for t, seeds in ((0, range(20)), (1, (1, 2))) for s in seeds)
        resolved = [resolve(space, traits=(*traits, dataset), hparams_seed=seed, trial=trial) for seed, trial in pairs]
        expected = list(vectors(name, dataset))
        names = {key: ours(key, name) for key in expected[0]}
        for number, (found, wanted) in enumerate(zip(resolved, expected, strict=True)):
            for key, value in wanted.items():
                if number == 0 and (name, key) in OTHER_DEFAULTS:
                    continue
                mine = found[names[key]]
                assert mine == value, f"{key} on {dataset}, number {number}"
                assert not isinstance(mine, np.generic)
        for extra in resolved[0].keys() - set(names.values()):
            assert len({values[extra] for values in resolved}) == 1, f"{extra} is ours, so it must not be drawn"


def ours(key: str, name: str) -> str:
    """DomainBed's name in a field's spelling: `lambda` is a word of Python."""
    return f"{name.lower()}_lambda".replace("cdann", "dann") if key == "lambda" else key
