"""The output processor: from the logits of a step to tokens, log-probabilities and events."""

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf

import numpy as np

from .logprobs import token_logprobs
from .request import Event, Sequence, TokenLogprob
from .sampler import NO_TOKEN, Draw, Sampler
from .step_runner import StepResult

__all__ = ["OutputProcessor"]


class OutputProcessor:
    """Chooses the next token of sequences, and decides whether they end.

    Parameters
    ----------
    suppressed
        Token ids that are never chosen.
    """

    def __init__(self, suppressed: Collection[int] = ()) -> None:
        self._sampler = Sampler(suppressed)

    def __call__(self, result: StepResult) -> list[Event]:
        """Append a token to each sequence of a step, and return the events.

        An error of one sequence, of its constraint for instance, ends that sequence alone.
        """
        events = [sequence.end("error", error) for sequence, error in result.failed]
        events += [
            Event(sequence.request.id, sequence.index, prompt_logprobs=tuple(scored))
            for sequence, scored in result.scored
            if scored
        ]
        sequences = result.sequences
        if result.token_R is not None:
            tokens = map(int, result.token_R)
            return events + [_append(*pair) for pair in zip(sequences, tokens, strict=True)]
        draws: dict[int, Draw] = {}
        for row, sequence in enumerate(sequences):
            draw = _draw(sequence, result.logits_RV.shape[1], events)
            if draw is not None:
                draws[row] = draw
        if not draws:
            return events
        logits_RV = result.logits_RV[list(draws)]
        token_R = self._sampler(logits_RV, list(draws.values()))
        logprobs = _logprobs(list(draws.values()), logits_RV, token_R)
        return events + [
            _append(sequences[row], int(token), logprobs.get(index))
            for index, (row, token) in enumerate(zip(draws, token_R, strict=True))
        ]


def _draw(sequence: Sequence, vocab_size: int, events: list[Event]) -> Draw | None:
    """Return what the choice depends on; None, and an event, if the constraint fails."""
    request, constraint = sequence.request, sequence.constraint
    try:
        mask_V = constraint.mask() if constraint else None
        if mask_V is not None and (mask_V.shape, mask_V.dtype) != ((vocab_size,), np.dtype(bool)):
            raise ValueError(
                f"a constraint's mask is {mask_V.dtype} {mask_V.shape}, allowed is "
                f"bool ({vocab_size},)"
            )
    except Exception as error:
        events.append(sequence.end("error", error))
        return None
    return Draw(
        request.params,
        request.seed,
        sequence.index,
        sequence.length,
        request.prompt_tokens,
        sequence.new_tokens,
        tuple(request.end_tokens) if sequence.is_early else (),
        mask_V,
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
