"""Import the optional package basicsr."""

import importlib
import importlib.util
import sys
from types import ModuleType

from sr.core.errors import UserError

_REMOVED = "torchvision.transforms.functional_tensor"


def basicsr(module: str) -> ModuleType:
    """Import a submodule of basicsr, as in `basicsr("archs.rrdbnet_arch")`.

    basicsr 1.4.2 imports a module that torchvision has since removed; a stand-in with the one function that it needs
    is registered first. Raises UserError if basicsr is not installed.
    """
    if importlib.util.find_spec("basicsr") is None:
        raise UserError(f"basicsr.{module} needs the package basicsr: pip install 'sr-train[basicsr]' (Python < 3.13)")
    if _REMOVED not in sys.modules and importlib.util.find_spec(_REMOVED) is None:
        from torchvision.transforms.functional import rgb_to_grayscale

        stand_in = ModuleType(_REMOVED)
        stand_in.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[_REMOVED] = stand_in
    return importlib.import_module(f"basicsr.{module}")
