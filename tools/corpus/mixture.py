"""The mixture of all kinds of conversations, with and without thinking, seeded."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from .chat import Chat, Message
from .docstrings import Function
from .text_chats import TEXT_CHATS, TextChats
from .tool_chats import NO_TOOL, TOOL_CHATS, ToolChats
from .values import Values

__all__ = ["held_out_chats", "trained_chats"]

WITH_TOOLS, THINKING, FOLLOWING = 0.5, 0.35, 0.4  # shares of conversations
UNSEEN = 0.25  # share of the held-out ones with tools whose schema is held out


def trained_chats(functions: list[Function], count: int, seed: int) -> Iterator[Chat]:
    """Yield conversations to train on."""
    random = Random(seed)
    values = Values(random, held_out=False)
    texts = TextChats(values, functions)
    tools = ToolChats(values, values, texts)
    for _ in range(count):
        yield _draw(random, texts, tools)


def held_out_chats(functions: list[Function], count: int, seed: int) -> Iterator[Chat]:
    """Yield conversations of which no function, value or, for a part, tool is trained on."""
    random = Random(seed)
    values, known = Values(random, held_out=True), Values(random, held_out=False)
    texts = TextChats(values, functions)
    seen, unseen = (ToolChats(values, source, texts) for source in (known, values))
    for _ in range(count):
        yield _draw(random, texts, unseen if random.random() < UNSEEN else seen)


def _draw(random: Random, texts: TextChats, tools: ToolChats) -> Chat:
    makes, maker = (TOOL_CHATS, tools) if random.random() < WITH_TOOLS else (TEXT_CHATS, texts)
    (make,) = random.choices([make for _, make in makes], [weight for weight, _ in makes])
    chat = make(maker)
    if maker is texts and random.random() < FOLLOWING and chat.kind not in ("role", "greeting"):
        before = texts.greeting() if random.random() < 0.3 else texts.summary()
        chat = replace(chat, messages=[*before.messages, *chat.messages])
    return _thinking(chat) if random.random() < THINKING else chat


def _thinking(chat: Chat) -> Chat:
    """Return a conversation whose answers begin with a line that quotes the question."""
    messages: list[Message] = []
    for message in chat.messages:
        is_answer = message["role"] == "assistant"
        thought = {"reasoning_content": _thought(chat, messages, message)} if is_answer else {}
        messages.append(message | thought)
    return replace(chat, messages=messages, thinks=True)


def _thought(chat: Chat, before: list[Message], message: Message) -> str:
    last = before[-1]["content"].splitlines()[-1]
    if before[-1]["role"] == "tool":
        return f"The tool says {last}."
    return f'The user says: "{last}" {_plan(chat, message)}'


def _plan(chat: Chat, message: Message) -> str:
    if "tool_calls" in message:
        return f"I call {message['tool_calls'][0]['function']['name']}."
    if message["content"] == NO_TOOL:
        return "No tool fits."
    return "No tool is needed." if chat.tools else "I answer."
