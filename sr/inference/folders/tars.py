"""Images inside tars, each read by its offset. No name can lead out of the folder that mirrors the tar."""

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sr.core.errors import UserError
from sr.data.scan import expect_end


class Member(NamedTuple):
    """A file in a tar. offset, size: of its bytes."""

    name: str
    offset: int
    size: int


def members(tar: Path, suffixes: Sequence[str]) -> tuple[list[Member], list[tuple[str, str]]]:
    """List the images of a tar by suffix, and those refused as (name, reason). Of equal names the last one counts.

    Costs one pass over the headers.

    Raises:
        UserError: the file is not a complete, uncompressed tar. The message does not name it.
    """
    found: dict[str, Member] = {}
    refused: dict[str, str] = {}
    try:
        size = tar.stat().st_size
        with tarfile.open(tar, "r:") as archive:
            for one in archive:
                name = PurePosixPath(one.name)
                if not one.isfile() or not one.name.lower().endswith(tuple(suffixes)) or name.name.startswith("."):
                    continue
                if reason := _unfit(one, name, size):
                    refused[one.name] = reason
                else:
                    found[str(name)] = Member(str(name), one.offset_data, one.size)
            expect_end(archive, str(tar))
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as error:
        raise UserError(f"not a complete, uncompressed tar ({error}); make or copy it again") from None
    return list(found.values()), list(refused.items())


def _unfit(one: tarfile.TarInfo, name: PurePosixPath, size: int) -> str:
    if name.is_absolute() or ".." in name.parts or "\\" in one.name or "\0" in one.name:
        return "its name leads out of the folder; rename it"
    if one.issparse():
        return "is stored sparse; make the tar without --sparse"
    if not 0 <= one.size <= size - one.offset_data:
        return "is longer than the tar; copy the tar again"
    return ""


def read_member(tar: Path, offset: int, size: int) -> bytes:
    """Read the bytes of a member. Raises OSError, and ValueError where the tar has become shorter."""
    with open(tar, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise ValueError("the tar is shorter than it was; start again")
    return data
