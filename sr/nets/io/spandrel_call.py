"""Run a model of spandrel with its padding and clipping."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor


def spandrel_call(descriptor: Any) -> Callable[[Tensor], Tensor]:
    """Return the call of a spandrel descriptor without its torch.inference_mode.

    Outputs of that mode could not be changed in place. Neither could the weights of networks that set them in their
    forward pass, such as SPAN, be trained.
    """
    return partial(inspect.unwrap(type(descriptor).__call__), descriptor)
