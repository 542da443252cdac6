"""The exponential and SiLU as compiled loops inline them: of NumPy's accuracy, in vectors.

Source: Cephes, `expf`: reduction by ln 2 in two parts; here with the terms of Taylor's series.
"""

import numpy as np

from .loops import inlined

__all__ = ["exponential", "silu"]

LOWEST = np.float32(-87)  # the exponentials of smaller integers are subnormal
LOG2_E, LN2_HIGH, LN2_LOW = map(np.float32, (1.44269504, 0.693359375, -2.12194440e-4))
P2, P3, P4, P5, P6 = (np.float32(1 / factorial) for factorial in (2, 6, 24, 120, 720))
ZERO, HALF, ONE = map(np.float32, (0, 0.5, 1))
BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)


@inlined
def exponential(x):
    """Return e^x of x <= 0, to 2e-7 of itself and 1e-7 of x times itself; NaN stays NaN."""
    is_low = x < LOWEST
    x = LOWEST if is_low else x
    k = np.floor(x * LOG2_E + HALF)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    y = (((((P6 * r + P5) * r + P4) * r + P3) * r + P2) * r + ONE) * r + ONE
    power = BIAS if np.isnan(k) else np.int32(k) + BIAS
    return ZERO if is_low else y * np.int32(power << MANTISSA_BITS).view(np.float32)


@inlined
def silu(x):
    """Return x sigmoid(x), without overflow for either sign."""
    decayed = exponential(-abs(x))
    return x * ((ONE if x >= 0 else decayed) / (ONE + decayed))
