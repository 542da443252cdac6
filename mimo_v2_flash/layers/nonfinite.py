"""Numbers that are not finite: the error of a step that has some, and where the first one arises.

A step that is good looks at its results alone. The sequences of a bad one run again, each by itself
on a backend that looks at every tensor: `NonFiniteFinder`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.cpu.kv_codes import decode
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.moe_expert import moe_expert
from mimo_v2_flash.kernels.moe_router import router_scores
from mimo_v2_flash.parallel import HostGroup

from .decoder import AttentionBlock, DecoderLayer, FeedForwardBlock
from .embedding import embed
from .head import GreedyHead, LogitsHead
from .hooks import HookCall, HookedLayers

__all__ = ["NonFiniteCause", "NonFiniteError", "NonFiniteFinder", "bad_rows", "has_nonfinite"]

PARTS = (
    *("embedding", "attention projections", "KV cache", "attention", "attention output"),
    *(
        "router",
        "expert FFN",
        "dense FFN",
        "feed-forward",
        "decoder layer",
        "head",
        "hidden states",
    ),
)
"""The parts of a model, in the order of computing; "hidden states" is a part that is not known."""

PART_OF_PROGRAM: dict[type, str] = {
    AttentionBlock: "attention",
    FeedForwardBlock: "feed-forward",
    DecoderLayer: "decoder layer",
    LogitsHead: "head",
    GreedyHead: "head",
}
UNKNOWN = 1 << 40  # larger than any pass, layer or position


class NonFiniteCause(NamedTuple):
    """The first tensor of a sequence that holds NaN or infinity.

    Attributes
    ----------
    position
        Position of its first token with such a number; None if it is not known.
    layer
        Index of the decoder layer; None if it is none of theirs, or not known.
    part
        One of `PARTS`.
    expert
        Id of the expert in the checkpoint, if `part` is "expert FFN".
    """

    position: int | None
    layer: int | None
    part: str
    expert: int | None = None

    def __str__(self) -> str:
        where = [self.part, "" if self.expert is None else f"expert {self.expert}"]
        where += ["" if self.layer is None else f"layer {self.layer}"]
        where += ["" if self.position is None else f"position {self.position}"]
        return ", ".join(filter(None, where))


class NonFiniteError(ValueError):
    """Error of a step in which some sequences got NaN or infinity; the results of others are right.

    The tokens of the other sequences are in the cache, and a next step goes on with them. Bad ones
    have what they had before the step, or nothing if that is bad itself, and can begin anew at
    position 0. All ranks raise it, or none.

    Attributes
    ----------
    rows : tuple of int
        The rows of the step that are bad, in ascending order.
    causes : dict of int to NonFiniteCause
        Of each bad row, up to the first four of them, where the first bad number arises.
    outputs : tuple of ndarray
        What the call would have returned: (logits_BnV,) of `step` and `forward`, (token_Bn,
        logit_Bn) of `greedy`. Bad rows are NaN, token ids -1.
    """

    def __init__(
        self,
        rows: tuple[int, ...],
        causes: dict[int, NonFiniteCause],
        outputs: tuple[np.ndarray, ...],
    ) -> None:
        texts = [f"row {row}: {cause}" for row, cause in causes.items()]
        if more := len(rows) - len(causes):
            texts.append(f"and {more} more rows")
        super().__init__(f"NaN or infinity in {'; '.join(texts)}")
        self.rows, self.causes, self.outputs = rows, causes, outputs

    def of_row(self, row: int, index: int) -> "NonFiniteError":
        """Return the error of one bad row alone, which its caller calls `index`."""
        cause = self.causes.get(row, NonFiniteCause(None, None, PARTS[-1]))
        return NonFiniteError((index,), {index: cause}, ())

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how it is pickled: with its fields, not with its text."""
        return NonFiniteError, (self.rows, self.causes, self.outputs)

    @property
    def logits(self) -> np.ndarray:
        """Logits [B, n, V], or [B, n] of `greedy`; those of bad rows are NaN."""
        return self.outputs[-1]


def bad_rows(outputs: tuple[np.ndarray, ...]) -> tuple[int, ...]:
    """Return the rows that have NaN or infinity in the last of a head's outputs [B, n, ...]."""
    # Column by column: the flags of a prompt's logits would take a quarter of their memory.
    columns = np.swapaxes(outputs[-1], 0, 1)
    is_bad_B = np.any([has_nonfinite(column_B) for column_B in columns], axis=0)
    return tuple(np.flatnonzero(is_bad_B).tolist())


def has_nonfinite(x_N: Any) -> np.ndarray:
    """Return for each index of the first axis whether its part of an array has NaN or infinity."""
    return ~np.all(np.isfinite(x_N), axis=tuple(range(1, x_N.ndim)))


