"""Compare the number of processes on this machine with that of its GPUs."""

import os
import sys

import torch

from sr.core.errors import UserError


def check_gpus(line: str) -> None:
    """Raise UserError for more processes than GPUs; name the launch line where GPUs would be idle.

    line: the arguments of `sr` for the message.
    """
    gpus, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not gpus:
        return
    if processes > gpus:
        raise UserError(f"{processes} processes share {gpus} GPU(s) of this machine; set --num_processes {gpus}")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 < gpus:
        print(
            f"sr: 1 of {gpus} GPUs is used; to use all, start "
            f"accelerate launch --multi_gpu --num_processes {gpus} -m sr {line}",
            file=sys.stderr,
        )
