"""From text to text: a prompt's tokens, the model's tokens after them, and their text as it comes.

config = MiMoConfig.from_pretrained(folder)
model = MiMoV2FlashModel(load_weights(folder, config), config)
complete(model, load_tokenizer(folder), "A list is", max_new_tokens=20).text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mimo_v2_flash.inputs import end_tokens

from .tokenizer import Detokenizer, prompt_tokens

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["CONTEXT", "END", "LIMIT", "Completion", "complete"]

END, LIMIT, CONTEXT = "an end token", "max_new_tokens", "a full context"


class Completion(NamedTuple):
    """What a model wrote.

    Attributes
    ----------
    text
        Without special tokens.
    prompt_tokens, new_tokens
        Ids that were given, and that were drawn, the end token included.
    stopped
        Why there is no more: `END`, `LIMIT` or `CONTEXT`.
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
    """Return the text that `model` writes after a prompt.

    Parameters
    ----------
    model
        The model of `tokenizer`.
    tokenizer
        From `load_tokenizer`.
    prompt
        A text to be continued, or messages ("role", "content") to be answered. An empty text
        stands for the beginning of any text.
    max_new_tokens : int
        Tokens to generate at most; fewer where the model's context is full.
    eos_token_id : int or sequence of int, optional
        Tokens that end the text; the config's if not given, an empty sequence for none.
    on_text : callable, optional
        Called as each token is drawn with the text that it makes certain, "" where it ends within
        a character; and once more at the end, with what was left.
    **options
        `seed`, `cache_dtype`, `temperature`, `top_k`, `top_p`, `min_p` and `repetition_penalty`:
        see `MiMoV2FlashModel.generate`.

    Raises
    ------
    ValueError
        If the prompt is longer than the model's context or no text, or an option is not allowed.
    """
    prompt_ids = prompt_tokens(tokenizer, prompt)
    context = model.config.max_position_embeddings
    if len(prompt_ids) > context:
        raise ValueError(f"the prompt has {len(prompt_ids)} tokens, the model's context {context}")
    ends = model.config.eos_token_id if eos_token_id is None else eos_token_id
    detokenizer, pieces = Detokenizer(tokenizer), list[str]()

    def take(piece: str) -> None:
        pieces.append(piece)
        if on_text is not None:
            on_text(piece)

    (new_ids,) = model.generate(
        [prompt_ids],
        max_new_tokens=min(max_new_tokens, context - len(prompt_ids) + 1),  # the last is not shown
        eos_token_id=() if ends is None else ends,
        on_token=lambda _, token: take(detokenizer.push(token)),
        **options,
    )
    take(detokenizer.end())
    stopped = LIMIT if len(new_ids) == max_new_tokens else CONTEXT
    if new_ids and new_ids[-1] in end_tokens(ends):
        stopped = END
    return Completion("".join(pieces), prompt_ids, new_ids, stopped)
