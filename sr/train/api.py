"""`sr.train`: a whole run as one function call."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sr.train import builder, run
from sr.train.results import TrainResult


def train(
    recipe: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    plugins: bool = True,
    accept_changes: bool = False,
    **sections: Any,
) -> TrainResult:
    """Train as `sr train` does, or resume the run, and return its folder, models and scores.

    Args:
        recipe: an options file, or a recipe as `sr recipes` lists them.
        overrides: options to change, with dotted keys: {"train.total_steps": 10, "losses.gan": None}. None removes a
            key. Or a list of texts, as `--set` takes them.
        plugins: allow types from outside `sr` in the file.
        accept_changes: resume with changed losses, data or optimizer.
        sections: more overrides, nested or with dotted keys: train={"total_steps": 10}. Keys that are not named keep
            their values.

    Raises:
        sr.core.errors.UserError: the options are wrong, or the data cannot be read.
        sr.core.signals.Stopped: SIGTERM or SIGINT; the run is saved, and the same call resumes it.

    Example:
        >>> import sr
        >>> result = sr.train("options.yml", overrides={"name": "short", "train.total_steps": 2})
        >>> result.step
        2
        >>> model = sr.load(result.best or result.model)
    """
    given = overrides if isinstance(overrides, Mapping) else {}
    texts = [] if isinstance(overrides, Mapping) else list(overrides)
    sets = [f"{key}={json.dumps(value, default=os.fspath)}" for key, value in _flat({**given, **sections})]
    options = builder.load(os.fspath(recipe), [*texts, *sets], plugins=plugins)
    return run.train(options, plugins=plugins, accept_changes=accept_changes)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); mappings are entered."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
