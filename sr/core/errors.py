"""The exception that is shown to users, and helpers for error messages."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix.

    The message is one sentence that names the file, key or sample, states what is wrong, and ends in the fix.
    `sr.cli` prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2

    def __init__(self, *message: object) -> None:
        super().__init__(*(printable(str(part)) for part in message))


def nearest(word: str, known: Iterable[object], cutoff: float = 0.6) -> str:
    """Return ` Did you mean 'x'?` with the known word that is most similar, or nothing.

    Case does not count, and `lion` means `timm.Lion` if there is no other.
    """
    words = {str(each).lower(): str(each) for each in known}
    close = difflib.get_close_matches(word.lower(), words, n=1, cutoff=cutoff)
    ends = [each for each in words if each.endswith(f".{word.lower()}")]
    best = next((each for each in (word.lower(), *ends, *close) if each in words), None)
    return f" Did you mean '{words[best]}'?" if best else ""


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes: the text may quote a file and is printed to a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of an error of another library, cut to `most` characters, to quote it in a message.

    It starts with the type if the text alone is not understandable (`KeyError: 'a'`), and includes the second line if
    the first one ends with a colon.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    plain = text and isinstance(error, UserError | ValueError | RuntimeError | ArithmeticError | OSError)
    return (text if plain else f"{type(error).__name__}: {text}".removesuffix(": "))[:most]
