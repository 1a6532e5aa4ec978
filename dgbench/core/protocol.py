"""Protocols: from the names of domains to folds. Pure; needs names, not data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar
from typing import Protocol as TypingProtocol

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name

IN, OUT = "in", "out"
NEW = "new"
"""Part of a domain that is kept for the test: identities unseen in training, where all domains show the same ones."""
TRAIN, ID_VAL, VAL, TEST = "train", "id_val", "val", "test"
"""Parts of a data set with splits of its own: unseen examples of the training domains are `id_val`."""
VALIDATION = {"ood": VAL, "id": ID_VAL}
"""What such data may be validated on -> the part: further domains, or the training domains."""


@dataclass(frozen=True, order=True)
class View:
    """One part of one domain: what is trained on or measured. Written `photo/in`."""

    domain: str
    part: str

    def __str__(self) -> str:
        return f"{self.domain}/{self.part}"

    @staticmethod
    def parse(text: str) -> View:
        """Read a view from its text; the part is what follows the last slash."""
        domain, _, part = text.rpartition("/")
        return View(domain, part)


@dataclass(frozen=True)
class Fold:
    """Which domains are held out, which views train, and which views each kind of selection may read."""

    held_out: tuple[str, ...]
    train: tuple[View, ...]
    source_val: tuple[View, ...]
    """Unseen parts of the training domains: what training-domain validation reads."""
    test: tuple[View, ...]
    """What is reported, one score a domain."""
    oracle: tuple[View, ...] = ()
    """Labelled data of the test domains, for the oracle selector alone."""
    target_val: tuple[View, ...] = ()
    """Further domains, kept for validation: they neither train nor are reported."""

    @property
    def validation(self) -> tuple[View, ...]:
        """List the views that training may watch: unseen parts of its domains, else those of further ones."""
        return self.source_val or self.target_val

    @property
    def training_domains(self) -> tuple[str, ...]:
        """List the training domains in the order in which an algorithm sees them."""
        return tuple(dict.fromkeys(view.domain for view in self.train))

    @property
    def evaluated(self) -> tuple[View, ...]:
        """List every view that some selector may read, each once."""
        return tuple(dict.fromkeys((*self.source_val, *self.target_val, *self.test, *self.oracle)))


class Protocol(TypingProtocol):
    """Turns the names of a data set's domains into folds; `name` is what records and tables call it."""

    name: ClassVar[str]

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield folds in a fixed order.

        Args:
            domains: Their names in the order of the data set.
            parts: Those of a data set with splits of its own; empty for all others.
            tested: The only domains that may be held out; empty: any.

        Raises:
            UserError: The domains don't suffice.
        """
        ...


def _fold(train: Sequence[str], test: Sequence[str], val: Sequence[str] = ()) -> Fold:
    """Make the fold of domains that train, are held out for the test, and validate alone."""
    return Fold(
        held_out=tuple(test),
        train=_views(train, IN),
        source_val=_views(train, OUT),
        test=_views(test, IN),
        oracle=_views(test, OUT),
        target_val=_views(val, IN, OUT),
    )


def _views(domains: Sequence[str], *parts: str) -> tuple[View, ...]:
    return tuple(View(domain, part) for domain in domains for part in parts)


@dataclass(frozen=True)
class LeaveOneDomainOut:
    """Each domain held out in turn; with `pairs`, also each two at once, which leave-one-domain-out selection reads.

    `only` restricts which domains are tested: of the pairs, those that hold one of them.
    """

    pairs: bool = True
    only: tuple[str, ...] = ()
    name: ClassVar[str] = "leave-one-domain-out"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield singles in the order of the domains, then pairs in DomainBed's order."""
        _check(self.name, domains, parts, self.only, tested)
        chosen = _chosen(self.only or tested, domains)
        held_out: list[tuple[str, ...]] = [(domain,) for domain in chosen]
        if self.pairs and len(domains) > 2:
            held_out += [pair for pair in combinations(domains, 2) if set(pair) & set(chosen)]
        for test in held_out:
            yield _fold([domain for domain in domains if domain not in test], test)


