"""Folder listings: what is found, what is followed, and a count of everything that is skipped."""

import os
import socket

import pytest

from sr.images.listing import Skipped, list_folder, printable

SUFFIXES = (".png", ".jfif")


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def names(folder):
    return [path.relative_to(folder).as_posix() for path in list_folder(folder, SUFFIXES).paths]


def test_links_to_files_and_folders_are_followed(tmp_path):
    touch(tmp_path / "elsewhere" / "b.png")
    touch(tmp_path / "set" / "a.PNG")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "c.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert names(tmp_path / "set") == ["a.PNG", "c.png", "linked/b.png"]


def test_link_loops_end_and_are_counted(tmp_path):
    touch(tmp_path / "set" / "a" / "1.png")
    touch(tmp_path / "set" / "b" / "2.png")
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    (tmp_path / "set" / "b" / "other").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "set" / "self").symlink_to("self")
    listing = list_folder(tmp_path / "set", SUFFIXES)
    assert [path.name for path in listing.paths] == ["1.png", "2.png", "1.png"]
    assert listing.skipped.reasons["link loops"][0] == 2
    assert listing.skipped.reasons["broken links"][0] == 1


def test_everything_skipped_has_a_reason_and_an_example(tmp_path):
    for name in ("a.png", "b.txt", "c.TXT", "README", ".DS_Store", ".git/x.png"):
        touch(tmp_path / name)
    (tmp_path / "gone.png").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket.png"))
        (tmp_path / "null.png").symlink_to("/dev/null")
        listing = list_folder(tmp_path, SUFFIXES)
    assert [path.name for path in listing.paths] == ["a.png"]
    assert listing.skipped.reasons == {
        "hidden": (2, str(tmp_path / ".DS_Store")),
        "without suffix": (1, str(tmp_path / "README")),
        "with suffix .txt": (2, str(tmp_path / "b.txt")),
        "broken links": (1, str(tmp_path / "gone.png")),
        "devices": (1, str(tmp_path / "null.png")),
        "named pipes": (1, str(tmp_path / "pipe.png")),
        "sockets": (1, str(tmp_path / "socket.png")),
    }
    assert str(listing.skipped).startswith("9 files skipped: 2 hidden (")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_counted(tmp_path):
    touch(tmp_path / "closed" / "a.png")
    (tmp_path / "closed").chmod(0)
    try:
        assert list_folder(tmp_path, SUFFIXES).skipped.total == 1
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_names_that_are_not_utf8_are_found_and_printable(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.png"
    with open(path, "wb"):
        pass
    [found] = list_folder(tmp_path, SUFFIXES).paths
    assert os.fsencode(found) == path
    assert printable(found.name) == "caf\\xe9\\n.png"
    skipped = Skipped()
    skipped.add("hidden", found)
    str(skipped).encode("utf-8")
