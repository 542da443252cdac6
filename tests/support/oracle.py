"""What transformers says of a tiny model: logits, every layer's part, and whether it is decided."""

from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import assume

from tests.support.agreement import assert_agrees
from tests.support.tiny import Tiny

UNDECIDED = 2e-5  # float32 may flip a choice whose lead is smaller: then there are two answers


class Answer(NamedTuple):
    """Logits of the token after each, and the smallest lead of a chosen expert over another."""

    logits_TV: np.ndarray
    lead: float


def answer(model: Tiny, token_T: Any) -> Answer:
    """Return what transformers says of one sequence, in one prefill."""
    with torch.no_grad():
        said = model.oracle(_one_row(token_T), use_cache=False, output_router_logits=True)
    gates = [layer.mlp.gate for layer in model.oracle.model.layers if hasattr(layer.mlp, "gate")]
    leads = map(_lead, gates, said.router_logits)
    return Answer(said.logits[0].numpy(), min(leads, default=np.inf))


def decided(model: Tiny, token_T: Any) -> np.ndarray:
    """Return transformers' logits; a drawn example that float32 cannot decide is dropped."""
    logits_TV, lead = answer(model, token_T)
    assume(lead > UNDECIDED)
    return logits_TV


def decided_tokens(logits_TV: np.ndarray) -> list[int]:
    """Return the best token after each; a drawn example that float32 cannot decide is dropped."""
    second, best = np.moveaxis(np.partition(logits_TV, -2)[:, -2:], -1, 0)
    assume(np.min(best - second) > UNDECIDED * np.ptp(logits_TV))
    return np.argmax(logits_TV, axis=-1).tolist()


def overheard(model: Tiny, token_T: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (x_BTD, y_BTD) of transformers' layers "0", "0.self_attn", "0.mlp", "1" and so on."""
    heard = {}

    def listen(name: str, part: Any) -> Any:
        def hook(module: Any, args: Any, named: Any, said: Any) -> None:
            x_BTD = args[0] if args else named["hidden_states"]
            y_BTD = said[0] if isinstance(said, tuple) else said
            heard[name] = x_BTD.numpy(), y_BTD.numpy()

        return part.register_forward_hook(hook, with_kwargs=True)

    hooks = [
        listen(f"{index}{name}", part)
        for index, layer in enumerate(model.oracle.model.layers)
        for name, part in (("", layer), (".self_attn", layer.self_attn), (".mlp", layer.mlp))
    ]
    with torch.no_grad():
        model.oracle(_one_row(token_T), use_cache=False)
    for hook in hooks:
        hook.remove()
    return heard


def assert_same_logits(actual: Any, expected: Any) -> None:
    """Assert that logits agree to 1e-4 of their range, ten times what one sum is allowed."""
    assert_agrees(actual, expected, scale=10 * float(np.ptp(expected)))


def _one_row(token_T: Any) -> Any:
    return torch.tensor(np.asarray(token_T))[None]


def _lead(gate: Any, logits_TE: Any) -> float:
    score_TE, _ = (logits_TE.sigmoid() + gate.e_score_correction_bias).sort(descending=True)
    chosen = gate.top_k
    if chosen == score_TE.shape[-1]:
        return np.inf
    return float((score_TE[:, chosen - 1] - score_TE[:, chosen]).min())
