"""Rules for the NumPy functions that nkipy traces, and replacements for the others.

nkipy also has the following functions. They have no rule because their results differ from NumPy's:
`//` (NumPy divides exactly, then rounds), log1p and expm1 (nkipy computes log(1 + x): 0 for small
x), logaddexp (NaN of -inf).

Source: nkipy 0.1 `core/_numpy_dispatch.py` and the signatures in `core/ops/`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.support import dialect_checks as check
from tests.support import dialect_index as index
from tests.support.dialect_checks import (
    BOOL,
    FLOAT32,
    FLOATS,
    INT32,
    INTEGERS,
    NUMBERS,
    alone,
    together,
)


class Rule(NamedTuple):
    """The allowed signature of a function: `positional` arguments, the first `tensors` are tensors.

    `check` gets the call's arguments and raises `NotTraceable`.
    """

    tensors: int
    positional: int
    keywords: str = ""
    check: Callable[..., None] = lambda *_, **__: None


def check_call(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise NotTraceable if `function` has no rule, or these arguments break it."""
    name, rule = f"np.{function.__name__}", RULES.get(function)
    if rule is None:
        raise check.NotTraceable(name, instead_of(function.__name__))
    for keyword in kwargs.keys() - rule.keywords.split():
        advice = KEYWORD_INSTEAD.get(keyword, f"only these keywords: {rule.keywords or 'none'}")
        raise check.NotTraceable(f"{name}({keyword}=)", advice)
    statics = args[rule.tensors :]
    if not 1 <= len(args) <= rule.positional or any(map(check.is_tensor, statics)):
        raise check.NotTraceable(f"{name} with these arguments", "Python numbers and keywords")
    try:
        rule.check(*args, **kwargs)
    except check.NotTraceable as error:
        raise check.NotTraceable(f"{name} of {error.idiom}", error.instead) from None


def instead_of(name: str) -> str:
    """Return the replacement for the function or method `name`."""
    if getattr(np, name, None) in RULES:
        return f"np.{name}(x)"
    return INSTEAD.get(name, "a function that dialect_rules.RULES lists")


def _table(*rows: tuple[tuple[Callable[..., Any], ...], Rule]) -> dict[Callable[..., Any], Rule]:
    return {function: rule for functions, rule in rows for function in functions}


BITS = (*INTEGERS, BOOL)
ANY = (*NUMBERS, BOOL)
RULES = _table(
    ((np.add, np.subtract, np.multiply), Rule(2, 2, "", together(NUMBERS))),
    ((np.maximum, np.minimum), Rule(2, 2, "", together(NUMBERS))),
    ((np.divide, np.power), Rule(2, 2, "", together(FLOATS))),
    ((np.less, np.less_equal, np.greater, np.greater_equal), Rule(2, 2, "", together(ANY))),
    ((np.equal, np.not_equal), Rule(2, 2, "", together(ANY))),
    ((np.logical_and, np.logical_or, np.logical_xor), Rule(2, 2, "", together(ANY))),
    ((np.bitwise_and, np.bitwise_or, np.bitwise_xor), Rule(2, 2, "", together(BITS))),
    ((np.exp, np.log, np.log2, np.sqrt, np.sin, np.cos), Rule(1, 1, "", alone(FLOATS))),
    ((np.tanh, np.floor, np.ceil, np.rint, np.reciprocal), Rule(1, 1, "", alone(FLOATS))),
    ((np.isfinite, np.isnan), Rule(1, 1, "", alone(FLOATS))),
    ((np.absolute, np.sign), Rule(1, 1, "", alone((*FLOATS, INT32)))),
    ((np.square, np.negative), Rule(1, 1, "", alone(NUMBERS))),
    ((np.invert,), Rule(1, 1, "", alone(BITS))),
    ((np.logical_not,), Rule(1, 1, "", alone(ANY))),
    ((np.clip,), Rule(3, 3, "", check.check_clip)),
    ((np.where,), Rule(3, 3, "", check.check_where)),
    ((np.sum, np.prod), Rule(1, 2, "axis dtype keepdims", check.check_sum)),
    ((np.mean,), Rule(1, 2, "axis keepdims", alone((FLOAT32,)))),
    ((np.var, np.std), Rule(1, 2, "axis keepdims ddof", alone((FLOAT32,)))),
    ((np.linalg.norm,), Rule(1, 1, "axis keepdims", alone((FLOAT32,)))),
    ((np.max, np.min), Rule(1, 2, "axis keepdims", alone(FLOATS))),
    ((np.argmax, np.argmin), Rule(1, 2, "axis keepdims", check.check_argument)),
    ((np.any, np.count_nonzero), Rule(1, 2, "axis keepdims", alone(ANY))),
    ((np.cumsum,), Rule(1, 2, "axis", check.check_cumsum)),
    ((np.tril, np.triu, np.diag), Rule(1, 2, "k", alone(FLOATS))),
    ((np.zeros_like, np.ones_like, np.empty_like), Rule(1, 2, "dtype", check.check_new_like)),
    ((np.full_like,), Rule(1, 3, "dtype", check.check_full_like)),
    ((np.copy,), Rule(1, 1)),
    ((np.reshape,), Rule(1, 2)),
    ((np.swapaxes,), Rule(1, 3)),
    ((np.transpose,), Rule(1, 2, "axes")),
    ((np.expand_dims, np.squeeze, np.flip), Rule(1, 2, "axis")),
    ((np.roll,), Rule(1, 3, "axis")),
    ((np.tile,), Rule(1, 2)),
    ((np.broadcast_to,), Rule(1, 2)),
    ((np.repeat,), Rule(1, 3, "axis", check.check_repeat)),
    ((np.pad,), Rule(1, 2, "mode constant_values", check.check_pad)),
    ((np.split,), Rule(1, 3, "axis", check.check_split)),
    ((np.concatenate,), Rule(1, 2, "axis", check.check_concatenate)),
    ((np.stack,), Rule(1, 2, "axis", check.check_stack)),
    ((np.take,), Rule(2, 3, "axis", index.check_take)),
    ((np.take_along_axis,), Rule(2, 3, "axis", index.check_take_along_axis)),
    ((np.put_along_axis,), Rule(3, 4, "axis", index.check_put_along_axis)),
)

