"""Read and write files of weights, and convert the parameter names of RRDBNet."""

import io
import re
import zipfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickletools import genops
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sr.config.options import Player
from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.nets.io.file_type import container

State = dict[str, Tensor]

_STATE_DICTS = (
    *("params_ema", "params-ema", "model_ema", "ema", "params"),
    *("state_dict", "model_state_dict", "model", "net", "network", "module"),
)
"""The keys under which trainers put weights into a file; averaged weights first."""

_PLAYERS: dict[Player | None, tuple[str, ...]] = {
    None: (),
    "generator": ("generator_ema", "net_g_ema", "netG_ema", "g_ema", "generator", "net_g", "netG", "model", "net"),
    "discriminator": ("discriminator", "net_d", "netD"),
}
"""The keys, or attributes of a trainer that is one module (mmagic, Lightning), that hold each player."""

_WRAPPERS = r"(^module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""What data parallelism, torch.compile, FSDP and activation checkpointing add to the names of parameters."""


OF_CHECKPOINT = "model/"
"""Before the names of the weights in a checkpoint's file, which holds the optimizer state too."""


def load_weights(path: str | Path, player: Player | None = None) -> tuple[State, dict[str, str]]:
    """Return (state dict on the CPU, metadata) of a .safetensors, .pth, .pt, .bin or .ckpt file.

    The format is recognized by content, and no code from the file runs. If a file holds several state dicts, the
    averaged one (EMA) is returned unless it is empty. The prefixes that data parallelism, torch.compile and FSDP add
    to parameter names are removed.
    player: the network to return, without its prefix, if the file holds a whole trainer (mmagic, Lightning).
    Only safetensors carry metadata. Raises UserError if the file is missing, damaged or holds no weights.
    """
    path = Path(path)
    if container(path) == "safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _state_dict(_read_pickle(path), path, player), {}
    ours = metadata.get("architecture", "").startswith("{")  # other programs write words there
    return (state if ours else _plain_names(state, player)), metadata


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            keys = list(file.keys())
            weights = [key for key in keys if key.startswith(OF_CHECKPOINT)] or keys  # without the optimizer state
            return {key.removeprefix(OF_CHECKPOINT): file.get_tensor(key) for key in weights}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = str(error)[:200]
        raise UserError(f"{path} is not a whole .safetensors file ({reason}); copy or download it again") from None


