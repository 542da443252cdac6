"""Tensors of a trace, in the order of computation: name, axes, meaning, and hook.

Traces, comparisons, docs/tracing.md and the tests use this one table. Axis letters are those of
`mimo_v2_flash.kernels`; a trace has one sequence, so B is left out and N is T.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.cpu.kv_codes import decode
from mimo_v2_flash.kernels.moe_router import router_scores
from mimo_v2_flash.layers.hooks import HookCall

__all__ = [
    "EXPERT_IDS",
    "PER_EXPERT",
    "TENSORS",
    "TraceTensor",
    "layer_name",
    "sort_key",
    "split_name",
]

EXPERT_IDS = "feed_forward.expert"
IN_LAYER = re.compile(r"(layers\.(\d+)\.)(.+)")


class TraceTensor(NamedTuple):
    """One tensor of a trace.

    Attributes
    ----------
    name
        Name within the layer, which `layers.3.` precedes in a trace; or the whole name of a tensor
        outside the layers.
    axes
        Axis letters; integers are int32, all else is float32.
    meaning
        Description of the tensor.
    part
        Part of a layer whose hook gives the tensor, or "before" or "after" the layers.
    take
        Function from the hook's call to the tensor.
    recomputed_from
        Inputs from which the trace computes the tensor again; empty for an array of the run itself.
    """

    name: str
    axes: str
    meaning: str
    part: str
    take: Callable[[HookCall], Any] | None = None
    recomputed_from: str = ""


def _log_sum(call: HookCall) -> np.ndarray:
    """Return log(exp(sink) + sum over visible keys of exp(score)), `log_sum_TH`, in float64."""
    q_BTHQ, active, prior, sink_H = call.args
    q_THQ = np.asarray(q_BTHQ, np.float64)[0]
    (k_TKQ, _, position_T), (prior_k_SKQ, _, prior_position_S) = (
        [np.asarray(decode(part), np.float64)[0] for part in segment] for segment in (active, prior)
    )
    prior_position_S = np.where(prior_position_S < position_T[0], prior_position_S, -1)
    key_position_S = np.concatenate([prior_position_S, position_T])
    age_TS = position_T[:, None] - key_position_S
    visible_TS = (key_position_S >= 0) & (age_TS >= 0) & (age_TS < call.kwargs["window"])
    k_SKQ = np.concatenate([prior_k_SKQ, k_TKQ])
    group = q_THQ.shape[1] // k_SKQ.shape[1]
    columns = []
    for head, sink in enumerate(np.asarray(sink_H, np.float64)):
        score_TS = q_THQ[:, head] @ k_SKQ[:, head // group].T / np.sqrt(q_THQ.shape[2])
        score_TS = np.where(visible_TS, score_TS, -np.inf)
        peak_T = np.maximum(np.max(score_TS, axis=1), sink)
        total_T = np.sum(np.exp(score_TS - peak_T[:, None]), axis=1) + np.exp(sink - peak_T)
        columns.append(peak_T + np.log(total_T))
    return np.stack(columns, axis=1)


def _expert_output(call: HookCall) -> np.ndarray:
    """Return `output_TAD`, every chosen expert's output before it is weighted.

    Every (token, expert) pair is a token with weight 1: experts see the same tokens in the same
    order as in the run, so their outputs are the same bit for bit.
    """
    x_ND, _, expert_NA, *weights = call.args
    N, A = expert_NA.shape
    one_J1, expert_J1 = np.ones((N * A, 1), np.float32), np.reshape(expert_NA, (N * A, 1))
    output_JD = call.function(np.repeat(x_ND, A, axis=0), one_J1, expert_J1, *weights)
    return np.reshape(output_JD, (N, A, -1))


# Arguments of the hooked parts: apply_rope(q, k, ...), attend(q, active, ...), and experts(x,
# weight, expert, ...).
TENSORS = (
    TraceTensor("tokens", "T", "token ids, integers", "before"),
    TraceTensor("positions", "T", "each token's position, integers", "before"),
    TraceTensor("embedding", "TD", "hidden states before layer 0", "before"),
    TraceTensor(
        "attention.norm",
        "TD",
        "input of attention: the layer's hidden states, normalised",
        "attention",
        lambda c: c.args[0],
    ),
    TraceTensor("attention.query", "THQ", "queries", "apply_rope", lambda c: c.args[0]),
    TraceTensor("attention.key", "TKQ", "keys", "apply_rope", lambda c: c.args[1]),
    TraceTensor(
        "attention.value",
        "TKC",
        "values, scaled by 0.707",
        "attend",
        lambda c: decode(c.args[1].v_BSKC)[0],
    ),
    TraceTensor(
        "attention.query_rotated", "THQ", "queries, rotated", "attend", lambda c: c.args[0][0]
    ),
    TraceTensor(
        "attention.key_rotated",
        "TKQ",
        "keys, rotated",
        "attend",
        lambda c: decode(c.args[1].k_BSKQ)[0],
    ),
    TraceTensor(
        "attention.log_sum",
        "TH",
        "log of the softmax's denominator, sink included",
        "attend",
        _log_sum,
        recomputed_from="the rotated queries and keys, in float64",
    ),
    TraceTensor(
        "attention.heads",
        "THC",
        "output of each head, before o_proj",
        "attend",
        lambda c: c.output[0],
    ),
    TraceTensor(
        "attention.output",
        "TD",
        "output of attention, before the residual sum",
        "attention",
        lambda c: c.output,
    ),
    TraceTensor(
        "feed_forward.norm",
        "TD",
        "input of the feed-forward: hidden states after attention, normalised",
        "feed_forward",
        lambda c: c.args[0],
    ),
    TraceTensor(
        "feed_forward.router_score",
        "TE",
        "sigmoid of the router's logits, without the bias",
        "moe",
        lambda c: router_scores(c.args[0], c.args[3].w_router_ED),
        recomputed_from="feed_forward.norm, by the router's kernel",
    ),
    TraceTensor(
        EXPERT_IDS, "TA", "ids of the chosen experts, integers", "experts", lambda c: c.args[2]
    ),
    TraceTensor(
        "feed_forward.expert_weight",
        "TA",
        "weight of each chosen expert",
        "experts",
        lambda c: c.args[1],
    ),
    TraceTensor(
        "feed_forward.expert_output",
        "TAD",
        "output of each chosen expert, before it is weighted",
        "experts",
        _expert_output,
        recomputed_from="the experts, run again with weight 1: the same bits",
    ),
    TraceTensor(
        "feed_forward.output",
        "TD",
        "output of the feed-forward, before the residual sum",
        "feed_forward",
        lambda c: c.output[0],
    ),
    TraceTensor("output", "TD", "hidden states after the layer", "layer", lambda c: c.output),
    TraceTensor(
        "final_norm",
        "TD",
        "hidden states after the last layer, normalised",
        "after",
        recomputed_from="the last layer's output, by the norm's kernel",
    ),
    TraceTensor("logits", "TV", "logits of the next token, at every position", "after"),
)
ROW = {tensor.name: row for row, tensor in enumerate(TENSORS)}
PER_EXPERT = tuple(tensor.name for tensor in TENSORS if tensor.axes.startswith("TA"))


def layer_name(layer: int, tensor: TraceTensor) -> str:
    """Return the trace name of a layer's `tensor`, such as `layers.3.attention.query`."""
    return f"layers.{layer}.{tensor.name}"


def split_name(name: str) -> tuple[str, str]:
    """Return the layer's prefix and the rest, such as `layers.3.` and `attention.query`.

    The prefix is empty for a tensor outside the layers.
    """
    inside = IN_LAYER.fullmatch(name)
    return (inside[1], inside[3]) if inside else ("", name)


def sort_key(name: str) -> tuple[int, int, int] | None:
    """Return the sort key of `name` in the order of computation; None if no tensor has that name.

    The last number of the key is the row of `TENSORS`.
    """
    inside = IN_LAYER.fullmatch(name)
    row = ROW.get(inside[3] if inside else name)
    if row is None or (TENSORS[row].take is None) == bool(inside):
        return None
    if inside:
        return 1, int(inside[2]), row
    return 2 * ("before", "after").index(TENSORS[row].part), 0, row
