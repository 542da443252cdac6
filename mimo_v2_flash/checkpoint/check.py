"""Checks of a checkpoint's tensors against a config: names, shapes and dtypes.

Loading and preparing call the same ones. Headers are enough: the values of scales are checked when
they are read, when a loaded weight is first used or when it is prepared.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization import HUB_FORMAT, QuantizedTensor, find_format, registry
from mimo_v2_flash.quantization.isq_types import TABLES

from .foreign_storages import foreign_storage
from .param_specs import (
    EMBEDDING,
    EXPERTS,
    FUSED,
    MTP_PREFIX,
    MULTIPLIED,
    OTHER_MODALITIES,
    ROUTER,
    ParamSpec,
    is_fused,
    mtp_head,
    mtp_prefix,
)
from .safetensors_file import READABLE, TensorInfo

__all__ = ["NOT_REQUESTED", "TensorNames", "check_names", "check_tensors", "count_mtp_heads"]

PLAIN = ("F32", "BF16", "F16")  # dtypes of weights in no storage format
LEFT_OUT = (MTP_PREFIX, *OTHER_MODALITIES)
NOT_REQUESTED = "experts and layers that are not requested"


class _ArrayMeta(NamedTuple):
    """The shape and dtype of the array that a tensor is read as."""

    shape: tuple[int, ...]
    dtype: Any


class TensorNames(NamedTuple):
    """What becomes of a checkpoint's tensors.

    Attributes
    ----------
    required
        Names of the tensors to read.
    left_out
        How many tensors are left out on purpose, by what they belong to.
    """

    required: list[str]
    left_out: Mapping[str, int]

    def describe_left_out(self) -> str:
        """Return what is left out in words; an empty string if nothing is."""
        parts = (f"{count:,} of {owner}" for owner, count in self.left_out.items())
        return f"tensors left out: {', '.join(parts)}" if self.left_out else ""


def check_names(
    where: str,
    params: Sequence[ParamSpec],
    available: Collection[str],
    whole: Iterable[ParamSpec] = (),
) -> TensorNames:
    """Return which of the `available` tensors to read: those of `params` in any storage format.

    Every other tensor must be left out on purpose: it is of an MTP head, of another modality, or
    of `whole`, the model that `params` are a part of. Loading, preparing and downloading call it.

    Parameters
    ----------
    where : str
        What is read, for the message.
    params : sequence of ParamSpec
        The parameters that are wanted.
    available : collection of str
        Names of the tensors that there are.
    whole : iterable of ParamSpec
        The parameters of the whole model, if `params` are a part.

    Raises
    ------
    ValueError
        If parameters are missing, there are other tensors, or tensors of a storage that is not
        read; the message begins with `where`.
    """
    stored = {param.name: _stored_names(param.name, available) for param in params}
    text = (name for name in available if not name.startswith(OTHER_MODALITIES))
    if foreign := foreign_storage(text):
        name, storage = foreign
        raise ValueError(f"{where}: {name} is of {storage}: this storage is not read")
    if missing := [name for name, names in stored.items() if not names]:
        raise ValueError(f"{where}: {_summary(missing)} missing, which the config asks for")
    required = [stored_name for names in stored.values() for stored_name in names]
    others = set(available).difference(required)
    of_whole = {name for param in whole for name in _stored_names(param.name, others)}
    owners = {name: _owner(name, of_whole) for name in available if name in others}
    if unexpected := [name for name, owner in owners.items() if owner is None]:
        raise ValueError(f"{where}: {_summary(unexpected)} unexpected under this config")
    return TensorNames(required, Counter(filter(None, owners.values())))


def _owner(name: str, of_whole: Container[str]) -> str | None:
    """Return what a tensor that is left out on purpose belongs to; None if it is not."""
    if name in of_whole:
        return NOT_REQUESTED
    return next((f"{prefix}*" for prefix in LEFT_OUT if name.startswith(prefix)), None)


def count_mtp_heads(
    config: MiMoConfig,
    available: Collection[str],
    tensor_infos: Callable[[list[str]], Mapping[str, TensorInfo]],
) -> int:
    """Return how many MTP heads a checkpoint of the `available` tensors has, the first ones.

    No config.json says it, and none is needed: where a tensor of a head is missing, its scales
    included, that head and later ones are left out. `tensor_infos` returns the TensorInfo of names.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    available : collection of str
        Names of the tensors that there are.
    tensor_infos : callable
        Returns the TensorInfo of each of some names.
    """
    fused = is_fused(available)
    formats = {t.file_dtype for form in registry.FORMATS.values() for t in form.tensors} - {""}

    def is_complete(head: int) -> bool:
        params = mtp_head(mtp_prefix(head), config.mtp_layer, fused=fused)
        stored = [_stored_names(param.name, available) for param in params]
        infos = tensor_infos([p.name for p in params if [p.name] in stored])
        return all(stored) and all(info.dtype not in formats for info in infos.values())

    return next(head for head in count() if not is_complete(head))


def check_tensors(
    params: Sequence[ParamSpec], infos: Mapping[str, TensorInfo]
) -> dict[str, type[QuantizedTensor]]:
    """Return the format of each weight that is in one, by the weight's name.

    Only matmul weights may be in a storage format, and a fused one in the hub's alone. Routers
    that are not in float32 are named in one warning.

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
        if form is None:
            _check_plain(where, shape, infos[name])
            continue
        _check_use(where, name, form)
        form.check(where, shape, form.read(arrays, name))
        names = form.tensor_names(name)
        for tensor in form.tensors:
            dtype = infos[names[tensor.field]].dtype
            if tensor.file_dtype not in ("", dtype):  # read alike, and another thing
                raise ValueError(f"{where}: dtype is {dtype}, expected {tensor.file_dtype}")
        formats[name] = form
    _refuse_other_formats(params, formats, infos)
    _warn_of_narrow_routers(infos, formats)
    return formats


