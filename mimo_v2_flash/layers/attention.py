"""Attention: project, turn, look, remember, project back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.config import AttentionSpec
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.kv_cache import KVCache, prior_tokens, write_tokens
from mimo_v2_flash.kernels.rope_partial import rope_partial
from mimo_v2_flash.parallel import Group
from mimo_v2_flash.weights.params import AttentionWeights

from .eager_attention import look

__all__ = ["Attention", "Step", "turn"]


class Step(NamedTuple):
    """Where a step's tokens are: in their sequences, in this layer's cache, on the circle."""

    position_BT: Any
    row_BT: Any
    cos_LR: Any
    sin_LR: Any


def turn(q_BTHQ: Any, k_BTKQ: Any, step: Step) -> tuple[Any, Any]:
    """Return queries and keys rotated to where their tokens are."""
    where = step.position_BT, step.cos_LR, step.sin_LR
    return rope_partial(q_BTHQ, *where), rope_partial(k_BTKQ, *where)


@dataclass(frozen=True)
class Attention:
    """One layer's attention.

    Parameters
    ----------
    spec
        What the layer looks like, all heads together.
    heads
        The ranks that the heads are split over.
    query_block
        Queries whose scores are in memory at one time, at most.
    look
        How queries see keys: all heads at once, or `eager_attention.look_by_heads` on a host.
    turn
        How queries and keys get their positions.
    """

    spec: AttentionSpec
    heads: Group
    query_block: int
    look: Callable[..., Any] = look
    turn: Callable[..., Any] = turn

    def __call__(
        self, x_BTD: Any, step: Step, cache: KVCache, weights: AttentionWeights, *, filled: int
    ) -> Any:
        """Return what the tokens saw, `y_BTD`, and write them into `cache`.

        `filled` slots of every sequence are looked at; slots beyond must be empty.
        """
        B, T, D = x_BTD.shape
        if not B * T:  # for none of the ranks that share the heads there is anything to do
            return x_BTD
        q_BTHQ = self._heads(x_BTD, weights.w_q_OD, self.spec.key_width)
        k_BTKQ = self._heads(x_BTD, weights.w_k_OD, self.spec.key_width)
        v_BTKC = self._heads(x_BTD, weights.w_v_OD, self.spec.value_width)
        v_BTKC = v_BTKC * np.float32(self.spec.value_scale).astype(x_BTD.dtype)
        q_BTHQ, k_BTKQ = self.turn(q_BTHQ, k_BTKQ, step)
        prior = prior_tokens(cache, sequences=B, filled=filled)
        y_BTHC = self.look(
            q_BTHQ,
            k_BTKQ,
            v_BTKC,
            step.position_BT,
            *prior,
            weights.sink_H,
            window=self.spec.window,
            query_block=self.query_block,
        )
        write_tokens(cache, k_BTKQ, v_BTKC, step.position_BT, step.row_BT)
        y_NI = np.reshape(y_BTHC, (B * T, -1))
        y_ND = self.heads.all_reduce(ops.matmul(y_NI, weights.w_o_DI))
        return np.reshape(y_ND, (B, T, D)).astype(x_BTD.dtype)

    def _heads(self, x_BTD: Any, w_OD: Any, width: int) -> Any:
        """Return `x_BTD` projected to heads of `width`, in its dtype."""
        B, T, D = x_BTD.shape
        y_NO = ops.matmul(np.reshape(x_BTD, (B * T, D)), w_OD)
        return np.reshape(y_NO, (B, T, -1, width)).astype(x_BTD.dtype)
