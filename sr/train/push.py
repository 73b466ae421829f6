"""Publish a trained model on the Hugging Face Hub, with a model card made from the run."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open

from sr.core.errors import UserError, first_line
from sr.core.version import __version__
from sr.nets.io.load import Model, open_model
from sr.train.results import scores

UNKNOWN_LICENCE = "unknown"  # a value that the Hub knows
WEIGHTS, CARD = "model.safetensors", "README.md"  # the names in the repository


@dataclass(frozen=True)
class Upload:
    """What `send` uploads to `repo`: the file `model` and the text of its card."""

    repo: str
    model: Path
    card: str


def prepare(
    source: str | os.PathLike[str], repo: str, *, licence: str | None = None, data: str | None = None
) -> Upload:
    """Find the model and write its card; nothing is sent.

    Args:
        source: a .safetensors file that `sr` trained, or the folder of a run, of which the best generator is taken.
        repo: user/name.
        licence: as the Hub writes it, such as cc-by-4.0.
        data: what the model was trained on; by default the name of the data in the options of the run.

    Raises:
        UserError: there is no such model, or it was not written by `sr`.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UserError(f"{repo} is not the name of a repository; write user/name")
    file = _model_file(Path(source))
    model, metadata = open_model(file), _metadata(file)
    run = file.parent.parent if (file.parent.parent / "options.yml").is_file() else None
    return Upload(repo, file, card(repo, model, metadata, run=run, licence=licence, data=data))


def send(upload: Upload, *, private: bool = False) -> str:
    """Upload both files in one commit, to a repository that is made if needed. Returns the URL. Raises UserError."""
    import huggingface_hub as hub

    if not hub.get_token():
        raise UserError("nothing was uploaded: there is no token of the Hugging Face Hub; set HF_TOKEN")
    files: dict[str, Any] = {WEIGHTS: str(upload.model), CARD: upload.card.encode()}
    parts = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    api = hub.HfApi()
    try:
        api.create_repo(upload.repo, private=private, exist_ok=True)
        api.create_commit(upload.repo, parts, commit_message=f"Upload {upload.model.name}")
    except Exception as error:  # among them errors of the HTTP library, which depends on the version
        raise UserError(
            f"{upload.repo}: the upload failed ({first_line(error)}); check the name, the network and the rights of the"
            " token"
        ) from None
    return f"https://huggingface.co/{upload.repo}"


def _model_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    models = source / "models"
    if (models / "net_g_best.safetensors").is_file():
        return models / "net_g_best.safetensors"
    steps = sorted((file for file in models.glob("net_g_*.safetensors")), key=lambda file: (len(file.name), file.name))
    if not steps:
        raise UserError(f"{source} has no models/net_g_*.safetensors; give the folder of a run, or a model")
    return steps[-1]


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError):
        metadata = {}
    if not metadata.get("architecture", "").startswith("{"):
        raise UserError(f"{file} was not written by sr train; convert it with `sr export {file} -o NAME.safetensors`")
    return metadata


# ---- card ------------------------------------------------------------------------------------------------------------


def card(
    repo: str,
    model: Model,
    metadata: Mapping[str, str],
    *,
    run: Path | None = None,
    licence: str | None = None,
    data: str | None = None,
) -> str:
    """Return the model card in Markdown. run: the folder with options.yml and log.jsonl, if it is known."""
    part, options = json.loads(metadata["architecture"]), json.loads(metadata.get("options", "{}"))
    step = int(metadata.get("step", 0))
    full = yaml.safe_load((run / "options.yml").read_text(encoding="utf-8")) if run else {}
    front = {
        "license": licence or UNKNOWN_LICENCE,
        "library_name": "sr",
        "pipeline_tag": "image-to-image",
        "tags": ["super-resolution" if model.scale > 1 else "image-translation", "pytorch"],
    }
    arguments = ", ".join(f"{key}: {value}" for key, value in part["kwargs"].items())
    count = sum(weights.numel() for weights in model.net.parameters())
    facts = {
        "architecture": f"{part['type']} ({arguments}), {count:,} parameters",
        "scale": f"x{model.scale}",
        "task": options.get("task", "not stated"),
        "losses": ", ".join(options.get("losses", {})) or "not stated",
        "degradation": ", ".join(stage["type"] for stage in options.get("degrade", [])) or "none",
        "data": data or _data(full) or "not stated",
        "steps": f"{step:,}" if step else "not stated",
        "batch size": options.get("data", {}).get("batch_size", "not stated"),
        "packed by": f"sr {__version__}, torch {torch.__version__}",
    }
    verb = "upscale" if model.scale > 1 else "translate"
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {repo.partition('/')[2]}",
        f"```sh\npip install sr-train\nsr {verb} photo.jpg -o out/ -m hf:{repo}\n```",
        _table(("", ""), [(key, str(value)) for key, value in facts.items()]),
        *_metrics(scores(run, step) if run else {}),
    ]
    return "\n\n".join(sections) + "\n"


def _metrics(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not found:
        return []
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [
        (name, *(f"{row[metric]:.4f}" if metric in row else "-" for metric in names)) for name, row in found.items()
    ]
    return ["## Validation", _table(("set", *names), rows)]


def _data(options: Mapping[str, Any]) -> str:
    """The last part of each path of the source: other parts may name people and machines."""
    source = options.get("data", {}).get("source", {})
    paths = [value for key, value in source.items() if key in ("path", "gt", "a", "b")]
    flat = [path for value in paths for path in (value if isinstance(value, list) else [value])]
    return ", ".join(str(path).split("?")[0].rstrip("/").rpartition("/")[2] for path in flat)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
