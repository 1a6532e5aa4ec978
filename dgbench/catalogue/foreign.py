"""Algorithms written for DomainBed, `--include path/to/algorithms.py:Name`, and the hyperparameters of their fork.

The class is found and checked in this module, and its fork's registry is queried for defaults and draws;
`dgbench.methods.foreign` trains it. This module imports no torch, but importing a fork does.
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
from dgbench.core.wording import unknown_name

REGISTRY = "hparams_registry"
"""Module of a fork that has its hyperparameters."""
_LISTED_FOR = "Debug224"
"""DomainBed's name of a data set of large images, whose defaults `list` shows."""
_OF_THE_LOOP = ("data_augmentation", "class_balanced")
"""Names in registries that DomainBed's training loop reads, not the class; dgbench has settings for them."""
_NOT_FOLLOWED = (
    *("optimizer", "amsgrad", "momentum", "schedule", "schedule_every", "schedule_gamma", "warmup_steps", "clip_norm"),
    *("layer_decay", "freeze", "classifier_init", "precision", "checkpoint_activations", "microbatch"),
    *("lora_rank", "lora_alpha", "lora_targets", "stored_features"),
)
"""Fields of the setting that only the class could follow, as it makes its own network and optimizers."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""`*args` and `**kwargs`."""
_TYPES = {bool: "bool", int: "number", float: "number", str: "str"}
"""Type of a default -> type of other values. Numbers are one type: registries often draw 0.5 where the default is 1."""


@dataclass(frozen=True)
class ForeignEntry(CatalogueEntry):
    """A class written for DomainBed, as an entry of the catalogue; `foreign_entry` makes it."""

    registry: str
    """Dotted name of its fork's registry of hyperparameters; empty if there is none, and then any name is taken."""
    registered_as: str
    """The name under which the registry knows it: its own, or that of the fork's class that it inherits from."""
    inherits: bool
    """The registry is that of a base class, which doesn't know the hyperparameters that the class adds."""
    reads: tuple[str, ...]
    """Hyperparameters that the class is sure to read."""

    features: ClassVar[bool] = False

    def load(self) -> Any:
        """Return the class, wrapped as a dgbench algorithm."""
        from dgbench.methods.foreign import wrapped  # imports torch, which planning does without

        found = wrapped(_foreign_class(self.module, Path(self.file), self.name))
        found.card = self.card
        return found

    @property
    def open(self) -> bool:
        """Whether names are taken that the registry lacks: without a registry, or with that of a base class."""
        return not self.registry or self.inherits

    def draws(self, name: str) -> bool:
        """Return whether there is a registry, as that may draw any of its names."""
        return bool(self.registry)

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
        """Resolve hyperparameters as `CatalogueEntry.resolve`, from the fork's registry, then `draws`, then `fixed`.

        Raises:
            UserError: The registry fails, there is no batch size, or a hyperparameter that the class reads has no
                value.
        """
        space = _space(_query(self.registry, self.registered_as, dataset, hparams_seed, trial)) if self.registry else ()
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
        """Yield the fields of a setting that would change the network or optimizers, which the class makes itself."""
        for name in _NOT_FOLLOWED:
            value = getattr(setting, name)
            if value != getattr(PRESETS[setting.preset], name):
                yield (
                    f"{self.name} is written for DomainBed and makes its own network and optimizers: {name} {value!r} "
                    "would not reach it, so it needs a sweep without"
                )


def foreign_entry(file: Path, name: str) -> ForeignEntry:
    """Make the entry of a class in an included file.

    Args:
        file: The fork's file, or a file by itself.
        name: Name of the class.

    Raises:
        UserError: The class can't be imported or isn't one for DomainBed, or its fork's registry fails.
    """
    module = _module_of(file, name)
    cls = _foreign_class(module, file, name)
    own = _registry_of(module, file)
    registry, registered_as = (own, name) if own else _inherited_registry(cls)
    space = _space(_query(registry, registered_as, _LISTED_FOR, 0, 0)) if registry else ()
    of = "" if own else f" for {registered_as}"
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
        ruled=False,
        registry=registry,
        registered_as=registered_as,
        inherits=bool(registry) and not own,
        reads=surely_read(cls),
    )


