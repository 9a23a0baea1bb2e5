"""Several processes of one run on this machine, forked from a process that has imported everything but computed nothing."""

import logging
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from mmtwins.weights.opening import read_file

PRELOADED = [
    'torch._dynamo',
    'torch.distributed.fsdp',
    'mmcv.ops',
    'mmseg.apis',
    'mmdet.apis',
    'mmtwins.inference',
    'processes',
]


def run_processes(world_size: int, folder: Path, function: Callable, *args: Any, timeout: float = 300) -> list[Any]:
    """Run a function in several processes that know of each other as torchrun and Slurm let them.

    Args:
        world_size: How many.
        folder: Where they work; what process N prints goes to ``N.txt`` there.
        function: Of a module that they can import.
        args: For the function.
        timeout: Seconds to wait for all of them.

    Returns:
        What the function returned in each process: plain data and tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        context.Process(target=_run, args=(rank, world_size, port, folder, pipe[1], function, args), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process, (_, sender) in zip(processes, pipes):
        process.start()
        sender.close()
    waiting = {receiver: rank for rank, (receiver, _) in enumerate(pipes)}
    errors = ['no answer'] * world_size
    deadline = time.monotonic() + timeout
    try:
        while waiting and (ready := wait(list(waiting), max(0.0, deadline - time.monotonic()))):
            for receiver in ready:
                rank = waiting.pop(receiver)
                try:
                    errors[rank] = receiver.recv()
                except EOFError:
                    errors[rank] = 'it has ended'
            if any(error and rank not in waiting.values() for rank, error in enumerate(errors)):
                break  # the others wait for the one that has failed
    finally:
        for process in processes:
            process.kill()
    outputs = [path.read_text()[-1000:] for path in folder.glob('?.txt')]
    assert not any(errors), '\n'.join([*(f'rank {rank}: {error}' for rank, error in enumerate(errors)), *outputs])
    return [read_file(folder / f'{rank}.pt') for rank in range(world_size)]


def _run(
    rank: int, world_size: int, port: int, folder: Path, sender: Connection, function: Callable, args: tuple
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(
        SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NTASKS=str(world_size), SLURM_NODELIST='here'
    )
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    output = os.open(folder / f'{rank}.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        torch.save(function(*args), f'{rank}.pt')
        sender.send('')
    except BaseException:
        sender.send(traceback.format_exc())
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
