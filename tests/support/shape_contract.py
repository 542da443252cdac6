"""The shape contract: every local tensor of a kernel has the axes that its name ends in.

`kernels.axes.checked` checks the parameters of a kernel, in the package. `contracted` also checks
every local variable of a kernel's functions, when they return.
"""

import functools
import sys
from types import FrameType
from typing import Any

from mimo_v2_flash.kernels import axes

KERNELS = "mimo_v2_flash.kernels"


def contracted(kernel):
    """Return `kernel`, wrapped to raise ValueError if a tensor contradicts its local name."""

    @functools.wraps(kernel)
    def call(*args, **kwargs):
        outer = sys.getprofile()
        sys.setprofile(_on_return)
        try:
            return kernel(*args, **kwargs)
        finally:
            sys.setprofile(outer)

    return call


def _on_return(frame: FrameType, event: str, output: Any) -> None:
    # A frame that raises also returns None; its local variables may not be final.
    if event != "return" or output is None:
        return
    if not frame.f_globals.get("__name__", "").startswith(KERNELS):
        return
    tensors = {n: value for n, value in frame.f_locals.items() if hasattr(value, "shape")}
    axes.check_shapes(frame.f_code.co_name, tensors)
