"""The command line. A user's mistake ends in one sentence on stderr and exit code 2, without a traceback."""

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from sr.cli import convert, images, measuring, recipes, training
from sr.core import signals
from sr.core.errors import UserError
from sr.core.version import __version__


def parser() -> argparse.ArgumentParser:
    root = _Parser(prog="sr", description="Train image super-resolution GANs on many machines; use them.")
    root.add_argument("--version", action="version", version=f"sr {__version__}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Callable[[argparse.Namespace], int], help: str, example: str = "") -> argparse.ArgumentParser:
        epilog = f"example: {example}" if example else None
        parser: argparse.ArgumentParser = verbs.add_parser(
            function.__name__, help=help, description=help, epilog=epilog
        )
        parser.set_defaults(run=function)
        return parser

    for group in (training, recipes, measuring, images, convert):
        group.add(verb)
    return root


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one sentence, as `main` does for other mistakes."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    try:
        args = parser().parse_args(argv)
        return int(args.run(args))
    except UserError as error:
        return _failed(str(error), error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return _broken_pipe()
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}; make room or choose another place, then run it again", 2)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except Exception as error:
        return _other_failure(error)


def _other_failure(error: Exception) -> int:
    """Report errors after a signal, out of memory and lost processes in one sentence, others as internal errors."""
    if name := signals.received():  # such as an error of a compiler process that the same signal ended
        cause = " ".join(str(error).split())[:200]
        return _failed(f"ended after {name} by {type(error).__name__}: {cause}; run the same command to resume", 1)
    import torch

    from sr.distributed import comm

    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).partition(". ")[0]
        return _failed(f"{reason}; raise train.accumulate, or lower data.batch_size, data.gt_size or --tile", 2)
    if lost := comm.lost(error):
        return _failed(*lost)
    traceback.print_exception(error)
    return _failed("internal error in sr; please report the lines above", 70)


def _broken_pipe() -> int:
    """The reader of the output has ended (`sr check x.yml | head`): write no more to it at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _failed(message: str, code: int) -> int:
    """Print the message and return the exit code; of several processes, exit.

    A process of a launch must not wait for the others in its clean-up, because they may be waiting for it.
    """
    code = signals.exit_code(code)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from sr.distributed import comm

        comm.leave(message, code)
    print(f"sr: {message}", file=sys.stderr, flush=True)
    return code
