"""Recognize the type of a model file by its content, because names and suffixes are often wrong."""

import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Literal

from sr.core.errors import UserError

Container = Literal["safetensors", "pickle"]

_WEIGHTS = "give the model as .safetensors or .pth instead"
_DOWNLOAD = "download it again"
_UNPACK = "unpack it, and give the model file in it"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the model", "run 'git lfs pull', or download the file itself"),
    (b"7767517", "an ncnn model", _WEIGHTS),
    (b"\x47\x6b\x30\x01", "the weights of an ncnn model", _WEIGHTS),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow)", _WEIGHTS),
    (b"\x93NUMPY", "a NumPy array", _WEIGHTS),
    (b"MATLAB", "a MATLAB file", _WEIGHTS),
    (b"GGUF", "a GGUF model", _WEIGHTS),
    (b"ptrt", "a TensorRT engine", _WEIGHTS),
    (b"ftrt", "a TensorRT engine", _WEIGHTS),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x89PNG", "a PNG image", "give a model here, and the image as input"),
    (b"\xff\xd8\xff", "a JPEG image", "give a model here, and the image as input"),
    (b"%PDF", "a PDF document", _WEIGHTS),
)
_SUFFIXES = {
    ".onnx": ("an ONNX model", _WEIGHTS),
    ".pb": ("a TensorFlow graph", _WEIGHTS),
    ".tflite": ("a TensorFlow Lite model", _WEIGHTS),
    ".param": ("an ncnn model", _WEIGHTS),
    ".caffemodel": ("a Caffe model", _WEIGHTS),
    ".msgpack": ("a Flax model", _WEIGHTS),
    ".pdparams": ("a Paddle model", _WEIGHTS),
    ".mlmodel": ("a Core ML model", _WEIGHTS),
    ".crdownload": ("an unfinished download", _DOWNLOAD),
    ".part": ("an unfinished download", _DOWNLOAD),
}


def container(path: Path) -> Container:
    """Return how the weights in a model file are stored. Reads a few kB and runs nothing from the file.

    Raises UserError, naming what the file is and what to give instead, if it is not a file of weights.
    """
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path} is a pipe, socket or device; give a model file (.safetensors or .pth)")
        with open(path, "rb") as file:
            head = file.read(4096)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the model file in it (.safetensors or .pth)") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; give the path of a .safetensors or .pth file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct that, or give another file") from None
    if _is_safetensors(head):
        return "safetensors"
    kind, fix = _zip_type(path) if head.startswith(b"PK\x03\x04") else _type_of(head, path)
    if kind:
        raise UserError(f"{path} is {kind}; {fix}")
    return "pickle"


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file starts with an 8-byte length and a JSON object, as safetensors files do."""
    return head[8:9] == b"{" and b"\0" in head[:8]


def _type_of(head: bytes, path: Path) -> tuple[str, str]:
    """Return (what the file is, what to do) by its first bytes, or ("", "") for a pickle."""
    for signature, kind, fix in _SIGNATURES:
        if head.startswith(signature):
            return kind, fix
    if not head:
        return "empty", _DOWNLOAD
    if not head.strip(b"\0"):
        return "only zero bytes, as an interrupted download leaves them", _DOWNLOAD
    if head[:1] == b"\x80":
        return "", ""
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", _WEIGHTS
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if re.match(rb"\x08[\x01-\x40](\x12.[\x20-\x7e]+|[\x1a\x22\x32\x3a\x42].)", head, re.DOTALL):
        return "an ONNX model", _WEIGHTS
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    if path.suffix.lower() == ".bin" and path.with_suffix(".param").exists():
        return "the weights of an ncnn model", _WEIGHTS
    return _text_type(head) or ("in no format that holds weights", f"{_WEIGHTS}, or download it again")


def _text_type(head: bytes) -> tuple[str, str] | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"<(!doctype html|html|head|!--)", text, re.IGNORECASE):
        return "a web page (HTML), not the model behind it", "download the file itself, not the page that shows it"
    if text.startswith(b"<"):
        return "an XML file", "download the model itself, as .safetensors or .pth"
    if text.startswith((b"{", b"[")):
        return "a JSON file", "download the model itself, as .safetensors or .pth"
    if not re.search(rb"[^\t\r\n\x1b\x20-\xff]", text):
        return "a text file", "download the model itself, as .safetensors or .pth"
    return None


def _zip_type(path: Path) -> tuple[str, str]:
    """Return (what a ZIP archive is, what to do), or ("", "") for an uncompressed archive of torch.save.

    torch.save does not compress. A few MB of compressed zeros would expand to as many GB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "damaged or cut short", _DOWNLOAD
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return "a TorchScript archive, a program that is never run here", _WEIGHTS
    if "archive_format" in names or "models/model.json" in names:
        return "a program of torch.export, which is never run here", _WEIGHTS
    if "data.pkl" not in names:
        inside = [entry.filename for entry in entries]
        if any(name.endswith(".npy") for name in inside):
            return "a NumPy archive", _WEIGHTS
        return "a ZIP archive without weights of PyTorch", _UNPACK
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "a compressed archive, which no trainer writes", _UNPACK
    return "", ""
