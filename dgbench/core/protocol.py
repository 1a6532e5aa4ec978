"""Turn the names of a data set's domains into folds: which domains train, which are held out, which views select.

A domain is divided into parts: `in` (the larger) and `out` in each trial, or the parts that the data set was published
with. One part of one domain is a `View`. A `Fold` says for one experiment which views train, which are reported, and
which each kind of model selection may read; a `Protocol` lists the folds of a data set. Everything later is derived
from the fold: `execute` trains on `Fold.train` and evaluates `Fold.evaluated`, and `report.select` scores candidates on
the fields that its selector is allowed.

Protocols need names and no data, so planning can list and count folds before any file is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import ClassVar
from typing import Protocol as TypingProtocol

from dgbench.core.errors import UserError
from dgbench.core.plain import Canonical
from dgbench.core.wording import unknown_name

IN, OUT = "in", "out"
"""Parts of a domain whose split is drawn anew in each trial: the training share and the rest (`holdout_fraction`)."""
NEW = "new"
"""Part of a domain that is kept for the test alone, where all domains show the same identities: identities that no
training view holds.
"""
TRAIN, ID_VAL, VAL, TEST = "train", "id_val", "val", "test"
"""Parts of a data set that was published with a fixed split. `id_val` holds unseen examples of the training domains,
`val` and `test` those of further domains.
"""
VALIDATION = {"ood": VAL, "id": ID_VAL}
"""Value of `--validation` -> the part that is validated on: further domains, or the training domains."""


@dataclass(frozen=True, order=True)
class View:
    """One part of one domain: the unit of training and of measuring. Written `photo/in`."""

    domain: str
    """Name of the domain."""
    part: str
    """Name of the part: `in`, `out`, `new`, or a published one."""

    def __str__(self) -> str:
        return f"{self.domain}/{self.part}"

    @staticmethod
    def parse(text: str) -> View:
        """Read a view from its text. The part is what follows the last slash, so domain names may hold slashes."""
        domain, _, part = text.rpartition("/")
        return View(domain, part)


@dataclass(frozen=True)
class Fold(Canonical):
    """The roles of all views in one experiment: held out, training, and readable by each kind of selection.

    Made by a `Protocol` and part of a `Run`. Training never sees a view of a held-out domain, except by design in
    `AllDomains`.
    """

    held_out: tuple[str, ...]
    """Domains that are tested; for a fixed split, the name of the way of splitting."""
    train: tuple[View, ...]
    """Views that train. Their order is the order of an algorithm's minibatches."""
    source_val: tuple[View, ...]
    """Unseen parts of the training domains, which training-domain validation reads."""
    test: tuple[View, ...]
    """Views whose score is reported, one for each domain."""
    oracle: tuple[View, ...] = ()
    """Labeled data of the held-out domains that only the oracle selector reads; empty where the protocol has none."""
    target_val: tuple[View, ...] = ()
    """Domains kept for validation, which neither train nor are reported; only `Explicit` and `FixedSplit` have them."""

    def __hash__(self) -> int:
        # Plans look folds up many thousand times. The folds of one protocol differ in what they hold out, and hashing
        # all views takes twenty times as long as these names.
        return hash(self.held_out)

    @property
    def validation(self) -> tuple[View, ...]:
        """Views that may be watched during training: unseen parts of the training domains, else validation domains."""
        return self.source_val or self.target_val

    @property
    def training_domains(self) -> tuple[str, ...]:
        """Training domains, each once, in the order in which an algorithm sees them."""
        return tuple(dict.fromkeys(view.domain for view in self.train))

    @property
    def evaluated(self) -> tuple[View, ...]:
        """All views that some selector may read, each once."""
        return tuple(dict.fromkeys((*self.source_val, *self.target_val, *self.test, *self.oracle)))


class Protocol(TypingProtocol):
    """Interface of all protocols: turns the names of a data set's domains into folds.

    Implementations are frozen dataclasses whose fields are the user's options.
    """

    name: ClassVar[str]
    """Name in records and under tables."""

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield the folds of a data set in a fixed order.

        Args:
            domains: Names of all domains in the data set's order.
            parts: Parts that the data set was published with; empty if its splits are drawn.
            tested: The only domains that may be held out, where the others exist for training alone; empty: any may.

        Raises:
            UserError: The domains don't suffice for the protocol, or the user named one that doesn't exist.
        """
        ...

    def of_fold(self, fold: Fold) -> Protocol:
        """Return the protocol that yields this one of its folds alone."""
        ...


def _fold(train: Iterable[str], test: Iterable[str], val: Iterable[str] = ()) -> Fold:
    """Build the fold in which `train`, `test` and `val` are the domains that train, are held out, and validate."""
    return _fold_of(tuple(train), tuple(test), tuple(val))


@lru_cache(maxsize=10_000)
def _fold_of(train: tuple[str, ...], test: tuple[str, ...], val: tuple[str, ...]) -> Fold:
    # Planning asks for the same folds several times. Equal ones that are one object are found faster in its tables.
    return Fold(
        held_out=test,
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
    """Each domain held out in turn; with `pairs`, also each two at once.

    This is DomainBed's protocol. The pairs are what leave-one-domain-out cross-validation reads: the score of a
    configuration on a domain that was held out together with the test domain.
    """

    pairs: bool = True
    """Also hold out each pair of domains, where there are more than two."""
    only: tuple[str, ...] = ()
    """Domains to test, by name or number; empty: all. Of the pairs, those that hold one of them are kept."""
    name: ClassVar[str] = "leave-one-domain-out"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield single domains in the data set's order, then pairs in DomainBed's order."""
        _check(self.name, domains, parts, self.only, tested)
        chosen = _chosen(self.only or tested, domains)
        held_out: list[tuple[str, ...]] = [(domain,) for domain in chosen]
        if self.pairs and len(domains) > 2:
            # With two domains a pair would leave none to train on. Pairs are of all domains, not of the chosen ones:
            # cross-validation for a test domain needs it held out together with each of the others.
            held_out += [pair for pair in combinations(domains, 2) if set(pair) & set(chosen)]
        for test in held_out:
            yield _fold([domain for domain in domains if domain not in test], test)

    def of_fold(self, fold: Fold) -> LeaveOneDomainOut:
        """Return the protocol of a fold with one test domain."""
        return LeaveOneDomainOut(pairs=False, only=fold.held_out)


