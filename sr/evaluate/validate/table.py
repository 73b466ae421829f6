"""Scores as a text table, as JSON, and as CSV."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sr.core.atomic import replacing
from sr.evaluate.validate.measure import Results, Scores


def lines(results: Results) -> list[str]:
    """Return a text table: a line per image, the mean, and the mean of the unprocessed inputs; a block per set, under
    its name where there are several."""
    blocks = [(name, _rows(results, name)) for name in results.means]
    width = max(24, *(len(name) for _, rows in blocks for name, _ in rows))
    made: list[str] = []
    for name, rows in blocks:
        metrics = rows[-1][1] if len(rows) == 1 else dict.fromkeys(key for _, scores in rows for key in scores)
        made += [name] if len(blocks) > 1 else []
        made += [f"{label:{width}s}" + "".join(_cell(scores, key) for key in metrics) for label, scores in rows]
    return made


def _rows(results: Results, name: str) -> list[tuple[str, Scores]]:
    rows = [(row.name, row.scores) for row in results.rows if row.set == name] + [("mean", results.means[name])]
    return rows + ([("input", results.given_means[name])] if results.given_means.get(name) else [])


def _cell(scores: Scores, metric: str) -> str:
    return f"  {metric} {scores[metric]:9.4f}" if metric in scores else f"  {metric} {'-':>9s}"


def table(results: Results) -> dict[str, Any]:
    """Return {"mean": ..., "images": ...} of one set, or {"sets": {name: ...}} of several.

    JSON has no infinity: the PSNR of equal images becomes null.
    """
    sets: dict[str, Any] = {}
    for name, mean in results.means.items():
        rows = {row.name: row.scores for row in results.rows if row.set == name}
        content = {"mean": mean, "images": rows, "input": results.given_means.get(name, {})}
        sets[name] = {key: value for key, value in content.items() if value}
    made = {"sets": sets} if len(sets) > 1 else next(iter(sets.values()))
    plain: dict[str, Any] = _plain(made | ({"left_out": results.left_out} if results.left_out else {}))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: str | Path, results: Results) -> None:
    """Write a row per image: set, image, and a column per metric, empty where an image is too small for it. Atomic."""
    metrics = list(dict.fromkeys(metric for row in results.rows for metric in row.scores))
    with replacing(path) as scratch, open(scratch, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "image", *metrics])
        for row in results.rows:
            writer.writerow([row.set, row.name, *(row.scores.get(metric, "") for metric in metrics)])
