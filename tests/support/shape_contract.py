"""Names that cannot lie: every tensor that a kernel names has the axes that its name ends in.

`kernels.axes.checked` holds a kernel to the names of its parameters, in the product. Here every
name that a kernel's function gives to a tensor is held to it as well, when the function returns.
"""

import functools
import sys
from types import FrameType
from typing import Any

from mimo_v2_flash.kernels import axes

KERNELS = "mimo_v2_flash.kernels"


def contracted(kernel):
    """Return `kernel`, raising ValueError if any local name in any kernel's frame lies."""

    @functools.wraps(kernel)
    def call(*args, **kwargs):
        outer = sys.getprofile()
        sys.setprofile(_on_return)
        try:
            return kernel(*args, **kwargs)
        finally:
            sys.setprofile(outer)

    return call


def _on_return(frame: FrameType, event: str, answer: Any) -> None:
    # A frame that raises returns None: its names are not yet what they promise.
    if event != "return" or answer is None:
        return
    if not frame.f_globals.get("__name__", "").startswith(KERNELS):
        return
    tensors = {n: value for n, value in frame.f_locals.items() if hasattr(value, "shape")}
    axes.measure(frame.f_code.co_name, tensors)
