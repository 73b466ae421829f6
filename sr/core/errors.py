"""The one exception a user is meant to read."""


class UserError(Exception):
    """A mistake that the person at the keyboard can mend.

    The message is one sentence that names the file, the key or the sample and ends in the fix.
    `sr.cli` prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2
