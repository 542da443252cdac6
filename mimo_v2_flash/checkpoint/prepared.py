"""Prepared checkpoints: metadata of files and shards, so that none is taken for another model's."""

import json
import operator
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PureWindowsPath
from typing import Any

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.json_object import parse_json_object, shorten
from mimo_v2_flash.parallel_config import ShardSpec, all_shard_specs

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PREPARED_INDEX",
    "SOURCE_DIGEST",
    "STEM",
    "PreparedMetadata",
    "check_shard",
    "find_shard_folder",
    "read_manifest",
]

FORMAT = "mimo-v2-flash"
VERSION = "2"
STEM = "mimo_weights"  # of the names of a prepared checkpoint's files
PREPARED_INDEX = f"{STEM}.safetensors.index.json"
MANIFEST = f"{STEM}.shards.json"
SOURCE_DIGEST = "source_digest"
OPTIONAL = {SOURCE_DIGEST, "mtp_heads"}  # fields that a file lacks where they have their default
FREE = {"eos_token_id", "initializer_range", "max_position_embeddings", "num_devices"}
"""Fields of a config that the weights do not depend on."""


@dataclass(frozen=True)
class PreparedMetadata:
    """The metadata of a prepared checkpoint, which each of its files holds.

    Attributes
    ----------
    source, revision
        The folder or repository that was converted, and its commit if it has one.
    dtype
        "fp8" (as stored), "bfloat16" or "float32".
    target
        "cpu", or "trainium2": FP8 halved to at most 240, its scales doubled.
    experts
        Ids of the experts that the checkpoint holds, as the source numbers them.
    config
        The whole model's config, in the hub's spelling; its number of experts is the source's.
    expert_parallel, tensor_parallel, shard
        How many ranks the experts and the heads are split over, and the index of this shard.
    source_digest
        A digest of the source's files, if no commit names them: `source_files.content_digest`.
    mtp_heads
        How many MTP heads the checkpoint holds.
    """

    source: str
    revision: str
    dtype: str
    target: str
    experts: tuple[int, ...]
    config: dict[str, Any]
    expert_parallel: int = 1
    tensor_parallel: int = 1
    shard: int = 0
    source_digest: str = ""
    mtp_heads: int = 0

    @property
    def shards(self) -> int:
        """How many distinct shards there are."""
        return len(all_shard_specs(self.expert_parallel, self.tensor_parallel))

    @property
    def shard_spec(self) -> ShardSpec:
        """The part of the model that this shard holds."""
        return all_shard_specs(self.expert_parallel, self.tensor_parallel)[self.shard]

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of a safetensors header."""
        values = asdict(self).items()
        metadata = {n: json.dumps(value) for n, value in values if value or n not in OPTIONAL}
        return {"format": FORMAT, "format_version": VERSION, **metadata}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> "PreparedMetadata | None":
        """Return the fields in a header's metadata, or None if this project did not write it.

        Raises
        ------
        ValueError
            If it is of another version of the format, or damaged.
        """
        if metadata.get("format") != FORMAT:
            return None
        if metadata.get("format_version") != VERSION:
            raise ValueError(
                f"prepared weights of format version {metadata.get('format_version')}, this "
                f"release reads {VERSION}: prepare them again"
            )
        names = {field.name for field in fields(cls)} - (OPTIONAL - metadata.keys())
        try:
            values = {name: json.loads(metadata[name]) for name in sorted(names)}
            prepared = cls(**(values | {"experts": tuple(values["experts"])}))
            all_experts = range(operator.index(prepared.config["n_routed_experts"]))
            if sorted(set(prepared.experts) & set(all_experts)) != values["experts"]:
                raise ValueError(f"experts {shorten(values['experts'])} of {len(all_experts)}")
            counts = prepared.expert_parallel, prepared.tensor_parallel, 1 + prepared.mtp_heads
            if min(counts) < 1 or not 0 <= prepared.shard < prepared.shards:
                raise ValueError(f"shard {shorten(prepared.shard)}, MTP heads {counts[2] - 1}")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"prepared weights with damaged metadata: {error}") from error
        return prepared

    @classmethod
    def of_files(cls, files: Iterator[tuple[Path, Mapping[str, str]]]) -> "PreparedMetadata | None":
        """Return the fields in the metadata of a folder's files, None if others wrote the first.

        Raises
        ------
        ValueError
            If it is of another version or damaged, or another file is of another preparation.
        """
        first, metadata = next(files, (Path(), {}))
        prepared = cls.of_metadata(metadata)
        for path, other in files if prepared else ():
            if other != metadata:
                raise ValueError(f"{first.name} and {path.name} are of two preparations")
        return prepared

    def check(self, config: MiMoConfig) -> None:
        """Raise ValueError, naming field and values, if the weights are not those of `config`."""
        expected = json.loads(json.dumps(config.to_dict()))
        for name in sorted((self.config.keys() | expected.keys()) - FREE):
            if self.config.get(name) != expected.get(name):
                raise ValueError(
                    f"prepared for {name} = {self.config.get(name)!r}, the config has "
                    f"{expected.get(name)!r}; use MiMoConfig.from_pretrained of the prepared folder"
                )


def find_shard_folder(path: Path, shard_spec: ShardSpec | None) -> Path:
    """Return the folder in `path` of the shard `shard_spec`; `path` itself if it holds no shards.

    Raises
    ------
    ValueError
        If the shards are those of another ParallelConfig, or the manifest is damaged.
    """
    if not (path / MANIFEST).is_file():
        return path
    manifest, folders = read_manifest(path)
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
    manifest, _ = read_manifest(folder.parent)
    for name, value in vars(prepared).items():
        if name != "shard" and value != vars(manifest)[name]:
            raise ValueError(
                f"{folder}: is a shard of {name} {shorten(value)}, its manifest has "
                f"{shorten(vars(manifest)[name])}"
            )


def read_manifest(path: Path) -> tuple[PreparedMetadata, list[str]]:
    """Return the metadata and the shards' folder names in the manifest of the folder `path`.

    Raises
    ------
    ValueError
        If the manifest is damaged, or names anything but folders in `path`.
    """
    file = path / MANIFEST
    try:
        content = parse_json_object(file.read_bytes())
        prepared = PreparedMetadata.of_metadata(content["metadata"])
        folders = list(map(str, content["shards"]))
        if prepared is None or len(folders) != prepared.shards:
            raise ValueError(f"{len(folders)} shards")
        # As Windows reads them: either slash separates, and a drive is none of the name.
        if outside := [
            name
            for name in folders
            if name in {"", ".", ".."} or PureWindowsPath(name).name != name
        ]:
            raise ValueError(f"shard {shorten(outside[0])} is no folder beside it")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: damaged, or of another release: {error}") from error
    return prepared, folders


def _parallel_sizes(spec: ShardSpec) -> str:
    experts, tensors = spec.expert_parallel_size, spec.tensor_parallel_size
    return f"expert_parallel {experts} and tensor_parallel {tensors}"
