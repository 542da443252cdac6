"""A model as it is served: its name, its tokenizer, and what requests are checked against."""

from typing import TYPE_CHECKING, Any

from mimo_v2_flash.text.tokenizer import tokens

from .errors import APIError
from .grammar import GrammarCompiler

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["ServedModel"]


class ServedModel:
    """A model with its tokenizer, by the name that requests have for it.

    Parameters
    ----------
    name
        Name of the model in requests and answers.
    model, tokenizer
        The model, and the tokenizer of the same checkpoint.
    max_length
        The most tokens of a prompt and its answer; the model's if not given.

    Attributes
    ----------
    name, model, tokenizer, max_length
        The parameters of these names.
    vocab_size
        Rows of the model's vocabulary.
    defaults
        Sampling parameters of requests that say nothing else.
    end_tokens
        Token ids that end an answer.
    grammars
        The compiler of grammars for the tokenizer.
    """

    def __init__(
        self, name: str, model: "MiMoV2FlashModel", tokenizer: Any, max_length: int | None = None
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.max_length = model.max_length if max_length is None else max_length
        self.vocab_size = model.config.vocab_size
        self.defaults = model.generation_config.sampling()
        self.end_tokens = frozenset(model.generation_config.eos_token_ids)
        self.grammars = GrammarCompiler(tokenizer, self.vocab_size, self.end_tokens)

    def check_name(self, name: str | None) -> None:
        """Raise APIError if a request is for another model."""
        if name is None:
            raise APIError("you must provide a model parameter", param="model")
        if name != self.name:
            message = f"The model `{shorten_name(name)}` does not exist."
            raise APIError(message, status=404, param="model", code="model_not_found")

    def check_length(self, prompt_tokens: list[int]) -> None:
        """Raise APIError if a prompt leaves no room for an answer."""
        if not prompt_tokens:
            raise APIError("the prompt is empty", param="prompt")
        if len(prompt_tokens) > self.max_length:
            raise APIError(
                f"This model's maximum context length is {self.max_length} tokens. However, your "
                f"request has {len(prompt_tokens)} tokens. Please shorten it.",
                code="context_length_exceeded",
            )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        try:
            return tokens(self.tokenizer, text, add_special_tokens=add_special_tokens)
        except ValueError as error:
            raise APIError(str(error), param="prompt") from error


def shorten_name(name: str) -> str:
    """Return a name as it fits into a message."""
    return name if len(name) <= 100 else f"{name[:97]}..."
