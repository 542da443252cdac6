"""Tracing of a prompt: one prefill on NumPy, with a forward hook that keeps every named tensor."""

from contextlib import suppress
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.lm_head import lm_head
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.layers.hooks import HookCall, HookedLayers
from mimo_v2_flash.layers.nonfinite import NonFiniteError
from mimo_v2_flash.model import MiMoV2FlashModel

from .trace_tensors import TENSORS, layer_name

__all__ = ["trace_prompt"]


def trace_prompt(
    weights: ModelWeights,
    config: MiMoConfig,
    token_T: Any,
    *,
    max_step: int = 512,
    compute: str = "float32",
) -> dict[str, np.ndarray]:
    """Return the tensors of one prefill, by the names of `trace_tensors.TENSORS`.

    Parameters
    ----------
    weights : ModelWeights
        The weights.
    config : MiMoConfig
        The architecture's numbers.
    token_T : sequence of int
        Token ids of the prompt.
    max_step : int
        The most tokens of a pass.
    compute : str
        What activations are rounded to before products, "float32" or "bfloat16".

    Raises
    ------
    ValueError
        As raised by `MiMoV2FlashModel.forward`.
    """
    chunks: dict[str, list[np.ndarray]] = {}

    def keep(name: str, tensor: Any) -> None:
        chunks.setdefault(name, []).append(np.asarray(tensor))

    def hook(call: HookCall) -> None:
        if (call.layer, call.part) == (0, "layer"):
            keep("embedding", call.args[0])
        for tensor in TENSORS:
            if tensor.take and tensor.part == call.part:
                keep(layer_name(call.layer, tensor), tensor.take(call))

    backend = HookedLayers(hook)
    sizes: dict[str, Any] = {"max_step": max_step, "compute": compute}
    model = MiMoV2FlashModel(weights, config, backend=backend, **sizes)
    with suppress(NonFiniteError):  # a trace is for looking at such numbers
        model.forward([token_T])
    tensors = {name: np.concatenate(parts) for name, parts in chunks.items()}
    last_TD = tensors[f"layers.{config.num_hidden_layers - 1}.output"]
    final_TD = rmsnorm(last_TD, weights.final_norm_D, epsilon=config.layernorm_epsilon)
    first = {"tokens": np.asarray(token_T), "positions": np.arange(len(final_TD))}
    logits_TV = lm_head(final_TD, model.weights.w_logits_VD)
    return first | tensors | {"final_norm": final_TD, "logits": logits_TV}