@dataclass(frozen=True)
class SingleSource:
    """Each domain trains alone; all the others that may be held out are tested. `only` restricts which train."""

    only: tuple[str, ...] = ()
    name: ClassVar[str] = "single-source"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield a fold for each training domain, in the order of the domains."""
        _check(self.name, domains, parts)
        sources = [domain for domain in _chosen(self.only, domains) if domain not in tested]
        if not sources:
            raise UserError(f"{', '.join(tested)} is there to be tested, not to train")
        for source in sources:
            yield _fold([source], tested or [domain for domain in domains if domain != source])


@dataclass(frozen=True)
class AllDomains:
    """Every domain trains, the tested one too: what could be had if it were known. A reference, no generalization.

    As leave-one-domain-out, but for the training views: the tested domain is reported on what it did not train on, and
    selection reads the other domains. `only` restricts which domains are tested.
    """

    only: tuple[str, ...] = ()
    name: ClassVar[str] = "all-domains (the tested one trains too)"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield a fold for each tested domain, in the order of the domains."""
        _check(self.name, domains, parts, self.only, tested)
        for domain in _chosen(self.only or tested, domains):
            yield Fold(
                held_out=(domain,),
                train=_views(domains, IN),
                source_val=_views([other for other in domains if other != domain], OUT),
                test=_views([domain], OUT),
            )


@dataclass(frozen=True)
class Explicit:
    """One fold, spelled out: domains that train, that validate, and that are tested.

    Without `train`, all the others train.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    val: tuple[str, ...] = ()
    name: ClassVar[str] = "explicit"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield the one fold."""
        if not self.test:
            raise UserError("name at least one domain that is tested")
        _check(self.name, domains, parts, self.test, tested)
        test = _chosen(self.test, domains)
        val = _chosen(self.val, domains) if self.val else []
        others = [domain for domain in domains if domain not in (*test, *val)]
        train = _chosen(self.train, domains) if self.train else others
        if not train:
            raise UserError("no domain is left to train on")
        names = [*train, *val, *test]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"a domain trains, validates or is tested, not two of them: {', '.join(twice)}")
        yield _fold(train, test, val)


@dataclass(frozen=True)
class FixedSplit:
    """The data set's own splits, each way of splitting it a fold. `only` restricts which of several are used.

    Unlike elsewhere, what trains is a pool of many domains. Such data have two validation sets, of which all that is
    chosen reads the same one: selection, averages, members, teachers, adapted models. `validation` says which: `ood`,
    further domains, as these data sets' own tables are made; or `id`, unseen examples of the training domains.
    """

    only: tuple[str, ...] = ()
    validation: str = "ood"
    name: ClassVar[str] = "fixed-split"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield a fold for each way of splitting."""
        if not parts:
            raise UserError("the data set has no splits of its own")
        if VALIDATION[self.validation] not in parts:
            raise UserError(f"--validation {self.validation}: the data set has no such part ({', '.join(parts)})")
        ood = self.validation == "ood"
        for domain in _chosen(self.only, domains):
            views = {part: (View(domain, part),) for part in parts}
            yield Fold(
                held_out=(domain,),
                train=views[TRAIN],
                source_val=() if ood else views[ID_VAL],
                target_val=views[VAL] if ood else (),
                test=views[TEST],
            )


def _check(
    name: str, domains: Sequence[str], parts: Sequence[str], asked: Sequence[str] = (), tested: Sequence[str] = ()
) -> None:
    """Refuse data that can't be divided into domains, and domains that were made to be trained on but are tested."""
    if parts:
        raise UserError(f"the data set has splits of its own ({', '.join(parts)}), so {name} can't be had of it")
    if len(domains) < 2:
        raise UserError(f"{name} needs at least 2 domains, there is {len(domains)}")
    if tested and (wrong := [domain for domain in _chosen(asked, domains) if domain not in tested] if asked else []):
        raise UserError(
            f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} made to be trained on; "
            f"only {', '.join(tested)} can be tested"
        )


def _chosen(names: Sequence[str], domains: Sequence[str]) -> list[str]:
    """Return the named domains in the order of the data set, all of them if none is named; a number counts from 0.

    Where domains are called by numbers that are other domains' places, a number is a name and nothing else.
    """
    misleading = any(place != domain and domain in map(str, range(len(domains))) for place, domain in _places(domains))
    numbers = {} if misleading else dict(_places(domains))
    chosen = []
    for name in names:
        if name in domains:
            chosen.append(name)
        elif name in numbers:
            chosen.append(numbers[name])
        elif name.isdecimal():
            why = "domains are called by numbers here" if misleading else f"numbers go from 0 to {len(domains) - 1}"
            raise UserError(f"no domain is called {name}, and {why}: there are {', '.join(domains)}")
        else:
            raise UserError(unknown_name("domain", name, domains))
    return [domain for domain in domains if domain in chosen] if names else list(domains)


def _places(domains: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (place, domain), the place as it is typed."""
    yield from ((str(place), domain) for place, domain in enumerate(domains))
