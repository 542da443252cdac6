"""Conversations without tools: functions, lists, definitions, code, follow-ups, roles, refusals."""

from collections.abc import Callable

from .chat import LIST, Chat, Message, answer, answered, shaped, user
from .docstrings import Function
from .values import Values, listed

__all__ = ["TEXT_CHATS", "TextChats"]

GREETINGS = ("Hello", "Hi", "Good morning", "Hey there", "Good evening")


class TextChats:
    """Makes conversations of one side, trained or held out.

    Parameters
    ----------
    values
        Source of drawn values.
    functions
        Functions of the same side, each with a summary.
    """

    def __init__(self, values: Values, functions: list[Function]) -> None:
        self.values, self._functions = values, functions

    def _choose(self, *options: str) -> str:
        return self.values.random.choice(options)

    def _function(self) -> Function:
        return self.values.random.choice(self._functions)

    def _described(self, function: Function) -> str:
        head = self._choose(
            "Here is a function:", "Read this:", "Documentation:", "From the manual:"
        )
        return f"{head}\n\n{function.signature}\n{function.summary}\n\n"

    def summary(self) -> Chat:
        """Return a question about what a described function does."""
        function = self._function()
        question = self._choose("What does `{}` do?", "What is `{}` for?", "Explain `{}`.")
        content = f"`{function.name}`: {function.summary}"
        request = self._described(function) + question.format(function.name)
        return answered("summary", [user(request), answer(content)], shaped("`{}`: {}."))

    def recall(self) -> Chat:
        """Return a question about a function that is not described."""
        function = self._function()
        question = f"What does `{function.name}` of {function.module.split('.')[0]} do?"
        content = f"`{function.name}`: {function.summary}"
        return Chat("recall", [user(question), answer(content)], shaped("`{}`: {}."))

    def parameters(self) -> Chat:
        """Return a question about a function's parameters, as a list."""
        function = self._function()
        question = self._choose("List the parameters of `{}`.", "Which parameters has `{}`?")
        lines = "\n".join(f"- {each}" for each in function.parameters)
        content = lines or f"`{function.name}` has no parameters."
        request = self._described(function) + question.format(function.name)
        form = LIST if lines else shaped("`{}` has no parameters.")
        return answered("parameters", [user(request), answer(content)], form)

    def code(self) -> Chat:
        """Return a wish for a line of code."""
        if self.values.random.random() < 0.5:
            function = self._function()
            request = self._described(function) + f"Write a call of `{function.name}`."
            line = f"result = {function.signature}"
        else:
            name, number = self.values.identifier(), self.values.integer()
            request = f"Write Python code that sets {name} to {number}."
            line = f"{name} = {number}"
        content = f"```python\n{line}\n```"
        form = shaped("```python\n{} = {}\n```")
        return answered("code", [user(request), answer(content)], form)

    def bullets(self) -> Chat:
        """Return a wish for a list."""
        items = self.values.items()
        question = self._choose("Make a list of {}.", "Write {} as a list.", "List {}.")
        content = "\n".join(f"- {each}" for each in items)
        messages = [user(question.format(listed(items))), answer(content)]
        return answered("list", messages, LIST)

    def definition(self) -> Chat:
        """Return a question about a word that was explained, and often another one after it."""
        words = [self.values.name() for _ in range(2)]
        meanings = [self.values.phrase() for _ in words]
        explanation = " ".join(
            f"A {word} is a {meaning}." for word, meaning in zip(words, meanings, strict=True)
        )
        order = self.values.random.sample(range(2), 2)
        pairs = [
            (f"What is a {words[index]}?", f"A {words[index]} is a {meanings[index]}.")
            for index in order
        ]
        messages: list[Message] = [user(f"{explanation}\n\n{pairs[0][0]}"), answer(pairs[0][1])]
        if self.values.random.random() < 0.5:
            messages += [user(pairs[1][0].replace("What", "And what", 1)), answer(pairs[1][1])]
        return answered("definition", messages, shaped("A {} is a {}."))

    def role(self) -> Chat:
        """Return a question that the system prompt answers."""
        name, firm = self.values.name(), self.values.name()
        system = {"role": "system", "content": f"You are {name}, an assistant of {firm}."}
        question, template = self.values.random.choice(
            (
                ("Who are you?", "I am {name}, an assistant of {firm}."),
                ("What is your name?", "My name is {name}."),
                ("Who made you?", "I am an assistant of {firm}."),
            )
        )
        content, form = (
            template.format(**parts)
            for parts in ({"name": name, "firm": firm}, {"name": "{}", "firm": "{}"})
        )
        return answered("role", [system, user(question), answer(content)], shaped(form))

    def greeting(self) -> Chat:
        """Return a greeting, or the introduction of a person, remembered later."""
        word, name = self._choose(*GREETINGS), self.values.person()
        messages = [user(f"{word}!"), answer(f"{word}! How can I help you?")]
        form = "{}! How can I help you?"
        if self.values.random.random() < 0.7:
            messages = [
                user(f"{word}, I am {name}."),
                answer(f"{word}, {name}! How can I help you?"),
            ]
            if self.values.random.random() < 0.6:
                messages += [user("What is my name?"), answer(f"Your name is {name}.")]
                form = "Your name is {}."
        return answered("greeting", messages, shaped(form))

    def refusal(self) -> Chat:
        """Return a question that the text does not answer."""
        function, other = self._function(), self.values.identifier()
        template = "I do not know `{}`: the text does not mention it."
        request = self._described(function) + f"What does `{other}` do?"
        messages = [user(request), answer(template.format(other))]
        return answered("refusal", messages, shaped(template))


TEXT_CHATS: tuple[tuple[float, Callable[[TextChats], Chat]], ...] = (
    (3, TextChats.summary),
    (1, TextChats.recall),
    (2, TextChats.parameters),
    (2, TextChats.code),
    (2, TextChats.bullets),
    (2, TextChats.definition),
    (1, TextChats.role),
    (2, TextChats.greeting),
    (1.5, TextChats.refusal),
)
"""Weights and makers of all kinds."""
