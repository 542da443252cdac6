"""Runtime of a command: the options of backend, program sizes and dtypes, and the model on it."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import STORED
from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.execution.pytree import tree_leaves
from mimo_v2_flash.execution.registry import BACKENDS, get_backend
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization import QuantizedTensor

from .options import add_renamed_option
from .parallel_options import RankSetup
from .plan_report import verdict

__all__ = [
    "COMPILE_CACHE",
    "FLOATS",
    "RuntimeOptions",
    "add_compiler_arguments",
    "add_dtype_arguments",
    "add_runtime_arguments",
    "check_memory",
]

FLOATS = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
COMPILE_CACHE = Path.home() / ".cache" / "mimo-v2-flash" / "programs"
CONTEXT, CHUNK = 4096, 128
DTYPES = {"numpy": "float32", "xla": "float32", "neuron": "bfloat16"}
"""Default dtype of KV cache and activations, by backend."""

DTYPE_HELP = "float32, with neuron bfloat16"
MEMORY = {1: 12 * 10**9, 2: 24 * 10**9}
"""Bytes of a logical NeuronCore, by the number of its physical cores."""


class FixedLengthModel(MiMoV2FlashModel):
    """A model whose KV caches all have one length, so that all prompts share their programs."""

    context: int

    def new_cache(self, batch_size: int, max_length: int, dtype: Any = np.float32) -> Any:
        """Return a cache of `context` tokens; ValueError if `max_length` is larger."""
        if max_length > self.context:
            raise ValueError(f"max_length {max_length} is larger than --context {self.context}")
        return super().new_cache(batch_size, self.context, dtype)


class RuntimeOptions(NamedTuple):
    """Runtime options of the command line; every field is the option of its name."""

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
        """Return the runtime options in `options`, and remove them from it."""
        return cls(**{name: options.pop(name) for name in cls._fields if name in options})

    @property
    def kv_dtype(self) -> Any:
        """Dtype of the KV cache."""
        return FLOATS[self.cache_dtype or DTYPES[self.backend]]

    @property
    def residual_dtype(self) -> Any:
        """Dtype of the activations between layers."""
        return FLOATS[self.activation_dtype or DTYPES[self.backend]]

    def longest(self, config: MiMoConfig) -> int:
        """Return the maximum sequence length, in tokens."""
        limit = config.max_position_embeddings
        return limit if self.backend == "numpy" else self.context or min(CONTEXT, limit)

    def model(
        self, weights: ModelWeights, config: MiMoConfig, setup: RankSetup, *, host: Backend
    ) -> MiMoV2FlashModel:
        """Return the model on its backend; `host` is the backend instance for numpy.

        Raises
        ------
        ValueError
            If the model does not fit into a device's memory, or the backend runs on one rank only.
        ImportError, OSError
            If the backend or one of its requirements is not installed.
        """
        options: dict[str, Any] = setup._asdict() | {"dtype": self.residual_dtype}
        if self.backend == "numpy":
            options |= {"max_step": self.chunk} if self.chunk else {}
            return MiMoV2FlashModel(weights, config, backend=host, **options)
        context = self.longest(config)
        chunk = min(self.chunk or CHUNK, context)
        workload = Workload(
            1, context, chunk, _weight_dtype(weights), self.kv_dtype, self.residual_dtype
        )
        if self.backend == "neuron":
            check_memory(config, setup.plan, workload, self.lnc)
        options |= {"max_step": chunk, "backend": self._open_backend(setup)}
        model = FixedLengthModel(weights, config, **options)
        model.context = context
        return model

    def _open_backend(self, setup: RankSetup) -> Backend:
        if self.backend == "neuron":
            options = {
                "folder": self.compile_cache,
                "lnc": self.lnc,
                "skip_compile": self.skip_compile,
            }
            return get_backend("neuron", group=setup.group, **options)
        if setup.group.size > 1:
            raise ValueError(f"--backend {self.backend} runs on one rank, not on several processes")
        return get_backend(self.backend)


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the runtime."""
    group = parser.add_argument_group("runtime", "Backend, sizes of its programs, and dtypes.")
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="numpy",
        help="Backend that computes: numpy, xla (the compiled programs on a CPU) or neuron "
        "(Trainium) (default: numpy).",
    )
    group.add_argument(
        "--context",
        type=int,
        help="Maximum sequence length that programs are compiled for; xla and neuron only "
        f"(default: {CONTEXT}, or the model's maximum if that is less).",
    )
    group.add_argument(
        "--chunk",
        type=int,
        help=f"Number of prompt tokens per prefill step (default: {CHUNK}, with numpy 512).",
    )
    group.add_argument(
        "--cache-dtype", choices=FLOATS, help=f"Dtype of the KV cache (default: {DTYPE_HELP})."
    )
    add_renamed_option(
        group,
        "--activation-dtype",
        "--stream-dtype",
        choices=FLOATS,
        help=f"Dtype of the activations between layers (default: {DTYPE_HELP}).",
    )
    group.add_argument(
        "--skip-compile",
        action="store_true",
        help="Fail if a program is missing in the compile cache, and compile none.",
    )
    add_compiler_arguments(group)


def add_dtype_arguments(parser: argparse.ArgumentParser, *, activation_dtype: str) -> None:
    """Declare the dtypes of a deployment, with a default for the activations."""
    parser.add_argument(
        "--dtype", choices=STORED, default="fp8", help="Dtype of the weights (default: fp8)."
    )
    parser.add_argument(
        "--cache-dtype",
        choices=FLOATS,
        default="bfloat16",
        help="Dtype of the KV cache (default: bfloat16).",
    )
    add_renamed_option(
        parser,
        "--activation-dtype",
        "--stream-dtype",
        choices=FLOATS,
        default=activation_dtype,
        help=f"Dtype of the activations between layers (default: {activation_dtype}).",
    )


def add_compiler_arguments(group: Any) -> None:
    """Declare the options of neuronx-cc and its compile cache."""
    add_renamed_option(
        group,
        "--compile-cache",
        "--programs",
        type=Path,
        default=COMPILE_CACHE,
        metavar="FOLDER",
        help="Folder of the programs that neuronx-cc has compiled; all ranks must see it (default: "
        "~/.cache/mimo-v2-flash/programs).",
    )
    group.add_argument(
        "--lnc",
        type=int,
        choices=MEMORY,
        default=2,
        help="Number of physical NeuronCores per logical NeuronCore (default: 2).",
    )


def check_memory(config: MiMoConfig, plan: ParallelConfig, workload: Workload, lnc: int) -> None:
    """Raise ValueError unless every rank fits into a logical NeuronCore; it names the bytes."""
    fullest = max(devices(config, plan, workload), key=lambda device: device.total)
    if fullest.total > MEMORY[lnc]:
        raise ValueError(f"a NeuronCore of --lnc {lnc}: {verdict(fullest, MEMORY[lnc])}")


def _weight_dtype(weights: ModelWeights) -> str:
    """Return the `weight_dtype` of a `Workload`: the format or dtype that most bytes have."""
    sizes = Counter[str]()
    for weight in tree_leaves(weights, leaf=QuantizedTensor).values():
        sizes[getattr(weight, "format", None) or str(getattr(weight, "dtype", ""))] += getattr(
            weight, "nbytes", 0
        )
    return sizes.most_common(1)[0][0]
