"""Prepared checkpoints: what their files say, so that none is taken for another model's."""

import json
import operator
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.json_object import parse_json_object, shorten
from mimo_v2_flash.parallel_config import ShardSpec, all_shard_specs

from .source_files import FileState, parse_states

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PREPARED_INDEX",
    "SOURCE_DIGEST",
    "STEM",
    "PreparedIndex",
    "PreparedMetadata",
    "check_shard",
    "find_shard_folder",
    "read_prepared_index",
]

FORMAT = "mimo-v2-flash"
VERSION = "2"
STEM = "mimo_weights"  # of the names of a prepared checkpoint's files
PREPARED_INDEX = f"{STEM}.safetensors.index.json"
MANIFEST = f"{STEM}.shards.json"
SOURCE_DIGEST = "source_digest"
OPTIONAL = {SOURCE_DIGEST, "isq", "mtp_heads"}  # a file lacks them where they have their default
FREE = {
    *("eos_token_id", "initializer_range", "max_position_embeddings", "num_devices"),
    "fused_qkv_weight_order",  # q, k and v are apart
}
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
    isq
        What weights were quantized to, as `IsqRequest.text`; empty for nothing.
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
    isq: str = ""

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


class PreparedIndex(NamedTuple):
    """The content of an index, or of the manifest of shards.

    Attributes
    ----------
    prepared
        The metadata.
    checksums
        The SHA-256 of files in its folder, by name; None for a weight file without one.
    source_files
        The states of the source's files; None if the index is of the last release.
    shards
        The names of the shards' folders, if it is a manifest.
    """

    prepared: PreparedMetadata
    checksums: Mapping[str, str | None]
    source_files: Mapping[str, FileState] | None
    shards: list[str]


def find_shard_folder(path: Path, shard_spec: ShardSpec | None) -> Path:
    """Return the folder in `path` of the shard `shard_spec`; `path` itself if it holds no shards.

    Raises
    ------
    ValueError
        If the shards are those of another ParallelConfig, or the manifest is damaged.
    """
    if not (path / MANIFEST).is_file():
        return path
    manifest = read_prepared_index(path / MANIFEST)
    shards = all_shard_specs(manifest.prepared.expert_parallel, manifest.prepared.tensor_parallel)
    if shard_spec not in shards:
        requested = "no shard" if shard_spec is None else _parallel_sizes(shard_spec)
        raise ValueError(
            f"{path}: holds shards of {_parallel_sizes(shards[0])}, requested is {requested}; "
            "prepare_weights.py makes others"
        )
    return path / manifest.shards[shards.index(shard_spec)]


def check_shard(folder: Path, prepared: PreparedMetadata, shard_spec: ShardSpec | None) -> None:
    """Raise ValueError unless the shard in `folder` fits `shard_spec` and its manifest.

    Parameters
    ----------
    folder : Path
        Folder of the shard.
    prepared : PreparedMetadata
        Its metadata.
    shard_spec : ShardSpec or None
        The part that is wanted; the shard's own if None.
    """
    if shard_spec is not None and prepared.shard_spec != shard_spec:
        raise ValueError(
            f"{folder}: is the shard of {prepared.shard_spec}, this rank's is {shard_spec}"
        )
    if not (folder.parent / MANIFEST).is_file():
        return
    manifest = vars(read_prepared_index(folder.parent / MANIFEST).prepared)
    for name, value in vars(prepared).items():
        if name != "shard" and value != manifest[name]:
            raise ValueError(
                f"{folder}: is a shard of {name} {shorten(value)}, its manifest has "
                f"{shorten(manifest[name])}"
            )


def read_prepared_index(path: Path) -> PreparedIndex:
    """Return the content of the index or manifest at `path`.

    Raises
    ------
    ValueError
        If it is damaged, names what is not beside it, or is of another project.
    """
    try:
        content = parse_json_object(path.read_bytes())
        metadata, shards = content["metadata"], list(map(str, content.get("shards", ())))
        weights = dict.fromkeys(map(str, dict(content.get("weight_map", {})).values()))
        checksums = weights | {str(k): str(v) for k, v in dict(metadata.get("sha256", {})).items()}
        states = metadata.get("source_files")
        prepared = PreparedMetadata.of_metadata(metadata)
        if prepared is None:
            raise ValueError("not of a prepared checkpoint")
        if path.name == MANIFEST and len(shards) != prepared.shards:
            raise ValueError(f"{len(shards)} shards")
        # As Windows reads them: either slash separates, and a drive is none of the name.
        if outside := [
            name
            for name in (*shards, *checksums)
            if name in {"", ".", ".."} or PureWindowsPath(name).name != name
        ]:
            raise ValueError(f"{shorten(outside[0])} is not beside it")
        source_files = None if states is None else parse_states(states)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or of another release: {error}") from error
    return PreparedIndex(prepared, checksums, source_files, shards)


def _parallel_sizes(spec: ShardSpec) -> str:
    experts, tensors = spec.expert_parallel_size, spec.tensor_parallel_size
    return f"expert_parallel {experts} and tensor_parallel {tensors}"
