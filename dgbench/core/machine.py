"""Detect the resources of this machine: cores, GPUs, and the precisions that its devices compute in."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench.core.errors import Problems, UserError
from dgbench.core.setting import Setting

if TYPE_CHECKING:
    import torch


_PATIENCE = 120.0  # seconds that a GPU has to answer
_RAY = "RAY_JOB_ID"  # set by Ray for the processes of tasks and actors
CORES = "DGBENCH_CORES"
"""Environment variable by which an engine says how many cores its task has."""
ENGINE = "DGBENCH_ENGINE"
"""Environment variable by which an engine names its task: `ray:NODE`."""
STEPPED = "DGBENCH_STEPPED"
"""Environment variable by which a batch script names a file that a worker makes at its end, if its runs made a step."""
_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def visible_gpus() -> list[str]:
    """Return the GPUs that runs may use, by the names that CUDA_VISIBLE_DEVICES takes; MIG slices count as GPUs.

    The answer comes from that variable or from nvidia-smi, so that commands which only start runs need not import
    torch.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and ("SLURM_JOB_ID" in os.environ or _RAY in os.environ):
        return []  # the job asked for no GPU, though the machine may show those of others
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # CUDA reads the list up to the first invalid entry and ignores all that follows it, so `0,-1,1` shows one GPU.
        hidden = [i for i, name in enumerate(names) if name in ("", "-1")]
        return names[: hidden[0]] if hidden else names
    program = shutil.which("nvidia-smi")
    return _parse_gpus(_list_gpus(program)) if program else []


@cache
def _list_gpus(program: str) -> str:
    """Return the output of `nvidia-smi -L`, once a process: without a daemon of NVIDIA's it wakes each GPU anew."""
    return subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=60).stdout


def check_gpus(gpus: Sequence[str]) -> None:
    """Compute on each GPU, in a process of its own; raise `UserError` with the reasons if one can't be used.

    This process may not open a GPU itself, because processes that are forked from it could not use it any more. A GPU
    that is named and broken must not have runs fail, or train on the CPU without a word.

    Args:
        gpus: Values for CUDA_VISIBLE_DEVICES.
    """
    code = "import torch; torch.ones(8, 8, device='cuda').matmul(torch.ones(8, 8, device='cuda')).sum().item()"
    probes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for gpu in gpus
    ]
    problems = Problems()
    for gpu, probe in zip(gpus, probes, strict=True):
        try:
            _, said = probe.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            probe.kill()
            _, said = probe.communicate()
            said = f"it did not answer within {_PATIENCE:.0f} s"
        if probe.returncode:
            reason = (said.strip() or f"exit code {probe.returncode}").splitlines()[-1]
            problems.add(f"GPU {gpu} can't be used: {reason[:300]}; --device cpu does without GPUs")
    problems.raise_if_any()


def _parse_gpus(listed: str) -> list[str]:
    """Return the UUIDs in the output of `nvidia-smi -L`."""
    gpus: list[str] = []
    for line in listed.splitlines():
        found = re.search(r"UUID: ([\w/-]+)", line)
        if found and found[1].startswith("MIG-") and gpus and gpus[-1].startswith("GPU-"):
            # A GPU in MIG mode can't be used as a whole: its first slice takes its place in the list, others follow.
            gpus[-1] = found[1]
        elif found:
            gpus.append(found[1])
    return gpus


def describe_engine() -> str:
    """Return the task of a cluster that this process belongs to: `slurm:JOB_TASK`; empty if none is known.

    Engines name their tasks in the environment by `ENGINE`.
    """
    named = os.environ.get(ENGINE, "")
    job = os.environ.get("SLURM_JOB_ID", "")
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return named or (f"slurm:{array}_{task}" if array and task else f"slurm:{job}" if job else "")


def report_step() -> None:
    """Make the file that a batch script names in `STEPPED`, if it names one: this process's runs made a step."""
    if path := os.environ.get(STEPPED, ""):
        Path(path).touch()


