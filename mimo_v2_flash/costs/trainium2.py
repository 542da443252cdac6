"""Published performance figures of AWS Trainium2, for one rank.

A rank has a logical core of two physical ones (LNC2); a trn2.48xlarge has 64 of them.

Source: AWS Neuron documentation, `trainium2_arch.rst`, `logical-neuroncore-config.rst`: 362 GB/s,
79 TFLOP/s of bfloat16 and 28 MiB of SBUF for each physical core, and a matrix unit of 128 x 128.
Collectives and operations: measured by jinhuang12/vllm-neuron (`docs/kernel_ledger.md`) on 64
ranks; of 90 all-reduces the fastest took 17.5 us, the median 44 us, all together 5.61 ms.
Launches: measured by Kiln (`docs/neuron-notes.md`) on 32 ranks of a trn2.48xlarge, SDK 2.32, of a
program with a collective of all ranks: 0.21 ms without the runtime's execution barrier, 2.8 to
3.9 ms with it, as is the default.
"""

from mimo_v2_flash.execution.collective_cost import EXCHANGE_BYTES_PER_SECOND, EXCHANGE_SECONDS

__all__ = [
    "BYTES_PER_SECOND",
    "EXCHANGE_BYTES_PER_SECOND",
    "EXCHANGE_SECONDS",
    "FLOPS",
    "LAUNCH_SECONDS",
    "MEAN_EXCHANGE_SECONDS",
    "OPERATION_SECONDS",
    "SBUF",
    "SIDE",
    "SLOW_LAUNCH_SECONDS",
]

BYTES_PER_SECOND = 725e9
FLOPS = 158e12
"""Peak of bfloat16 matmuls. FP8 weights with bfloat16 activations are no faster."""

SIDE = 128
"""Rows and columns of the matrix unit; rows and depth of a matmul are padded to multiples."""

SBUF = 2 * 28 * 2**20
"""Bytes of on-chip memory."""

MEAN_EXCHANGE_SECONDS = 62e-6
"""What a collective took on average, where `EXCHANGE_SECONDS` is the least."""

LAUNCH_SECONDS, SLOW_LAUNCH_SECONDS = 0.2e-3, 3e-3
"""To launch a program, without the runtime's execution barrier and with it."""

OPERATION_SECONDS = 2e-6
"""The least overhead of an operation of a program, whatever its size."""
