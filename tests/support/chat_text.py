"""Chats for tests: the shipped tokenizer, tools, a template in both spellings, parsed answers."""

import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mimo_v2_flash.text.chat_output import ChatMessage, DeltaMessage, join_deltas
from mimo_v2_flash.text.output_parser import OutputParser, TextParser
from mimo_v2_flash.text.tokenizer import load_tokenizer

SHIPPED = Path(__file__).parents[2] / "examples" / "mimo-tiny"
_TEMPLATE = """
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>{% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.role == 'assistant' -%}
<think>{{ message.reasoning_content or '' }}</think>{{ message.content }}
{%- for call in message.tool_calls or [] -%}
CALL_BEGIN<function={{ call.function.name }}>NEWLINE
{%- for key, value in call.function.arguments | items -%}
<parameter={{ key }}>{{ value if value is string else SCALAR }}</parameter>NEWLINE
{%- endfor -%}
</function>CALL_END
{%- endfor -%}
{%- else %}{{ message.content }}{% endif %}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if not enable_thinking %}<think></think>{% endif %}{% endif -%}
"""


def _spelling(newline: str, scalar: str) -> str:
    parts = {
        "CALL_BEGIN": f"<tool_call>{newline}",
        "CALL_END": f"{newline}</tool_call>",
        "NEWLINE": newline,
        "SCALAR": scalar,
    }
    return re.sub("|".join(parts), lambda match: parts[match[0]], _TEMPLATE).strip("\n")


TEMPLATES = {
    "compact": _spelling("", "value | tojson"),
    "newlines": _spelling(
        "{{ '\\n' }}", "value | tojson if value is mapping or value is iterable else value | string"
    ),
}
"""Templates with the two spellings of calls; the second writes True, False and None as Python."""


@cache
def shipped_tokenizer(spelling: str | None = None) -> Any:
    """Return the tokenizer of examples/mimo-tiny, with its template or one of `TEMPLATES`."""
    tokenizer = load_tokenizer(SHIPPED)
    if spelling is not None:
        tokenizer.chat_template = TEMPLATES[spelling]
    return tokenizer


@cache
def qwen_like_tokenizer() -> Any:
    """Return the same tokenizer, whose markers are added tokens but not special, as in Qwen3's."""
    content = json.loads((SHIPPED / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = token["content"].startswith("<|")
    backend = Tokenizer.from_str(json.dumps(content))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = TEMPLATES["compact"]
    return tokenizer


def tool(name: str, properties: Any = None, **schema: Any) -> dict[str, Any]:
    """Return an OpenAI tool with parameters of the schemas `properties`."""
    parameters = {"type": "object", "properties": properties or {}, **schema}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool("weather", {"city": {"type": "string"}, "days": {"type": "integer"}}),
    tool("add", {"x": {"type": "number"}, "items": {"type": "array"}}),
    tool("now"),
]


def parse(parts: Sequence[str], tools: Any = TOOLS, **options: Any) -> ChatMessage:
    """Return the answer whose text comes in `parts`; calls have the ids "0", "1", ..."""
    return join_deltas(deltas_of(parts, tools, **options))


def deltas_of(parts: Sequence[str], tools: Any = TOOLS, **options: Any) -> list[DeltaMessage]:
    """Return the deltas of an answer whose text comes in `parts`."""
    ids = count()
    parser = TextParser(tools, make_id=lambda: str(next(ids)), **options)
    return [delta for part in parts for delta in parser.push(part)] + parser.end()


def parse_tokens(
    token_T: Sequence[int], tools: Any = TOOLS, tokenizer: Any = None, **options: Any
) -> ChatMessage:
    """Return the answer of the shipped tokenizer's `token_T`, or of another's."""
    ids, tokenizer = count(), tokenizer or shipped_tokenizer()
    parser = OutputParser(tokenizer, tools, make_id=lambda: str(next(ids)), **options)
    deltas = [delta for token in token_T for delta in parser.push(token)]
    return join_deltas([*deltas, *parser.end()])


@st.composite
def splits(draw: st.DrawFn, text: str) -> list[str]:
    """Return `text` in parts."""
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)})
    return [text[start:end] for start, end in pairwise(cuts)]
