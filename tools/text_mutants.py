"""Mutants of the text layer: templates, the parser of answers, stop strings; and of docs."""

from functools import partial

from tools.docs_mutants import DOCS_MUTANTS
from tools.kernel_mutants import mutant_in

__all__ = ["TEXT_MUTANTS"]


_text = partial(mutant_in, "text")

TEXT_MUTANTS = (
    *DOCS_MUTANTS,
    _text(
        "the parser loses a character where the text is split",
        "output_parser",
        "            self._buffer = self._buffer[start:]\n            return False\n",
        "            self._buffer = self._buffer[start + 1 :]\n            return False\n",
    ),
    _text(
        "text after a call is lost",
        "output_parser",
        "        elif text:\n            self._emit_certain_text(text)",
        "        elif text and self._index < 0:\n            self._emit_certain_text(text)",
    ),
    _text(
        "thinking after a call is content",
        "output_parser",
        "        self._read = self._read_text\n\n    def _emit_arguments",
        "        self.is_reasoning = False\n        self._read = self._read_text\n\n"
        "    def _emit_arguments",
    ),
    _text(
        "the last token is lost",
        "output_parser",
        "[*self._parser.push(self._text.end()), *self._parser.end()]",
        "self._parser.end()",
    ),
    _text(
        "a marker that is merely spelled counts",
        "output_parser",
        "(standins or {}).get(name, name) for name in MARKERS",
        "name for name in MARKERS",
    ),
    _text(
        "a value ends with its first end tag",
        "output_parser",
        'f"{VALUE_END}{self._following}",',
        'f"{VALUE_END}(?P<rest>)",',
    ),
    _text(
        "a value is stripped",
        "output_parser",
        "self._arguments.write(self._buffer[:start].translate(self._spelling))",
        "self._arguments.write(self._buffer[:start].translate(self._spelling).strip())",
    ),
    _text(
        "any function is called without a wrapper",
        "output_parser",
        'bare += f"|{self._begin(_either(functions))}"',
        'bare += f"|{self._begin(NAME)}"',
    ),
    _text(
        "a marker in prose begins a call",
        "output_parser",
        "names})>){self._following})",
        "names})>)(?P<rest>))",
    ),
    _text(
        "an argument that is cut is JSON that is not",
        "output_parser",
        "            self._end_call(is_complete=False)\n        deltas",
        "            pass\n        deltas",
    ),
    _text(
        "a call that is cut is a call to make",
        "chat_output",
        "all(call.is_complete for call in self.tool_calls)",
        "any(call.is_complete for call in self.tool_calls)",
    ),
    _text(
        "a text that looks like a number is one",
        "tool_arguments",
        "        if name in types:\n",
        '        if name in types or "string" in types:\n',
    ),
    _text(
        "infinity is written as JSON",
        "tool_arguments",
        "parse_float=_finite",
        "parse_float=float",
    ),
    _text(
        "what a user types is a special token",
        "special_tokens",
        "read = plain_tokens if self._token.search(text) else tokens",
        "read = tokens",
    ),
    _text(
        "special tokens in a message count",
        "special_tokens",
        '            text = self._begin.sub(rf"\\1{self._border}", text)\n',
        "            pass\n",
    ),
    _text(
        "a text completes what the template begins",
        "special_tokens",
        "if is_core or text.startswith(self._suffixes):",
        "if is_core:",
    ),
    _text(
        "a text begins what the template completes",
        "special_tokens",
        "if is_core or text.endswith(self._prefixes) else text",
        "if is_core else text",
    ),
    _text(
        "a text is the middle of a special token",
        "special_tokens",
        "text.strip(PUNCTUATION) in self._cores",
        "False",
    ),
    _text(
        "names of parameters are not guarded",
        "special_tokens",
        "{self.protect(key): self.protect(each)",
        "{key: self.protect(each)",
    ),
    _text(
        "markers before the last turn close thinking",
        "chat_template",
        "        if token == turn:\n            break\n",
        "",
    ),
    _text(
        "arguments with a key twice keep the first",
        "chat_messages",
        'json.loads(arguments or "{}")',
        'json.loads(arguments or "{}", object_pairs_hook=lambda pairs: dict(pairs[::-1]))',
    ),
    _text(
        "the stop string is shown",
        "stop_strings",
        "_, at, stop = min(ends)",
        "at, _, stop = min(ends)",
    ),
    _text(
        "the beginning of a stop string is shown",
        "stop_strings",
        "at = min((_beginning(text, stop) for stop in self._stops), default=len(text))",
        "at = len(text)",
    ),
    _text(
        "a stop string ends an answer with its last early token",
        "stop_strings",
        "if self._tokens > self._min_tokens:",
        "if self._tokens >= self._min_tokens:",
    ),
    _text(
        "a stop string that came too early ends the answer later",
        "stop_strings",
        "new = len(self._held) + 1",
        "new = 0",
    ),
    _text(
        "the stop string that is named first counts",
        "stop_strings",
        "_, at, stop = min(ends)",
        "_, at, stop = ends[0]",
    ),
    _text(
        "a copied constraint goes on with the first",
        "constraints",
        "other._states = self._states.copy()",
        "other._states = self._states",
    ),
    _text(
        "a rejected token stays in the text",
        "constraints",
        "        for _ in range(n):\n",
        "        for _ in range(n - 1):\n",
    ),
    _text(
        "thinking goes on for a token more",
        "constraints",
        "self._tokens >= self._limit",
        "self._tokens > self._limit",
    ),
    _text(
        "thinking that a rejected draft ended is over",
        "constraints",
        "self._ended_at >= self._tokens",
        "self._ended_at > self._tokens",
    ),
    _text(
        "a text has the log-probabilities of the marker before it",
        "output_parser",
        "if deltas or not (is_held and self._parser.is_content):",
        "if deltas:",
    ),
)
