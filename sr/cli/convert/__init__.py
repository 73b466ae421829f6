"""The verb `convert`: options files of BasicSR, Real-ESRGAN, traiNNer-redux and neosr, and training commands of
pytorch-CycleGAN-and-pix2pix, as options of sr."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from sr.cli.common import Add, whole
from sr.core.errors import UserError, first_line

MAX_BYTES = 1 << 20
MAX_ALIASES = 20  # each may multiply the size of what it stands in
ODD = ValueError, TypeError, KeyError, AttributeError, OverflowError
"""What values of unexpected types raise."""
HELP = "convert options of BasicSR, Real-ESRGAN, traiNNer-redux, neosr, or a command of pytorch-CycleGAN-and-pix2pix"


def add(verb: Add) -> None:
    parser = verb(convert, HELP, "sr convert train_realesrgan_x4plus.yml > options/mine.yml", result=True)
    parser.add_argument("file", help="an options file, a shell script, or a command in quotes: 'python train.py ...'")
    parser.add_argument("--gpus", type=int, help="processes that the batch size of the file is meant for (the file's)")
    parser.add_argument("--images", type=whole(1), metavar="N", help="of the training set, for commands (counted)")


def convert(args: argparse.Namespace) -> int:
    """Print the options, and under them each key without counterpart, with the reason.

    Returns 1, with the problems on stderr, where the result does not pass `sr check`.
    """
    import yaml

    from sr.cli.convert.sections import problems

    if args.gpus is not None and args.gpus < 1:
        raise UserError(f"--gpus {args.gpus}: give 1 or more")
    name, options, rest = _converted(args)
    try:
        mistakes = problems(options)
    except ODD as error:
        raise UserError(f"{name}: cannot be converted ({first_line(error)}); correct its values") from None
    print(f"# From {name}. Shards load faster: sr shard FOLDER OUT, data.source: {{type: shards, path: OUT}}")
    print(yaml.safe_dump(options, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True), end="")
    if rest:
        print("\n# Without counterpart:")
    for path, reason in rest.items():
        print(f"#   {path}: {reason}")
    for problem in mistakes:
        print(f"{'.'.join(map(str, problem.path))}: {problem.message}", file=sys.stderr)
    return 1 if mistakes else 0


def _converted(args: argparse.Namespace) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return the name of what was read, the options, and each key or flag without counterpart with the reason."""
    from sr.cli.convert import command_line

    given = str(args.file)
    if (words := command_line.words_of(given, "the command")) is not None:
        return "a command", *command_line.convert(words, args.images)
    if given.endswith(".sh"):
        words = command_line.words_of(_bytes(Path(given)).decode("utf-8", "replace"), given)
        if words is None:
            raise UserError(f"{given} has no command `python train.py ...`; give one in quotes")
        return Path(given).name, *command_line.convert(words, args.images)
    return _from_file(Path(given), args.gpus)


def _from_file(file: Path, gpus: int | None) -> tuple[str, dict[str, Any], dict[str, str]]:
    from sr.cli.convert.keys import Given
    from sr.cli.convert.sections import convert

    given = Given(_read(file))
    try:
        options = convert(given, gpus)
    except ODD as error:
        last = f" near '{given.last}'" if given.last else ""
        raise UserError(f"{file}: cannot be converted{last} ({first_line(error)}); correct that key") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return file.name, options, given.rest()


def _bytes(file: Path) -> bytes:
    """Return the content of a file. Raises UserError."""
    try:
        with open(file, "rb") as source:
            data = source.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise UserError(f"{file} is a folder; give one options file") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); correct the path") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{file} is larger than {MAX_BYTES >> 20} MiB; give an options file")
    return data


def _read(file: Path) -> Any:
    """The content of a YAML file, or of a TOML file by its suffix. Raises UserError."""
    import yaml

    data = _bytes(file)
    try:
        text = data.decode("utf-8-sig")
        if file.suffix.lower() == ".toml":
            return _toml(text)
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > MAX_ALIASES:
            raise ValueError(f"more than {MAX_ALIASES} aliases")
        return _numbers(yaml.safe_load(text))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        place = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not valid {file.suffix.lstrip('.') or 'YAML'} ({place}); correct it") from None


def _numbers(node: Any) -> Any:
    """`1e-4`, which YAML 1.1 reads as a string, as the number that is meant."""
    if isinstance(node, dict):
        return {key: _numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_numbers(value) for value in node]
    return float(node) if isinstance(node, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d{1,3}", node) else node


def _toml(text: str) -> Any:
    if sys.version_info < (3, 11):
        raise UserError("TOML files need Python 3.11 or newer; convert on such a Python")
    import tomllib

    return tomllib.loads(text)
