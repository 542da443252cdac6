"""The output processor: from the logits of a step to tokens, log-probabilities and events."""

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

import numpy as np

from mimo_v2_flash import inputs

from .logprobs import token_logprobs
from .outputs import Event, TokenLogprob
from .request import Constraint, Sequence
from .sampler import NO_TOKEN, Draft, Draw, Sampler
from .step_runner import StepResult

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["OutputProcessor", "draw_of", "suppressed_tokens"]


class OutputProcessor:
    """Chooses the next token of sequences, and decides whether they end.

    Parameters
    ----------
    suppressed
        Token ids that are never chosen.

    Attributes
    ----------
    sampler
        What chooses tokens from logits.
    """

    def __init__(self, suppressed: Collection[int] = ()) -> None:
        self.sampler = Sampler(suppressed)

    def __call__(self, result: StepResult) -> list[Event]:
        """Append a token to each sequence of a step, and after drafts that hold; return the events.

        An error of one sequence, of its constraint for instance, ends that sequence alone.
        """
        events = [sequence.end("error", error) for sequence, error in result.failed]
        events += [
            Event(sequence.request.id, sequence.index, prompt_logprobs=tuple(scored))
            for sequence, scored in result.scored
            if scored
        ]
        added: dict[Sequence, Event] = {}
        rows, outputs_Rn = list(enumerate(result.sequences)), result.outputs
        for sequence in result.sequences:
            sequence.accepted = 0
        for column in range(outputs_Rn.shape[1] if rows else 0):
            for row, event in self._choose(rows, outputs_Rn[:, column], result.token_Rn is None):
                sequence = result.sequences[row]
                added[sequence] = event.after(added.get(sequence))
            rows = [(row, each) for row, each in rows if _accepts_draft(each)]
        return [*events, *added.values()]

    def _choose(
        self, rows: SequenceOf[tuple[int, Sequence]], outputs_R: np.ndarray, are_logits: bool
    ) -> list[tuple[int, Event]]:
        """Append the next token to some sequences, each with its row of the outputs."""
        if not are_logits:
            return [(row, _append(each, int(outputs_R[row]))) for row, each in rows]
        failed: list[tuple[int, Event]] = []
        draws: dict[int, Draw] = {}
        for row, sequence in rows:
            draw = _draw_or_error(sequence, outputs_R.shape[1])
            if isinstance(draw, Draw):
                draws[row] = draw
            else:
                failed.append((row, sequence.end("error", draw)))
        if not draws:
            return failed
        logits_RV = outputs_R[list(draws)]
        token_R = self.sampler(logits_RV, list(draws.values()))
        logprobs = _logprobs(list(draws.values()), logits_RV, token_R)
        sequences = dict(rows)
        return failed + [
            (row, _append(sequences[row], int(token), logprobs.get(index)))
            for index, (row, token) in enumerate(zip(draws, token_R, strict=True))
        ]


def _draw_or_error(sequence: Sequence, vocab_size: int) -> Draw | Exception:
    """Return what the choice of the next token depends on, or how the constraint fails."""
    try:
        return draw_of(sequence, vocab_size, draft=next(iter(sequence.drafts), None))
    except Exception as error:
        return error


def _accepts_draft(sequence: Sequence) -> bool:
    """Return whether a sequence's last token is its next draft, after which there is an output."""
    drafts, sequence.drafts = sequence.drafts, []
    if sequence.error or not drafts or sequence.new_tokens[-1] != drafts[0].token:
        return False
    sequence.drafts = drafts[1:]
    sequence.computed += 1  # the draft is in the cache
    sequence.accepted += 1
    return not sequence.finish_reason


def draw_of(
    sequence: Sequence,
    vocab_size: int,
    *,
    draft: Draft | None = None,
    constraint: Constraint | None = None,
    drafted: SequenceOf[int] = (),
) -> Draw:
    """Return what the choice of a sequence's next token depends on, or of one after `drafted`.

    The constraint is the sequence's, or another that has accepted the drafted tokens too.

    Parameters
    ----------
    sequence : Sequence
        The sequence.
    vocab_size : int
        Number of token ids.
    draft : Draft, optional
        The draft that the choice verifies.
    constraint : Constraint, optional
        A constraint in place of the sequence's.
    drafted : sequence of int
        Drafted tokens between the sequence and the choice.
    """
    request, constraint = sequence.request, constraint or sequence.constraint
    mask_V = constraint.mask() if constraint else None
    if mask_V is not None and (mask_V.shape, mask_V.dtype) != ((vocab_size,), np.dtype(bool)):
        raise ValueError(
            f"a constraint's mask is {mask_V.dtype} {mask_V.shape}, allowed is bool ({vocab_size},)"
        )
    new_tokens = [*sequence.new_tokens, *drafted] if drafted else sequence.new_tokens
    return Draw(
        request.params,
        request.seed,
        sequence.index,
        sequence.length + len(drafted),
        request.prompt_tokens,
        new_tokens,
        tuple(request.end_tokens) if sequence.is_early_after(len(drafted)) else (),
        mask_V,
        draft,
    )


def _logprobs(
    draws: SequenceOf[Draw], logits_RV: np.ndarray, token_R: np.ndarray
) -> dict[int, TokenLogprob]:
    """Return the log-probabilities of the rows that want them."""
    rows = [
        row
        for row, draw in enumerate(draws)
        if draw.params.logprobs is not None and token_R[row] != NO_TOKEN
    ]
    if not rows:
        return {}
    top = [draws[row].params.logprobs or 0 for row in rows]
    return dict(zip(rows, token_logprobs(logits_RV[rows], token_R[rows], top), strict=True))


def _append(sequence: Sequence, token: int, logprob: TokenLogprob | None = None) -> Event:
    """Append a token to a sequence, and end it if it is the last."""
    if not sequence.request.limit:  # the prompt's log-probabilities alone are wanted
        return sequence.end("length")
    if token == NO_TOKEN:
        error = ValueError("logit_bias or the constraint forbids every token")
        return sequence.end("error", error)
    sequence.new_tokens.append(token)
    logprobs = None if logprob is None else (logprob,)
    sequence.logprobs.extend(logprobs or ())
    try:
        verdict = sequence.constraint.accept(token) if sequence.constraint else None
    except Exception as raised:
        return sequence.end("error", raised, tokens=(token,), logprobs=logprobs)
    return sequence.end(_finish_reason(sequence, verdict), tokens=(token,), logprobs=logprobs)


def _finish_reason(sequence: Sequence, verdict: str | None) -> str | None:
    """Return why a sequence ends with its last token; None if it goes on."""
    request = sequence.request
    if sequence.new_tokens[-1] in request.end_tokens or verdict == "stop":
        return "stop"
    return "length" if len(sequence.new_tokens) >= request.limit else None


def suppressed_tokens(model: "MiMoV2FlashModel", tokens: SequenceOf[int] | None) -> frozenset[int]:
    """Return the token ids that are never chosen, by default the model's; ValueError for others."""
    tokens = model.generation_config.suppress_tokens if tokens is None else tokens
    return frozenset(inputs.as_token_ids("suppress_tokens", tokens, model.config.vocab_size))
