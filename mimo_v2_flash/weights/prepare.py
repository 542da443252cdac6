"""From a source's checkpoint to this project's weights, a few megabytes in memory at a time."""

import json
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimo_v2_flash.config import MiMoConfig

from .encoding import Encoding
from .pieces import Piece, Recipe
from .prepared import Prepared
from .recipe import declared_weights, needed, write_recipe
from .safetensors_file import DTYPES
from .source import Source
from .store import INDEX, Store

__all__ = ["Job", "plan_job"]


@dataclass(frozen=True)
class Job:
    """A checkpoint that is to be prepared.

    Attributes
    ----------
    source, config, encoding
        Where from, what, and as what.
    prepared
        The metadata of the result.
    recipe
        Its tensors and pieces.
    store
        Its files.
    """

    source: Source
    config: MiMoConfig
    encoding: Encoding
    prepared: Prepared
    recipe: Recipe
    store: Store

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the source that are needed, without headers."""
        return sum(map(_size, self.recipe.pieces))

    def is_complete(self) -> bool:
        """Return whether the result is already there.

        Raises
        ------
        ValueError
            If a result of other weights or settings is there; the message names the difference.
        """
        index = self.store.folder / INDEX
        if not index.exists():
            return False
        there = Prepared.of_metadata(json.loads(index.read_text())["metadata"])
        for name, value in vars(self.prepared).items():
            found = getattr(there, name, None)
            if found != json.loads(json.dumps(value)) and found != value:
                raise ValueError(
                    f"{self.store.folder} holds weights of {name} {found!r:.80}, asked for is "
                    f"{value!r:.80}; choose another folder, or remove it"
                )
        return True

    def run(self, *, workers: int, advance: Callable[[int], None]) -> None:
        """Read, convert and write what is not yet there; `advance` hears of bytes read.

        An interrupted or failed run leaves what it has done, under temporary names.
        """
        done = self.store.begin()
        advance(sum(_size(piece) for piece in self.recipe.pieces if piece.key in done))
        try:
            with ThreadPoolExecutor(workers) as pool:
                waiting = [
                    pool.submit(self._make, piece, advance)
                    for piece in self.recipe.pieces
                    if piece.key not in done
                ]
                _finish_or_stop(waiting)
        finally:
            self.store.close()
        (self.store.folder / "config.json").write_text(
            json.dumps(self.config.to_dict(), indent=1) + "\n"
        )
        self.store.finish()

    def _make(self, piece: Piece, advance: Callable[[int], None]) -> None:
        arrays = []
        for place in piece.sources:
            data = self.source.read(place.file, place.begin, place.end)
            arrays.append(np.frombuffer(data, DTYPES[place.dtype]).reshape(place.shape))
        try:
            parts = piece.make(arrays)
        except ValueError as error:
            raise ValueError(f"{piece.sources[0].file}: {error}") from error
        self.store.write(piece.key, parts)
        advance(_size(piece))


def plan_job(
    source: Source,
    config: MiMoConfig,
    folder: Path,
    encoding: Encoding,
    experts: tuple[int, ...],
) -> Job:
    """Return the job that prepares `experts` of `source`'s model in `folder`; nothing is written.

    Raises
    ------
    ValueError
        If a tensor is missing, misshapen or of another dtype; the message names it.
    """
    declared = declared_weights(config, experts, source.names())
    places = source.places(needed(declared, source.names()))
    recipe = write_recipe(config, declared, places, encoding)
    prepared = Prepared(
        source=source.name,
        revision=source.revision,
        dtype=encoding.dtype,
        target=encoding.target,
        experts=experts,
        config=config.to_dict(),
    )
    store = Store(folder, recipe.outputs, prepared.to_metadata())
    return Job(source, config, encoding, prepared, recipe, store)


def _size(piece: Piece) -> int:
    return sum(place.end - place.begin for place in piece.sources)


def _finish_or_stop(futures: list[Future[None]]) -> None:
    """Wait for all; after a failure begin nothing more, and raise it."""
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        for future in futures:
            future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()
