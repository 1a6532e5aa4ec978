"""What a machine is called in tables."""

from __future__ import annotations

import pytest
import torch

from dgbench.core.machine import describe_processor


def test_a_processor_is_named_with_the_vector_extensions_that_torch_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9000")
    describe_processor.cache_clear()
    try:
        name, _, extensions = describe_processor().rpartition(" ")
        assert name
        assert extensions == "(AVX9000)"
    finally:
        describe_processor.cache_clear()
