"""Name what a machine lacks to compile blocks or to use its GPUs, and recognise a GPU that fails."""

import ctypes
import os
import shutil
import sysconfig
from pathlib import Path

import torch

COMPILER_FIX = "apt-get install build-essential python3-dev there, or set {key}=false"
"""Fix for a `compiler_fault`; `key` switches compiled blocks off."""
DRIVER_FIX = "install an NVIDIA driver there (R580 for CUDA 13, R525 for CUDA 12), set {key}=0, or plan by dry_run=true"
"""Fix for a `driver_fault`; `key` asks for GPUs. A driver runs all minor versions of its CUDA."""
_DRIVER = "libcuda.so.1"
_GPU_ERRORS = ("CUDA error: ", "cuDNN error: ", "Triton Error [CUDA]: ", "No CUDA GPUs are available")
"""Beginnings of errors that libraries of CUDA raise as a plain RuntimeError."""
_MEMORY_ERRORS = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
_KERNEL_ERRORS = ("no kernel image is available", "CUDA_ERROR_NO_BINARY_FOR_GPU", "no binary for GPU")


def compiler_fault(device: str) -> str | None:
    """Return what torch.compile lacks on this machine for blocks on `device`, or None.

    Triton builds its launchers in C, Inductor its CPU kernels in C++, both with Python's headers. Without them the
    first block would raise, when weights are loaded and actors are up.
    """
    if torch.device(device).type == "cuda":
        names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    else:
        names = [os.environ.get("CXX") or "g++"]
    if not any(shutil.which(name.split()[0]) for name in names):
        return f"compiled blocks need a compiler, and {' or '.join(names)} is not in PATH"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.is_file():
        return f"compiled blocks need Python's headers, and {headers} does not exist"
    return None


def driver_fault() -> str | None:
    """Return why torch cannot use any GPU of this machine, or None."""
    built = torch.version.cuda
    if built is None:
        return "this torch is built without CUDA"
    known = _driver_version()
    if known is None:
        return "there is no NVIDIA driver"
    if not known:
        return f"{_DRIVER} does not tell its version: a stub, or the driver's library without its kernel module"
    if known // 1000 < int(built.split(".")[0]):
        return f"the NVIDIA driver knows CUDA {known // 1000}.{known % 1000 // 10}, and this torch is of CUDA {built}"
    return None


def _driver_version() -> int | None:
    """Return the newest CUDA that the driver knows, 1000 * major + 10 * minor; 0 if it fails, None without a driver."""
    version = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL(_DRIVER).cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return 0 if failed else version.value


def gpu_fault(error: BaseException) -> str | None:
    """Return the first line of an error of the GPU itself, as after a fault of its memory; None for any other.

    A process that has met one cannot use the GPU again. Too little memory is none of them, nor is a GPU for which
    torch has no kernels (`kernel_fault`).
    """
    line = str(error).partition("\n")[0]
    if any(words in line for words in (*_MEMORY_ERRORS, *_KERNEL_ERRORS)):
        return None
    return line if isinstance(error, torch.AcceleratorError) or line.startswith(_GPU_ERRORS) else None


def kernel_fault(error: BaseException) -> str | None:
    """Return one line for an error of a GPU that this torch has no kernels for, with the fix; None for any other."""
    if not any(words in str(error) for words in _KERNEL_ERRORS):
        return None
    architectures = ", ".join(torch.cuda.get_arch_list()) or "no GPU"
    return (
        f"this torch ({torch.__version__}) has no kernels for this GPU, only for {architectures}. Fix: install a torch "
        "that is built for it, or use another GPU."
    )
