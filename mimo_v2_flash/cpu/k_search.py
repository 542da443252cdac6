"""Compiled searches for the scales of ggml's K-quants: the bits of `search` of each format.

Source: `quantization/q6_k.py`, `q4_k.py` and `q3_k.py` are the plain statements.
"""

from functools import partial
from typing import Any

import numpy as np
from numba import float32, types

from .code_cache import compile_now
from .loops import in_order, inlined, input_type

__all__ = ["SEARCHES"]

ZERO, ONE, TENTH, NOTHING = map(np.float32, (0, 1, 0.1, 1e-15))
NUMBERS = types.Array(float32, 1, "C")


@inlined
def _nearest(value, low, high):
    return min(max(np.rint(value), np.float32(low)), np.float32(high))


@inlined
def _quotient(dividend, divisor):
    return dividend / divisor if divisor != ZERO else ZERO


@in_order
def _largest(x_P):
    largest, top = ZERO, ZERO
    for x in x_P:
        if abs(x) > largest:
            largest, top = abs(x), x
    return top


@in_order
def _fit(x_P, unit):
    """Return the sums of x times code and of squared codes, weighted by x squared."""
    product, square = ZERO, ZERO
    for x in x_P:
        code = _nearest(unit * x, -32, 31)
        product += x * x * x * code
        square += x * x * code * code
    return product, square


@in_order
def _q6_k(x_GP, scale_G, _):
    for g in range(x_GP.shape[0]):
        top = _largest(x_GP[g])
        if abs(top) < NOTHING:
            scale_G[g] = ZERO
            continue
        product, square = _fit(x_GP[g], -np.float32(32) / top)
        scale = _quotient(product, square)
        best = scale * product
        for step in range(-9, 10):
            unit = -(np.float32(32) + TENTH * np.float32(step)) / top
            product, square = _fit(x_GP[g], unit)
            if step != 0 and square > ZERO and product * product > best * square:
                scale = product / square
                best = scale * product
        scale_G[g] = scale


@in_order
def _q3_k(x_GP, scale_G, _):
    code_P = np.empty(x_GP.shape[1], np.float32)
    for g in range(x_GP.shape[0]):
        x_P, top = x_GP[g], _largest(x_GP[g])
        if abs(top) < NOTHING:
            scale_G[g] = ZERO
            continue
        unit, product, square = np.float32(-4) / top, ZERO, ZERO
        for p in range(code_P.size):
            x, code_P[p] = x_P[p], _nearest(unit * x_P[p], -4, 3)
            product += x * x * x * code_P[p]
            square += x * x * code_P[p] * code_P[p]
        for _round in range(5):
            product, square = _improve(x_P, code_P, product, square)
        scale_G[g] = product / square if square > ZERO else ZERO


@in_order
def _improve(x_P, code_P, product, square):
    """Replace each code by that which is best if the others stay; return the sums."""
    for p in range(code_P.size):
        x, weight, code = x_P[p], x_P[p] * x_P[p], code_P[p]
        rest, rest_square = product - weight * x * code, square - weight * code * code
        if rest <= ZERO:
            continue
        new = _nearest(x * rest_square / rest, -4, 3)
        new_product = rest + weight * x * new
        new_square = rest_square + weight * new * new
        gain = new_product * new_product * square
        if new != code and new_square > ZERO and gain > product * product * new_square:
            code_P[p], product, square = new, new_product, new_square
    return product, square


@in_order
def _fill_codes(x_P, unit, minimum, code_P):
    for p in range(code_P.size):
        code_P[p] = _nearest(unit * (x_P[p] - minimum), 0, 15)


@in_order
def _error(x_P, weight_P, code_P, scale, minimum):
    total = ZERO
    for p in range(code_P.size):
        difference = scale * code_P[p] + minimum - x_P[p]
        total += weight_P[p] * (difference * difference)
    return total


@in_order
def _line(x_P, weight_P, code_P, weights, total):
    """Return the weighted least squares' scale and minimum, and the determinant."""
    first, second, mixed = ZERO, ZERO, ZERO
    for p in range(code_P.size):
        part = weight_P[p] * code_P[p]
        first += part
        second += part * code_P[p]
        mixed += part * x_P[p]
    determinant = weights * second - first * first
    scale = _quotient(weights * mixed - total * first, determinant)
    minimum = _quotient(second * total - first * mixed, determinant)
    if minimum > ZERO:
        return _quotient(mixed, second), ZERO, determinant
    return scale, minimum, determinant


@in_order
def _fill_weights(x_P, weight_P):
    """Fill the weights; return their sum, and that of their products with x."""
    square, weights, total = ZERO, ZERO, ZERO
    for x in x_P:
        square += x * x
    mean = np.sqrt(square / np.float32(x_P.size))
    for p in range(x_P.size):
        weight_P[p] = mean + abs(x_P[p])
        weights += weight_P[p]
        total += weight_P[p] * x_P[p]
    return weights, total


@in_order
def _q4_k(x_GP, scale_G, minimum_G):
    weight_P, code_P = np.empty(x_GP.shape[1], np.float32), np.empty(x_GP.shape[1], np.float32)
    for g in range(x_GP.shape[0]):
        x_P, low, high = x_GP[g], min(ZERO, x_GP[g].min()), x_GP[g].max()
        scale_G[g], minimum_G[g], width = ZERO, -low, high - low
        if high == low:
            continue
        weights, total = _fill_weights(x_P, weight_P)
        scale, minimum = ONE / (np.float32(15) / width), low
        _fill_codes(x_P, np.float32(15) / width, low, code_P)
        best = _error(x_P, weight_P, code_P, scale, minimum)
        for step in range(21 + 3):
            if step < 21:
                largest = np.float32(-1) + TENTH * np.float32(step) + np.float32(15)
                _fill_codes(x_P, largest / width, low, code_P)
            else:
                _fill_codes(x_P, _quotient(ONE, scale), minimum, code_P)
            new_scale, new_minimum, determinant = _line(x_P, weight_P, code_P, weights, total)
            error = _error(x_P, weight_P, code_P, new_scale, new_minimum)
            if determinant > ZERO and error < best:
                scale, minimum, best = new_scale, new_minimum, error
        scale_G[g], minimum_G[g] = scale, -minimum


def _search(loop: Any, numbers: int, x_GP: np.ndarray) -> tuple[np.ndarray, ...]:
    number_KG = np.empty((2, len(x_GP)), np.float32)
    loop(np.ascontiguousarray(x_GP), *number_KG)
    return tuple(number_KG[:numbers])


for _loop in (_q6_k, _q4_k, _q3_k):
    compile_now(_loop, input_type(float32), NUMBERS, NUMBERS)
SEARCHES = {
    "q6_k": partial(_search, _q6_k, 1),
    "q4_k": partial(_search, _q4_k, 2),
    "q3_k": partial(_search, _q3_k, 1),
}
"""The compiled `search` of each format, of groups [G, P]."""
