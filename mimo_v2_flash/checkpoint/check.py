"""Checks of a checkpoint's tensors against a config: names, shapes and dtypes.

Loading and preparing call the same ones. Headers are enough: the values of scales are checked when
they are read, when a loaded weight is first used or when it is prepared.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mimo_v2_flash.quantization import QuantizedTensor, find_format, registry

from .param_specs import FUSED, HUB_FORMAT, MTP_PREFIX, MULTIPLIED, ParamSpec
from .safetensors_file import READABLE, TensorInfo

__all__ = ["check_others", "check_tensors", "required_tensors"]

HUB_DTYPE = "F8_E4M3"  # of the hub's format
PLAIN = ("F32", "BF16")  # dtypes of weights in no storage format


class _ArrayMeta(NamedTuple):
    """The shape and dtype of the array that a tensor is read as."""

    shape: tuple[int, ...]
    dtype: Any


def required_tensors(
    where: str, params: Sequence[ParamSpec], available: Container[str]
) -> list[str]:
    """Return the names of the tensors to read: those of `params` in any storage format.

    Raises
    ------
    ValueError
        If parameters are missing; the message begins with `where`.
    """
    stored = {param.name: _stored_names(param.name, available) for param in params}
    if missing := [name for name, names in stored.items() if not names]:
        raise ValueError(f"{where}: {_summary(missing)} missing, which the config asks for")
    return [stored_name for names in stored.values() for stored_name in names]


def check_others(where: str, required: Iterable[str], available: Iterable[str]) -> None:
    """Raise ValueError if there are other tensors than those `required` and MTP weights."""
    others = set(available).difference(required)
    unexpected = [name for name in available if name in others and not name.startswith(MTP_PREFIX)]
    if unexpected:
        raise ValueError(f"{where}: {_summary(unexpected)} unexpected under this config")


def check_tensors(
    params: Sequence[ParamSpec], infos: Mapping[str, TensorInfo]
) -> dict[str, type[QuantizedTensor]]:
    """Return the format of each weight that is in one, by the weight's name.

    Only matmul weights may be in a storage format, and a fused one must be in the hub's.

    Raises
    ------
    ValueError
        If shapes and dtypes do not fit the parameters; the message names file and tensor.
    """
    arrays: dict[str, Any] = {
        name: _ArrayMeta(info.shape, READABLE.get(info.dtype, info.dtype))
        for name, info in infos.items()
    }
    formats: dict[str, type[QuantizedTensor]] = {}
    for name, shape in params:
        form = find_format(arrays, name)
        file = infos[next(iter(form.tensor_names(name).values())) if form else name].file
        where = f"{file}: {name}"
        if form and not name.endswith(MULTIPLIED):
            raise ValueError(f"{where} is {form.format}, which only matmul weights may be")
        if form is None:
            _check_plain(where, shape, infos[name])
            continue
        form.check(where, shape, form.read(arrays, name))
        if form.format == HUB_FORMAT and infos[name].dtype != HUB_DTYPE:  # U8 is read alike
            raise ValueError(f"{where}: dtype is {infos[name].dtype}, expected {HUB_DTYPE}")
        formats[name] = form
    return formats


def _check_plain(where: str, shape: tuple[int, ...], info: TensorInfo) -> None:
    if where.endswith(FUSED):
        raise ValueError(f"{where} is {info.dtype}, expected {HUB_DTYPE} with scales")
    if info.shape != shape:
        raise ValueError(f"{where} is {info.shape}, the config asks for {shape}")
    info.check_dtype(where.rpartition(" ")[2])
    if info.dtype not in PLAIN:
        raise ValueError(
            f"{where} is {info.dtype} and has no scales or other tensors of a storage format: "
            f"expected {' or '.join(PLAIN)}"
        )


def _stored_names(name: str, available: Container[str]) -> list[str]:
    """Return the names of a weight's tensors, of those that are available; none if it is missing.

    A storage format has all of its tensors, a plain array alone the weight's own name.
    """
    formats = (form.tensor_names(name).values() for form in registry.FORMATS.values())
    whole = [names for names in formats if all(stored in available for stored in names)]
    if not whole:
        return [name] if name in available else []
    return list(dict.fromkeys(stored for names in whole for stored in names))


def _summary(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}: {len(names)} tensor{'s' * (len(names) > 1)}"
