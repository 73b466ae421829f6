"""The page of a report: one HTML text without requests to other hosts. Names and paths are escaped."""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from sr.evaluate.metrics import METRICS

Scores = dict[str, float]


class Card(NamedTuple):
    """One image. files: one for each layer. scores: against the ground truth, for each layer except it."""

    name: str
    width: int
    height: int
    files: list[Path]
    scores: list[Scores]


def page(
    title: str, layers: Sequence[str], metrics: Sequence[str], cards: Sequence[Card], link: Callable[[Path], str]
) -> str:
    """The HTML text.

    Args:
        layers: names; the others are compared with the first.
        link: the address of a file for an <img>.
    """
    style, script = ((files("sr.report") / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    shown = [metric for metric in metrics if any(metric in scores for card in cards for scores in card.scores)]
    lower = [metric for metric in shown if METRICS[metric].perfect == 0]
    sorted_cards = sorted(enumerate(cards), key=lambda one: (_gain(one[1], shown), one[0]))
    body = "\n".join(_card(card, place, layers, shown, link) for place, card in sorted_cards)
    orders = shown if len(cards[0].scores) > 1 else []
    names = escape(f"{', '.join(layers[:-1])} and {layers[-1]}")
    summary = _comparison(layers, orders, len(cards))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<title>{escape(title)}: {names}</title>
<style>{style}</style>
<noscript><style>.stage {{ overflow: auto; aspect-ratio: auto; }}
.stage img {{ display: block; position: static; }}</style></noscript>
</head>
<body>
<header>
<h1>Comparison of {names}</h1>
<p class="quiet">{summary}</p>
{_means(cards, layers, shown)}
<p class="quiet">Drag on an image, or move the slider under it. Point at an image to see that place magnified. With
an image focused, the arrow keys move the loupe (with Shift by one pixel), + and - zoom, Escape closes.</p>
</header>
<div class="tools"><div role="toolbar" aria-label="What is shown">{_tools(layers, orders)}</div></div>
<main id="cards" data-lower="{escape(" ".join(lower))}">
{body}
</main>
<div id="loupe" role="region" aria-label="Loupe" hidden></div>
<script>{script}</script>
</body>
</html>
"""


def _policy(script: str) -> str:
    """No network access, and no script except that of the page."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src 'self' data: file:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _comparison(layers: Sequence[str], metrics: Sequence[str], count: int) -> str:
    images = f"{count} image{'s' if count > 1 else ''}"
    if not metrics:
        return f"{images}: {escape(', '.join(layers))}."
    return f"{images}, where {escape(layers[1])} loses most against {escape(layers[0])} first ({escape(metrics[0])})."


def _tools(layers: Sequence[str], metrics: Sequence[str]) -> str:
    def select(name: str, label: str, rows: Sequence[tuple[str, str]], chosen: int) -> str:
        options = "".join(
            f'<option value="{escape(value)}"{" selected" if n == chosen else ""}>{escape(text)}</option>'
            for n, (value, text) in enumerate(rows)
        )
        return f'<label>{label} <select id="{name}">{options}</select></label>'

    sides = [(str(n), layer) for n, layer in enumerate(layers)]
    orders = [*((metric, f"worst {metric} first") for metric in metrics), ("name", "by name")]
    zooms = [(str(factor), f"{factor} times") for factor in (1, 2, 4, 8, 16)]
    return " ".join([
        select("left", "Left", sides, 0),
        select("right", "Right", sides, 1),
        select("order", "Order", orders, 0),
        select("zoom", "Loupe", zooms, 2),
        '<label><input type="checkbox" id="loupe-on" checked> on</label>',
        '<button type="button" id="theme">Light or dark</button>',
    ])  # fmt: skip


def _card(card: Card, place: int, layers: Sequence[str], metrics: Sequence[str], link: Callable[[Path], str]) -> str:
    name, size = escape(card.name), f'data-wide="{card.width}" data-high="{card.height}"'
    sides = ['class="left"', 'class="right"', *("" for _ in layers)]
    images = "\n".join(
        f'<img data-layer="{n}" src="{escape(link(file))}" alt="{name}: {escape(layer)}" loading="lazy" '
        f'draggable="false" {sides[n]}>'
        for n, (layer, file) in enumerate(zip(layers, card.files, strict=True))
    )
    scores = json.dumps([{key: _plain(value) for key, value in row.items()} for row in card.scores] + [{}])
    style = f"--wide: {card.width}; --high: {card.height}"
    tags = (f'<span class="tag on-{side}">{escape(layers[n])}</span>' for n, side in enumerate(("left", "right")))
    return f"""<article class="card" data-place="{place}" data-scores="{escape(scores)}" style="{style}">
<h2>{name}</h2>
<div class="view">
<div class="stage" tabindex="0" role="group" aria-label="{name}: arrow keys move the loupe" {size}>
{images}
<div class="line"></div>{"".join(tags)}
</div>
<input class="slide" type="range" min="0" max="100" step="0.5" value="50" aria-label="{name}: share of the left">
</div>
{_table(card.scores, layers, metrics)}
</article>"""


def _means(cards: Sequence[Card], layers: Sequence[str], metrics: Sequence[str]) -> str:
    rows = []
    for layer in range(len(cards[0].scores)):
        having = {
            metric: [card.scores[layer][metric] for card in cards if metric in card.scores[layer]] for metric in metrics
        }
        rows.append({metric: fmean(values) for metric, values in having.items() if values})
    return _table(rows, layers, metrics, caption="Means")


def _table(rows: Sequence[Scores], layers: Sequence[str], metrics: Sequence[str], caption: str = "") -> str:
    """A row for each layer; each value is followed by its difference from the first row."""
    if not metrics:
        return ""
    head = "".join(f'<th scope="col">{escape(metric)}</th>' for metric in metrics)
    lines = [
        f'<tr><th scope="row">{escape(layer)}</th>{"".join(_cell(row, rows[0], metric) for metric in metrics)}</tr>'
        for layer, row in zip(layers, rows, strict=False)
    ]
    title = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="wide"><table>{title}<tr><th scope="col">Layer</th>{head}</tr>{"".join(lines)}</table></div>'


def _cell(row: Scores, first: Scores, metric: str) -> str:
    if metric not in row:
        return "<td>-</td>"
    text = f"{row[metric]:.4f}" if math.isfinite(row[metric]) else "equal"
    gain = _difference(metric, row, first)
    if row is first or not math.isfinite(gain) or gain == 0:
        return f"<td>{text}</td>"
    kind = "better" if gain > 0 else "worse"
    return f'<td>{text} <span class="{kind}">{row[metric] - first[metric]:+.4f} {kind}</span></td>'


def _difference(metric: str, row: Scores, first: Scores) -> float:
    """By how much `row` is closer to a perfect value than `first`."""
    if metric not in row or metric not in first or row[metric] == first[metric]:
        return 0.0 if metric in row and metric in first else math.inf
    difference = row[metric] - first[metric]
    return -difference if METRICS[metric].perfect == 0 else difference


def _gain(card: Card, metrics: Sequence[str]) -> float:
    """The gain of the second layer over the first by the first metric; 0 where nothing was measured."""
    return _difference(metrics[0], card.scores[1], card.scores[0]) if metrics and len(card.scores) > 1 else 0.0


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
