"""What a machine lacks is named before a run; a GPU that fails is told from other errors."""

import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.wan import device_faults

COMPILER = {"cuda": "gcc", "cpu": "g++"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with nothing in PATH, whose Python has its headers."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def installed(machine: Path, name: str) -> None:
    (machine / name).touch(mode=0o755)


@pytest.mark.parametrize("device", COMPILER)
def test_a_compiler_is_missed_by_its_name_and_found_in_path(machine, device):
    assert COMPILER[device] in device_faults.compiler_fault(device)
    installed(machine, COMPILER[device])
    assert device_faults.compiler_fault(device) is None


@pytest.mark.parametrize(("device", "variable"), [("cuda", "CC"), ("cpu", "CXX")])
def test_a_variable_names_another_compiler_with_its_options(machine, monkeypatch, device, variable):
    installed(machine, COMPILER[device])
    monkeypatch.setenv(variable, "zig cc")
    assert "zig" in device_faults.compiler_fault(device)
    installed(machine, "zig")
    assert device_faults.compiler_fault(device) is None


def test_a_compiler_without_pythons_headers_is_not_enough(machine):
    installed(machine, "gcc")
    (machine / "Python.h").unlink()
    assert str(machine / "Python.h") in device_faults.compiler_fault("cuda:1")


@pytest.mark.parametrize(
    ("known", "built", "named"),
    [
        (13000, "13.2", None),
        (13020, "13.2", None),
        (12080, "13.2", "12.8"),
        (None, "13.2", "no NVIDIA driver"),
        (0, "13.2", "stub"),
        (12080, "12.9", None),
    ],
)
def test_a_driver_of_an_older_major_version_is_too_old(monkeypatch, known, built, named):
    monkeypatch.setattr(device_faults, "_driver_version", lambda: known)
    monkeypatch.setattr(torch.version, "cuda", built)
    fault = device_faults.driver_fault()
    assert fault is None if named is None else named in fault


@pytest.mark.parametrize(("failed", "version"), [(0, 12080), (34, 0)])
def test_a_driver_library_that_fails_is_not_a_missing_one(monkeypatch, failed, version):
    def tells(pointer):
        pointer._obj.value = 12080
        return failed

    library = SimpleNamespace(cuDriverGetVersion=tells)
    monkeypatch.setattr(device_faults.ctypes, "CDLL", lambda name: library)
    assert device_faults._driver_version() == version


def test_a_torch_without_cuda_uses_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CUDA" in device_faults.driver_fault()


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nSearch"), "uncorrectable ECC"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling"), "CUBLAS_STATUS_EXECUTION_FAILED"),
        (RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), None),
        (torch.AcceleratorError("CUDA error: out of memory\nSearch"), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), None),
        (RuntimeError("Triton Error [CUDA]: out of memory"), None),
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"), None),
        (RuntimeError("shapes differ"), None),
        (KeyError(), None),
    ],
)
def test_errors_of_the_gpu_itself_are_one_line(error, fault):
    line = device_faults.gpu_fault(error)
    assert line is None if fault is None else fault in line and "\n" not in line


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device\nx"), False),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
    ],
)
def test_a_gpu_without_kernels_in_this_torch_is_named_with_torchs_version(error, known):
    line = device_faults.kernel_fault(error)
    assert line is None if known else torch.__version__ in line and "\n" not in line
