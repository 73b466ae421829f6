"""The command line. A user's mistake ends in one sentence on stderr and exit code 2, without a traceback."""

import argparse
import atexit
import contextlib
import gc
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sr.cli import convert, images, measuring, models, recipes, training
from sr.core import signals
from sr.core.errors import UserError, nearest
from sr.core.progress import set_quiet
from sr.core.version import __version__

atexit.register(gc.freeze)  # else Python searches the million objects of torch for garbage before it ends (a second)


def parser() -> argparse.ArgumentParser:
    root = _Parser(prog="sr", description="Train image super-resolution GANs on many machines; use them.")
    root.add_argument("--version", action="version", version=f"sr {__version__}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        function: Callable[[argparse.Namespace], int],
        help: str,
        example: str,
        *,
        result: bool = False,
        json: bool = False,
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(
            function.__name__, help=help, description=help, epilog=f"example: {example}"
        )
        parser.set_defaults(run=function, result=result, json=False)
        amount = parser.add_mutually_exclusive_group()
        amount.add_argument("--quiet", action="store_true", help="print no progress, only results and errors")
        amount.add_argument("--verbose", action="store_true", help="print the traceback of errors")
        if json:
            parser.add_argument("--json", action="store_true", help="print the result as JSON")
        return parser

    for group in (training, recipes, measuring, images, models, convert):
        group.add(verb)
    return root


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one sentence with the nearest spelling, as `main` does for other mistakes."""

    def error(self, message: str) -> NoReturn:
        see = " See" if message.endswith("?") else "; see"
        raise UserError(f"{message}{see} {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown flag before argparse reports the required argument that it was meant for."""
        given = list(sys.argv[1:] if args is None else args)
        for flag in (each.partition("=")[0] for each in given[: given.index("--") if "--" in given else None]):
            if self._subparsers is None and self._is_unknown(flag):
                flags = sorted(name for name in self._option_string_actions if name.startswith("--"))
                self.error(f"there is no flag {flag}.{nearest(flag, flags)}".rstrip("."))
        return super().parse_known_args(args, namespace)

    def _is_unknown(self, flag: str) -> bool:
        known = self._option_string_actions
        if flag.startswith("--"):
            return " " not in flag and not any(name.startswith(flag) for name in known)
        return re.match(r"-[A-Za-z]", flag) is not None and flag[:2] not in known

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Of a value that is not one of the choices, such as a verb: a message with the nearest one."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            likely = [name for name in known if name.startswith(str(value))]
            hint = f" Did you mean '{likely[0]}'?" if likely else nearest(value, known)
            choices = f" Choose from {', '.join(known)}"
            raise argparse.ArgumentError(action, f"there is no '{value}'.{hint or choices}")


def main(argv: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    signals.forget()
    verbose = False
    try:
        args = parser().parse_args(argv)
        verbose = args.verbose
        set_quiet(args.quiet)
        hidden = args.quiet and not (args.result or args.json)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if hidden else sys.stdout):
            return int(args.run(args))
    except UserError as error:
        if verbose:
            traceback.print_exception(error)
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
