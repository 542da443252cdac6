"""Where the model of a command runs: the options that say so, and the model there."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.execution.registry import BACKENDS, get_backend
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.weights.params import ModelWeights

from .options import add_renamed_option
from .parallel_options import RankSetup
from .plan_report import verdict

__all__ = [
    "COMPILE_CACHE",
    "FLOATS",
    "RuntimeOptions",
    "add_compiler_arguments",
    "add_runtime_arguments",
    "check_memory",
]

FLOATS = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
COMPILE_CACHE = Path.home() / ".cache" / "mimo-v2-flash" / "programs"
CONTEXT, CHUNK = 4096, 128
DTYPES = {"numpy": "float32", "xla": "float32", "neuron": "bfloat16"}
"""Of keys, values and the stream, by backend."""

FLOATING = "float32, on neuron bfloat16"
MEMORY = {1: 12 * 10**9, 2: 24 * 10**9}
"""Bytes of a logical NeuronCore, by its physical ones."""


class FixedLengthModel(MiMoV2FlashModel):
    """A model whose caches are all as long, so that every prompt has the same programs."""

    context: int

    def new_cache(self, batch_size: int, max_length: int, dtype: Any = np.float32) -> Any:
        """Return a cache for `context` tokens; ValueError if more are asked for."""
        if max_length > self.context:
            raise ValueError(f"{max_length} tokens are more than --context {self.context}")
        return super().new_cache(batch_size, self.context, dtype)


class RuntimeOptions(NamedTuple):
    """What the command line says of it; each field is an option."""

    backend: str = "numpy"
    context: int | None = None
    chunk: int | None = None
    cache_dtype: str | None = None
    activation_dtype: str | None = None
    compile_cache: Path = COMPILE_CACHE
    lnc: int = 2
    skip_compile: bool = False

    @classmethod
    def pop_from(cls, options: dict[str, Any]) -> "RuntimeOptions":
        """Return the place, whose options are taken out of `options`."""
        return cls(**{name: options.pop(name) for name in cls._fields if name in options})

    @property
    def kv_dtype(self) -> Any:
        """Dtype of keys and values."""
        return FLOATS[self.cache_dtype or DTYPES[self.backend]]

    @property
    def residual_dtype(self) -> Any:
        """Dtype of what flows between layers."""
        return FLOATS[self.activation_dtype or DTYPES[self.backend]]

    def longest(self, config: MiMoConfig) -> int:
        """Return how many tokens a sequence may have here."""
        most = config.max_position_embeddings
        return most if self.backend == "numpy" else self.context or min(CONTEXT, most)

    def model(
        self, weights: ModelWeights, config: MiMoConfig, setup: RankSetup, *, host: Backend
    ) -> MiMoV2FlashModel:
        """Return the model, on the backend `host` if the place is this one.

        Raises
        ------
        ValueError
            If the plan does not fit into a device's memory, or the backend has no ranks.
        ImportError, OSError
            If the backend, or what it needs, is not there.
        """
        options: dict[str, Any] = setup._asdict() | {"dtype": self.residual_dtype}
        if self.backend == "numpy":
            options |= {"max_step": self.chunk} if self.chunk else {}
            return MiMoV2FlashModel(weights, config, backend=host, **options)
        context = self.longest(config)
        chunk = min(self.chunk or CHUNK, context)
        workload = Workload(1, context, chunk, _stored(weights), self.kv_dtype, self.residual_dtype)
        if self.backend == "neuron":
            check_memory(config, setup.plan, workload, self.lnc)
        options |= {"max_step": chunk, "backend": self._opened(setup)}
        model = FixedLengthModel(weights, config, **options)
        model.context = context
        return model

    def _opened(self, setup: RankSetup) -> Backend:
        if self.backend == "neuron":
            known = {
                "folder": self.compile_cache,
                "lnc": self.lnc,
                "skip_compile": self.skip_compile,
            }
            return get_backend("neuron", group=setup.group, **known)
        if setup.group.size > 1:
            raise ValueError(f"--backend {self.backend} runs on one rank, not on several processes")
        return get_backend(self.backend)


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a place."""
    of = parser.add_argument_group("place", "where the model runs, and what its programs are for")
    of.add_argument("--backend", choices=BACKENDS, default="numpy", help="(numpy)")
    of.add_argument(
        "--context", type=int, help="tokens of a sequence that programs are for (4096, or fewer)"
    )
    of.add_argument("--chunk", type=int, help="tokens of a prompt in a step (128, on numpy 512)")
    of.add_argument("--cache-dtype", choices=FLOATS, help=f"of keys and values ({FLOATING})")
    add_renamed_option(
        of,
        "--activation-dtype",
        "--stream-dtype",
        choices=FLOATS,
        help=f"between layers ({FLOATING})",
    )
    of.add_argument(
        "--skip-compile", action="store_true", help="refuse programs that are not compiled yet"
    )
    add_compiler_arguments(of)


def add_compiler_arguments(of: Any) -> None:
    """Declare what neuronx-cc is told, and where its programs are."""
    add_renamed_option(
        of,
        "--compile-cache",
        "--programs",
        type=Path,
        default=COMPILE_CACHE,
        metavar="FOLDER",
        help="of what neuronx-cc has compiled, seen by all ranks (~/.cache/mimo-v2-flash/programs)",
    )
    of.add_argument(
        "--lnc", type=int, choices=MEMORY, default=2, help="physical NeuronCores of a logical one"
    )


def check_memory(config: MiMoConfig, plan: ParallelConfig, workload: Workload, lnc: int) -> None:
    """Raise ValueError, with what is too much, unless every rank fits into a logical core."""
    fullest = max(devices(config, plan, workload), key=lambda device: device.total)
    if fullest.total > MEMORY[lnc]:
        raise ValueError(f"a NeuronCore of --lnc {lnc}: {verdict(fullest, MEMORY[lnc])}")


def _stored(weights: ModelWeights) -> str:
    """Return the dtype of most weights, as `Workload` says it."""
    sizes = Counter[str]()
    for array in tree_arrays(weights).values():
        sizes[str(array.dtype)] += array.nbytes
    ((name, _),) = sizes.most_common(1)
    return "fp8" if name in ("uint8", "float8_e4m3") else name
