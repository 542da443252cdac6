"""Shards of a prepared checkpoint: finding a rank's folder, and checking it with the manifest."""

import json
from pathlib import Path

from mimo_v2_flash.parallel_config import ShardSpec, all_shard_specs

from .metadata import MANIFEST, PreparedMetadata

__all__ = ["check_shard", "find_shard_folder"]


def find_shard_folder(path: Path, shard_spec: ShardSpec | None) -> Path:
    """Return the folder in `path` of the shard `shard_spec`; `path` itself if it holds no shards.

    Raises
    ------
    ValueError
        If the shards are those of another ParallelConfig, or the manifest is damaged.
    """
    if not (path / MANIFEST).is_file():
        return path
    manifest, folders = _manifest(path)
    shards = all_shard_specs(manifest.expert_parallel, manifest.tensor_parallel)
    if shard_spec not in shards:
        requested = "no shard" if shard_spec is None else _parallel_sizes(shard_spec)
        raise ValueError(
            f"{path}: holds shards of {_parallel_sizes(shards[0])}, requested is {requested}; "
            "prepare_weights.py makes others"
        )
    return path / folders[shards.index(shard_spec)]


def check_shard(folder: Path, prepared: PreparedMetadata, shard_spec: ShardSpec | None) -> None:
    """Raise ValueError unless the shard in `folder` fits `shard_spec` and its manifest."""
    if shard_spec is not None and prepared.shard_spec != shard_spec:
        raise ValueError(
            f"{folder}: is the shard of {prepared.shard_spec}, this rank's is {shard_spec}"
        )
    if not (folder.parent / MANIFEST).is_file():
        return
    manifest, _ = _manifest(folder.parent)
    for name, value in vars(prepared).items():
        if name != "shard" and value != vars(manifest)[name]:
            raise ValueError(
                f"{folder}: is a shard of {name} {value!r:.80}, its manifest has "
                f"{vars(manifest)[name]!r:.80}"
            )


def _manifest(path: Path) -> tuple[PreparedMetadata, list[str]]:
    file = path / MANIFEST
    try:
        content = json.loads(file.read_bytes())
        prepared = PreparedMetadata.of_metadata(content["metadata"])
        folders = list(map(str, content["shards"]))
        if prepared is None or len(folders) != prepared.shards:
            raise ValueError(f"{len(folders)} shards")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged, or of another release: {error}") from error
    return prepared, folders


def _parallel_sizes(spec: ShardSpec) -> str:
    experts, tensors = spec.expert_parallel_size, spec.tensor_parallel_size
    return f"expert_parallel {experts} and tensor_parallel {tensors}"
