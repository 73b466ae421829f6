"""Weights on disk: the files that trainers publish, and the names they give to the parameters of RRDBNet."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sr.core.atomic import replacing
from sr.core.errors import UserError

State = dict[str, Tensor]

_WRAPPERS = ("params_ema", "params", "params-ema", "state_dict", "model_state_dict", "model", "net")
"""The keys under which trainers put the weights into a file; averaged weights first."""


def load_weights(path: str | Path) -> tuple[State, dict[str, str]]:
    """(state dict on the CPU, metadata) of a .safetensors, .pth, .pt or .ckpt file. Runs no code from the file.

    Of several state dicts in a file the averaged one is taken; the `module.` of data parallel training is dropped.
    Only .safetensors carry metadata. Raises UserError where the file is missing, damaged or not plain weights.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the path of a .safetensors or .pth file")
    if path.suffix.lower() == ".safetensors":
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_pickle(path), {}
    return _state_dict(content, path), metadata


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = str(error)[:200]
        raise UserError(f"{path} is not a whole .safetensors file ({reason}); copy or download it again") from None


def _read_pickle(path: Path) -> Any:
    if _is_packed(path):
        raise UserError(f"{path} is a compressed archive, which no trainer writes; unpack it, and give what is inside")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(
            f"{path} does not hold plain weights ({type(error).__name__}: {reason}); it is damaged, or needs code "
            "to open, which is never run: download it again, or save its state dict alone"
        ) from None


def _is_packed(path: Path) -> bool:
    """torch.save stores as it is; some MB of compressed zeros would become as many GB."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # torch will say what is wrong with it


def _state_dict(content: Any, path: Path) -> State:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no state dict (names and tensors); give a network, not a training state")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def save_safetensors(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the weights and their metadata whole or not at all."""
    with replacing(path, sync=True) as aside:
        safetensors.torch.save_file(_plain(state), aside, dict(metadata))


def save_pth(path: str | Path, state: Mapping[str, Tensor], key: str = "params_ema") -> None:
    """Write {key: weights}, the file of BasicSR and Real-ESRGAN, whole or not at all."""
    with replacing(path, sync=True) as aside:
        torch.save({key: _plain(state)}, aside)


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
    """RRDBNet's weights under the names of Real-ESRGAN (`conv_first`, `body.0.rdb1.conv1`, ...).

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
    """The layers after the trunk are numbered by their place in a list that also counts layers without weights."""
    places = sorted({int(match[1]) for key in state if (match := re.match(r"model\.(\d+)\.weight", key))})[1:]
    names = [*(f"conv_up{n + 1}" for n in range(len(places) - 2)), "conv_hr", "conv_last"]
    return [(rf"model\.{place}\.", f"{name}.") for place, name in zip(places, names, strict=False)]


def to_old_esrgan(state: Mapping[str, Tensor]) -> State:
    """The inverse of `to_new_esrgan`: Real-ESRGAN's names to those of the first ESRGAN release."""
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
    """The key after the first rule (pattern at its start -> replacement) that fits."""
    for pattern, replacement in rules:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key
