"""Checks of a checkpoint's tensors against a config: names, shapes, dtypes, and values of scales.

Loading and preparing call the same ones. Headers are enough for all but the values of scales, which
are checked when they are read: when a loaded weight is first used, or when it is prepared.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from mimo_v2_flash.kernels.block_scale import BLOCK, BlockScaled

from . import fp8
from .param_specs import FUSED, MTP_PREFIX, MULTIPLIED, SCALE, ParamSpec
from .safetensors_file import TensorInfo

__all__ = [
    "MappedBlockScaled",
    "block_height",
    "check_others",
    "check_scales",
    "check_tensors",
    "required_tensors",
]

FLOAT8, FLOAT32 = "F8_E4M3", "F32"


class MappedBlockScaled(BlockScaled):
    """An FP8 weight of a mapped file; its scales are checked once, when they are first used.

    Until then no byte of it is read, and from then on `scale` is an ordinary attribute.
    """

    @classmethod
    def map(cls, where: str, code_OI: np.ndarray, scale_YX: np.ndarray) -> "MappedBlockScaled":
        """Return the weight of these codes and scales.

        Raises
        ------
        ValueError
            If the scales are on no plain grid; the message begins with `where`.
        """
        weight = cls(code_OI, scale_YX, block_height(where, code_OI.shape, scale_YX.shape))
        vars(weight)["unchecked"] = where + SCALE, vars(weight).pop("scale")
        return weight

    @cached_property
    def scale(self) -> np.ndarray:
        """The scales; ValueError names the tensor and its file if one is no positive number."""
        where, scale_YX = vars(self)["unchecked"]
        check_scales(where, scale_YX)
        return scale_YX


def required_tensors(
    where: str, params: Sequence[ParamSpec], available: Container[str]
) -> list[str]:
    """Return the names of the tensors to read: `params`, and their scales where available.

    Raises
    ------
    ValueError
        If parameters are missing; the message begins with `where`.
    """
    names = [param.name for param in params]
    if missing := [name for name in names if name not in available]:
        raise ValueError(f"{where}: {_summary(missing)} missing, which the config asks for")
    return names + [scale for name in names if (scale := name + SCALE) in available]


def check_others(where: str, params: Sequence[ParamSpec], available: Iterable[str]) -> None:
    """Raise ValueError if there are more tensors than `params`, their scales and MTP weights."""
    names = {param.name for param in params}
    unexpected = [
        name
        for name in available
        if name.removesuffix(SCALE) not in names and not name.startswith(MTP_PREFIX)
    ]
    if unexpected:
        raise ValueError(f"{where}: {_summary(unexpected)} unexpected under this config")


def check_tensors(params: Sequence[ParamSpec], infos: Mapping[str, TensorInfo]) -> None:
    """Raise ValueError, naming file and tensor, unless shapes and dtypes fit the parameters.

    A weight is FP8 with float32 scales, or not FP8 and without scales. Only matmul weights may be
    FP8, and a fused one must be.
    """
    for name, shape in params:
        info = infos[name]
        where = f"{info.file}: {name}"
        if info.shape != shape:
            raise ValueError(f"{where} is {info.shape}, the config asks for {shape}")
        info.check_dtype(name)
        _check_scaled(where, info.dtype, infos.get(name + SCALE))


def _check_scaled(where: str, dtype: str, scale: TensorInfo | None) -> None:
    is_float8 = dtype == FLOAT8
    if is_float8 != (scale is not None):
        has = "has no scales" if is_float8 else "has scales"
        raise ValueError(
            f"{where} is {dtype} and {has}: FP8 ({FLOAT8}) needs scales, other dtypes none"
        )
    if scale and scale.dtype != FLOAT32:
        raise ValueError(f"{where}{SCALE} is {scale.dtype}, expected {FLOAT32}")
    if is_float8 and not where.endswith(MULTIPLIED):
        raise ValueError(f"{where} is FP8, which only matmul weights may be")
    if where.endswith(FUSED) and not is_float8:
        raise ValueError(f"{where} is {dtype}, expected FP8 with scales")


def block_height(where: str, code: tuple[int, ...], scale: tuple[int, ...]) -> int:
    """Return the height of the blocks of an FP8 weight from its shape and that of its scales.

    Raises
    ------
    ValueError
        If the scales are on no plain grid; the message begins with `where`.
    """
    height = fp8.block_height((code, scale))
    if height is None:
        raise ValueError(
            f"{where}: {code} has scales {scale}, expected a scale for each block of {BLOCK} or "
            f"{fp8.HALF_BLOCK} rows and {BLOCK} columns"
        )
    return height


def check_scales(where: str, scale: np.ndarray) -> None:
    """Raise ValueError, beginning with `where`, unless all scales are positive, finite numbers."""
    if not ((scale > 0) & (scale < np.inf)).all():
        raise ValueError(f"{where} holds NaN, infinity, zero or a negative number")


def _summary(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}: {len(names)} tensor{'s' * (len(names) > 1)}"
