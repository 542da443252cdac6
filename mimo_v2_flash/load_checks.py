"""Checks of what `load_model` is asked for, before a backend is opened."""

from collections import Counter
from typing import Any

from .checkpoint.isq_table import IsqRequest
from .checkpoint.params import ModelWeights
from .config import MiMoConfig
from .execution import Backend
from .execution.pytree import tree_leaves
from .execution.registry import backend_name
from .expert_store.eviction_policies import DEFAULT_POLICY, Policy, read_policy
from .inputs import as_cache_dtype, as_compute
from .parallel_config import ParallelConfig
from .quantization import QuantizedTensor
from .quantization.isq_types import ISQ_TYPES, isq_name
from .quantization.registry import FORMATS

__all__ = ["check_neuron_memory", "check_types", "requested_store"]


def requested_store(
    size: Any, policy: str | None, backend: str | Backend, device_map: str | None = None
) -> tuple[int | str, Policy] | None:
    """Return the size and the policy of an expert store, checked; None if there is to be none.

    Parameters
    ----------
    size
        Budget of the store, in bytes or as a size; None for no store.
    policy
        Name of the eviction policy.
    backend
        The backend, by name or open.
    device_map
        "auto" where it chooses the store; else None.
    """
    if size is None and policy is not None:
        raise ValueError("expert_cache_policy is for an expert_cache, whose size is not given")
    if size is not None and backend_name(backend) != "numpy":
        raise ValueError("expert_cache is for backend numpy: programs have weights on a device")
    if device_map is not None:
        _check_device_map(device_map, size, backend)
    return None if size is None else (size, read_policy(policy or DEFAULT_POLICY))


def _check_device_map(device_map: str, size: Any, backend: str | Backend) -> None:
    """Raise ValueError unless a device map may choose where experts are."""
    if device_map != "auto":
        raise ValueError(f"device_map is {device_map!r}, allowed is auto")
    if backend_name(backend) != "numpy":
        raise ValueError("device_map is for backend numpy: programs have weights on a device")
    if size is not None:
        raise ValueError("device_map chooses the size of an expert_cache: name one of both")


def check_types(
    backend: str | Backend, compute: str, cache_dtype: Any, request: IsqRequest
) -> None:
    """Raise ValueError unless a backend has this compute type, and caches and products of these.

    Parameters
    ----------
    backend
        The backend, by name or open.
    compute
        What activations are rounded to before products.
    cache_dtype
        Dtype of keys and values; None for the default.
    request
        What weights are quantized to.
    """
    compiles = backend_name(backend) != "numpy"
    as_compute(compute, compiles=compiles)
    if cache_dtype is not None:
        as_cache_dtype("cache_dtype", cache_dtype, compiles=compiles)
    _check_products(request, backend)


def _check_products(request: IsqRequest, backend: str | Backend) -> None:
    """Raise ValueError unless a backend has products of what weights are quantized to."""
    if backend_name(backend) == "numpy":
        return
    untraced = QuantizedTensor.traced_product
    forms = {form for form, kind in FORMATS.items() if kind.traced_product is not untraced}
    if refused := sorted(request.forms - forms):
        allowed = ", ".join(isq_name(form) for form in ISQ_TYPES if form in forms)
        raise ValueError(
            f"isq is {isq_name(refused[0])}, allowed with a backend that compiles is {allowed}"
        )


def check_neuron_memory(
    weights: ModelWeights, config: MiMoConfig, parallel: ParallelConfig, *, lnc: int, **sizes: Any
) -> None:
    """Raise ValueError unless one sequence of these `sizes` fits into a NeuronCore.

    Parameters
    ----------
    weights
        The weights of a rank.
    config
        The architecture.
    parallel
        How many ranks split what.
    lnc
        Physical cores of a logical NeuronCore.
    **sizes
        Fields of `Workload`.
    """
    from .costs import Workload  # noqa: PLC0415
    from .costs.device_memory import check_memory  # noqa: PLC0415

    sizes |= {"weight_dtype": _weight_dtype(weights), "mtp_heads": len(weights.mtp)}
    workload = Workload(batch_size=1, **sizes)
    check_memory(config, parallel, workload, lnc)


def _weight_dtype(weights: ModelWeights) -> str:
    """Return the `weight_dtype` of a `Workload`: the format or dtype that most bytes have."""
    sizes = Counter[str]()
    for weight in tree_leaves(weights, leaf=QuantizedTensor).values():
        name = getattr(weight, "format", None) or str(getattr(weight, "dtype", ""))
        sizes[name] += getattr(weight, "nbytes", 0)
    return sizes.most_common(1)[0][0]
