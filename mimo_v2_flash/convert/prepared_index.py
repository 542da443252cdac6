"""Index of a prepared checkpoint: its metadata, checksums and source, as `store.py` writes them."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from mimo_v2_flash.checkpoint.prepared import PreparedMetadata
from mimo_v2_flash.checkpoint.source_files import FileState, parse_states
from mimo_v2_flash.json_object import shorten

__all__ = ["PreparedIndex", "read_prepared_index"]


class PreparedIndex(NamedTuple):
    """The content of an index, or of the manifest of shards.

    Attributes
    ----------
    prepared
        The metadata, None if another project wrote the index.
    checksums
        The SHA-256 of files in its folder, by name; None for a weight file without one.
    source_files
        The states of the source's files; None if the index is of the last release.
    """

    prepared: PreparedMetadata | None
    checksums: Mapping[str, str | None]
    source_files: Mapping[str, FileState] | None


def read_prepared_index(path: Path) -> PreparedIndex:
    """Return the content of the index or manifest at `path`.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        metadata = content["metadata"]
        weights = dict.fromkeys(map(str, dict(content.get("weight_map", {})).values()))
        checksums = weights | {str(k): str(v) for k, v in dict(metadata.get("sha256", {})).items()}
        if outside := [name for name in checksums if PurePath(name).name != name]:
            raise ValueError(f"{shorten(outside[0])} is no file beside it")
        states = metadata.get("source_files")
        prepared = PreparedMetadata.of_metadata(metadata)
        source_files = None if states is None else parse_states(states)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or of another release: {error}") from error
    return PreparedIndex(prepared, checksums, source_files)
