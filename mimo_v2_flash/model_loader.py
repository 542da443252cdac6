"""Loading of a model onto a backend: what a caller leaves open is decided here.

Python and the command line load models by these functions, so that they compile the same programs.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any, NamedTuple

from .checkpoint.isq_table import IsqRequest
from .checkpoint.params import ModelWeights
from .checkpoint.subset import keep_experts, keep_layers
from .config import MiMoConfig
from .convert.isq_load import IsqProgress, load_isq, no_report
from .cpu.locked_cache import locked_cache
from .cpu.thread_count import set_thread_count
from .engine.memory_size import memory_size
from .execution import Backend
from .execution.registry import backend_name, get_backend
from .expert_store import ExpertStoreBackend
from .expert_store.eviction_policies import Policy
from .generation.generation_config import GenerationConfig, load_generation_config
from .inputs import MAX_STEP, as_cache_dtype, as_float
from .load_checks import check_neuron_memory, check_types, requested_store
from .model import MiMoV2FlashModel
from .parallel import ALONE, HostGroup, init_process_group
from .parallel_config import ParallelConfig
from .quantization.topology import Topology

__all__ = ["DEFAULTS", "BackendDefaults", "build_model", "load_model"]


class BackendDefaults(NamedTuple):
    """What `load_model` uses on a backend where its caller does not say."""

    max_length: int | None  # None: the model's context
    max_step: int
    dtype: str  # of KV caches and hidden states


DEFAULTS = {
    "numpy": BackendDefaults(None, MAX_STEP, "float32"),
    "xla": BackendDefaults(4096, 128, "float32"),
    "neuron": BackendDefaults(4096, 128, "bfloat16"),
}


def load_model(
    path: str | PathLike[str],
    *,
    backend: str | Backend = "numpy",
    parallel: ParallelConfig | None = None,
    group: HostGroup | None = None,
    max_length: int | None = None,
    max_step: int | None = None,
    activation_dtype: Any = None,
    cache_dtype: Any = None,
    compute: str = "float32",
    expert_subset: Sequence[int] | None = None,
    num_layers: int | None = None,
    threads: int | None = None,
    isq: str | int | None = None,
    topology: str | PathLike[str] | Topology | None = None,
    isq_cache: str | PathLike[str] | None = None,
    isq_report: IsqProgress = no_report,
    expert_cache: int | str | None = None,
    expert_cache_policy: str | None = None,
    device_map: str | None = None,
    device_report: Callable[[Any], None] | None = None,
    **backend_options: Any,
) -> MiMoV2FlashModel:
    """Return the model of a checkpoint, ready to generate; weights are mapped, not read.

    Under torchrun every rank calls it with the same arguments. The first call of a process joins
    the process group, which all models of the process share; it ends when the process does. To end
    it earlier, pass the `group` of a `with init_process_group(os.environ) as group` block.

    Parameters
    ----------
    path : str or PathLike
        Folder of a checkpoint: config.json, safetensors files and, if there is one,
        generation_config.json.
    backend : str or Backend
        "numpy", "xla" (the compiled programs on a CPU), "neuron" (Trainium), or an open backend.
    parallel : ParallelConfig, optional
        How the model is split over the ranks; the experts and the batch over all of them if not
        given.
    group : HostGroup, optional
        Process group of the ranks: a `ThreadGroup`, for instance. If not given, the ranks that
        torchrun started, or a single rank.
    max_length : int, optional
        The most tokens of a sequence. The config's `max_position_embeddings` if not given; with a
        backend that compiles, 4096 if that is less. All caches of such a backend have this length,
        so that prompts of any length use the same programs.
    max_step : int, optional
        The most tokens that pass through the layers together, of all rows of a rank: 512 if not
        given; with a backend that compiles 128.
    activation_dtype, cache_dtype : dtype or str, optional
        Dtype of hidden states and of KV caches, float32 or bfloat16. If not given float32, with
        "neuron" bfloat16. With "numpy" caches may be "fp8" or "int8": 8 bits, and a scale for each
        key and value of a token and head.
    compute : str
        What activations are rounded to before each product with a stored weight: "float32", not at
        all, or with "numpy" "bfloat16". Weights, sums, norms, softmax and routers stay as they are,
        and hidden states have their `activation_dtype`.
    expert_subset : sequence of int, optional
        Ids of the experts to keep, as in the checkpoint; all of them if not given.
    num_layers : int, optional
        How many layers to keep, from the first on; all of them if not given. Fewer have no MTP
        heads, which read the hidden states of the last.
    threads : int, optional
        Threads of this process for kernels, of every model in it; `resolve_thread_count` says which
        number if not given.
    isq : str or int, optional
        Type that weights are quantized to while they are loaded, by mistral.rs's names and numbers:
        "Q8_0" or 8, "Q6K", "Q4K", "Q3K"; "int8", "int4", "MXFP4", "fp8". Routers and vectors stay
        precise; embedding and LM head are promoted. As stored if not given.
    topology : path or Topology, optional
        YAML file of types by layers or names of weights, which decide before `isq`.
    isq_cache : path, optional
        Folder that keeps quantized weights, so that the next call maps them; memory if not given.
    isq_report : callable, optional
        Called with an `IsqJob` before weights are quantized; returns a context whose value is
        called with bytes of the checkpoint as they are done.
    expert_cache : int or str, optional
        The most memory of each rank for experts, which are read from their files when tokens choose
        them: bytes, a size ("8GiB", "400kB") or a part of the free memory ("50%"). Results are the
        same to the bit. With "numpy"; if not given, files are mapped whole.
    expert_cache_policy : str, optional
        Which expert makes room for others: "lfu", the default, "lru", "lfu-decay", "class-lru", or
        "static:FILE" with a file that `mimo experts pin` wrote.
    device_map : str, optional
        "auto" chooses what fits into the free memory: experts resident or in an expert store, the
        weights as stored or quantized. With "numpy"; nothing is chosen if not given.
    device_report : callable, optional
        Called with the `Placement` that was chosen, before weights are read.
    **backend_options
        With a backend that compiles `layers_per_program`, the most decoder layers of a program: as
        many as the compiler is expected to accept if not given. And what the backend's constructor
        takes: `folder`, `lnc` and `skip_compile` of "neuron".

    Returns
    -------
    MiMoV2FlashModel
        The model; its `generation_config` has the end tokens and the sampling parameters that the
        checkpoint's generation_config.json asks for.

    Raises
    ------
    FileNotFoundError
        If the folder or a file in it is missing; it is named.
    ValueError
        If an argument is not allowed, the checkpoint does not fit its config, or the model does not
        fit into a NeuronCore's memory.
    ImportError, OSError
        If the backend or one of its requirements is not installed.
    RankError
        If other ranks have not started.
    """
    request = IsqRequest.of(isq, topology)
    check_types(backend, compute, cache_dtype, request)
    stores = requested_store(expert_cache, expert_cache_policy, backend, device_map)
    set_thread_count(threads)
    group = group or _process_group()
    parallel = parallel or ParallelConfig(data_parallel_size=group.size)
    config = MiMoConfig.from_pretrained(path)
    options: dict[str, Any] = {"parallel": parallel, "group": group, "cache_dtype": cache_dtype}
    options |= {"max_length": max_length, "max_step": max_step, "expert_subset": expert_subset}
    if device_map is not None:
        kept = options | {"isq_cache": isq_cache, "num_layers": num_layers}
        request, stores = _place(path, config, request, device_report, kept)
    weights, few = _load(path, config, request, num_layers, (isq_cache, isq_report), options)
    options |= {"backend": backend, "compute": compute, "activation_dtype": activation_dtype}
    options |= {"expert_store": stores, "generation_config": load_generation_config(path, config)}
    return build_model(weights, few, **options, **backend_options)


def _load(
    path: str | PathLike[str],
    config: MiMoConfig,
    request: IsqRequest,
    num_layers: int | None,
    quantizing: tuple[Any, IsqProgress],
    options: dict[str, Any],
) -> tuple[ModelWeights, MiMoConfig]:
    """Return the weights of a rank, and the config of the layers that are kept."""
    (cache, report), group = quantizing, options["group"]
    share = options["parallel"].shard_spec(group.rank)
    weights = load_isq(path, config, request, share, cache=cache, report=report, group=group)
    return (weights, config) if num_layers is None else keep_layers(weights, config, num_layers)


def _place(
    path: str | PathLike[str],
    config: MiMoConfig,
    request: IsqRequest,
    report: Callable[[Any], None] | None,
    options: dict[str, Any],
) -> tuple[IsqRequest, tuple[int | str, Policy] | None]:
    """Return what fits: what weights are quantized to, and the expert store, if there is one."""
    from .device_map import auto_placement  # noqa: PLC0415  with the arithmetic of plans

    placement = auto_placement(path, config, request, **options)
    if report is not None:
        report(placement)
    return placement.request, requested_store(placement.expert_cache, None, "numpy")


def build_model(
    weights: ModelWeights,
    config: MiMoConfig,
    generation_config: GenerationConfig | None = None,
    *,
    backend: str | Backend = "numpy",
    parallel: ParallelConfig | None = None,
    group: HostGroup = ALONE,
    max_length: int | None = None,
    max_step: int | None = None,
    activation_dtype: Any = None,
    cache_dtype: Any = None,
    compute: str = "float32",
    layers_per_program: int | None = None,
    expert_subset: Sequence[int] | None = None,
    expert_store: tuple[int | str, Policy] | None = None,
    **backend_options: Any,
) -> MiMoV2FlashModel:
    """Return the model of loaded weights; parameters and errors are those of `load_model`.

    `expert_store` are the size and the policy of an expert store.

    Parameters
    ----------
    weights : ModelWeights
        The weights, whole or this rank's shard.
    config : MiMoConfig
        The architecture's numbers.
    generation_config : GenerationConfig, optional
        End tokens and sampling parameters of the checkpoint.
    backend : str or Backend
        Where programs run.
    parallel : ParallelConfig, optional
        How many ranks split what.
    group : HostGroup
        The ranks.
    max_length : int, optional
        The most tokens of a sequence.
    max_step : int, optional
        The most tokens of a pass.
    activation_dtype, cache_dtype : dtype, optional
        Dtypes of the hidden states, and of keys and values.
    compute : str
        What activations are rounded to before products, "float32" or "bfloat16".
    layers_per_program : int, optional
        Layers of a program; by default as many as its instructions allow.
    expert_subset : sequence of int, optional
        Ids of the experts that the weights have.
    expert_store : tuple of (size, Policy), optional
        Budget of an expert store in bytes or as a size, and what it evicts.
    **backend_options
        Options of the backend.
    """
    defaults, context = DEFAULTS[backend_name(backend)], config.max_position_embeddings
    parallel = parallel or ParallelConfig(data_parallel_size=group.size)
    weights, config = keep_experts(weights, config, expert_subset)
    if max_length is None:
        max_length = min(defaults.max_length or context, context)
    max_step = defaults.max_step if max_step is None else max_step
    activation_dtype = as_float("activation_dtype", activation_dtype or defaults.dtype)
    compiles = backend_name(backend) != "numpy"
    cache_dtype = as_cache_dtype("cache_dtype", cache_dtype or defaults.dtype, compiles=compiles)
    if backend == "neuron":
        lnc, sizes = backend_options.get("lnc", 2), {"context": max_length}
        sizes["step"] = min(max_step, max_length)  # as static mode cuts it
        dtypes = {"cache_dtype": cache_dtype, "activation_dtype": activation_dtype}
        check_neuron_memory(weights, config, parallel, lnc=lnc, **sizes, **dtypes)
    opened = _open_backend(backend, group, backend_options)
    if expert_store is not None:
        size, policy = expert_store
        opened = ExpertStoreBackend(opened, memory_size("expert_cache", size, group), policy)
    options: dict[str, Any] = {"max_step": max_step, "max_length": max_length, "compute": compute}
    options |= {"dtype": activation_dtype, "layers_per_program": layers_per_program}
    options |= {"backend": opened, "group": group, "plan": parallel, "cache_dtype": cache_dtype}
    return MiMoV2FlashModel(weights, config, generation_config=generation_config, **options)


def _open_backend(backend: str | Backend, group: HostGroup, options: dict[str, Any]) -> Backend:
    if backend == "neuron":
        return get_backend("neuron", group=group, **options)
    if options:
        raise TypeError(f"{', '.join(options)}: no option of load_model, nor of backend {backend}")
    if backend == "xla" and group.size > 1:
        raise ValueError("backend xla runs on one rank; threads may share an open XlaBackend")
    return get_backend(backend) if isinstance(backend, str) else backend


@locked_cache
def _process_group() -> HostGroup:
    """Return the group of the ranks that torchrun started; the process joins it once."""
    joined = init_process_group(os.environ)
    group = joined.__enter__()
    atexit.register(_leave, joined)
    return group


def _leave(joined: AbstractContextManager[HostGroup]) -> None:
    """Wait for the other ranks, or tell them which uncaught exception ends this one."""
    failure = getattr(sys, "last_value", None)
    joined.__exit__(type(failure) if failure else None, failure, None)
