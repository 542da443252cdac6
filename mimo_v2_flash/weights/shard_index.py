"""A folder of shards, one for each rank: the manifest says what they are, each says which it is."""

import json
from pathlib import Path

from mimo_v2_flash.parallel_config import ShardSpec, all_shard_specs

from .metadata import PreparedMetadata
from .store import MANIFEST

__all__ = ["check_shard", "find_shard_folder"]


def find_shard_folder(path: Path, shard_spec: ShardSpec | None) -> Path:
    """Return the folder of a share's shard in `path`; `path` itself if it holds no shards.

    Raises
    ------
    ValueError
        If the shards are those of another plan, or the manifest is damaged.
    """
    if not (path / MANIFEST).is_file():
        return path
    manifest, folders = _manifest(path)
    shards = all_shard_specs(manifest.expert_parallel, manifest.tensor_parallel)
    if shard_spec not in shards:
        asked = "no share" if shard_spec is None else _split(shard_spec)
        raise ValueError(
            f"{path}: holds shards of {_split(shards[0])}, asked for is {asked}; prepare_weights.py "
            "makes others"
        )
    return path / folders[shards.index(shard_spec)]


def check_shard(folder: Path, prepared: PreparedMetadata, shard_spec: ShardSpec | None) -> None:
    """Raise ValueError if the shard in `folder` is not that of `shard_spec`, or of another manifest."""
    if shard_spec is not None and prepared.shard_spec != shard_spec:
        raise ValueError(
            f"{folder}: is the shard of {prepared.shard_spec}, this rank's is {shard_spec}"
        )
    if not (folder.parent / MANIFEST).is_file():
        return
    manifest, _ = _manifest(folder.parent)
    for name, said in vars(prepared).items():
        if name != "shard" and said != vars(manifest)[name]:
            raise ValueError(
                f"{folder}: is a shard of {name} {said!r:.80}, the manifest beside it says "
                f"{vars(manifest)[name]!r:.80}"
            )


def _manifest(path: Path) -> tuple[PreparedMetadata, list[str]]:
    file = path / MANIFEST
    try:
        said = json.loads(file.read_bytes())
        prepared, folders = (
            PreparedMetadata.of_metadata(said["metadata"]),
            list(map(str, said["shards"])),
        )
        if prepared is None or len(folders) != prepared.shards:
            raise ValueError(f"{len(folders)} shards")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged, or of another release: {error}") from error
    return prepared, folders


def _split(by: ShardSpec) -> str:
    return (
        f"expert_parallel {by.expert_parallel_size} and tensor_parallel {by.tensor_parallel_size}"
    )
