"""What is trained, as an algorithm box: each task is one file and one row."""

from sr.tasks.cyclegan import CycleGAN
from sr.tasks.pix2pix import Pix2Pix
from sr.tasks.psnr import PSNR
from sr.tasks.sr_gan import SRGAN
from sr.tasks.task import Phase, Task

TASKS: dict[str, type[Task]] = {"psnr": PSNR, "sr_gan": SRGAN, "pix2pix": Pix2Pix, "cyclegan": CycleGAN}

__all__ = ["TASKS", "Phase", "Task"]
