"""Algorithms written for DomainBed, `--include path/to/algorithms.py:Name`, and the hyperparameters of their fork.

The class is found here, and its fork is asked for values; `dgbench.methods.foreign` trains it. This module imports no
torch, the fork's own do.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dgbench.catalogue.entry import CatalogueEntry, import_source
from dgbench.catalogue.foreign_reads import surely_read
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import Problems, UserError
from dgbench.core.seeding import hparams_stream
from dgbench.core.setting import PRESETS, Setting
from dgbench.core.space import Draw, HparamSpec, Space, Value, resolve
from dgbench.core.wording import unknown

REGISTRY = "hparams_registry"
_LISTED_FOR = "Debug224"
"""DomainBed's name of a data set of large images: `list` shows its defaults."""
_OF_THE_LOOP = ("data_augmentation", "class_balanced")
"""What registries name but DomainBed's training loop reads, not the class: the setting says it here."""
_NOT_FOLLOWED = (
    *("optimizer", "momentum", "schedule", "warmup_steps", "clip_norm"),
    *("freeze", "classifier_init", "precision"),
)
"""Fields of the setting that the class would have to know of."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_TYPES = {bool: "bool", int: "number", float: "number", str: "str"}
"""By what a default is, what other values are; registries that draw 0.5 where the default is 1 are common."""


@dataclass(frozen=True)
class ForeignEntry(CatalogueEntry):
    """A class written for DomainBed."""

    registry: str
    """Dotted name of its fork's registry of hyperparameters; empty if there is none, and then any name will do."""
    asked_as: str
    """The name by which the registry is asked: its own, or that of the fork's class that it inherits from."""
    inherits: bool
    """Whether the registry is that of a base class, which can't know what is added."""
    reads: tuple[str, ...]
    """Hyperparameters that it is sure to read."""

    features: ClassVar[bool] = False

    def load(self) -> Any:
        """The class made one of ours."""
        from dgbench.methods.foreign import wrapped  # imports torch, which planning does without

        found = wrapped(_foreign_class(self.module, Path(self.file), self.name))
        found.card = self.card
        return found

    @property
    def open(self) -> bool:
        """Whether it takes names that its registry lacks: without one, or where it reads more than its base class."""
        return not self.registry or self.inherits

    def resolve(
        self,
        dataset: str,
        *,
        traits: Iterable[str],
        hparams_seed: int,
        trial: int,
        fixed: Mapping[str, Value],
        draws: Mapping[str, Draw],
    ) -> dict[str, Value]:
        """What the fork draws for that data set by DomainBed's rule, then `draws`, then `fixed`."""
        space = _space(_ask(self.registry, self.asked_as, dataset, hparams_seed, trial)) if self.registry else ()
        values = {**resolve(space, hparams_seed=hparams_seed, trial=trial, fixed=fixed, draws=draws), **fixed}
        problems = Problems()
        batch_size = values.get("batch_size")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            why = "" if self.registry else f"; {self.file} has no {REGISTRY}, so all that it reads must be given"
            problems.add(
                f"{self.name} needs batch_size, a whole number of examples of each domain, not {batch_size!r}: "
                f'add --hparams \'{{"{self.name}": {{"batch_size": 32}}}}\'{why}'
            )
        if missing := [name for name in self.reads if name not in values and name != "batch_size"]:
            given = ", ".join(f'"{name}": ...' for name in missing)
            problems.add(
                f"{self.name} reads {', '.join(missing)}, and nothing gives {'it' if len(missing) == 1 else 'them'} a "
                f"value: add --hparams '{{\"{self.name}\": {{{given}}}}}'"
            )
        problems.raise_if_any()
        return values

    def refusals(self, setting: Setting) -> Iterator[str]:
        """Whatever changes the network or the optimizers of the preset, which the class makes itself."""
        for name in _NOT_FOLLOWED:
            value = getattr(setting, name)
            if value != getattr(PRESETS[setting.preset], name):
                yield (
                    f"{self.name} is written for DomainBed and makes its own network and optimizers: {name} {value!r} "
                    "would not reach it, so it needs a sweep without"
                )


def foreign_entry(file: Path, name: str) -> ForeignEntry:
    """The entry of a class of a file; raises `UserError` if it or its fork is not what it should be."""
    module = _module_of(file, name)
    cls = _foreign_class(module, file, name)
    own = _registry_of(module, file)
    registry, asked_as = (own, name) if own else _inherited_registry(cls)
    space = _space(_ask(registry, asked_as, _LISTED_FOR, 0, 0)) if registry else ()
    of = "" if own else f" for {asked_as}"
    source = f"written for DomainBed, {file}; hyperparameters " + (
        f"as {registry} has and draws them{of}, here those of large images"
        if registry
        else "are those of --hparams alone"
    )
    return ForeignEntry(
        kind="algorithm",
        name=name,
        file=str(file),
        module=module,
        doc=inspect.cleandoc(cls.__doc__ or "No docstring."),
        space=tuple(spec for spec in space if spec.name not in _OF_THE_LOOP),
        checks=False,
        card=card_of(source),
        registry=registry,
        asked_as=asked_as,
        inherits=bool(registry) and not own,
        reads=surely_read(cls),
    )


