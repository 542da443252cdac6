"""Self-checks of the storage formats beside the hub's: a weight that is quantized and back.

What a format may lose is known by its bits: its step, as a part of the largest value.
"""

from functools import partial

from mimo_v2_flash.quantization import get_format

from .check import Check, Pairs, Random, normal

__all__ = ["FORMAT_CHECKS"]

LARGEST_ERRORS = {
    "q8_0": 0.005,
    "q6_k": 0.03,
    "q4_k": 0.09,
    "q3_k": 0.2,
    "int8": 0.005,
    "fp8_channel": 0.04,
    "int4": 0.09,
    "mxfp4": 0.3,
}


def _quantized(random: Random, name: str) -> Pairs:
    w_OI = normal(random, 6, 512)
    return [(get_format(name).quantize(w_OI).dequantize(), w_OI)]


FORMAT_CHECKS = tuple(
    Check(name, "quantised and back", allowed, partial(_quantized, name=name))
    for name, allowed in LARGEST_ERRORS.items()
)