@dataclass(frozen=True)
class SingleSource:
    """Each domain trains alone, and all others that may be held out are tested."""

    only: tuple[str, ...] = ()
    """Domains that train, by name or number; empty: all."""
    name: ClassVar[str] = "single-source"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield a fold for each training domain, in the data set's order."""
        _check(self.name, domains, parts)
        sources = [domain for domain in _chosen(self.only, domains) if domain not in tested]
        if not sources:
            raise UserError(f"{', '.join(tested)} can only be tested, and no other domain is left to train on")
        for source in sources:
            yield _fold([source], tested or [domain for domain in domains if domain != source])

    def of_fold(self, fold: Fold) -> SingleSource:
        """Return the protocol of one training domain."""
        return SingleSource(only=fold.training_domains)


@dataclass(frozen=True)
class AllDomains:
    """Every domain trains, the tested one included: an upper reference for tables, not a measure of generalization.

    Folds are those of leave-one-domain-out but for the training views. The tested domain is reported on its `out` part,
    which did not train, and selection reads the `out` parts of the other domains, so that both are chosen alike.
    """

    only: tuple[str, ...] = ()
    """Domains to test, by name or number; empty: all."""
    name: ClassVar[str] = "all-domains (the tested one trains too)"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield a fold for each tested domain, in the data set's order."""
        _check(self.name, domains, parts, self.only, tested)
        for domain in _chosen(self.only or tested, domains):
            yield Fold(
                held_out=(domain,),
                train=_views(domains, IN),
                source_val=_views([other for other in domains if other != domain], OUT),
                test=_views([domain], OUT),
            )

    def of_fold(self, fold: Fold) -> AllDomains:
        """Return the protocol of one tested domain."""
        return AllDomains(only=fold.held_out)


@dataclass(frozen=True)
class Explicit:
    """One fold whose training, validation and test domains the user names."""

    train: tuple[str, ...]
    """Training domains; empty: all that neither validate nor are tested."""
    test: tuple[str, ...]
    """Held-out domains; at least one."""
    val: tuple[str, ...] = ()
    """Domains that only validate."""
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

    def of_fold(self, fold: Fold) -> Explicit:
        """Return the protocol itself, which has one fold."""
        return self


@dataclass(frozen=True)
class FixedSplit:
    """The splits that a data set was published with; each way of splitting is a fold.

    A fold trains on one pooled view that may hold many domains, as in WILDS. Such data have two validation sets, and
    every choice reads the same one: selectors, averages, mergers' members, teachers and adapted models.
    """

    only: tuple[str, ...] = ()
    """Ways of splitting to use, by name or number; empty: all."""
    validation: str = "ood"
    """A key of `VALIDATION`: `ood` validates on further domains, as the data sets' own tables do; `id` on unseen
    examples of the training domains.
    """
    name: ClassVar[str] = "fixed-split"

    def folds(self, domains: Sequence[str], *, parts: Sequence[str] = (), tested: Sequence[str] = ()) -> Iterator[Fold]:
        """Yield a fold for each way of splitting."""
        if not parts:
            raise UserError("the data set has no fixed splits")
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

    def of_fold(self, fold: Fold) -> FixedSplit:
        """Return the protocol of one way of splitting."""
        return replace(self, only=fold.held_out)


def _check(
    name: str, domains: Sequence[str], parts: Sequence[str], asked: Sequence[str] = (), tested: Sequence[str] = ()
) -> None:
    """Raise UserError if the data set has no domains to divide, or if a training-only domain would be tested."""
    if parts:
        raise UserError(f"the data set has fixed splits ({', '.join(parts)}), so protocol {name} doesn't apply")
    if len(domains) < 2:
        raise UserError(f"{name} needs at least 2 domains, there is {len(domains)}")
    if tested and (wrong := [domain for domain in _chosen(asked, domains) if domain not in tested] if asked else []):
        raise UserError(
            f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} for training only; "
            f"only {', '.join(tested)} can be tested"
        )


def _chosen(names: Sequence[str], domains: Sequence[str]) -> list[str]:
    """Return the named domains in the data set's order, or all if `names` is empty.

    A number counts domains from 0. Where domains have numbers for names, and one is not its own position, every number
    is read as a name: guessing which is meant could test the wrong domain without a word.
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
            why = "the domains have numbers for names" if misleading else f"numbers go from 0 to {len(domains) - 1}"
            raise UserError(f"no domain is called {name}, and {why}: there are {', '.join(domains)}")
        else:
            raise UserError(unknown_name("domain", name, domains))
    return [domain for domain in domains if domain in chosen] if names else list(domains)


def _places(domains: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (position as typed, domain)."""
    yield from ((str(place), domain) for place, domain in enumerate(domains))
