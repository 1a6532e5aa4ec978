"""Patches under which the released wilds package works beside today's pandas, torch and PyTorch Geometric.

No file is changed. Each patch names the failure that it mends, and first tries whether the failure still occurs, so
that it does nothing under versions without it. Patches of pandas hold only while wilds reads a data set (`reading`);
those of wilds' own functions stay, as its evaluation needs them (`mend`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_PY150, _OGB = "wilds.datasets.py150_dataset", "wilds.datasets.ogbmolpcba_dataset"
_WRITTEN_BY_OGB = {"data": ("DataEdgeAttr", "DataTensorAttr"), "storage": ("GlobalStorage",)}
"""Module of PyTorch Geometric -> classes in the files that ogb writes."""
_CODE_TOKENS = 50001
"""Length of the vocabulary of microsoft/CodeGPT-small-py, a constant in wilds' own main branch too."""


@contextmanager
def reading() -> Iterator[None]:
    """Apply, within the block, every patch needed to import wilds and to read a data set's tables.

    Warnings are silenced meanwhile: they are about how wilds and its packages are written, not about the data.
    """
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for patch in (_no_question_about_versions, _image_limit, _string_columns, _writable_values, _timestamps):
            stack.enter_context(patch())
        yield


def mend() -> None:
    """Replace wilds' functions that fail; call it once wilds is imported."""
    _group_means()


def mend_py150() -> None:
    """Import wilds' Py150 without the network and without the package transformers.

    The module imports `transformers` at its top, and `GPT2Tokenizer.from_pretrained` asks a host for a vocabulary of
    which only the length is used.
    """
    absent = object()
    before = sys.modules.get("transformers", absent)
    stub: Any = types.ModuleType("transformers")
    stub.GPT2Tokenizer = _Vocabulary
    sys.modules["transformers"] = stub
    try:
        module: Any = importlib.import_module(_PY150)
    finally:
        if before is absent:
            del sys.modules["transformers"]
        else:
            sys.modules["transformers"] = before  # type: ignore[assignment]
    if hasattr(module, "GPT2Tokenizer"):
        module.GPT2Tokenizer = _Vocabulary


def mend_ogb() -> None:
    """Let OGB's graphs be read and collated.

    The failures are `UnpicklingError: Weights only load failed`, as ogb 1.3.6 reads by torch >= 2.6 what it wrote
    itself; and `TypeError: Collater.__init__() missing 1 required positional argument: 'dataset'` of PyTorch Geometric
    >= 2.4.
    """
    import torch

    for name, classes in _WRITTEN_BY_OGB.items():
        found = importlib.import_module(f"torch_geometric.data.{name}")
        torch.serialization.add_safe_globals([getattr(found, cls) for cls in classes if hasattr(found, cls)])
    module: Any = importlib.import_module(_OGB)
    if "dataset" in inspect.signature(module.PyGCollater).parameters:
        module.PyGCollater = functools.partial(module.PyGCollater, None)


class _Vocabulary:
    """A stand-in for the tokenizer of which Py150 takes only the length."""

    def __len__(self) -> int:
        return _CODE_TOKENS

    @classmethod
    def from_pretrained(cls, name: str) -> _Vocabulary:
        """Return the same vocabulary for any name: Py150 has one."""
        return cls()


@contextmanager
def _no_question_about_versions() -> Iterator[None]:
    """Keep `import wilds` and `import ogb` from starting threads that ask a package index for their newest version.

    Without a network these threads hold up the end of the process; without the package `outdated` they don't start.
    """
    absent = object()
    before = sys.modules.get("outdated", absent)
    # None in `sys.modules` makes an import of that name fail, which wilds and ogb both catch.
    sys.modules["outdated"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is absent:
            del sys.modules["outdated"]
        else:
            sys.modules["outdated"] = before  # type: ignore[assignment]


@contextmanager
def _image_limit() -> Iterator[None]:
    """Restore Pillow's guard against decompression bombs, which importing wilds' FMoW lifts for the whole process."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _string_columns() -> Iterator[None]:
    """Read columns of strings as objects, as pandas did before 3.

    The failure is `TypeError: Invalid value '0' for dtype 'str'`: CivilComments writes numbers into a column of words.
    """
    pd: Any = importlib.import_module("pandas")

    read_csv = pd.read_csv
    if pd.Series(["a"]).dtype == object:
        yield
        return

    def read(*args: Any, **kwargs: Any) -> Any:
        table = read_csv(*args, **kwargs)
        return table.astype({c: object for c in table if isinstance(table[c].dtype, pd.StringDtype)})

    pd.read_csv = read
    try:
        yield
    finally:
        pd.read_csv = read_csv


@contextmanager
def _writable_values() -> Iterator[None]:
    """Give copies of read-only `.values`, which pandas 3 hands out.

    The failure is `ValueError: assignment destination is read-only`, where RxRx1 moves rows to `id_test`.
    """
    pd: Any = importlib.import_module("pandas")

    if pd.Series([0]).to_numpy().flags.writeable:
        yield
        return
    before = {cls: cls.values for cls in (pd.Series, pd.DataFrame)}

    def writable(values: property) -> property:
        def get(self: Any) -> Any:
            found = values.__get__(self)
            return found if getattr(getattr(found, "flags", None), "writeable", True) else found.copy()

        return property(get)

    for cls, values in before.items():
        cls.values = writable(values)
    try:
        yield
    finally:
        for cls, values in before.items():
            cls.values = values


@contextmanager
def _timestamps() -> Iterator[None]:
    """Parse timestamps with and without milliseconds in one column.

    The failure is `ValueError: time data ... doesn't match format` of pandas >= 2: FMoW has milliseconds in some rows
    only.
    """
    pd: Any = importlib.import_module("pandas")

    to_datetime = pd.to_datetime
    try:
        to_datetime(pd.Series(["2002-06-07T02:48:56Z", "2002-06-07T02:48:56.643Z"]))
    except ValueError:
        pd.to_datetime = functools.partial(to_datetime, format="ISO8601")
    try:
        yield
    finally:
        pd.to_datetime = to_datetime


def _group_means() -> None:
    """Replace the mean over groups in all modules of wilds that imported it by name, if torch_scatter is missing.

    The failure is `ModuleNotFoundError: No module named 'torch_scatter'`, in every metric by group.
    """
    import torch

    utils: Any = importlib.import_module("wilds.common.utils")
    try:
        utils.avg_over_groups(torch.ones(1), torch.zeros(1, dtype=torch.int64), 1)
    except ModuleNotFoundError:
        for name in ("utils", "metrics.metric", "metrics.all_metrics", "metrics.loss"):
            module: Any = importlib.import_module(f"wilds.common.{name}")
            module.avg_over_groups = _avg_over_groups


def _avg_over_groups(v: Any, g: Any, n_groups: int) -> tuple[Any, Any]:
    """Return the mean of `v` (n,) over each group of `g` (n,), 0 for an empty one, and its size, both (n_groups,)."""
    import torch

    sums = torch.zeros(n_groups, dtype=v.dtype, device=v.device).index_add_(0, g, v)
    counts = torch.bincount(g, minlength=n_groups)
    return sums / counts.clamp(min=1).to(v.dtype), counts.to(torch.float32)