def _check_use(where: str, name: str, form: type[QuantizedTensor]) -> None:
    """Raise ValueError unless the weight `name` may be in a storage format."""
    is_table = name == EMBEDDING and form.format in TABLES
    if not (is_table or name.endswith(MULTIPLIED)):
        raise ValueError(f"{where} is {form.format}, which only matmul weights may be")
    if name.endswith(FUSED) and form.format != HUB_FORMAT:
        raise ValueError(f"{where} is {form.format}, expected {HUB_FORMAT} or no format")


def _refuse_other_formats(
    params: Sequence[ParamSpec],
    formats: Mapping[str, type[QuantizedTensor]],
    infos: Mapping[str, TensorInfo],
) -> None:
    """Raise ValueError if there are tensors of formats that their weights are not in."""
    used = {name for name, _ in params if name not in formats}
    for weight, form in formats.items():
        used.update(form.tensor_names(weight).values())
    if others := [name for name in infos if name not in used]:
        file = infos[others[0]].file
        raise ValueError(f"{file}: {_summary(others)} unexpected under this config")


def _warn_of_narrow_routers(
    infos: Mapping[str, TensorInfo], formats: Mapping[str, type[QuantizedTensor]]
) -> None:
    """Warn if routers or selection biases were rounded: the choice of experts depends on them.

    MiMo-V2.6, whose experts are in another format than the hub's, publishes routers in bfloat16.
    """
    forms = {form.format for name, form in formats.items() if EXPERTS in name}
    published = {"F32"} if forms <= {HUB_FORMAT} else {"F32", "BF16"}
    narrow = [
        name
        for name, info in infos.items()
        if ROUTER in name and info.dtype not in (published if name.endswith(".weight") else {"F32"})
    ]
    if narrow:
        first = infos[narrow[0]]
        message = f"{first.file}: {_summary(narrow)} stored as {first.dtype}"
        warnings.warn(f"{message}, not F32: other experts may be chosen", stacklevel=3)


def _check_plain(where: str, shape: tuple[int, ...], info: TensorInfo) -> None:
    info.check_dtype(where.rpartition(" ")[2])
    if info.dtype not in PLAIN:
        raise ValueError(
            f"{where} is {info.dtype} and has no scales or other tensors of a storage format: "
            f"expected {' or '.join(PLAIN)}"
        )
    if info.shape != shape:
        raise ValueError(f"{where} is {info.shape}, the config asks for {shape}")


def _stored_names(name: str, available: Container[str]) -> list[str]:
    """Return the names of a weight's tensors, of those that are available; none if it is missing.

    A storage format has all of its tensors, a plain array alone the weight's own name.
    """
    forms = [form for form in registry.FORMATS.values() if form.is_stored(available, name)]
    if not forms:
        return [name] if name in available else []
    names = (form.tensor_names(name).values() for form in forms)
    return list(dict.fromkeys(stored for each in names for stored in each))


def _summary(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}: {len(names)} tensor{'s' * (len(names) > 1)}"
