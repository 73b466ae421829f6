"""A network from a file that spandrel recognizes, to train it further."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sr.core.errors import UserError, first_line
from sr.nets.io.pad_to_multiple import any_size
from sr.nets.io.size_limit import as_large_as
from sr.nets.io.spandrel_call import spandrel_call
from sr.nets.io.state_dicts import load_weights
from sr.nets.spandrel_archs import exclude_unused


def spandrel_net(*, file: str, scale: Literal[1, 2, 3, 4, 8]) -> nn.Module:
    """Return the network in a file of any architecture that spandrel recognizes, with its weights, in training mode.

    [B, 3, h, w] -> [B, 3, h * scale, w * scale], any h and w. Parameter names are those of spandrel, so spandrel opens
    the saved models. Raises UserError if the file holds no such network or has another scale.
    """
    import spandrel  # takes seconds to import

    state, _ = load_weights(file, "generator")
    device = torch.get_default_device()
    try:
        # Not meta: the file holds the weights, and some networks compute in their constructors.
        with torch.device("cpu"), as_large_as(state):
            found = spandrel.ModelLoader().load_from_state_dict(state)
    except Exception as error:  # spandrel guesses hyper-parameters from shapes; odd files break it in many ways
        raise UserError(
            f"{file} is no network that spandrel recognizes ({first_line(error)}); give another file"
        ) from None
    name = found.architecture.name
    if found.scale != scale:
        raise UserError(f"{file} is {name} x{found.scale}, but scale is {scale}; set scale: {found.scale}")
    if (found.input_channels, found.output_channels) != (3, 3):
        raise UserError(f"{file} is {name} for {found.input_channels} channels, not RGB; give a colour model")
    sizes = found.size_requirements
    with torch.device("cpu"):
        if sizes.square or not _is_plain(found):
            raise UserError(f"{file} is {name}, whose network alone does not map an image to an image; give another")
    net = any_size(found.model, scale=scale, multiple=sizes.multiple_of, minimum=sizes.minimum)
    net.train().requires_grad_(True)
    exclude_unused(net, type(found.model).__name__)
    return net.to(device)


@torch.no_grad()
def _is_plain(found: Any) -> bool:
    """Return whether the bare network gives the output of spandrel, which adds pre- or postprocessing to some."""
    sizes = found.size_requirements
    side = -(-max(16, sizes.minimum) // sizes.multiple_of) * sizes.multiple_of
    image = torch.linspace(0, 1, 3 * side * side).view(1, 3, side, side)
    try:
        own = found.model.eval()(image)
    except Exception:  # it needs other inputs, or returns a tuple
        return False
    return isinstance(own, Tensor) and torch.allclose(own.clamp(0, 1), spandrel_call(found)(image), atol=1e-4)
