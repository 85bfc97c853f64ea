"""Run a function on W gloo processes, each with the environment that torchrun would set."""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch.distributed
import torch.multiprocessing

# Below the ports that a system gives to whoever asks for any: no connection of another test takes one in between.
_PORTS = range(20000, 30000)
_tried = itertools.count(os.getpid() * 37)

PATIENCE = 900.0
"""Seconds after which a process hangs, however busy the machine is. Only a test that fails waits so long."""


def free_port() -> int:
    """Give a port of this machine that nobody listens on."""
    while True:
        port = _PORTS[next(_tried) % len(_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _child(rank: int, func: Callable[..., None], world_size: int, port: int, args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="tests",
    )
    torch.set_num_threads(1)
    try:
        func(*args)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def run_distributed(func: Callable[..., None], world_size: int, *args: Any) -> None:
    """Raise what the first failing rank raised; end every process that hangs."""
    context = torch.multiprocessing.start_processes(
        _child, (func, world_size, free_port(), args), nprocs=world_size, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + PATIENCE
    while not context.join(timeout=1.0):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{func.__name__} did not end within {PATIENCE:.0f} s on {world_size} processes")
