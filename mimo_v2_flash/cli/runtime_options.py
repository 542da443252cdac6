"""Runtime options of a command: backend, program sizes, dtypes, and the compiler's."""

import argparse
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.convert.encoding import STORED
from mimo_v2_flash.costs.device_memory import NEURON_CORE
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.execution.compile_cache import COMPILE_CACHE
from mimo_v2_flash.execution.registry import BACKENDS
from mimo_v2_flash.expert_store.eviction_policies import DEFAULT_POLICY, POLICIES
from mimo_v2_flash.inputs import CACHE_DTYPES, FLOATS
from mimo_v2_flash.layers.program_size import layers_per_program
from mimo_v2_flash.layers.routing_recorder import RoutingRecorder
from mimo_v2_flash.model_loader import DEFAULTS
from mimo_v2_flash.quantization import HUB_FORMAT
from mimo_v2_flash.quantization.compute import COMPUTE_TYPES

from .device_options import add_device_map_argument, print_placement
from .isq_options import add_isq_arguments, isq_report
from .option_types import byte_size, output_file, positive
from .options import add_renamed_option

__all__ = [
    "RuntimeOptions",
    "add_compiler_arguments",
    "add_compute_argument",
    "add_dtype_arguments",
    "add_layers_per_program",
    "add_runtime_arguments",
]

DTYPE_HELP = "float32, with neuron bfloat16"
CACHE_HELP = (
    "Dtype of the KV cache; of 8 bits, with a scale per token and head, for numpy only (default: "
    f"{DTYPE_HELP})."
)


class RuntimeOptions(NamedTuple):
    """Runtime options of the command line; every field is the option of its name."""

    backend: str = "numpy"
    context: int | None = None
    chunk: int | None = None
    cache_dtype: str | None = None
    activation_dtype: str | None = None
    compute: str = "float32"
    layers_per_program: int | None = None
    compile_cache: Path = COMPILE_CACHE
    lnc: int = 2
    skip_compile: bool = False
    isq: str | None = None
    topology: Path | None = None
    isq_cache: Path | None = None
    expert_cache: int | str | None = None
    expert_cache_policy: str | None = None
    record_routing: Path | None = None
    device_map: str | None = None

    @classmethod
    def pop_from(cls, options: dict[str, Any]) -> "RuntimeOptions":
        """Return the runtime options in `options`, and remove them from it."""
        return cls(**{name: options.pop(name) for name in cls._fields if name in options})

    def keywords(
        self, host: Backend, model: str = "", prompt: str | None = None, seed: int | None = None
    ) -> dict[str, Any]:
        """Return the keywords of `load_model`; `host` is the backend instance for numpy.

        Recorded routing says which model, prompt and seed it is of.
        """
        if self.record_routing is not None:
            if self.backend != "numpy":
                raise ValueError("record_routing is for backend numpy")
            digest = None if prompt is None else sha256(prompt.encode()).hexdigest()
            host = RoutingRecorder(host, self.record_routing, model, digest, seed)
        keywords: dict[str, Any] = {
            "backend": self.backend,
            "max_length": self.context,
            "max_step": self.chunk,
            "cache_dtype": self.cache_dtype,
            "activation_dtype": self.activation_dtype,
            "compute": self.compute,
            "layers_per_program": self.layers_per_program,
        }
        if self.isq or self.topology or self.isq_cache:
            keywords |= {"isq": self.isq, "topology": self.topology}
            keywords |= {"isq_cache": self.isq_cache, "isq_report": isq_report}
        if self.expert_cache is not None or self.expert_cache_policy is not None:
            keywords |= {"expert_cache": self.expert_cache}
            keywords |= {"expert_cache_policy": self.expert_cache_policy}
        if self.device_map is not None:
            keywords |= {"device_map": self.device_map, "device_report": print_placement}
        only: dict[str, dict[str, Any]] = {
            "numpy": {"backend": host, "max_length": None},
            "neuron": {
                "folder": self.compile_cache,
                "lnc": self.lnc,
                "skip_compile": self.skip_compile,
            },
        }
        return keywords | only.get(self.backend, {})


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
        type=positive,
        help="Maximum sequence length that programs are compiled for; xla and neuron only "
        f"(default: {DEFAULTS['xla'].max_length}, or the model's maximum if that is less).",
    )
    group.add_argument(
        "--chunk",
        type=positive,
        help="Number of prompt tokens per prefill step (default: "
        f"{DEFAULTS['xla'].max_step}, with numpy {DEFAULTS['numpy'].max_step}).",
    )
    group.add_argument("--cache-dtype", choices=CACHE_DTYPES, help=CACHE_HELP)
    add_renamed_option(
        group,
        "--activation-dtype",
        "--stream-dtype",
        choices=FLOATS,
        help="Dtype of the hidden states between layers; --compute is about products (default: "
        f"{DTYPE_HELP}).",
    )
    add_compute_argument(group)
    add_isq_arguments(group)
    add_device_map_argument(group)
    _add_expert_cache_arguments(group)
    _add_program_arguments(group)
    add_compiler_arguments(group)


def _add_program_arguments(group: Any) -> None:
    add_layers_per_program(group)
    group.add_argument(
        "--skip-compile",
        action="store_true",
        help="Fail if a program is missing in the compile cache, and compile none.",
    )


def _add_expert_cache_arguments(group: Any) -> None:
    group.add_argument(
        "--expert-cache",
        type=byte_size,
        metavar="SIZE",
        help="Maximum memory of each rank for experts, which are read from their files when they "
        "are chosen: bytes, 8GiB, 400kB, or a part of the free memory such as 50%%; for numpy only "
        "(default: files are mapped whole).",
    )
    group.add_argument(
        "--expert-cache-policy",
        metavar="POLICY",
        help=f"Which expert makes room: {', '.join(POLICIES)}, or static:FILE, which keeps those "
        f"of a file that `mimo experts pin` wrote (default: {DEFAULT_POLICY}).",
    )
    group.add_argument(
        "--record-routing",
        type=output_file,
        metavar="FILE",
        help="File to which the ids of the experts that tokens choose are written, for `mimo "
        "experts`; for numpy only (default: none).",
    )


def add_layers_per_program(group: Any) -> None:
    """Declare the most layers of a program."""
    group.add_argument(
        "--layers-per-program",
        type=positive,
        metavar="N",
        help="Maximum number of decoder layers in a program; xla and neuron only (default: as many "
        f"as neuronx-cc is expected to accept, {layers_per_program(1)} for up to 128 tokens).",
    )


def add_compute_argument(group: Any) -> None:
    """Declare the compute type."""
    group.add_argument(
        "--compute",
        choices=COMPUTE_TYPES,
        default="float32",
        help="Type that activations are rounded to before each product with a weight; sums stay "
        "float32. bfloat16 is for numpy only (default: float32, no rounding).",
    )


def add_dtype_arguments(
    parser: argparse.ArgumentParser,
    *,
    activation_dtype: str,
    cache_dtypes: Collection[str] = tuple(FLOATS),
) -> None:
    """Declare the dtypes of a deployment, with a default for the activations."""
    parser.add_argument(
        "--dtype",
        choices=STORED,
        default=HUB_FORMAT,
        help=f"Dtype of the weights (default: {HUB_FORMAT}).",
    )
    parser.add_argument(
        "--cache-dtype",
        choices=cache_dtypes,
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
        choices=NEURON_CORE,
        default=2,
        help="Number of physical NeuronCores per logical NeuronCore (default: 2).",
    )
