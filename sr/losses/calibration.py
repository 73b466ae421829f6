"""Load the learned channel weights of LPIPS and DISTS from their authors' packages."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from sr.core.errors import UserError
from sr.nets.io.state_dicts import State, load_weights


def load_calibration(source: str | None, published: tuple[str, str, str], sizes: Mapping[str, int]) -> State:
    """Return flat float32 values with the names and lengths of `sizes`, from the file `source`.

    None: the published file (distribution, package, file in it). No code of the package is run.
    """
    distribution, package, file = published
    if source is None:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(
                f"the calibration of {package} is not installed; run: pip install {distribution}, or set the loss's "
                f"`calibration` to the path of its {file}"
            )
        source = str(Path(spec.origin).parent / file)
    state = {key: value.detach().float().flatten() for key, value in load_weights(source)[0].items()}
    for key, size in sizes.items():
        if key not in state or len(state[key]) != size:
            raise UserError(f"{source} has no '{key}' of {size} values; give a file like {file} of {distribution}")
    return {key: state[key] for key in sizes}
