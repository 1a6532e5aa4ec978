"""Measure the memory of the GPU that CUDA_VISIBLE_DEVICES shows, and print it as a JSON object.

    python -m dgbench.execute.gpu_memory

Two processes open the GPU: what the second one takes from the first is what a process holds beside torch's memory.
"""

from __future__ import annotations

import json
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch


def free_beside_torch() -> tuple[int, int]:
    """Open the GPU, load kernels as training does, and return its free bytes as if torch reserved none, and all."""
    x = torch.ones(8, 3, 64, 64, device="cuda", requires_grad=True)
    weight = torch.ones(8, 3, 3, 3, device="cuda", requires_grad=True)
    total = torch.nn.functional.conv2d(x, weight).flatten(1)[:, :64].matmul(torch.ones(64, 8, device="cuda")).sum()
    torch.autograd.grad(total, (x, weight))
    torch.cuda.synchronize()
    free, all_of_it = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved(), all_of_it


def _second(connection: Connection, first: Connection) -> None:
    """Wait until the first process has opened the GPU, and send the bytes that are free beside both."""
    first.close()
    connection.recv()
    connection.send(free_beside_torch())


def main() -> None:
    """Measure and print `free`, `total` and `context` in bytes."""
    here, there = get_context("fork").Pipe()
    # Forked before this process opens the GPU: it could not use the GPU afterwards.
    other = get_context("fork").Process(target=_second, args=(there, here))
    other.start()
    there.close()
    free, total = free_beside_torch()
    reserved = torch.cuda.memory_reserved()
    here.send(None)
    beside, _ = here.recv()
    other.join()
    context = free - reserved - beside
    print(json.dumps({"free": free + context, "total": total, "context": context}))


if __name__ == "__main__":
    main()
