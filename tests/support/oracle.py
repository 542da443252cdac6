"""transformers' outputs for a tiny model: logits, inputs and outputs of layers, margins."""

from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import assume

from tests.support.agreement import assert_agrees
from tests.support.tiny import Tiny

UNDECIDED = 2e-5  # float32 may flip an argmax or expert choice with a smaller lead


class OracleOutput(NamedTuple):
    """Next-token logits, and the smallest lead of a chosen expert over one not chosen."""

    logits_TV: np.ndarray
    lead: float


def oracle_output(model: Tiny, token_T: Any) -> OracleOutput:
    """Return transformers' output for one sequence, in one prefill."""
    with torch.no_grad():
        output = model.oracle(_one_row(token_T), use_cache=False, output_router_logits=True)
    gates = [layer.mlp.gate for layer in model.oracle.model.layers if hasattr(layer.mlp, "gate")]
    leads = map(_lead, gates, output.router_logits)
    return OracleOutput(output.logits[0].numpy(), min(leads, default=np.inf))


def decided(model: Tiny, token_T: Any) -> np.ndarray:
    """Return transformers' logits; drop an example whose expert choice float32 may flip."""
    logits_TV, lead = oracle_output(model, token_T)
    assume(lead > UNDECIDED)
    return logits_TV


def decided_tokens(logits_TV: np.ndarray) -> list[int]:
    """Return the argmax of every row; drop an example whose argmax float32 may flip."""
    second, best = np.moveaxis(np.partition(logits_TV, -2)[:, -2:], -1, 0)
    assume(np.min(best - second) > UNDECIDED * np.ptp(logits_TV))
    return np.argmax(logits_TV, axis=-1).tolist()


def layer_io(model: Tiny, token_T: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (x_BTD, y_BTD) of transformers' layers "0", "0.self_attn", "0.mlp", "1" and so on."""
    io_of_layer = {}

    def register(name: str, part: Any) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            x_BTD = args[0] if args else kwargs["hidden_states"]
            y_BTD = output[0] if isinstance(output, tuple) else output
            io_of_layer[name] = x_BTD.numpy(), y_BTD.numpy()

        return part.register_forward_hook(hook, with_kwargs=True)

    hooks = [
        register(f"{index}{name}", part)
        for index, layer in enumerate(model.oracle.model.layers)
        for name, part in (("", layer), (".self_attn", layer.self_attn), (".mlp", layer.mlp))
    ]
    with torch.no_grad():
        model.oracle(_one_row(token_T), use_cache=False)
    for hook in hooks:
        hook.remove()
    return io_of_layer


def assert_same_logits(actual: Any, expected: Any) -> None:
    """Assert that logits agree to 1e-4 of their range, ten times the tolerance of one sum."""
    assert_agrees(actual, expected, scale=10 * float(np.ptp(expected)))


def _one_row(token_T: Any) -> Any:
    return torch.tensor(np.asarray(token_T))[None]


def _lead(gate: Any, logits_TE: Any) -> float:
    score_TE, _ = (logits_TE.sigmoid() + gate.e_score_correction_bias).sort(descending=True)
    chosen = gate.top_k
    if chosen == score_TE.shape[-1]:
        return np.inf
    return float((score_TE[:, chosen - 1] - score_TE[:, chosen]).min())
