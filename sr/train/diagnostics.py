"""GAN diagnostics: gradient shares, output statistics, and advice when a known failure pattern persists."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.evaluate.metrics.sharpness import detail
from sr.tasks import Phase

Values = Mapping[str, float]


def shares(phase: Phase) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the gradient share of each loss at the output, and a loss for the rest of the backward pass.

    `share`: |dL_i/dx| over the sum of all losses; `ratio`: the same of the weighted loss values. Both sum to 1.

    The gradient of that loss equals that of all losses together, up to rounding, so that measuring computes nothing
    twice. It is None where a loss reaches parameters without passing the output (features inside the network). No sync.
    """
    output = phase.output
    if output is None or not output.requires_grad:
        return {}, None
    # The gradient of a mean is below half precision's range. A power of two: only exponents change.
    scale = 2.0 ** math.ceil(math.log2(output.numel()))
    slopes = [_slope(scale * loss, output) for loss in phase.losses.values()]
    norms = torch.stack([slope.norm() for slope in slopes])
    rates = norms / norms.sum().clamp(min=1e-30)
    shares = {f"share_{name}": rate for name, rate in zip(phase.losses, rates.unbind(), strict=True)}
    total = torch.stack([loss.detach().float() for loss in phase.losses.values()]).sum().clamp(min=1e-30)
    shares |= {f"ratio_{name}": loss.detach().float() / total for name, loss in phase.losses.items()}
    if any(_passes_by(loss, output) for loss in phase.losses.values()):
        return shares, None
    return shares, (output.float() * (torch.stack(slopes).sum(0) / scale)).sum()


def _slope(loss: Tensor, output: Tensor) -> Tensor:
    grad = None
    if loss.requires_grad:
        grad = torch.autograd.grad(loss, output, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(output, dtype=torch.float32) if grad is None else grad.float()


def _passes_by(loss: Tensor, output: Tensor) -> bool:
    """Whether the gradient of `loss` reaches a leaf otherwise than through `output`."""
    seen, ahead = {output.grad_fn}, [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not output:
            return True
        ahead += [following for following, _ in node.next_functions]
    return False


@torch.no_grad()
def looks(output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return statistics of the output against its target that losses do not show; both [B, C, h, w] in 0..1.

    sharpness: high-frequency energy over the target's; below 1 is blurred, above 1 oversharp or noisy.
    colour: mean absolute difference of the two after averaging 8 x 8 pixels, in 0..1.
    """
    output, target = output.detach().float(), target.float()
    sharpness = detail(output) / detail(target).clamp(min=1e-8)
    window = min(8, *output.shape[-2:])
    colour = (F.avg_pool2d(output, window) - F.avg_pool2d(target, window)).abs().mean()
    return {"sharpness": sharpness, "colour": colour}


@dataclass(frozen=True)
class Pattern:
    """A failure pattern: reported when `holds` is true for `lasts` measured entries in a row. needs: the values that
    measure it. advice: the message, with `%s` for the first of these values as a percentage."""

    needs: tuple[str, ...]
    holds: Callable[[Values, Values], bool]
    advice: str
    lasts: int = 10


BASELINE = 10
PATTERNS = (
    Pattern(
        ("d/accuracy_real", "d/accuracy_fake"),
        lambda now, first: min(now["d/accuracy_real"], now["d/accuracy_fake"]) > 0.98,
        "the discriminator is saturated (over 98 % right on both): lower optimizer.discriminator.lr, add losses.gan."
        "regularizers: [{type: r1, weight: 1, every: 16}], or smooth vanilla's and lsgan's labels "
        "(losses.gan.real_label: 0.9)",
    ),
    Pattern(
        ("g/share_gan",),
        lambda now, first: now["g/share_gan"] > 0.7,
        "the GAN term makes over 70 % of the generator's gradient: lower losses.gan.weight, or raise the other weights",
    ),
    Pattern(
        ("g/sharpness", "g/pixel"),
        lambda now, first: now["g/sharpness"] < 0.5 and now["g/pixel"] < 0.9 * first["g/pixel"],
        "the pixel loss falls while outputs hold less than half the detail of their targets: raise losses.gan.weight "
        "or losses.perceptual.weight (or add such a term), or lower the pixel loss's (losses.pixel, losses.l1)",
        lasts=50,
    ),
    Pattern(
        ("g/colour",),
        lambda now, first: now["g/colour"] > 0.03 and now["g/colour"] > first["g/colour"],
        "colours drift from the low-pass of the target: raise the pixel loss's weight, add losses.colour: "
        "{type: colour}, or lower losses.gan.weight",
    ),
    Pattern(
        ("data_wait",),
        lambda now, first: now["data_wait"] > 0.02,
        "training waits for data %s of the time: raise data.workers while cores are idle, or use images that are "
        "decoded faster (shards of sub-images by sr shard, --format npy)",
        lasts=3,
    ),
)


class Diagnosis:
    """Observes every log entry and reports a pattern once when it has persisted, and again after it had ended.

    Patterns compare with the mean of the first BASELINE entries, because one entry is one small batch. Entries that do
    not measure a pattern (those of validations and saves between two log steps) do not change its count.
    """

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._runs = [0] * len(PATTERNS)

    def observe(self, values: Values) -> list[str]:
        """Return the advice that is new after this entry."""
        if "g/pixel" not in values and "g/l1" in values:
            values = {**values, "g/pixel": values["g/l1"]}
        for name, value in values.items():
            count = self._counts[name] = self._counts.get(name, 0) + 1
            if count <= BASELINE:
                self._first[name] = self._first.get(name, 0.0) * (count - 1) / count + value / count
        advice = []
        for number, pattern in enumerate(PATTERNS):
            if all(name in values for name in pattern.needs):
                self._runs[number] = self._runs[number] + 1 if pattern.holds(values, self._first) else 0
                if self._runs[number] == pattern.lasts:
                    advice.append(pattern.advice.replace("%s", f"{values[pattern.needs[0]]:.0%}"))
        return advice
