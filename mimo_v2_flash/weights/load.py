"""Loading of a checkpoint as ModelWeights: matrices stay memory-mapped, vectors become float32."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import QuantizedTensor, find_format

from . import param_specs
from .checkpoint import Checkpoint, open_checkpoint
from .metadata import PreparedMetadata
from .params import ModelWeights
from .reader import Reader, weight_location
from .shard_index import check_shard, find_shard_folder

__all__ = ["load_weights"]


def load_weights(
    path: str | PathLike[str], config: MiMoConfig, *, share: ShardSpec | None = None
) -> ModelWeights:
    """Return the weights of the checkpoint at `path`, memory-mapped: matrices are read when used.

    Parameters
    ----------
    path : str or PathLike
        A folder of safetensors files in the hub's names, with an index or without: the hub's own,
        one that transformers saved, or one of `prepare_weights.py`; or one such file, or the file
        name that a prepared checkpoint would have if it had not been split.
    config : MiMoConfig
        The model; every weight's shape is checked against it. It counts all of the model's experts;
        the metadata of prepared weights says which of them they hold.
    share : ShardSpec, optional
        This rank's part, `ParallelConfig.shard_spec(rank)`. Where the folder holds shards, the
        rank's is opened; any other checkpoint is mapped whole, and the model slices it.

    Returns
    -------
    ModelWeights
        Matrices [out, in] as stored: float32 or bfloat16 arrays, or a `QuantizedTensor`.
        Norms, routers, biases and sinks are float32.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint at `path`, or a shard is missing.
    ValueError
        If a weight is missing, unexpected, misshapen, of another dtype, or has scales that do not
        fit or are not positive numbers; the message names it and its file. If the shard is that of
        another rank, ParallelConfig or checkpoint.
    """
    source = find_shard_folder(Path(path), share)
    tensors = open_checkpoint(source)
    experts, shard_spec = _contents(source, tensors, config, share)
    fused = param_specs.is_fused(tensors)
    expected = dict(param_specs.all_params(config, experts, fused=fused, shard_spec=shard_spec))
    formats = {name: form for name in expected if (form := find_format(tensors, name))}
    _check_names(source, tensors, expected, formats)
    for name, shape in expected.items():
        _check(tensors, name, shape, formats.get(name))
    return Reader(tensors, config, experts, shard_spec).model()


def _contents(
    source: Path, tensors: Checkpoint, config: MiMoConfig, requested: ShardSpec | None
) -> tuple[tuple[int, ...], ShardSpec]:
    """Return the ids of the checkpoint's experts, and its ShardSpec, both checked."""
    try:
        prepared = PreparedMetadata.of_metadata(tensors.metadata)
        if prepared:
            prepared.check(config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not prepared:
        return tuple(range(config.n_routed_experts)), UNSHARDED
    if prepared.shards > 1:
        check_shard(source, prepared, requested)
    return prepared.experts, prepared.shard_spec


def _check_names(
    source: Path,
    tensors: Checkpoint,
    expected: dict[str, tuple[int, ...]],
    formats: Mapping[str, type[QuantizedTensor]],
) -> None:
    if missing := [name for name in expected if name not in formats and name not in tensors]:
        raise ValueError(f"{source}: {_summary(missing)} missing, which the config asks for")
    known = (set(expected) - set(formats)).union(
        *(form.tensor_names(name).values() for name, form in formats.items())
    )
    unexpected = [
        name
        for name in tensors
        if name not in known and not name.startswith(param_specs.MTP_PREFIX)
    ]
    if unexpected:
        raise ValueError(f"{source}: {_summary(unexpected)} unexpected under this config")


def _check(
    tensors: Checkpoint, name: str, shape: tuple[int, ...], form: type[QuantizedTensor] | None
) -> None:
    where = weight_location(tensors, name, form)
    if form:
        if not name.endswith(param_specs.MULTIPLIED):
            raise ValueError(f"{where} is {form.format}, which only matmul weights may be")
        form.check(where, shape, form.read(tensors, name))
        return
    if tensors[name].shape != shape:
        raise ValueError(f"{where} is {tensors[name].shape}, the config asks for {shape}")
    param_specs.check_plain(where, tensors[name].dtype)


def _summary(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}: {len(names)} tensor{'s' * (len(names) > 1)}"
