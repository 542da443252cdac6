"""Requests of OpenAI's API: their fields, and the sampling parameters that they ask for.

Unknown fields are ignored, as OpenAI's own server does of many; null is as if a field were absent.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mimo_v2_flash.engine import SamplingParams
from mimo_v2_flash.json_object import parse_json_object, shorten

from .errors import APIError

__all__ = [
    "ChatCompletionFields",
    "CompletionFields",
    "DetokenizeRequest",
    "GenerationRequest",
    "ResponseFields",
    "TokenizeRequest",
    "parse_request",
]

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
SEEDS = 2**64

Model = TypeVar("Model", bound=BaseModel)
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None


class StreamOptions(BaseModel):
    """What a stream has beside the answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationRequest(_Request):
    """The fields that chat completions and completions share."""

    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    include_stop_str_in_output: bool | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    priority: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def stream_usage(self) -> StreamOptions:
        """What a stream has beside the answer."""
        return self.stream_options or StreamOptions()

    def check(self) -> None:
        """Raise APIError if fields do not fit each other."""
        if self.stream_options is not None and not self.stream:
            message = "stream_options is only allowed with stream=true"
            raise APIError(message, param="stream_options")

    def sampling(self, defaults: Mapping[str, Any], **others: Any) -> SamplingParams:
        """Return the sampling parameters: the request's, and `defaults` of what it lacks.

        Raises
        ------
        APIError
            If a value is not allowed.
        """
        names = SamplingParams.__dataclass_fields__.keys() & type(self).model_fields.keys()
        chosen = {name: getattr(self, name) for name in names - {"logit_bias", "logprobs"}}
        chosen["seed"] = None if self.seed in (None, -1) else (self.seed or 0) % SEEDS
        chosen["logit_bias"] = self._biases()
        set_fields = {name: value for name, value in chosen.items() if value is not None}
        try:
            return SamplingParams(**{**defaults, **set_fields, **others})
        except ValueError as error:
            raise APIError(str(error), param=str(error).partition(" ")[0]) from error

    def _biases(self) -> dict[int, float] | None:
        if self.logit_bias is None:
            return None
        if wrong := [token for token in self.logit_bias if not token.isdecimal()]:
            message = f"logit_bias has the key {shorten(wrong[0])}, expected a token id"
            raise APIError(message, param="logit_bias")
        return {int(token): min(max(b, -100), 100) for token, b in self.logit_bias.items()}


class CompletionFields(GenerationRequest):
    """A request of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    suffix: str | None = None
    best_of: int | None = None

    def check(self) -> None:
        """Raise APIError if fields do not fit each other, or ask for what there is not."""
        super().check()
        if self.suffix:
            raise APIError("suffix is not supported", param="suffix")
        if self.best_of not in (None, self.n or 1):
            raise APIError("best_of must be n: no other answers are made", param="best_of")


class ResponseFormat(BaseModel):
    """The form of an answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class StructuredOutputs(BaseModel):
    """The form of an answer, as vLLM's requests have it: one of the fields."""

    model_config = ConfigDict(extra="ignore", strict=True)

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class ChatCompletionFields(GenerationRequest):
    """A request of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    thinking: dict[str, Any] | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def check(self) -> None:
        """Raise APIError if fields do not fit each other."""
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise APIError("top_logprobs is only allowed with logprobs=true", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            message = "continue_final_message and add_generation_prompt exclude each other"
            raise APIError(message, param="continue_final_message")

    @property
    def enable_thinking(self) -> bool | None:
        """Whether the model is asked to think before it answers; None if no field says so."""
        if "enable_thinking" in (self.chat_template_kwargs or {}):
            return bool((self.chat_template_kwargs or {})["enable_thinking"])
        if self.thinking is not None:
            return self.thinking.get("type") == "enabled"
        return None if self.reasoning_effort is None else self.reasoning_effort != "none"


class TextOptions(BaseModel):
    """The form of a response's text."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: dict[str, Any] | None = None


class ReasoningOptions(BaseModel):
    """How much a response thinks."""

    model_config = ConfigDict(extra="ignore", strict=True)

    effort: str | None = None


class ResponseFields(GenerationRequest):
    """A request of /v1/responses, which names nothing that the server would have to remember."""

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=0)
    n: int | None = Field(None, ge=1, le=1)
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, Any] | None = None
    store: Any = None
    background: Any = None
    conversation: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: list[str] | None = None

    @property
    def logprobs(self) -> bool:
        """Whether texts have the log-probabilities of their tokens."""
        return "message.output_text.logprobs" in (self.include or ())

    @property
    def effort(self) -> str | None:
        """How much the model is to think, by a word; "none" is not at all."""
        return self.reasoning and self.reasoning.effort

    @property
    def format(self) -> dict[str, Any]:
        """The form of the text."""
        return (self.text and self.text.format) or {"type": "text"}

    def check(self) -> None:
        """Raise APIError if fields do not fit each other, or ask for what there is not."""
        super().check()
        for name in ("store", "background", "conversation", "previous_response_id", "prompt"):
            if getattr(self, name):
                message = f"{name} is not supported: the server keeps no responses, send all input"
                raise APIError(message, param=name)


class TokenizeRequest(_Request):
    """A request of /tokenize: a text, or messages of a chat."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(_Request):
    """A request of /detokenize."""

    tokens: list[int]


def parse_request(kind: type[Model], body: bytes | str | Mapping[str, Any]) -> Model:
    """Return the request that a body of JSON is, or that a mapping holds.

    Raises
    ------
    APIError
        If it is no JSON object, or a field is missing or not allowed; it is named.
    """
    try:
        entries = parse_json_object(body) if isinstance(body, bytes | str) else body
    except ValueError as error:
        raise APIError(f"the body is {error}") from error
    entries = {name: value for name, value in entries.items() if value is not None}
    try:
        return kind.model_validate(entries)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=True)[0]
        field = ".".join(str(part) for part in first["loc"][:1])
        value = "" if first["type"] == "missing" else f", got {shorten(first['input'])}"
        raise APIError(f"{field}: {first['msg']}{value}", param=field) from error