def _read_pickle(path: Path) -> Any:
    names = _imports(path)
    inert = [name for name in names if name.startswith(_DATA)]
    try:
        with open(path, "rb") as file, torch.serialization.safe_globals([(_Inert, name) for name in inert]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        code = [name for name in names if name not in inert and not re.fullmatch(_PLAIN, name)]
        raise UserError(f"{path} {_refusal(error, code)}") from None


class _Inert:
    """Placeholder for an object that another trainer saved with the weights. It stores and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __new__(cls, *_: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


_DATA = (
    *("argparse.Namespace", "pathlib.", "numpy.", "omegaconf.", "mmengine."),
    *("pytorch_lightning.", "lightning.", "lightning_fabric."),
)
"""Settings, counters and logs that trainers save with the weights. None is imported; `_Inert` replaces each."""
_PLAIN = r"collections\.\w+|torch\.(\w+|(_utils|_tensor|storage|nn\.parameter)\.\w+)"
"""Names in the pickle of a state dict."""


def _imports(path: Path) -> list[str]:
    """Return the names that the pickle in a file would import, without unpickling it."""
    found: dict[str, None] = {}
    strings = deque[str](maxlen=2)
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else open(path, "rb") as file:
            if isinstance(file, zipfile.ZipFile):
                data = file.read(next(name for name in file.namelist() if name.endswith("/data.pkl")))
            else:
                data = file.read(1 << 20)
        stream = io.BytesIO(data)
        while True:  # files from before torch 1.6 hold several pickles
            for operation, argument, _ in genops(stream):
                if operation.name == "GLOBAL":
                    found[str(argument).replace(" ", ".")] = None
                elif operation.name == "STACK_GLOBAL":
                    found[".".join(strings)] = None
                elif "UNICODE" in operation.name:
                    strings.append(str(argument))
    except Exception:  # the end of the pickles, or damage, which torch.load reports
        return list(found)


def _refusal(error: Exception, code: list[str]) -> str:
    """Return why a pickle was not read and what to do. torch's own advice is to run the code in the file."""
    if not code:
        return f"is damaged ({type(error).__name__} while reading its weights); download it again"
    shown = ", ".join(name for name in code[:3] if re.fullmatch(r"[\w.]{1,80}", name)) or "odd names"
    kind = "holds a whole pickled module or other objects, not plain weights"
    return (
        f"{kind} ({shown}): it needs code to open, which is never run; in the program that wrote it, "
        "save net.state_dict() with torch.save, and give that file"
    )


def _state_dict(content: Any, path: Path, player: Player | None) -> State:
    found = _tensors(content, (*_PLAYERS[player], *_STATE_DICTS))
    if found:
        return found
    if isinstance(content, Mapping) and any("optim" in str(key) or "sched" in str(key) for key in content):
        raise UserError(f"{path} is a training state, without weights; give the net_g_*.pth that was saved with it")
    raise UserError(f"{path} holds no state dict (names and tensors); give the weights of a network")


def _tensors(content: Any, keys: Sequence[str], depth: int = 3) -> State:
    """Return the first state dict in nested mappings that is not empty, by these keys, or {}."""
    if not isinstance(content, Mapping) or depth == 0:
        return {}
    for key in keys:
        found = _tensors(content.get(key), keys, depth - 1)
        if found:
            return found
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _plain_names(state: State, player: Player | None) -> State:
    """Return the parameters under the names that the network itself uses."""
    state = {re.sub(_WRAPPERS, "", key): value for key, value in state.items()}
    for name in _PLAYERS[player]:
        inner = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        # The published names of ESRGAN and DnCNN (model.0.) and of pix2pix (model.model.) start with "model." too.
        published = name == "model" and any(re.match(r"\d|model\.", key) for key in inner)
        if inner and not published:
            return {re.sub(_WRAPPERS, "", key): value for key, value in inner.items()}
    return state


def save_safetensors(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the weights and their metadata atomically."""
    with replacing(path, sync=True) as temporary:
        safetensors.torch.save_file(_plain(state), temporary, dict(metadata))


def save_pth(path: str | Path, state: Mapping[str, Tensor], key: str = "params_ema") -> None:
    """Write {key: weights} atomically, in the format of BasicSR and Real-ESRGAN."""
    with replacing(path, sync=True) as temporary:
        torch.save({key: _plain(state)}, temporary)


def _plain(state: Mapping[str, Tensor]) -> State:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


_FROM_OLD = (
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
)
_FROM_REALSR = (
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
    (r"trunk_conv\.", "conv_body."),
    (r"upconv(\d)\.", r"conv_up\1."),
    (r"HRconv\.", "conv_hr."),
)


def to_new_esrgan(state: Mapping[str, Tensor]) -> State:
    """Return the weights of RRDBNet under the names of Real-ESRGAN (`conv_first`, `body.0.rdb1.conv1`, ...).

    From those of the first ESRGAN release (`model.0`, `model.1.sub.0.RDB1.conv1.0`, ...) and of RealSR and BSRGAN
    (`RRDB_trunk.0.RDB1.conv1`, ...). Other names stay as they are.
    """
    if "RRDB_trunk.0.RDB1.conv1.weight" in state:
        rules: tuple[tuple[str, str], ...] = _FROM_REALSR
    elif "model.1.sub.0.RDB1.conv1.0.weight" in state:
        rules = (*_FROM_OLD, *_tail_rules(state))
    else:
        rules = ()
    return {_rename(key, rules): value for key, value in state.items()}


def _tail_rules(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return the rules for the layers after the trunk, whose numbers also count layers without weights."""
    places = sorted({int(match[1]) for key in state if (match := re.match(r"model\.(\d+)\.weight", key))})[1:]
    names = [*(f"conv_up{n + 1}" for n in range(len(places) - 2)), "conv_hr", "conv_last"]
    return [(rf"model\.{place}\.", f"{name}.") for place, name in zip(places, names, strict=False)]


def to_old_esrgan(state: Mapping[str, Tensor]) -> State:
    """Convert the names of Real-ESRGAN to those of the first ESRGAN release, the inverse of `to_new_esrgan`."""
    num_block = 1 + max(int(match[1]) for key in state if (match := re.match(r"body\.(\d+)\.", key)))
    num_up = sum(bool(re.fullmatch(r"conv_up\d\.weight", key)) for key in state)
    rules = [
        (r"conv_first\.", "model.0."),
        (r"body\.(\d+)\.rdb(\d)\.conv(\d)\.", r"model.1.sub.\1.RDB\2.conv\3.0."),
        (r"conv_body\.", f"model.1.sub.{num_block}."),
        *((rf"conv_up{n}\.", f"model.{3 * n}.") for n in range(1, num_up + 1)),
        (r"conv_hr\.", f"model.{3 * num_up + 2}."),
        (r"conv_last\.", f"model.{3 * num_up + 4}."),
    ]
    return {_rename(key, rules): value for key, value in state.items()}


def _rename(key: str, rules: Any) -> str:
    """Return the key after applying the first rule (pattern at its start -> replacement) that matches."""
    for pattern, replacement in rules:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key
