"""The exception that is shown to users, and what error messages quote."""


class UserError(Exception):
    """A mistake that the person at the keyboard can mend.

    The message is one sentence that names the file, the key or the sample and ends in the fix.
    `sr.cli` prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2

    def __init__(self, *message: object) -> None:
        super().__init__(*(printable(str(part)) for part in message))


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped: it may quote a file, and goes to a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of another library's error, at most `most` characters, to be quoted in a message.

    The type comes first where the text alone may not be understood (`KeyError: 'a'`).
    """
    text = (str(error).strip().splitlines() or [""])[0]
    plain = text and isinstance(error, UserError | ValueError | RuntimeError | ArithmeticError | OSError)
    return (text if plain else f"{type(error).__name__}: {text}".removesuffix(": "))[:most]
