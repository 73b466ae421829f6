"""Models by name: published models, files on the Hugging Face Hub, and the default model that ships with `sr`.

A published model is downloaded once, to the folder `models` of the cache (`sr.core.cache_folder`).
"""

import os
import sys
from pathlib import Path
from typing import Any

from sr.core.cache_folder import cache_folder
from sr.core.digest import sha256_of
from sr.core.errors import UserError, first_line, nearest
from sr.core.lock import Lock
from sr.inference.zoo.catalog import CATALOG, Published

DEFAULT = "sr_compact_x4"
"""The model of `sr upscale` and `sr.load` where none is named."""
HUB = "hf:"
SHIPPED = Path(__file__).parent
TRIES = 4  # of a download in a row without progress
HASHED = 64  # digits of a whole SHA-256


def locate(name: str | os.PathLike[str]) -> Path:
    """Return the file of a model, and download it if needed.

    Args:
        name: a path, the name of a published model (`sr models` lists them), or `hf:user/repo[/file]`.

    Raises:
        UserError: the name is unknown, or the model cannot be downloaded.
    """
    text = os.fspath(name)
    if text.startswith(HUB):
        return _from_hub(text)
    path = Path(text)
    if path.is_file():
        return path
    if text == DEFAULT:
        return default_file()
    if published := find(text):  # also where a folder has this name, such as a clone of ESRGAN
        return fetch(published)
    if path.exists():  # the folder of a checkpoint, for `init`
        return path
    if not path.suffix and path.name == text:
        raise UserError(f"there is no file and no model '{text}'{_hint(text)}")
    if not path.is_absolute() and find(path.stem):
        raise UserError(f"{path}: there is no such file; give its path, or -m {path.stem} to download the model")
    return path


def find(name: str) -> Published | None:
    """The published model with this name, or with this name of its file without suffix. Case does not matter."""
    key = name.lower()
    return next((model for model in CATALOG if key in (model.name.lower(), Path(model.file).stem.lower())), None)


def default_file() -> Path:
    """The file of the default model, which is part of the package."""
    path = SHIPPED / f"{DEFAULT}.safetensors"
    if not path.is_file():
        raise UserError(f"this installation lacks its default model, {path.name}; name another one with -m NAME")
    return path


def file_of(model: Published) -> Path:
    """Where the cache keeps a published model."""
    try:
        return cache_folder("models") / model.file
    except RuntimeError:
        raise UserError("there is no home folder for downloaded models; set SR_HOME to a folder") from None


def fetch(model: Published) -> Path:
    """Return the file of a published model from the cache, and download it first if it is not there.

    Several processes may call this at the same time: one downloads, and the others wait.
    """
    path = file_of(model)
    if not path.exists():
        lock = path.with_name(f".{path.name}.lock")
        with Lock(lock, used=f"{model.name} is being downloaded", fix="wait until it ends", wait=True):
            if not path.exists():
                _download(model, path)
    found = sha256_of(path)
    if not found.startswith(model.sha256):
        raise UserError(
            f"{path} is not the published {model.name}: its SHA-256 is {found}, not {model.sha256}; remove the file and"
            " run the same command again"
        )
    return path


def _download(model: Published, path: Path) -> None:
    """Download to PATH.part and rename it. A later call resumes a partial file whose checksum is known."""
    from sr.core.progress import progress
    from sr.data.remote.download import Unreachable, download

    part, known = path.with_name(f"{path.name}.part"), len(model.sha256) == HASHED
    about = f"{model.size / 1e6:.0f} MB, {model.licence}" if model.size else model.licence
    print(f"sr: downloading {model.name} ({about}) to {path.parent}", file=sys.stderr, flush=True)
    part.touch()
    bar = progress(total=model.size, unit="B", unit_scale=True, desc=model.name)

    def grow(size: int) -> None:
        bar.update(size - bar.n)

    try:
        with bar, open(part, "r+b") as file:
            checksum = model.sha256 if known else ""
            how: dict[str, Any] = {"size": model.size, "sha256": checksum, "resume": known, "tries": TRIES}
            found = download(model.url, file, by="the list of models", grow=grow, **how)
            file.flush()
            os.fsync(file.fileno())
    except Unreachable as error:
        if error.permanent or part.stat().st_size == 0:
            part.unlink()
        raise UserError(
            f"{model.name} cannot be downloaded ({error.cause}); download {model.url} in another way and save it as"
            f" {path.name} in {path.parent}"
        ) from None
    if not known:
        print(f"sr: {model.name} is unverified: no checksum is published; its SHA-256 is {found}", file=sys.stderr)
    os.replace(part, path)


def _hint(name: str) -> str:
    near = nearest(name, [DEFAULT, *(model.name for model in CATALOG)])
    return f".{near}" if near else "; run `sr models` for the list of models"


# ---- Hugging Face Hub ------------------------------------------------------------------------------------------------


def _from_hub(name: str) -> Path:
    """The file behind `hf:user/repo[/file]`, in the cache of huggingface_hub, which also reads HF_TOKEN."""
    import huggingface_hub

    user, _, rest = name.removeprefix(HUB).partition("/")
    repo, _, file = rest.partition("/")
    if not user or not repo:
        raise UserError(f"{name} is not the address of a model; write hf:user/repo or hf:user/repo/file")
    try:
        chosen = file or _only_model(name, huggingface_hub.list_repo_files(f"{user}/{repo}"))
        return Path(huggingface_hub.hf_hub_download(f"{user}/{repo}", chosen))
    except UserError:
        raise
    except Exception as error:  # among them errors of the HTTP library, which depends on the version
        raise UserError(
            f"{name} cannot be downloaded ({first_line(error)}); correct the name, check the network, or set HF_TOKEN"
            " for a private model"
        ) from None


def _only_model(name: str, files: list[str]) -> str:
    """The only .safetensors file of a repository, else its only .pth file."""
    for suffix in (".safetensors", ".pth"):
        found = [file for file in files if file.endswith(suffix)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{name} has several models, {', '.join(found[:8])}; name one, as {name}/{found[0]}")
    raise UserError(f"{name} has no .safetensors and no .pth file; give the repository of a PyTorch model")


# ---- list ------------------------------------------------------------------------------------------------------------


def listing() -> list[dict[str, Any]]:
    """A row for each model that has a name, the default first: what `sr models --json` prints."""
    shipped = SHIPPED / f"{DEFAULT}.safetensors"
    rows: list[dict[str, Any]] = []
    if shipped.is_file():
        about = "photographs with noise and JPEG artifacts; a small network, part of this package"
        rows.append(_row(DEFAULT, 4, "Apache-2.0", shipped.stat().st_size, None, "", shipped, about, default=True))
    for model in CATALOG:
        file, given = file_of(model), (model.name, model.scale, model.licence, model.size, model.url)
        rows.append(_row(*given, model.sha256, file if file.exists() else None, model.about))
    return rows


def _row(
    name: str,
    scale: int,
    licence: str,
    size: int | None,
    url: str | None,
    sha256: str,
    file: Path | None,
    about: str,
    *,
    default: bool = False,
) -> dict[str, Any]:
    cached = str(file) if file else None
    made = {"name": name, "scale": scale, "licence": licence, "bytes": size, "url": url, "sha256": sha256}
    return made | {"file": cached, "default": default, "about": about}