def card_of(source: str) -> AlgorithmCard:
    """Make the card of any class for DomainBed; the cost of a step is unknown and counts as one pass.

    Args:
        source: Where the class and its hyperparameters are from, shown in place of a paper.
    """
    return AlgorithmCard(
        paper=source,
        base="",
        needs=("classes", "real_inputs"),
        no_feedback={"learning_rate": "makes its own optimizers"},
        syncs="its update returns numbers, so each step waits for the device",
    )


def _foreign_class(module: str, file: Path, name: str) -> Any:
    """Import a class written for DomainBed; raise UserError if that fails or the class is no such one."""
    option = f"--include {file}:{name}"
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # is_available() must not spoil CUDA for forked runs
    try:
        source = import_source(module, file)
    except Exception as error:
        imported = module or file.name
        raise UserError(
            f"{option}: importing {imported} failed: {type(error).__name__}: {error}{_hint(error, file)}"
        ) from error
    if module and Path(source.__file__).resolve() != file:
        raise UserError(
            f"{option}: {module} is {source.__file__} here; put the folder of the other first on PYTHONPATH"
        )
    classes = {key: value for key, value in vars(source).items() if isinstance(value, type)}
    if name not in classes:
        raise UserError(f"{option}: {unknown_name('class', name, classes)}")
    _check_contract(classes[name], option)
    return classes[name]


def _check_contract(cls: Any, option: str) -> None:
    """Raise UserError for a class without the methods and signatures of DomainBed's classes."""
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
        raise UserError(*(f"{option}: a class for DomainBed {problem}" for problem in problems))


def _unlike_domainbeds(update: inspect.Signature) -> str:
    """Explain why an `update` can't be called with labelled minibatches alone."""
    needed = [p.name for p in list(update.parameters.values())[2:] if p.default is p.empty and p.kind not in _VARIADIC]
    if any("unlabel" in name for name in needed):
        return (
            f"that needs unlabelled data of the test domain, update{update}, can't be run: no protocol shows them to "
            "training yet. If it does without them too, have it say unlabeled=None"
        )
    return f"must have update(minibatches, unlabeled=None), not update{update}"


def _hint(error: Exception, file: Path) -> str:
    """Return the folder to put on PYTHONPATH if an import failed because a fork's own package wasn't found."""
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    for folder in file.parents:
        if missing and isinstance(error, ModuleNotFoundError) and folder.name == missing:
            return f"; put {folder.parent} on PYTHONPATH"
    return ""


def _module_of(file: Path, name: str) -> str:
    """Return the dotted name by which a fork imports its file; empty for a file by itself.

    Raises:
        UserError: The file is part of a fork whose root isn't on PYTHONPATH.
    """
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    # Under any other name the file's own fork would import it a second time, and its classes would exist twice.
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
    """Return the dotted name of the nearest registry in the packages that hold a module; empty if there is none."""
    packages = module.split(".")[:-1]
    for depth, folder in zip(range(len(packages), -1, -1), file.parents, strict=False):
        if module and (folder / f"{REGISTRY}.py").is_file() and (depth or not packages):
            return ".".join((*packages[:depth], REGISTRY))
    return ""


def _inherited_registry(cls: type) -> tuple[str, str]:
    """Return the registry of the nearest base class that has one, and that class's name; both empty if none has."""
    for base in cls.__mro__[1:]:
        source = getattr(sys.modules.get(base.__module__), "__file__", None)
        if source and (registry := _registry_of(base.__module__, Path(source))):
            return registry, base.__name__
    return "", ""


def _query(registry: str, algorithm: str, dataset: str, hparams_seed: int, trial: int) -> dict[str, Value]:
    """Call a fork's registry, and return its values as plain Python; raise UserError if it fails.

    Seed 0 is `default_hparams`; other seeds are `random_hparams` with DomainBed's stream for that seed and trial.
    """
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


def _plain(value: Any, origin: str) -> Any:
    """Turn a value into one that JSON keeps; raise UserError if there is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_plain(item, origin) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{origin} the value {value!r}, which JSON can't keep")
    if value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(f"{origin} a {type(value).__name__}, which JSON can't keep")
    return value


def _space(values: Mapping[str, Value]) -> Space:
    """Return a space with these defaults and no draws: the registry draws."""
    return tuple(HparamSpec(name, _TYPES.get(type(value), "any"), value) for name, value in values.items())
