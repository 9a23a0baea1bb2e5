"""How a run ends before its last iteration: with one sentence and an exit code."""

import logging
import os
import sys
import time
from typing import NoReturn

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner

INTERRUPTED = 75  # a signal stopped the run, a checkpoint is written, --resume continues (EX_TEMPFAIL of sysexits.h)
INTERRUPTED_BY_USER = 130  # the same after Ctrl-C, as shells have it
SECONDS_BEHIND = 1  # of other processes behind the first, whose sentence a launcher would cut off


def end_with_error(runner: Runner, sentence: str) -> NoReturn:
    """End a run for a reason that the user can correct: one line on stderr and in the log file, exit code 1.

    Args:
        runner: Of the run.
        sentence: What is wrong, and what to do.
    """
    if not is_main_process():
        time.sleep(SECONDS_BEHIND)
        raise SystemExit(1)
    record = runner.logger.makeRecord('mmengine', logging.ERROR, __file__, 0, sentence, (), None)
    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
    raise SystemExit(f'error: {sentence}')


def end_together(runner: Runner, code: int) -> NoReturn:
    """End all processes of a run with the same exit code, at the same time.

    Launchers end the other processes when the first has gone. So several processes leave at once, without the clean-up
    of Python, when all have arrived here.

    Args:
        runner: Of the run.
        code: The exit code.
    """
    if runner.world_size == 1:
        raise SystemExit(code)
    torch.distributed.barrier()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
