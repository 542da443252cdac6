"""Answers to requests of /v1/completions: texts that continue prompts."""

from typing import Any

from mimo_v2_flash.engine.outputs import Event, TokenLogprob
from mimo_v2_flash.text.constraints import StopStrings

from .answers import Choice, ResponseBuilder
from .errors import APIError
from .event_stream import Submission
from .logprobs import completion_logprobs
from .protocol import CompletionFields
from .served_model import ServedModel

__all__ = ["CompletionBuilder"]

MAX_TOKENS = 16  # OpenAI's, of a request that says nothing
MOST_PROMPTS = 256


class CompletionBuilder(ResponseBuilder):
    """The response to a request of /v1/completions; parameters and attributes are its base's."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    request: CompletionFields

    def __init__(self, request: CompletionFields, served: ServedModel) -> None:
        prompts = _prompts(request, served)
        limit = MAX_TOKENS if request.max_tokens is None else request.max_tokens
        others = {"max_tokens": limit, "logprobs": request.logprobs}
        if request.echo and request.logprobs is not None:
            others["prompt_logprobs"] = request.logprobs
        params = request.sampling(served.defaults, **others)
        stops = None
        if request.stops:
            stops = StopStrings(served.tokenizer, request.stops, params.min_tokens)
        super().__init__(
            request,
            served,
            [Submission(prompt, params, stops, request.priority or 0) for prompt in prompts],
        )
        self._texts = [self.stop_detokenizer() for _ in self.choices]
        self._shown = [""] * len(self.choices)
        self._prompt_logprobs: list[list[TokenLogprob]] = [[] for _ in prompts]

    def _choice_chunks(self, choice: Choice, event: Event) -> list[dict[str, Any]]:
        self._prompt_logprobs[choice.prompt] += event.prompt_logprobs
        if not (event.tokens or event.finish_reason):
            return []
        is_first = len(choice.tokens) == len(event.tokens)
        piece = self._prompt_text(choice) if is_first and self.request.echo else ""
        piece += self._new_text(choice, event)
        offset = len(self._shown[choice.index])
        self._shown[choice.index] += piece
        if not (piece or event.finish_reason or event.logprobs):
            return []
        logprobs = self._logprobs(choice, list(event.logprobs or ()), offset, is_first=is_first)
        return [self._chunk([self._object(choice, piece, logprobs)])]

    def _new_text(self, choice: Choice, event: Event) -> str:
        """Return the text that an event adds to a choice."""
        text = self._texts[choice.index]
        piece = "".join(map(text.push, self.text_tokens(choice, event)))
        if event.finish_reason:
            piece += text.end()
            choice.stop_reason = text.stop_reason or choice.stop_reason
            if text.stop_reason and self.request.include_stop_str_in_output:
                piece += text.stop_reason
        return piece

    def _choice_object(self, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs(choice, choice.logprobs, 0, is_first=True)
        return self._object(choice, self._shown[choice.index], logprobs)

    def _object(self, choice: Choice, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def _logprobs(
        self, choice: Choice, logprobs: list[TokenLogprob], offset: int, *, is_first: bool
    ) -> dict[str, Any] | None:
        """Return log-probabilities of new tokens, after those of an echoed prompt if it is new."""
        if self.request.logprobs is None:
            return None
        echoed: list[TokenLogprob | int] = []
        if self.request.echo and is_first:
            first = self.submissions[choice.prompt].prompt_tokens[:1]
            echoed = [*first, *self._prompt_logprobs[choice.prompt]]
        return completion_logprobs(self.served.tokenizer, [*echoed, *logprobs], offset)

    def _prompt_text(self, choice: Choice) -> str:
        tokens = self.submissions[choice.prompt].prompt_tokens
        return str(self.served.tokenizer.decode(tokens, skip_special_tokens=True))


def _prompts(request: CompletionFields, served: ServedModel) -> list[list[int]]:
    """Return the token ids of a request's prompts: texts or ids, one or several."""
    prompt: Any = request.prompt
    is_one = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
    prompts = [prompt] if is_one else prompt
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise APIError(f"prompt has {len(prompts)} prompts, allowed is 1..{MOST_PROMPTS}")
    all_tokens = [served.encode(each) if isinstance(each, str) else each for each in prompts]
    for tokens in all_tokens:
        served.check_length(tokens)
        if wrong := [token for token in tokens if not 0 <= token < served.vocab_size]:
            message = f"prompt has the token id {wrong[0]}, allowed is 0..{served.vocab_size - 1}"
            raise APIError(message, param="prompt")
    return all_tokens
