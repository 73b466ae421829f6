"""Build, initialize, check and export the networks that a set of options describes."""

import copy
import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sr.config.options import Cycle, InitFile, Options, Part, Player
from sr.core.errors import UserError, first_line
from sr.inference.zoo import locate
from sr.nets.io.load import architecture, load_into
from sr.nets.io.size_limit import bounded
from sr.nets.io.state_dicts import save_safetensors
from sr.tasks.cyclegan import Discriminators, Generators

PRIVATE: Any = {"data": {"source", "make"}, "validation": {"sets"}, "init": True}
"""Options that are not written into models: paths of data, and credentials in them."""
MOST_LINES = 40  # of what was not loaded


class Nets:
    """make: (part, table, **supplied) -> the built part."""

    def __init__(self, options: Options, make: Callable[..., Any]) -> None:
        self.options, self._make = options, make
        self._cycle = options.task == "cyclegan"
        self.channels = options.channels
        self.conditional = bool(options.discriminator and options.discriminator.get("conditional"))

    def make(self, player: Player) -> nn.Module:
        """The player's net; its initial weights depend on the seed and the player's name alone."""
        torch.manual_seed(_seed_of(self.options.seed, player))
        with bounded():
            return self._generator() if player == "generator" else self._discriminator()

    def load_initial(self, player: Player, net: nn.Module) -> list[str]:
        """Fill the net from the files that `init` names. Returns lines about what was not loaded, where not strict."""
        given, lines = self.options.init.get(player, {}), []
        for side, start in (given if isinstance(given, dict) else {"": given}).items():
            start = InitFile(file=start) if isinstance(start, str) else start
            part, key = (self._side(player, net, side), f"init.{player}.{side}") if side else (net, f"init.{player}")
            file = _weights_file(locate(start.file), player, key)
            try:
                misfits = load_into(part, file, strict=start.strict, player=player)
            except UserError as error:
                if not start.strict:
                    raise
                hint = f"set {key}: {{file: {start.file}, strict: false}} to load what fits"
                raise UserError(f"{error}; or {hint}") from None
            lines += _not_loaded(key, file, misfits, part)
        return lines

    def freeze(self, player: Player, net: nn.Module) -> None:
        """Exclude from training the parameters whose names match a pattern of `freeze`."""
        given = self.options.freeze.get(player, [])
        parameters = dict(net.named_parameters())
        for pattern in [given] if isinstance(given, str) else given:
            names = fnmatch.filter(parameters, pattern)
            if not names:
                known = ", ".join(f"{name}.*" for name, _ in net.named_children())
                raise UserError(f"freeze.{player}: '{pattern}' matches no parameter; give patterns such as {known}")
            for name in names:
                parameters[name].requires_grad_(False)
        if given and not any(parameter.requires_grad for parameter in parameters.values()):
            raise UserError(f"freeze.{player}: no parameter is left to train; remove a pattern")

    def _side(self, player: str, net: nn.Module, side: str) -> nn.Module:
        sides = dict(net.named_children()) if self._cycle else {}
        if side not in sides:
            known = f"one file, or one for each of {' and '.join(sides)}" if sides else "one file"
            raise UserError(f"init.{player}: there is no '{side}' in the {player} of {self.options.task}; give {known}")
        return sides[side]

    def _generator(self) -> nn.Module:
        part, scale = self.options.generator, self.options.scale
        net: nn.Module = self._make(part, "generators", scale=scale)
        if not self._cycle:
            return net
        return Generators(a_to_b=net, b_to_a=self._make(_turned(part), "generators", scale=scale))

    def _discriminator(self) -> nn.Module:
        part, (given, wanted) = self.options.discriminator, self.channels
        if not self._cycle:
            net: nn.Module = self._make(part, "discriminators", num_in_ch=self._seen)
            return net
        a, b = (self._make(part, "discriminators", num_in_ch=channels) for channels in (given, wanted))
        return Discriminators(a=a, b=b)

    def check_shapes(self, player: str, net: nn.Module) -> None:
        """Run one forward pass with fake tensors, so that sizes that do not fit are reported early.

        A network that does not work with fake tensors is run with real ones, which takes seconds for RRDBNet 64/23 on a
        CPU. Raises UserError if the network does not take or return images of the configured size.
        """
        size, (given, wanted) = self.options.data.gt_size, self.channels
        device, example = next(net.parameters()).device, self._example(player)
        try:
            output = _shapes(net, example, device)
        except Exception:  # may work with real tensors
            try:
                output = _forward(copy.deepcopy(net), example, device)
            except (RuntimeError, ValueError, AssertionError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise UserError(
                    f"the {player} does not take images of {'x'.join(map(str, example[0][1:]))} "
                    f"({first_line(error)}); change data.gt_size, or the part's own sizes"
                ) from None
        made = output["fake_b"] if isinstance(output, dict) else output
        if player == "generator" and made.shape[1:] != (wanted, size, size):
            shape, side = "x".join(map(str, made.shape[1:])), size // self.options.scale
            raise UserError(
                f"the generator makes {shape} of {given}x{side}x{side}; it has to make {wanted}x{size}x{size}"
            )

    def _example(self, player: str) -> tuple[Any, ...]:
        """Return the arguments of a forward pass in training, images as shapes."""
        given, wanted = self.channels
        side = self.options.data.gt_size

        def two(channels: int, side: int = side) -> tuple[int, ...]:
            return 2, channels, side, side

        identity = (self.options.cycle or Cycle()).identity > 0
        if player == "generator":
            return (two(given), two(wanted), identity) if self._cycle else (two(given, side // self.options.scale),)
        return (two(given), "a") if self._cycle else (two(self._seen),)

    @property
    def _seen(self) -> int:
        """Input channels of a discriminator of pairs."""
        return self.channels[1] + (self.channels[0] if self.conditional else 0)

    def export(self, weights: Mapping[str, Tensor], path: Path, step: int) -> None:
        """Weights under the published names, with what is needed to build the net again in the metadata.

        CycleGAN's file holds both generators, as `a_to_b.<name>` and `b_to_a.<name>`.
        """
        kwargs = {"scale": self.options.scale} | {k: v for k, v in self.options.generator.items() if k != "type"}
        options = self.options.model_dump(mode="json", exclude=PRIVATE)
        metadata = {"options": json.dumps(options), "step": str(step)}
        metadata |= architecture(self.options.generator["type"], kwargs) | {"colours": self.colours}
        save_safetensors(path, weights, metadata)

    @property
    def colours(self) -> str:
        """Return the meaning of the channels: `lab` for colorization in Lab, `edges` for edge maps, else `rgb`."""
        if self.options.data.source["type"] == "edges" and self.options.data.direction == "a_to_b":
            return "edges"
        return "lab" if self.options.colorizes_lab else "rgb"


def _weights_file(path: Path, player: str, key: str) -> Path:
    """The file itself, or the player's file in the folder of a checkpoint; of the generator the average."""
    if not path.is_dir():
        return path
    file = path / ("ema.safetensors" if player == "generator" else f"{player}.safetensors")
    if not file.is_file():
        raise UserError(f"{key}: {path} is a folder without {file.name}; give a file, or a folder of a checkpoint")
    return file


def _not_loaded(key: str, file: Path, misfits: Sequence[str], net: nn.Module) -> list[str]:
    """Return lines about the tensors that were not loaded."""
    if not misfits:
        return []
    unknown = sum(line.endswith("is unknown") for line in misfits)
    count = len(net.state_dict())
    head = f"{key}: {count - len(misfits) + unknown} of {count} tensors loaded from {file}; not loaded:"
    more = [f"  and {len(misfits) - MOST_LINES} more"] if len(misfits) > MOST_LINES else []
    return [head, *(f"  {line}" for line in misfits[:MOST_LINES]), *more]


def _shapes(net: nn.Module, example: tuple[Any, ...], device: torch.device) -> Any:
    """Return the output of a copy of the network on fake tensors."""
    with FakeTensorMode() as mode:
        plain = (value for module in net.modules() for value in vars(module).values() if isinstance(value, Tensor))
        tensors = {id(tensor): mode.from_tensor(tensor) for tensor in (*net.parameters(), *net.buffers(), *plain)}
        return _forward(copy.deepcopy(net, tensors), example, device)


@torch.no_grad()
def _forward(net: nn.Module, example: tuple[Any, ...], device: torch.device) -> Any:
    return net(*(torch.zeros(x, device=device) if isinstance(x, tuple) else x for x in example))


def _turned(part: Part) -> Part:
    """Return the options of the generator of the other direction, with exchanged channels."""
    swapped = {new: part[old] for old, new in (("num_in_ch", "num_out_ch"), ("num_out_ch", "num_in_ch")) if old in part}
    return {key: value for key, value in part.items() if key not in ("num_in_ch", "num_out_ch")} | swapped


def _seed_of(seed: int, player: str) -> int:
    return int(np.random.SeedSequence([seed, *player.encode()]).generate_state(1)[0])
