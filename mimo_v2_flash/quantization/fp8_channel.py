"""FP8 by channel: E4M3 codes, and one float32 scale for each row, as converted checkpoints have it.

Activations are not quantized here, whatever a config says of them.

Source: compressed-tensors' and SlimQuant's W8A8 checkpoints: `weight` in F8_E4M3 and `weight_scale`
[out, 1]. Compiled, it is FP8 in blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.cpu.loading import compiled_module

from .fp8 import E4M3_VALUES, FP8_MAX
from .fp8_grid import BLOCK
from .quantized_tensor import StoredTensor
from .registry import register_format
from .scaled_codes import ScaledCodes, integer_scales

__all__ = ["Fp8Channel"]


@register_format
@dataclass(frozen=True, eq=False)
class Fp8Channel(ScaledCodes):
    """A weight [..., O, I] as E4M3 codes and scales [..., O, 1]."""

    format = "fp8_channel"
    tensors = (
        StoredTensor("code", "weight", np.uint8, file_dtype="F8_E4M3"),
        StoredTensor("scale", "weight_scale", np.float32, (ml_dtypes.bfloat16, np.float16)),
    )

    @classmethod
    def groups(cls, inputs: int) -> int:
        """Return 1: a row has one scale."""
        return 1

    @staticmethod
    def numbers(code: np.ndarray) -> np.ndarray:
        """Return the numbers of codes in float32."""
        return np.take(E4M3_VALUES, code.view(np.uint8))

    @staticmethod
    def encode_groups(w_OGP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest codes under the scale `max |row| / 448`, and scales."""
        scale_OG = integer_scales(w_OGP, int(FP8_MAX))
        unit_OGP = np.clip(w_OGP / scale_OG[..., None], -FP8_MAX, FP8_MAX)
        return unit_OGP.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), scale_OG

    def check_values(self, where: str) -> None:
        """Raise ValueError, beginning with `where`, if a code or a scale is not finite."""
        super().check_values(where)
        if np.isnan(E4M3_VALUES)[self.code].any():
            raise ValueError(f"{where}: holds NaN")

    @cached_property
    def compiled(self) -> Any:
        """The codes and scales as `cpu.fp8` reads them: in blocks of one row."""
        loops, columns = compiled_module("fp8"), -(-self.shape[1] // BLOCK)
        return loops and loops.compiled_blocks(self.code, np.repeat(self.scale, columns, axis=1), 1)
