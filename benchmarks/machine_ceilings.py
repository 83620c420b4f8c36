"""Measure what this machine computes and copies at most: matrix products, attention and memory.

python -m benchmarks.machine_ceilings     CPU or GPU, seconds

JSON lines, in float32 and bfloat16: one large product; the bare products and the bare attention of a layer at the sizes
of model=mid; and the copy of a large tensor, in bytes read and written.
"""

import torch

from benchmarks.ceilings import ShapeRates, block_seconds, matmul_flops_per_s
from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.measured_network import measured_student
from benchmarks.rollout_fps import device_name

_REPEATS = 3
_COPIED = 256 * 2**20
"""Bytes of the copied tensor: far more than caches hold."""


def main(_: object) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, name = measured_student("mid"), device_name(device)
    for dtype in (torch.float32, torch.bfloat16):
        config = {"dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__}
        large = matmul_flops_per_s(device, dtype, _REPEATS)
        print_line("product_rate", [large / 1e12], "TFLOP/s", name, config)
        product, attention = ShapeRates(student, device, dtype).measure(_REPEATS)
        print_line("layer_product_rate", [product / 1e12], "TFLOP/s", name, config, limit=large / 1e12)
        print_line("layer_attention_rate", [attention / 1e12], "TFLOP/s", name, config, limit=large / 1e12)
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [block_seconds(lambda: target.copy_(source), 2, device) for _ in range(_REPEATS + 1)][1:]
    print_line("copy_rate", [2 * _COPIED / s / 1e9 for s in seconds], "GB/s", name, {"megabytes": _COPIED // 2**20})


if __name__ == "__main__":
    run(main, __doc__)