class NonFiniteFinder:
    """A backend that computes as another does and keeps the first tensor that is not finite.

    In eager mode it looks at every part of a layer, in static mode at what programs return: layers,
    or their blocks.

    Parameters
    ----------
    backend
        The backend whose programs run.
    expert_ids
        The checkpoint's ids of this rank's experts.
    """

    def __init__(self, backend: Backend, expert_ids: tuple[int, ...]) -> None:
        is_eager = backend.execution_mode == "eager"
        self._backend = HookedLayers(self._look_at_part) if is_eager else backend
        self.execution_mode, self.to_device = backend.execution_mode, self._backend.to_device
        self._expert_ids = expert_ids
        self._pass, self._layer = 0, -1
        self._position_N = np.zeros(0, np.int32)
        self._first = _Event(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, -1)

    def cause(self, group: HostGroup) -> NonFiniteCause:
        """Return the first tensor of all ranks that is not finite: a collective call."""
        event_PF = group.all_gather(np.array(self._first, np.int64))
        event = _earliest([_Event(*event_F) for event_F in event_PF.tolist()])
        if event.part == UNKNOWN:
            return NonFiniteCause(None, None, "hidden states")
        part = PARTS[event.part]
        return NonFiniteCause(
            None if event.position == UNKNOWN else event.position,
            None if part in {"embedding", "head"} else event.layer,
            part,
            None if event.expert < 0 else event.expert,
        )

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function`; what it takes and returns is looked at."""
        program = self._backend.compile(function, donate=donate)

        def observed(*args: Any, **kwargs: Any) -> Any:
            self._begin(function, args)
            output = program(*args, **kwargs)
            part = PART_OF_PROGRAM.get(type(function))
            if part == "head":
                logits_N = output[-1] if isinstance(output, tuple) else output
                self._look(part, logits_N, self._position_N[np.asarray(args[1])])
            elif part:
                self._look_at_block(part, output[0] if isinstance(output, tuple) else output)
            return output

        return observed

    def _begin(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Count passes and layers; look at the embedding, once its positions are known."""
        if function is embed:
            self._pass, self._layer = self._pass + 1, -1
        elif isinstance(function, DecoderLayer | AttentionBlock):
            self._layer, self._position_N = self._layer + 1, np.asarray(args[1].position_N)
            if self._layer == 0:
                self._look("embedding", args[0], self._position_N)

    def _look(self, part: str, x_N: Any, position_N: np.ndarray) -> None:
        """Keep `part` as the first if a token of `x_N`, one of `position_N`, is not finite."""
        bad_M = position_N[has_nonfinite(np.asarray(x_N)) & (position_N >= 0)]
        if bad_M.size:
            self._keep(part, position=int(np.min(bad_M)))

    def _keep(self, part: str, *, position: int = UNKNOWN, expert: int = -1) -> None:
        event = _Event(self._pass, self._layer, PARTS.index(part), position, expert)
        self._first = _earliest([self._first, event])

    def _look_at_part(self, call: HookCall) -> None:
        """Look at what a part of a layer took and returned."""
        looks = {
            "apply_rope": self._look_at_projections,
            "attend": self._look_at_attention,
            "attention": lambda call: self._look_at_block("attention output", call.output),
            "experts": self._look_at_experts,
            "moe": self._look_at_mixture,
            "feed_forward": lambda call: self._look_at_block("dense FFN", call.output[0]),
        }
        if call.part in looks:
            looks[call.part](call)

    def _look_at_block(self, part: str, y_ND: Any) -> None:
        self._look(part, y_ND, self._position_N)

    def _look_at_projections(self, call: HookCall) -> None:
        for x_NHQ in call.args[:2]:
            self._look("attention projections", x_NHQ, self._position_N)

    def _look_at_attention(self, call: HookCall) -> None:
        _, active, prior, _ = call.args
        position_BT = active.position_BS
        prior_BS = np.where(prior.position_BS < position_BT[:, :1], prior.position_BS, -1)
        for part, x_BT, at_BT in (
            ("attention projections", decode(active.v_BSKC), position_BT),
            ("KV cache", decode(prior.k_BSKQ), prior_BS),
            ("KV cache", decode(prior.v_BSKC), prior_BS),
            ("attention", call.output, position_BT),
        ):
            self._look(part, x_BT.reshape(at_BT.size, *x_BT.shape[2:]), at_BT.reshape(-1))

    def _look_at_experts(self, call: HookCall) -> None:
        """Keep the expert whose output is bad, of tokens that are not; it knows no positions."""
        x_ND, weight_NA, expert_NA, experts = call.args[:4]
        is_bad_N = has_nonfinite(call.output) & ~has_nonfinite(x_ND) & ~has_nonfinite(weight_NA)
        for token in np.flatnonzero(is_bad_N):
            chosen_A = expert_NA[token]
            for expert in chosen_A[(chosen_A >= 0) & (chosen_A < len(experts))]:
                w_gate_FD, w_up_FD, w_down_DF = experts[expert]
                output_ND = moe_expert(x_ND[token : token + 1], w_gate_FD, w_up_FD, w_down_DF)
                if has_nonfinite(output_ND)[0]:
                    self._keep("expert FFN", expert=self._expert_ids[expert])
                    return

    def _look_at_mixture(self, call: HookCall) -> None:
        x_ND, position_N, _, weights = call.args
        biased_NE = router_scores(x_ND, weights.w_router_ED) + weights.bias_E
        self._look("router", biased_NE, position_N)
        self._look("expert FFN", call.output[0], position_N)


class _Event(NamedTuple):
    """A tensor that is not finite: where in the order of computing, and at which token."""

    forward_pass: int
    layer: int
    part: int
    position: int
    expert: int  # -1 if it is not known


def _earliest(events: Sequence[_Event]) -> _Event:
    """Return the first event; of several at one place the first position, and the known expert."""
    first = min(events)
    same = [event for event in events if event[:3] == first[:3]]
    return first._replace(expert=max(event.expert for event in same))
