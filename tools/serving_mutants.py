"""Mutants of the server and the Runner: rows that stay taken, text of others, fields ignored."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["SERVING_MUTANTS"]

_serving = partial(mutant_in, "serving")

_chat = partial(mutant_in, "chat")

SERVING_MUTANTS: tuple[Mutant, ...] = (
    _serving(
        "any script of the chat page runs",
        "chat_page",
        '"script-src": hashes["script"]',
        '"script-src": "\'unsafe-inline\'"',
    ),
    _serving(
        "the chat page may ask other servers",
        "chat_page",
        "'self'",
        "*",
    ),
    _serving(
        "an old chat page is kept beside a new server",
        "chat_page",
        '"cache-control": "no-store"',
        '"cache-control": "max-age=3600"',
    ),
    _serving(
        "the chat page needs a key, which it is to take",
        "gate",
        'OPEN_PATHS = {"/", ',
        "OPEN_PATHS = {",
        "gate",
        "chat_page",
    ),
    _serving(
        "a client that went away keeps its row",
        "event_stream",
        "            self._thread.cancel(id_)\n",
        "            pass\n",
    ),
    _serving(
        "the loop is woken for each request of a step",
        "event_stream",
        "if not self._is_woken:",
        "if True:",
    ),
    _serving(
        "answers to the second prompt go to the first",
        "answers",
        "self.choices[self._first[number] + event.index]",
        "self.choices[event.index]",
    ),
    _serving(
        "the end token is not counted",
        "answers",
        "            choice.tokens += event.tokens\n",
        "            choice.tokens += self.text_tokens(choice, event)\n",
    ),
    _serving(
        "the end token is shown",
        "answers",
        "return event.tokens[:-1] if is_end else event.tokens",
        "return event.tokens",
    ),
    _serving(
        "the last token of an answer is lost",
        "answers",
        "return event.tokens[:-1] if is_end else event.tokens",
        "return event.tokens[:-1] if event.finish_reason else event.tokens",
        "completion",
    ),
    _serving(
        "thinking is not counted",
        "chat_completion",
        "self._reasoning_tokens += parser.is_reasoning",
        "self._reasoning_tokens += 0",
    ),
    _serving(
        "text that was held back is lost at the end",
        "chat_completion",
        "            deltas += parser.end()\n",
        "            parser.end()\n",
    ),
    _serving(
        "a grammar binds thinking too",
        "chat_completion",
        "if prompt.is_reasoning else None",
        "if False else None",
    ),
    _serving(
        "a grammar that is taken back stays begun",
        "grammar",
        "self._begin = None\n        self._length -= n",
        "pass\n        self._length -= n",
    ),
    _serving(
        "a copy of a grammar shares its state",
        "grammar",
        "self._matcher.deep_copy()",
        "self._matcher",
    ),
    _serving(
        "a turn goes without its tool's results",
        "context_policy",
        'if message.get("role") == "user"]',
        'if message.get("role") in {"user", "tool"}]',
    ),
    _serving(
        "a system message goes with a turn",
        "context_policy",
        "return [*messages[:first], *between, *messages[second:]]",
        "return [*messages[:first], *messages[second:]]",
    ),
    _serving(
        "any key is right",
        "gate",
        "return any(matches) or not self._key_digests",
        "return True",
    ),
    _serving(
        "any host is right",
        "gate",
        "if self._hosts and _without_port(host) not in self._hosts:",
        "if False:",
    ),
    _serving(
        "a body of any size is read",
        "gate",
        "if total > self._max_body_bytes:",
        "if False:",
    ),
    _serving(
        "requests are taken while the server drains",
        "service",
        "if self.is_draining or not self.thread.is_alive:",
        "if not self.thread.is_alive:",
    ),
    _serving(
        "a field's own value gives way to the checkpoint's",
        "protocol",
        "SamplingParams(**{**defaults, **set_fields, **others})",
        "SamplingParams(**{**set_fields, **defaults, **others})",
    ),
    _serving(
        "a response that was cut says that it is complete",
        "responses",
        '"incomplete" if is_cut else "completed"',
        '"completed"',
    ),
    _serving(
        "a call that was cut says that it is complete",
        "response_items",
        "is_cut = not self._is_whole",
        "is_cut = False",
    ),
    _serving(
        "thinking that goes back is a turn of its own",
        "response_input",
        "previous in CONTINUED",
        'previous == "function_call"',
    ),
    _serving(
        "the server claims to remember responses",
        "protocol",
        '("store", "background"',
        '("background"',
        "responses",
    ),
    _serving(
        "whitespace within JSON has no end",
        "grammar",
        "grammar_from_json_schema(text, JSON_OPTIONS)",
        "grammar_from_json_schema(text)",
    ),
    _serving(
        "a string that may be null has JSON's quotes",
        "answer_form",
        'if not types or "string" in types:',
        'if not types or types == {"string"}:',
    ),
    _chat(
        "an answer that was interrupted is lost",
        "conversation",
        "            pass  # what was said is kept\n",
        "            raise ValueError from None\n",
    ),
    _chat(
        "a message that failed stays",
        "conversation",
        "        except Exception:\n            self.messages.pop()\n            raise\n",
        "        except ZeroDivisionError:\n            raise\n",
    ),
    _chat(
        "thinking goes to standard output through pipes",
        "terminal",
        'return sys.stdout if kind == "content" or self._is_terminal else sys.stderr',
        "return sys.stdout",
    ),
    _serving(
        "log-probabilities are sent twice",
        "chat_completion",
        "            self._unsent[choice.index] = []\n",
        "",
    ),
    _serving(
        "the arguments of a strict tool are free",
        "answer_form",
        'if is_free and tool.get("strict") is not True:',
        "if is_free:",
    ),
    _serving(
        "a silent stream says nothing",
        "event_stream",
        "        if self._is_silent:\n",
        "        if False:\n",
    ),
    _serving(
        "a lone surrogate is an error of the server",
        "json_bytes",
        "except ValueError:",
        "except KeyError:",
    ),
    _serving(
        "events of responses have no log-probabilities",
        "response_items",
        'self._text_event("delta", logprobs, delta=text)',
        'self._text_event("delta", delta=text)',
        "responses",
    ),
)