def card_of(source: str) -> AlgorithmCard:
    """What is known of any class for DomainBed; what a step costs is not, so it counts as one pass."""
    return AlgorithmCard(
        paper=source,
        base="",
        needs=("classes", "real_inputs"),
        no_feedback={"learning_rate": "makes its own optimizers"},
        syncs="its update returns numbers, so each step waits for the device",
    )


def _foreign_class(module: str, file: Path, name: str) -> Any:
    """The class itself; raises `UserError` if it can't be had, or is none for DomainBed."""
    said = f"--include {file}:{name}"
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # is_available() must not spoil CUDA for forked runs
    try:
        source = import_source(module, file)
    except Exception as error:
        what = module or file.name
        raise UserError(
            f"{said}: importing {what} failed: {type(error).__name__}: {error}{_hint(error, file)}"
        ) from error
    if module and Path(source.__file__).resolve() != file:
        raise UserError(f"{said}: {module} is {source.__file__} here; put the folder of the other first on PYTHONPATH")
    classes = {key: value for key, value in vars(source).items() if isinstance(value, type)}
    if name not in classes:
        raise UserError(f"{said}: {unknown('class', name, classes)}")
    _check_contract(classes[name], said)
    return classes[name]


def _check_contract(cls: Any, said: str) -> None:
    """Refuse a class that lacks what DomainBed's have."""
    from torch import nn  # the class that is checked has imported it already

    from dgbench.methods.foreign import accepts

    problems = [f"has no {method}()" for method in ("update", "predict") if not callable(getattr(cls, method, None))]
    if not issubclass(cls, nn.Module):
        problems.append("is no torch.nn.Module")
    elif not accepts(cls, (1, 1, 1), 2, 3, {}):
        problems.append("must be made by (input_shape, num_classes, num_domains, hparams)")
    if not problems and not accepts(cls.update, cls, []):
        problems.append(_unlike_domainbeds(inspect.signature(cls.update)))
    if problems:
        raise UserError(*(f"{said}: a class for DomainBed {problem}" for problem in problems))


def _unlike_domainbeds(update: inspect.Signature) -> str:
    """Word why an `update` can't be called with labelled minibatches alone."""
    needed = [p.name for p in list(update.parameters.values())[2:] if p.default is p.empty and p.kind not in _VARIADIC]
    if any("unlabel" in name for name in needed):
        return (
            f"that needs unlabelled data of the test domain, update{update}, can't be run: no protocol shows them to "
            "training yet. If it does without them too, have it say unlabeled=None"
        )
    return f"must have update(minibatches, unlabeled=None), not update{update}"


def _hint(error: Exception, file: Path) -> str:
    """Where a fork lies that its own files can't find."""
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    for folder in file.parents:
        if missing and isinstance(error, ModuleNotFoundError) and folder.name == missing:
            return f"; put {folder.parent} on PYTHONPATH"
    return ""


def _module_of(file: Path, name: str) -> str:
    """The dotted name by which the file's own fork imports it; empty if it is a file by itself."""
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    importable = {Path(entry).resolve() for entry in sys.path}
    for folder in (root, *root.parents):
        parts = file.relative_to(folder).with_suffix("").parts
        if folder in importable and all(part.isidentifier() for part in parts):
            return ".".join(parts)
    if root != file.parent or (file.parent / f"{REGISTRY}.py").is_file():
        raise UserError(
            f"--include {file}:{name}: its fork can't be imported; put the folder that its imports start from on "
            f"PYTHONPATH, perhaps {root}"
        )
    return ""


def _registry_of(module: str, file: Path) -> str:
    """The nearest registry in the packages that hold the module; empty if there is none."""
    packages = module.split(".")[:-1]
    for depth, folder in zip(range(len(packages), -1, -1), file.parents, strict=False):
        if module and (folder / f"{REGISTRY}.py").is_file() and (depth or not packages):
            return ".".join((*packages[:depth], REGISTRY))
    return ""


def _inherited_registry(cls: type) -> tuple[str, str]:
    """Find the registry of the nearest base class that has one, and its name there; both empty if none has."""
    for base in cls.__mro__[1:]:
        source = getattr(sys.modules.get(base.__module__), "__file__", None)
        if source and (registry := _registry_of(base.__module__, Path(source))):
            return registry, base.__name__
    return "", ""


def _ask(registry: str, algorithm: str, dataset: str, hparams_seed: int, trial: int) -> dict[str, Value]:
    """What a registry says, in plain Python; raises `UserError` if it can't."""
    function, more = (
        ("random_hparams", (hparams_stream(hparams_seed, trial),)) if hparams_seed else ("default_hparams", ())
    )
    called = f"{registry}.{function}({', '.join(map(repr, (algorithm, dataset, *more)))})"
    try:
        values = getattr(importlib.import_module(registry), function)(algorithm, dataset, *more)
        items = [(str(key), value) for key, value in values.items()]
    except Exception as error:
        raise UserError(f"{called} failed: {type(error).__name__}: {error}") from error
    return {key: _plain(value, f"{called} gives {key!r}") for key, value in items}


def _plain(value: Any, said: str) -> Any:
    """A value as JSON keeps it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_plain(item, said) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{said} the value {value!r}, which JSON can't keep")
    if value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(f"{said} a {type(value).__name__}, which JSON can't keep")
    return value


def _space(values: Mapping[str, Value]) -> Space:
    return tuple(HparamSpec(name, _TYPES.get(type(value), "any"), value) for name, value in values.items())
