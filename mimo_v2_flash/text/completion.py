"""Text completion and chat: tokenize a prompt, generate, and detokenize as tokens come.

model = load_model(folder)
complete(model, load_tokenizer(folder), "A list is", max_new_tokens=20).text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mimo_v2_flash.inputs import as_eos_token_ids

from .tokenizer import Detokenizer, prompt_tokens

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["CONTEXT", "END", "LIMIT", "Completion", "complete"]

END, LIMIT, CONTEXT = "an end token", "max_new_tokens", "a full context"


class Completion(NamedTuple):
    """The text that a model generated, its tokens, and why it ended.

    Attributes
    ----------
    text
        The generated text, without special tokens.
    prompt_tokens, new_tokens
        Token ids of the prompt, and the generated ones, the end token included.
    stopped
        Why generation stopped: `END`, `LIMIT` or `CONTEXT`.
    """

    text: str
    prompt_tokens: list[int]
    new_tokens: list[int]
    stopped: str


def complete(
    model: MiMoV2FlashModel,
    tokenizer: Any,
    prompt: str | Sequence[Mapping[str, str]],
    *,
    max_new_tokens: int = 64,
    eos_token_id: int | Sequence[int] | None = None,
    on_text: Callable[[str], None] | None = None,
    **options: Any,
) -> Completion:
    """Return the text that `model` generates after a prompt.

    Parameters
    ----------
    model
        The model to run.
    tokenizer
        The tokenizer of the same checkpoint, from `load_tokenizer`.
    prompt
        A text to continue, or chat messages ("role", "content") to answer. An empty text stands
        for the beginning of any text.
    max_new_tokens : int
        Tokens to generate at most; fewer if the model's context is full.
    eos_token_id : int or sequence of int, optional
        Ids of the end tokens; by default those of the model's `generation_config`,
        an empty sequence for none.
    on_text : callable, optional
        Called after each token with the text that is now complete, "" if the token ends within a
        character; and once at the end, with the remaining text.
    **options
        Options of `MiMoV2FlashModel.generate`: `seed`, `cache_dtype`, `temperature`, `top_k`,
        `top_p`, `min_p` and `repetition_penalty`.

    Raises
    ------
    ValueError
        If the prompt is longer than the model's context or not Unicode, or an option is not
        allowed.
    """
    prompt_ids = prompt_tokens(tokenizer, prompt)
    context = model.max_length
    if len(prompt_ids) > context:
        raise ValueError(f"the prompt has {len(prompt_ids)} tokens, the model's context {context}")
    ends = model.generation_config.eos_token_ids if eos_token_id is None else eos_token_id
    detokenizer, pieces = Detokenizer(tokenizer), list[str]()

    def emit(piece: str) -> None:
        pieces.append(piece)
        if on_text is not None:
            on_text(piece)

    # The last new token takes no position in the context.
    (new_ids,) = model.generate(
        [prompt_ids],
        max_new_tokens=min(max_new_tokens, context - len(prompt_ids) + 1),
        eos_token_id=ends,
        on_token=lambda _, token: emit(detokenizer.push(token)),
        **options,
    )
    emit(detokenizer.end())
    stopped = LIMIT if len(new_ids) == max_new_tokens else CONTEXT
    if new_ids and new_ids[-1] in as_eos_token_ids(ends):
        stopped = END
    return Completion("".join(pieces), prompt_ids, new_ids, stopped)
