"""What a machine is called in tables, and which of its cores and GPUs a process may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from dgbench.api.process import undisturbed
from dgbench.core.errors import UserError
from dgbench.core.machine import (
    STEPPED,
    check_gpus,
    choose_kernels,
    cpu_quotas,
    describe_engine,
    describe_processor,
    report_step,
    threads_that_sleep,
    usable_cores,
    visible_gpus,
    with_huge_pages,
)
from dgbench.core.setting import setting


def test_a_processor_is_named_with_the_vector_extensions_that_torch_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9000")
    describe_processor.cache_clear()
    try:
        name, _, extensions = describe_processor().rpartition(" ")
        assert name
        assert extensions == "(AVX9000)"
    finally:
        describe_processor.cache_clear()


def test_threads_sleep_while_they_wait_unless_torch_is_there_or_the_user_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with threads_that_sleep():
        assert "OMP_WAIT_POLICY" not in os.environ, "torch has read it long ago"
    monkeypatch.delitem(sys.modules, "torch")
    with threads_that_sleep():
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with threads_that_sleep():
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
)
def test_large_arrays_get_huge_pages_unless_the_user_says_how(before: dict[str, str], after: str) -> None:
    assert with_huge_pages({"A": "b", **before}) == {"A": "b", "GLIBC_TUNABLES": after}


def test_a_step_is_reported_to_the_script_that_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STEPPED, raising=False)
    report_step()
    monkeypatch.setenv(STEPPED, str(tmp_path / "a"))
    report_step()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No cluster around, eight cores, no quota."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "RAY_", "DGBENCH_", "CUDA_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("dgbench.core.machine.cpu_quotas", lambda: iter(()))
    return monkeypatch


@pytest.mark.parametrize(
    ("quotas", "environment", "cores"),
    [
        ([], {}, 8),
        ([0.5, 64.0], {}, 1),
        ([2.5], {}, 3),
        ([], {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "6"}, 3),
        ([], {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "6"}, 6),
        ([], {"SLURM_CPUS_ON_NODE": "6"}, 8),
        ([], {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "many"}, 8),
        ([], {"RAY_JOB_ID": "1", "OMP_NUM_THREADS": "2"}, 2),
        ([], {"RAY_JOB_ID": "1", "OMP_NUM_THREADS": "1", "DGBENCH_CORES": "5"}, 5),
    ],
)
def test_cores_are_those_that_were_given(
    bare: pytest.MonkeyPatch, quotas: list[float], environment: dict[str, str], cores: int
) -> None:
    bare.setattr("dgbench.core.machine.cpu_quotas", lambda: iter(quotas))
    for name, value in environment.items():
        bare.setenv(name, value)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "cpu.max": "max 100000"}, [1.5]),
        ("0::/", {"cpu.max": "50000 100000"}, [0.5]),
        ("0::/hidden/here", {"cpu.max": "50000 100000"}, [0.5]),
        (
            "4:cpu,cpuacct:/docker/x\n0::/",
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            [2.0],
        ),
        ("9:memory:/", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, []),
    ],
)
def test_quotas_of_control_groups_count_up_to_the_root(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: list[float]
) -> None:
    (tmp_path / "cgroup").write_text(f"{cgroup}\n")
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert list(cpu_quotas(tmp_path, tmp_path / "fs")) == expected
    assert list(cpu_quotas(tmp_path / "none", tmp_path / "fs")) == []


def test_a_job_that_asked_for_no_gpu_has_none(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = tmp_path / "nvidia-smi"
    shown.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\n")
    shown.chmod(0o755)
    bare.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus() == ["GPU-1"]
    bare.setenv("SLURM_JOB_ID", "1")
    assert visible_gpus() == []
    bare.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_gpus() == ["0", "1"]
    bare.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_a_task_of_a_cluster_is_named(bare: pytest.MonkeyPatch) -> None:
    assert describe_engine() == ""
    bare.setenv("SLURM_JOB_ID", "8")
    assert describe_engine() == "slurm:8"
    bare.setenv("DGBENCH_ENGINE", "ray:n2")
    assert describe_engine() == "ray:n2"


@pytest.mark.skipif(torch.cuda.is_available(), reason="GPU 0 works")
def test_a_gpu_that_is_named_and_broken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    check_gpus([])
    with pytest.raises(UserError, match=r"GPU 0 can't be used: .*(NVIDIA|CUDA)"):
        check_gpus(["0"])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError) as told:
        check_gpus(["0", "1"])
    assert [problem.partition(";")[0] for problem in told.value.problems] == [
        "GPU 0 can't be used: exit code 1",
        "GPU 1 can't be used: exit code 1",
    ]


@pytest.mark.parametrize("repeats", [True, False])
def test_kernels_that_repeat_themselves_are_neither_tried_out_nor_in_tf32(repeats: bool) -> None:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    with undisturbed():
        choose_kernels(setting(deterministic=repeats))
        assert cudnn.deterministic is repeats
        assert {cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32} == {not repeats}
