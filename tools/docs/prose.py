"""Count watch words in the prose of sr/, tools/, docs/ and README.md; fail if they are frequent.

    python tools/docs/prose.py            # every place, then a line per folder
    python tools/docs/prose.py sr/data    # some files or folders only

A watch word marks a sentence that probably uses a private or literary expression instead of the standard term. In
Python files, comments, docstrings and strings of at least four words count; in Markdown, everything outside of code.
Exit code 1: more than LIMIT watch words per 1,000 words in one of the four places.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

VERBS = r"mend(?:s|ed|ing)?|tells?|told|says?|said|lies?|hasten(?:s|ed|ing)?|gone"
OTHERS = r"beside|anew|aside|whatever|nobody|somebody"
PHRASES = r"one another|of its own|for want of|what came of|the way of|as it is|in turn"
PATTERN = re.compile(rf"\b(?:{VERBS}|{OTHERS}|{PHRASES})\b", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
PLACES = ("sr", "tools", "docs", "README.md")
LIMIT = 0.5  # watch words per 1,000 words of a place
Line = tuple[int, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", default=PLACES, help="files or folders (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="watch words per 1,000 words (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="print the totals only")
    args = parser.parse_args()
    exceeded = False
    for place in map(Path, args.paths):
        words = found = 0
        for file in files(place):
            for number, text in prose(file):
                words += len(WORD.findall(text))
                for match in PATTERN.finditer(text):
                    found += 1
                    line = number + text.count("\n", 0, match.start())
                    if not args.quiet:
                        print(f"{file}:{line}: {match[0]}")
        rate = 1000 * found / max(words, 1)
        exceeded |= rate > args.limit
        print(f"{place}: {found} watch words in {words} words, {rate:.2f} per 1,000 (limit {args.limit})")
    return int(exceeded)


def files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        sys.exit(f"{place}: no such file or folder; run this from the root of the repository")
    return sorted(path for suffix in ("py", "md") for path in place.rglob(f"*.{suffix}") if not path.samefile(__file__))


def prose(file: Path) -> Iterator[Line]:
    """Line number and text of each piece of prose in a file."""
    text = file.read_text(encoding="utf-8")
    yield from _markdown(text) if file.suffix == ".md" else _python(text)


def _markdown(text: str) -> Iterator[Line]:
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)


def _python(text: str) -> Iterator[Line]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    tree = ast.parse(text)
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in joined for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            literals = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield from _sentence(node, "".join(map(str, literals)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield from _sentence(node, node.value)


def _sentence(node: ast.expr, text: str) -> Iterator[Line]:
    text = re.sub(r"`[^`]*`", "", text)
    if len(WORD.findall(text)) >= 4:
        yield node.lineno, text


if __name__ == "__main__":
    sys.exit(main())
