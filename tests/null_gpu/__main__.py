"""`sr` on null GPUs: `python -m tests.null_gpu train FILE` in the environment of `tests.null_gpu.environment`.

Kernels do not run, so checks of values on the device are replaced; everything around them, syncs included, stays.
"""

import os
import sys
from typing import Any

import torch

from sr.cli import main
from sr.inference import precision, predictor
from sr.train import step_graph
from sr.train.tracker import Meter


def ignore_values() -> None:
    """Let every loss and every output count as finite, and every precision as exact."""
    collect, deviation = Meter._collect, precision._deviation

    def finite(meter: Meter) -> dict[str, tuple[float, float]]:
        return {name: (0.1, float("inf")) for name in collect(meter)}

    def none(*given: Any) -> float:
        return 0.0 * min(deviation(*given), 0.0)

    torch.Tensor.__repr__ = lambda tensor, **how: "tensor"  # type: ignore[method-assign,assignment]
    torch.nn.Parameter.__repr__ = torch.Tensor.__repr__  # DeepSpeed prints some
    if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":  # it compares numbers of the ranks on the device
        from deepspeed.runtime.zero import partitioned_param_coordinator

        partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda numbers: None
    precision._deviation = none
    Meter._collect = finite  # type: ignore[method-assign]
    step_graph._close = lambda one, other: one.keys() == other.keys()  # type: ignore[assignment]
    predictor.finite = lambda extremes: True


if __name__ == "__main__":
    ignore_values()
    sys.exit(main())
