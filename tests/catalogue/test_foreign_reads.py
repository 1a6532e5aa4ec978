"""Hyperparameters that a class reads whatever happens, and none that it may not read."""

from __future__ import annotations

from typing import Any

from dgbench.catalogue.foreign_reads import surely_read


class Tower:
    def __init__(self, size: int, hparams: dict[str, Any]) -> None:
        self.depth = hparams["depth"] if size > 1 else 2
        self.width = hparams["width"]


def regularizer(hparams: dict[str, Any]) -> float:
    return float(hparams["decay"])


class Base:
    def __init__(self, hparams: dict[str, Any]) -> None:
        self.hparams = hparams
        self.tower = Tower(2, hparams)
        self.hparams["made"] = 1

    def update(self) -> float:
        return float(self.hparams["of_base"])

    def predict(self) -> float:
        if self.hparams["switch"]:
            return float(self.hparams["when_on"])
        return float(self.hparams["when_off"])

    def helper(self) -> float:
        return float(self.hparams["of_the_overridden_helper"])


class Mine(Base):
    def __init__(self, hparams: dict[str, Any]) -> None:
        super().__init__(hparams)
        try:
            self.maybe = hparams["tried"]
        except KeyError:
            self.maybe = None
        self.other = hparams.get("with_default", 1)

    def update(self) -> float:
        for _ in range(self.hparams["rounds"]):
            self.helper()
        later = lambda: self.hparams["later"]  # noqa: E731
        both = self.hparams["first"] and self.hparams["second"]
        return regularizer(self.hparams) + bool(both) + self.hparams["made"] + bool(later)

    def helper(self) -> float:
        return float(self.hparams["of_helper"])


def test_reads_are_found_through_methods_bases_and_what_hparams_are_handed_to() -> None:
    assert surely_read(Mine) == ("width", "rounds", "of_helper", "first", "decay", "switch")
    assert surely_read(Base) == ("width", "of_base", "switch")


def test_a_class_without_source_reads_nothing_for_certain() -> None:
    names: dict[str, Any] = {}
    exec("class Odd:\n    def update(self):\n        return self.hparams['x']\n", names)
    assert surely_read(names["Odd"]) == ()