MATMUL = "ops.matmul(x, w), which accumulates in float32"
ONE_HOT = "a comparison with np.arange(n, dtype=np.int32), as a mask"
FLOOR = "np.floor(x / y); of integers np.floor((n.astype(np.float32) + 0.5) * (1 / d)), or &"
KEYWORD_INSTEAD = {
    "out": "z = np.function(x, y); x = x + y for x += y",
    "initial": "np.maximum(np.max(x), initial)",
    "dtype": "x.astype(dtype) first",
    "where": "np.where(mask, x, 0.0) first",
}
INSTEAD = {
    **dict.fromkeys(("matmul", "dot", "vdot", "inner"), MATMUL),
    **dict.fromkeys(("einsum", "tensordot"), f"np.transpose, np.reshape and {MATMUL}"),
    **dict.fromkeys(("vstack", "hstack", "dstack", "append"), "np.concatenate"),
    **dict.fromkeys(("array_split", "hsplit", "vsplit"), "np.split, or slices"),
    **dict.fromkeys(("sort", "argsort", "partition", "argpartition"), "ops.top_k(x, k)"),
    **dict.fromkeys(("searchsorted", "unique", "nonzero", "argwhere", "bincount"), ONE_HOT),
    **dict.fromkeys(("ravel", "flatten"), "np.reshape(x, (-1,))"),
    **dict.fromkeys(("floor_divide", "remainder", "divmod"), FLOOR),
    **dict.fromkeys(("left_shift", "right_shift"), "x & mask, or shifts on the host"),
    **dict.fromkeys(("item", "tolist"), "np.where, or decide on the host"),
    "all": "~np.any(~mask)",
    "amax": "np.max",
    "amin": "np.min",
    "around": "np.rint",
    "atleast_2d": "np.expand_dims",
    "copyto": "x[:] = y",
    "exp2": "np.power(2.0, x)",
    "expm1": "np.exp(x) - 1.0, which is what nkipy computes",
    "fill": "x[:] = value",
    "log1p": "np.log(x + 1.0), which is what nkipy computes",
    "isinf": "np.abs(x) == np.inf",
    "moveaxis": "np.transpose",
    "outer": "np.expand_dims(x, 1) * y",
    "positive": "np.copy(x)",
    "round": "np.rint",
    "select": "np.where in np.where",
    "view": "x.astype(dtype), or another dtype on the host",
}
