"""A stand-in for CUDA on machines without a GPU, to test what a step does to the host.

torch's CUDA build runs on it unchanged: memory, copies between host and device, and NCCL between processes are there,
but kernels are only counted, so device memory holds zeros. It shows launches, synchronizations, copies, peak memory and
host time. It does not show numbers, errors inside kernels, missing cuDNN algorithms, time on the device, workspaces,
races between streams, or anything that depends on values on the device.

    from tests import null_gpu
    subprocess.run([sys.executable, "script.py"], env={**os.environ, **null_gpu.environment(gib=8)})
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SOURCES = Path(__file__).parent
IMPORTERS = "c10_cuda", "torch_cuda", "torch_python", "torch_cuda_linalg", "torch_nvshmem", "caffe2_nvrtc"
NAMES = r"\b((?:__cuda|cuda|cu[A-Z]|cublas|cudnn|cufft|cusparse|cusolver|nccl|curand)\w+)"


def missing() -> str | None:
    """Return why the null GPU cannot be built here, None if it can."""
    if not (_torch() / "lib" / "libtorch_cuda.so").exists():
        return "torch is built without CUDA"
    if _headers() is None:
        return "the headers of the package nvidia-cuda-runtime are not installed"
    tools = [name for name in ("gcc", "g++", "nm") if shutil.which(name) is None]
    return f"{' and '.join(tools)} not found" if tools else None


def environment(*, gib: float = 139.8, devices: int = 1, capability: int = 90) -> dict[str, str]:
    """Return the environment variables that give a process null GPUs, built if necessary (10 s)."""
    folder = build()
    return {
        "LD_PRELOAD": f"{folder}/libcuda.so.1:{folder}/libnvrtc.so.13",
        "LD_LIBRARY_PATH": str(folder),
        "TRITON_LIBCUDA_PATH": str(folder),
        "NULL_GPU_GIB": str(gib),
        "NULL_GPU_DEVICES": str(devices),
        "NULL_GPU_SM": str(capability),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "0",
    }


def reset() -> None:
    """Set the counters of this process, which must run on null GPUs, to 0."""
    ctypes.CDLL(None).null_gpu_reset()


def counts(*, kernels: bool = False) -> dict[str, int]:
    """Return the counters since `reset`, or of kernels by name (with NULL_GPU_NAMES=1).

    `LAUNCH`: kernels and replayed graphs. `SYNC`: calls that wait for the device. `memcpy ...`: copies by direction;
    those from and to pageable host memory wait as well.
    """
    report = ctypes.CDLL(None).null_gpu_report
    report.restype = ctypes.c_char_p
    rows = (line.split("\t") for line in report(int(kernels)).decode().splitlines())
    return {name: int(number) for name, number in rows}


@cache
def build() -> Path:
    """Compile the libraries for the installed torch into a folder of the system's temporary files; return it."""
    sources = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".cpp", ".c", ".h", ".py"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + str(_torch()).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"null_gpu_{os.getuid()}_{key}")
    if not folder.exists():
        scratch = Path(tempfile.mkdtemp())
        _compile(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process built it meanwhile
            shutil.rmtree(scratch)
    return folder


def _compile(folder: Path) -> None:
    headers, core, rest = _headers() or Path(), folder / "core.o", folder / "rest.c"
    flags = ["-O1", "-fPIC", "-w", f"-I{SOURCES / 'include'}", f"-I{headers}"]
    _run("g++", *flags, "-fvisibility=hidden", "-c", SOURCES / "null_cuda.cpp", "-o", core)
    imported = "".join(_run("nm", "-D", "-u", _torch() / "lib" / f"lib{library}.so") for library in IMPORTERS)
    names = set(re.findall(NAMES, imported)) | set(
        re.findall(r"CUDAAPI\s+(cu[A-Z]\w+)\(", (headers / "cuda.h").read_text())
    )
    names -= set(re.findall(r" T (\w+)", _run("nm", core)))
    visible = '__attribute__((visibility("default")))'
    rest.write_text("".join(f"{visible} int {name}(void) {{ return 0; }}\n" for name in sorted(names)))
    _run("gcc", *flags, "-c", rest, "-o", folder / "rest.o")
    _run("g++", "-shared", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", core, folder / "rest.o", "-ldl")
    nvrtc = "-Wl,-soname,libnvrtc.so.13", "-o", folder / "libnvrtc.so.13"
    _run("gcc", *flags, "-shared", *nvrtc, SOURCES / "null_nvrtc.c")
    (folder / "libcuda.so").symlink_to("libcuda.so.1")  # Triton links its launchers to it


def _run(*line: object) -> str:
    return subprocess.run(list(map(str, line)), check=True, stdout=subprocess.PIPE, text=True).stdout


def _torch() -> Path:
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@cache
def _headers() -> Path | None:
    """Return the folder of cuda.h and cuda_runtime_api.h: of the packages that torch installs, or of a toolkit."""
    places = [*_torch().parent.glob("nvidia/*/include"), Path("/usr/local/cuda/include")]
    return next(
        (place for place in places if all((place / f"{n}.h").exists() for n in ("cuda", "cuda_runtime_api"))), None
    )
