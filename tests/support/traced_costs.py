"""Costs of traced functions: this project's cost model, and XLA's cost analysis."""

from typing import Any

from mimo_v2_flash.execution.cost_model import analyze_cost
from mimo_v2_flash.execution.program_cost import ProgramCost


def traced(function, **kwargs: Any) -> Any:
    """Return the traced program of a function."""
    from mimo_v2_flash.execution.tracing import trace

    return trace(function, kwargs)


def costed(function, **kwargs: Any) -> ProgramCost:
    """Return the cost of a function; arguments whose names begin with w are weights."""
    program = traced(function, **kwargs)
    weights = {path for path in program.inputs if path.startswith("w")}
    return analyze_cost(program.module, program.inputs, weights)


def xla_cost(module: Any) -> dict[str, float]:
    """Return XLA's cost analysis: every instruction by itself, nothing fused, views copied."""
    import jax
    from jax._src.lib import _jax
    from jaxlib import _hlo

    from mimo_v2_flash.execution.portable_hlo import make_portable

    parsed = _hlo.HloModule.from_serialized_hlo_module_proto(
        make_portable(module).SerializeToString()
    )
    return _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, parsed)
