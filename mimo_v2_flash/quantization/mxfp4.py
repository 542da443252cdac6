"""MXFP4: codes of four bits, E2M1, and for each 32 columns a power of two, E8M0, of a byte.

MiMo-V2.6 stores its experts so, 4.25 bits a weight.

Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 and 6.3; of two codes of a
byte that of even index is lower. A scale of 255 is NaN, and refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from .quantized_tensor import StoredTensor
from .registry import register_format
from .scaled_codes import ScaledCodes, packed_nibbles, unpacked_nibbles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MXFP4", "MappedMXFP4"]

E2M1 = ml_dtypes.float4_e2m1fn
NUMBERS = np.arange(16, dtype=np.uint8).view(E2M1).astype(np.float32)
LARGEST, LARGEST_EXPONENT = np.float32(6), 2  # LARGEST_EXPONENT: of E2M1
BIAS, NAN = 127, 255  # of E8M0


@register_format
@dataclass(frozen=True, eq=False)
class MXFP4(ScaledCodes):
    """A weight [..., O, I] as E2M1 codes, two in a byte, and E8M0 scales [..., O, I / 32]."""

    format = "mxfp4"
    tensors = (
        StoredTensor("code", "weight", np.uint8, file_dtype="U8"),
        StoredTensor("scale", "weight_scale", np.uint8, file_dtype="U8"),
    )
    block, per_byte = 32, 2

    @staticmethod
    def numbers(code: np.ndarray) -> np.ndarray:
        """Return the numbers of codes in float32."""
        return np.take(NUMBERS, unpacked_nibbles(code))

    @staticmethod
    def factors(scale: np.ndarray) -> np.ndarray:
        """Return 2^(scale - 127) in float32."""
        return np.ldexp(np.float32(1), scale.astype(np.int32) - BIAS)

    @staticmethod
    def encode_groups(w_OGP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest codes, ties to even, under the power of two of the largest / 4.

        A number above 6 x scale becomes that, as the specification has it. A scale is at least
        2^-126, and 1 for a group of zeros.
        """
        top_OG = np.max(np.abs(w_OGP), axis=2, initial=0)
        exponent_OG = np.frexp(top_OG)[1] - 1 - LARGEST_EXPONENT
        exponent_OG = np.where(top_OG > 0, np.maximum(exponent_OG, 1 - BIAS), 0)
        unit_OGP = np.ldexp(w_OGP, -exponent_OG[..., None])
        code_OGP = np.clip(unit_OGP, -LARGEST, LARGEST).astype(E2M1).view(np.uint8)
        return packed_nibbles(code_OGP), (exponent_OG + BIAS).astype(np.uint8)

    @classmethod
    def random(
        cls, shape: tuple[int, ...], values: np.ndarray, draw: Callable[[np.ndarray], np.ndarray]
    ) -> MXFP4:
        """Return codes of `values` under one scale."""
        code_11P, scale_11 = cls.encode_groups(values[None, None])
        code_OI = draw(unpacked_nibbles(code_11P[0, 0]))
        return cls(packed_nibbles(code_OI), np.full(cls.stored_shapes(shape)["scale"], scale_11))

    @classmethod
    def from_checkpoint(
        cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]
    ) -> MXFP4:
        """Return the weight; whether scales are numbers is checked when it is first used."""
        return MappedMXFP4.map(where, super().from_checkpoint(where, shape, arrays))

    def check_values(self, where: str) -> None:
        """Raise ValueError, beginning with `where`, if a scale is NaN."""
        if np.any(self.scale == NAN):
            raise ValueError(f"{where}: its weight_scale holds NaN")


class MappedMXFP4(MXFP4):
    """An MXFP4 weight of a mapped file; its scales are checked once, at first use.

    Until then no byte of it is read, and from then on `scale` is an ordinary attribute.
    """

    @classmethod
    def map(cls, where: str, weight: MXFP4) -> MappedMXFP4:
        """Return the weight, unchecked."""
        mapped = cls(weight.code, weight.scale)
        vars(mapped)["unchecked"] = where, vars(mapped).pop("scale")
        return mapped

    @cached_property
    def scale(self) -> np.ndarray:
        """The scales; ValueError names the tensor and its file if one is NaN."""
        where, scale_OG = vars(self)["unchecked"]
        MXFP4(self.code, scale_OG).check_values(where)
        return scale_OG
