"""Functions traced to be counted, and XLA's own opinion of the same instructions."""

from typing import Any

from mimo_v2_flash.execution.cost_model import cost_of
from mimo_v2_flash.execution.program_cost import ProgramCost


def traced(function, **given: Any) -> Any:
    """Return the program of a function."""
    from mimo_v2_flash.execution.tracing import trace

    return trace(function, given)


def costed(function, **given: Any) -> ProgramCost:
    """Return the cost of a function, whose arguments that begin with w are weights."""
    program = traced(function, **given)
    weights = {path for path in program.inputs if path.startswith("w")}
    return cost_of(program.module, program.inputs, weights)


def xla_cost(module: Any) -> dict[str, float]:
    """Return what XLA counts: every instruction by itself, nothing fused, views copied."""
    import jax
    from jax._src.lib import _jax
    from jaxlib import _hlo

    from mimo_v2_flash.execution.portable_hlo import portable

    parsed = _hlo.HloModule.from_serialized_hlo_module_proto(portable(module).SerializeToString())
    return _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, parsed)
