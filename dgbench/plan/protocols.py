"""Choose the protocol of a request by the keys of flags and sweep files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.protocol import (
    VALIDATION,
    AllDomains,
    Explicit,
    FixedSplit,
    LeaveOneDomainOut,
    Protocol,
    SingleSource,
)
from dgbench.core.wording import unknown_name
from dgbench.plan.sweep_file import FOLD, PROTOCOL_KEYS


def protocol_of(asked: Mapping[str, Any], cards: Mapping[str, DatasetCard]) -> Protocol:
    """Return the protocol that the keys choose, or the fixed split if the data sets have one.

    Args:
        asked: Values by `sweep_file.KEYS`.
        cards: Data set -> its card.

    Raises:
        UserError: The data sets need different protocols, or keys contradict each other.
    """
    said = [key for key in PROTOCOL_KEYS if asked.get(key)]
    only, train, val, test = (tuple(map(str, asked.get(key, ()))) for key in ("test_envs", *FOLD))
    own = [name for name, card in cards.items() if card.parts]
    if others := [name for name in cards if name not in own] if own else []:
        raise UserError(
            f"a sweep has one protocol: {', '.join(own)} with fixed splits and {', '.join(others)} without need two; "
            "launch two sweeps, in two folders"
        )
    if own and said:
        wrong = ", ".join(f"--{key}" for key in said)
        raise UserError(f"{', '.join(own)} with fixed splits leaves no choice of protocol: leave out {wrong}")
    if own:
        validation = asked.get("validation", FixedSplit.validation)
        if validation not in VALIDATION:
            raise UserError(unknown_name("--validation", validation, VALIDATION))
        return FixedSplit(only, validation)
    if "validation" in asked:
        raise UserError(f"--validation is for data with fixed splits, which {', '.join(cards)} lacks")
    if train or val or test:
        if only or not set(said) <= set(FOLD):
            raise UserError(
                "--train_domains, --val_domains and --test_domains give the whole fold: leave out other protocol flags"
            )
        return Explicit(train, test, val)
    if "all_domains" in said:
        if "single_source" in said:
            raise UserError("--all_domains trains on every domain, --single_source on one: leave out one of them")
        return AllDomains(only)
    if "single_source" in said:
        if only:
            raise UserError("--single_source tests all domains but the one that trains: leave out --test_envs")
        return SingleSource()
    return LeaveOneDomainOut(pairs="single_test_envs" not in said and not asked.get("quick"), only=only)
