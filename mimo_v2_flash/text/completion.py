"""Text completion and chat: tokenize a prompt, generate, and detokenize as tokens come.

model = load_model(folder)
complete(model, load_tokenizer(folder), "A list is", max_new_tokens=20).text
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mimo_v2_flash.generation.tokenizer_vocab import TokenizerVocab, read_end_tokens
from mimo_v2_flash.inputs import as_count, as_token_ids

from .chat_template import prompt_tokens
from .tokenizer import Detokenizer

if TYPE_CHECKING:
    from mimo_v2_flash.engine.stats import EngineStats
    from mimo_v2_flash.generation.generation_config import GenerationConfig
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["CONTEXT", "END", "LIMIT", "Completion", "complete"]

END, LIMIT, CONTEXT = "an end token", "max_new_tokens", "a full context"


@dataclass(frozen=True, slots=True)
class Completion:
    """The text that a model generated, its tokens, and why it ended.

    Attributes
    ----------
    text
        The generated text, without special tokens.
    prompt_tokens, new_tokens
        Token ids of the prompt, and the generated ones, the end token included.
    stopped
        Why generation stopped: `END`, `LIMIT` or `CONTEXT`.
    seed
        The seed with which the same call generates the same text.
    stats
        The engine's statistics of the call: rates and latencies. Equality does not depend on them.
    """

    text: str
    prompt_tokens: list[int]
    new_tokens: list[int]
    stopped: str
    seed: int
    stats: EngineStats = field(compare=False, repr=False)


def complete(
    model: MiMoV2FlashModel,
    tokenizer: Any,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int = 64,
    eos_token_id: int | Collection[int] | None = None,
    on_text: Callable[[str], None] | None = None,
    generation_config: GenerationConfig | None = None,
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
        A text to continue, or the messages of a chat to answer, as in `chat_prompt`. An empty text
        stands for the beginning of any text.
    max_new_tokens : int
        Tokens to generate at most; fewer if the model's context is full.
    eos_token_id : int or sequence of int, optional
        Ids of the end tokens, an empty sequence for none; by default those of
        `generation_config` and the tokenizer's. Without `generation_config` those that a
        generation_config.json beside the tokenizer names end the text too.
    on_text : callable, optional
        Called after each token with the text that is now complete, "" if the token ends within a
        character; and once at the end, with the remaining text.
    generation_config : GenerationConfig, optional
        End tokens and sampling parameters; the model's if not given. Ids that the tokenizer does
        not have are not drawn.
    **options
        Options of `MiMoV2FlashModel.generate`: `seed`, `cache_dtype`, `draft_tokens`,
        `temperature`, `top_k`, `top_p`, `min_p` and `repetition_penalty`.

    Raises
    ------
    ValueError
        If the prompt is longer than the model's context or not Unicode, or an option is not
        allowed.
    """
    limit = as_count("max_new_tokens", max_new_tokens, minimum=0)
    prompt_ids, context = prompt_tokens(tokenizer, prompt), model.max_length
    if len(prompt_ids) > context:
        raise ValueError(f"the prompt has {len(prompt_ids)} tokens, the model's context {context}")
    defaults = _text_defaults(model, tokenizer, generation_config)
    ends = defaults.eos_token_ids if eos_token_id is None else eos_token_id
    ends = as_token_ids("eos_token_id", ends, model.config.vocab_size)
    detokenizer, pieces = Detokenizer(tokenizer), list[str]()

    def emit(piece: str) -> None:
        pieces.append(piece)
        if on_text is not None:
            on_text(piece)

    # The last new token takes no position in the context.
    (new_ids,) = generated = model.generate(
        [prompt_ids],
        max_new_tokens=min(limit, context - len(prompt_ids) + 1),
        eos_token_id=ends,
        generation_config=defaults,
        on_token=lambda _, token: emit(detokenizer.push(token)),
        **options,
    )
    emit(detokenizer.end())
    stopped = LIMIT if len(new_ids) == limit else CONTEXT
    if ends.intersection(new_ids[-1:]):
        stopped = END
    text = "".join(pieces)
    return Completion(text, prompt_ids, new_ids, stopped, generated.seed, generated.stats)


def _text_defaults(
    model: MiMoV2FlashModel, tokenizer: Any, requested: GenerationConfig | None
) -> GenerationConfig:
    """Return the `requested` or the model's defaults for texts of `tokenizer`.

    Those of `load_model` are so already; a model that is made of its parts knows of no file.
    """
    end, size = tokenizer.eos_token_id, model.config.vocab_size
    defaults = requested or model.generation_config
    if requested is None:
        ends = read_end_tokens(tokenizer.name_or_path, size).union(defaults.eos_token_ids)
        defaults = replace(defaults, eos_token_ids=tuple(sorted(ends)))
    lacking = size - len(tokenizer)
    if end in (None, *defaults.eos_token_ids) and lacking <= len(defaults.suppress_tokens):
        return defaults
    token_ids = frozenset(tokenizer.get_vocab().values())
    return defaults.with_tokenizer(TokenizerVocab(token_ids, end, tokenizer.name_or_path), size)
