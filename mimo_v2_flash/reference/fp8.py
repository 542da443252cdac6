"""Reference FP8 block scaling: codes decoded by their bits, and quantised by search.

Source: E4M3 of arXiv:2209.05433, table 1; blocks of DeepSeek-V3, arXiv:2412.19437, section 3.3.2.
"""

import numpy as np

__all__ = ["decode", "dequantize", "encode", "quantize"]


def decode(code: int) -> float:
    """Return the value of an E4M3 code: 1 bit of sign, 4 of exponent, 3 of mantissa.

        exponent > 0:  sign 2^(exponent - 7) (1 + mantissa / 8)
        exponent = 0:  sign 2^-6 (mantissa / 8)

    All ones after the sign is NaN; there is no infinity.
    """
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = code >> 3 & 0xF, code & 0x7
    if exponent == 0xF and mantissa == 0x7:
        return float("nan")
    if exponent == 0:
        return sign * 2.0**-6 * (mantissa / 8)
    return sign * 2.0 ** (exponent - 7) * (1 + mantissa / 8)


NOT_NEGATIVE = [decode(code) for code in range(0x7F)]


def encode(value: float) -> int:
    """Return the nearest code with the sign of `value`; of two equally near, the even one."""
    nearest = min(range(0x7F), key=lambda code: (abs(NOT_NEGATIVE[code] - abs(value)), code % 2))
    return nearest + 0x80 if np.signbit(value) else nearest


def quantize(w_OI, *, block_height: int = 128):
    """Return (code_OI, scale_YX): each block's nearest codes under its scale.

        scale = max |block| / 448, rounded to float32

    The scale is at least 2^-126, float32's smallest normal number, and 1 for a block of zeros.
    """
    outputs, inputs = w_OI.shape
    grid = -(-outputs // block_height), -(-inputs // 128)
    amax_YX = np.zeros(grid)
    for (o, i), value in np.ndenumerate(w_OI):
        block = o // block_height, i // 128
        amax_YX[block] = max(amax_YX[block], abs(float(value)))
    scale_YX = np.where(amax_YX > 0, np.maximum(amax_YX / 448, 2.0**-126), 1).astype(np.float32)
    code_OI = np.empty((outputs, inputs), np.uint8)
    for (o, i), value in np.ndenumerate(w_OI):
        code_OI[o, i] = encode(float(value) / float(scale_YX[o // block_height, i // 128]))
    return code_OI, scale_YX


def dequantize(w):
    """Return the weight `w_OI` of an object with `code`, `scale` and `block_height`."""
    w_OI = np.empty(w.code.shape)
    for (o, i), code in np.ndenumerate(w.code):
        w_OI[o, i] = decode(int(code)) * float(w.scale[o // w.block_height, i // 128])
    return w_OI
