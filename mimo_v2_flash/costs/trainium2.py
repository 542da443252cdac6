"""What a Trainium2 can do, as far as its makers and its users have published it.

Of one rank: a logical core of two physical ones (LNC2), 64 of them in a trn2.48xlarge.

Source: AWS Neuron documentation, `trainium2_arch.rst`, `logical-neuroncore-config.rst`: 362 GB/s,
79 TFLOP/s of bfloat16 and 28 MiB of SBUF for each physical core, and a matrix unit of 128 x 128.
Exchanges and operations: measured by jinhuang12/vllm-neuron (`docs/kernel_ledger.md`) on 64 ranks;
17.5 us is the least of its exchanges, the median was 44 us.
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
"""Of bfloat16. FP8 weights beside bfloat16 activations are no faster."""

SIDE = 128
"""Of the matrix unit: rows and depth of a matmul are rounded up to it."""

SBUF = 2 * 28 * 2**20
EXCHANGE_SECONDS, EXCHANGE_BYTES_PER_SECOND = 17.5e-6, 100e9
OPERATION_SECONDS = 2e-6
"""The least that an operation of a program takes, whatever its size."""
