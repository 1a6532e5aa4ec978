"""What this machine has: cores, GPUs, the precisions that its devices compute in."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting

if TYPE_CHECKING:
    import torch


def visible_gpus() -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them, without torch; MIG slices count as GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        hidden = [i for i, name in enumerate(names) if name in ("", "-1")]  # CUDA stops reading there
        return names[: hidden[0]] if hidden else names
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60).stdout
    return _parse_gpus(listed)


def _parse_gpus(listed: str) -> list[str]:
    gpus: list[str] = []
    for line in listed.splitlines():
        found = re.search(r"UUID: ([\w/-]+)", line)
        if found and found[1].startswith("MIG-") and gpus and gpus[-1].startswith("GPU-"):
            gpus[-1] = found[1]  # a sliced GPU cannot be used as a whole
        elif found:
            gpus.append(found[1])
    return gpus


def usable_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def describe_processor() -> str:
    """Name the processor and the vector extensions that torch computes with: `AMD EPYC (AVX2)`.

    Sums are rounded in the order in which vector instructions take them, so the last digits of a run belong to this.
    """
    import torch  # see `check_precision`

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(named, "") or platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def count_oom_kills() -> int:
    """Count the processes that this system has killed for lack of memory since it started; 0 where it doesn't tell."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(found[1]) if found else 0


def check_precision(setting: Setting, device: torch.device) -> None:
    """Raise `UserError` if a device only imitates the setting's precision, which takes longer than full precision."""
    if setting.precision == "fp32":
        return
    import torch  # commands count cores and GPUs by this module, and do without torch

    if device.type == "cpu" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        lacks = "this CPU has neither avx512_bf16 nor AMX"
    elif device.type == "cuda" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(False):
        lacks = f"{torch.cuda.get_device_name(device)} has no bf16"
    else:
        return
    raise UserError(
        f"precision 'bf16' would be imitated, for {lacks}: leave it out, or say --device cuda if the runs go to GPUs "
        "that have it"
    )


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA, then MPS, then the CPU."""
    import torch  # see `check_precision`

    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