def usable_cores() -> int:
    """Return the number of processor cores that this process may use, at least 1.

    It is the least of: its affinity, the quota of its control groups (rounded up), and the cores that Slurm or Ray gave
    to its task.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(math.ceil, cpu_quotas()), *_granted_cores()]))


def _granted_cores() -> Iterator[int]:
    """Yield the number of cores of the Slurm job or Ray task around this process, if there is one."""
    names = []
    if "SLURM_JOB_ID" in os.environ:
        names.append("SLURM_CPUS_PER_TASK" if "SLURM_CPUS_PER_TASK" in os.environ else "SLURM_CPUS_ON_NODE")
    if CORES in os.environ:
        names.append(CORES)
    elif _RAY in os.environ:
        names.append("OMP_NUM_THREADS")  # which Ray sets to the cores of a task
    for name in names:
        if (value := os.environ.get(name, "")).isdecimal():
            yield int(value)


def cpu_quotas(proc: Path = Path("/proc/self"), mounted: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the quotas of the control groups around this process, in cores: those of containers and services.

    Args:
        proc: Folder of the process.
        mounted: Folder where control groups are mounted.
    """
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _quotas_up(mounted, path, _read_quota)
        elif "cpu" in controllers.split(","):
            for root in {mounted / controllers, mounted / "cpu"}:
                yield from _quotas_up(root, path, _read_quota_v1)


def _read_quota(folder: Path) -> Sequence[str]:
    return (folder / "cpu.max").read_text().split()


def _read_quota_v1(folder: Path) -> Sequence[str]:
    return [(folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]


def _quotas_up(root: Path, path: str, read: Callable[[Path], Sequence[str]]) -> Iterator[float]:
    """Yield the quotas of a control group and of all above it, in cores; `read` returns quota and period.

    In a container the path may be that of the host, which isn't visible there; the root then has the quota.
    """
    folder = root / path.lstrip("/")
    while True:
        with suppress(OSError, ValueError):
            quota, period = map(float, read(folder))  # `max` and -1 mean none
            if quota > 0 and period > 0:
                yield quota / period
        if folder == root or root not in folder.parents:
            return
        folder = folder.parent


@contextmanager
def threads_that_sleep() -> Iterator[None]:
    """Let torch, if the block imports it first, have threads that sleep while they wait for each other.

    By default they run in a loop, on cores that other processes may need: a step of a small network then takes
    several times the processor's time. An environment that says how they wait is obeyed.
    """
    # OpenMP reads its variable when torch loads it. The processes of a sweep have a thread each, mostly.
    name = "OMP_WAIT_POLICY"
    if "torch" in sys.modules or name in os.environ:
        yield
        return
    os.environ[name] = "PASSIVE"
    try:
        yield
    finally:
        del os.environ[name]


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose processes hold large arrays in pages of 2 MB, where the kernel gives them on request.

    The arrays of a step are allocated and freed in each, and cross thousands of pages of 4 kB; finding these takes most
    of a convolution's time on virtual machines. Results are the same bits. It is glibc's allocator that asks, from
    version 2.35 on; others don't read the variable. An environment that has the tunable is obeyed.
    """
    tunables = environment.get(_TUNABLES, "")
    if _HUGE_PAGES in tunables:
        return dict(environment)
    return {**environment, _TUNABLES: ":".join(filter(None, (tunables, f"{_HUGE_PAGES}=1")))}


@cache
def describe_processor() -> str:
    """Return the processor's name and the vector extension that torch computes with: `AMD EPYC (AVX2)`.

    Vector instructions decide the order in which sums are rounded, so the last digits of a run's records depend on it.
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
    """Return how many processes the kernel has killed for lack of memory since it started; 0 if it keeps no count."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(found[1]) if found else 0


def choose_kernels(setting: Setting) -> None:
    """Let torch choose the kernels that the setting asks for, in the whole process."""
    import torch  # see `check_precision`

    # By default cuDNN may pick kernels whose sums differ from call to call, and a resumed run could not repeat itself.
    torch.backends.cudnn.deterministic = setting.deterministic
    torch.backends.cudnn.benchmark = not setting.deterministic
    torch.backends.cudnn.allow_tf32 = not setting.deterministic
    torch.backends.cuda.matmul.allow_tf32 = not setting.deterministic


def check_precision(setting: Setting, device: torch.device) -> None:
    """Raise UserError if `device` only emulates the setting's precision, which is slower than full precision."""
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
        f"precision 'bf16' would be emulated, because {lacks}: leave it out, or give --device cuda if runs go to GPUs "
        "that have it"
    )


def pick_device(name: str) -> torch.device:
    """Return the torch device of that name; `auto` is CUDA, else MPS, else the CPU."""
    import torch  # see `check_precision`

    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def open_device(name: str) -> torch.device:
    """Return the torch device of that name, as `pick_device` does.

    Raises:
        UserError: This machine lacks it.
    """
    import torch  # see `check_precision`

    device = pick_device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch finds no Apple GPU on this machine")
    return device


def peak_memory() -> int | None:
    """Return the most main memory in bytes that this process has held so far; None where the system doesn't say."""
    try:
        import resource  # POSIX has it
    except ImportError:
        return None
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
