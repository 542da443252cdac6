"""Published performance figures of AWS Trainium2, for one rank.

A rank has a logical core of two physical ones (LNC2); a trn2.48xlarge has 64 of them.

Source: AWS Neuron documentation, `trainium2_arch.rst`, `logical-neuroncore-config.rst`: 362 GB/s,
79 TFLOP/s of bfloat16 and 28 MiB of SBUF for each physical core, and a matrix unit of 128 x 128.
Collectives and operations: measured by jinhuang12/vllm-neuron (`docs/kernel_ledger.md`) on 64
ranks; 17.5 us is the fastest of its collectives, the median was 44 us.
"""

__all__ = [
    "BYTES_PER_SECOND",
    "EXCHANGE_BYTES_PER_SECOND",
    "EXCHANGE_SECONDS",
    "FLOPS",
    "OPERATION_SECONDS",
    "SBUF",
    "SIDE",
]

BYTES_PER_SECOND = 725e9
FLOPS = 158e12
"""Peak of bfloat16 matmuls. FP8 weights with bfloat16 activations are no faster."""

SIDE = 128
"""Rows and columns of the matrix unit; rows and depth of a matmul are padded to multiples."""

SBUF = 2 * 28 * 2**20
"""Bytes of on-chip memory."""

EXCHANGE_SECONDS, EXCHANGE_BYTES_PER_SECOND = 17.5e-6, 100e9
OPERATION_SECONDS = 2e-6
"""The least overhead of an operation of a program, whatever its size."""
