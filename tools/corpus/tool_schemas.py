"""Tools of conversations, as data: parameters, questions that need them, answers to their results.

A tool is held out by the hash of its subject, so that neither its name nor its schema is trained.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .python_docs import is_held_out
from .values import WORDS, Values, listed

__all__ = ["TOOLS", "Parameter", "Tool", "draw_tool", "spoken"]

HELD_OUT = 4  # one subject in so many
TYPES = {"integer": "integer", "decimal": "number", "items": "array"}


class Parameter(NamedTuple):
    """A parameter: the kind of its values (a method of `Values`), its description, its choices."""

    kind: str
    description: str
    choices: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        schema: dict[str, Any] = {"type": TYPES.get(self.kind, "string")}
        schema["description"] = self.description
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.kind == "items":
            schema["items"] = {"type": "string"}
        return schema

    def draw(self, values: Values) -> Any:
        """Return a value, of JSON's type."""
        if self.choices:
            return values.random.choice(self.choices)
        value = getattr(values, self.kind)()
        convert = {"integer": int, "decimal": float}.get(self.kind)
        return convert(value) if convert else value


class Tool(NamedTuple):
    """A tool.

    Attributes
    ----------
    name, description, parameters
        Its schema.
    questions
        Questions; a parameter that a question does not hold is not passed.
    answer
        How its result is told.
    result
        The kind of its results.
    subject
        What decides whether it is held out.
    """

    name: str
    description: str
    parameters: Mapping[str, Parameter]
    questions: tuple[str, ...]
    answer: str
    result: str
    subject: str

    @property
    def is_held_out(self) -> bool:
        """Whether it may not be trained on."""
        return is_held_out(self.subject, HELD_OUT)

    def schema(self) -> dict[str, Any]:
        """Return OpenAI's tool."""
        properties = {name: each.schema() for name, each in self.parameters.items()}
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "properties": properties},
        }
        return {"type": "function", "function": function}


def spoken(value: Any) -> str:
    """Return a value as a question has it."""
    return listed(value) if isinstance(value, list) else str(value)


def _tool(
    name: str,
    description: str,
    parameters: dict[str, Any],
    questions: Any,
    answer: str,
    result: str,
) -> Tool:
    fields = {key: Parameter(*each) for key, each in parameters.items()}
    return Tool(name, description, fields, tuple(questions), answer, result, name)


CITY = ("name", "Name of the city.")
TOOLS = (
    _tool(
        "get_weather",
        "Get the weather of a city.",
        {
            "city": CITY,
            "unit": ("phrase", "Unit of the temperature.", ("celsius", "fahrenheit")),
            "days": ("integer", "Number of days."),
        },
        (
            "What is the weather in {city}?",
            "What is the weather in {city}, in {unit}?",
            "How is the weather in {city} for the next {days} days?",
            "Give me the weather of {city} for {days} days in {unit}.",
        ),
        "The weather: {result} degrees.",
        "decimal",
    ),
    _tool(
        "calculate",
        "Compute an arithmetical expression.",
        {"expression": ("expression", "The expression.")},
        ("What is {expression}?", "Compute {expression}.", "How much is {expression}?"),
        "The result is {result}.",
        "decimal",
    ),
    _tool(
        "web_search",
        "Search the web.",
        {"query": ("phrase", "What to search."), "limit": ("integer", "Number of results.")},
        (
            "Search the web for {query}.",
            "Find {limit} pages about {query}.",
            "Look up {query} on the web.",
        ),
        "I have found this: {result}.",
        "phrase",
    ),
    _tool(
        "read_file",
        "Read a file.",
        {"path": ("file", "Name of the file.")},
        ("Read {path}.", "What is in the file {path}?", "Show me {path}."),
        "The file says: {result}.",
        "phrase",
    ),
    _tool(
        "write_file",
        "Write text into a file.",
        {"path": ("file", "Name of the file."), "text": ("phrase", "The text.")},
        ("Write {text} into {path}.", "Save the text {text} as {path}."),
        "Done: {result}.",
        "phrase",
    ),
    _tool(
        "get_time",
        "Get the time in a city.",
        {"city": CITY},
        ("What time is it in {city}?", "Tell me the time in {city}."),
        "The time is {result}.",
        "decimal",
    ),
    _tool(
        "send_message",
        "Send a message to a person.",
        {"to": ("person", "The person."), "text": ("phrase", "The message.")},
        ("Send {text} to {to}.", "Tell {to}: {text}.", "Write a message to {to}: {text}."),
        "The message is sent: {result}.",
        "phrase",
    ),
    _tool(
        "add_event",
        "Add an event to the calendar.",
        {"title": ("phrase", "Title of the event."), "date": ("date", "Date of the event.")},
        ("Add {title} to my calendar on {date}.", "Plan {title} for {date}."),
        "The event is planned: {result}.",
        "phrase",
    ),
    _tool(
        "buy_items",
        "Put items on the shopping list.",
        {"items": ("items", "The items.")},
        ("Buy {items}.", "Put {items} on the shopping list.", "I need {items}."),
        "They are on the list: {result}.",
        "phrase",
    ),
    _tool(
        "convert_money",
        "Convert an amount of money.",
        {
            "amount": ("decimal", "The amount."),
            "source": ("phrase", "Currency of the amount.", ("euro", "dollar", "yen", "pound")),
            "target": ("phrase", "Currency of the result.", ("franc", "krone", "peso", "rupee")),
        },
        ("Convert {amount} {source} to {target}.", "How much {target} is {amount} {source}?"),
        "It is {result}.",
        "decimal",
    ),
    _tool(
        "translate",
        "Translate a text.",
        {
            "text": ("phrase", "The text."),
            "language": ("phrase", "The language.", ("German", "French", "Spanish", "Finnish")),
        },
        ("Translate {text} to {language}.", "What is {text} in {language}?"),
        "The translation is {result}.",
        "name",
    ),
    _tool(
        "set_timer",
        "Set a timer.",
        {"minutes": ("integer", "Minutes until it rings.")},
        ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes."),
        "The timer is set: {result}.",
        "phrase",
    ),
)
"""The written tools; `draw_tool` makes others."""

VERBS = ("get", "find", "fetch", "look_up", "check", "show", "read", "query")
OWNERS = {  # a parameter that says whose the subject is
    "city": ("name", "Name of the city."),
    "person": ("person", "Name of the person."),
    "company": ("name", "Name of the company."),
    "product": ("phrase", "Name of the product."),
    "file": ("file", "Name of the file."),
    "number": ("integer", "Its number."),
    "places": ("items", "The places."),
}
DETAILS = {  # parameters that a question may add, and its words for them
    "date": (("date", "The date."), "on {date}"),
    "limit": (("integer", "The most entries."), "at most {limit}"),
    "year": (("integer", "The year."), "for the year {year}"),
    "unit": (("phrase", "The unit.", ("metric", "imperial")), "in {unit} units"),
    "format": (("phrase", "The format.", ("short", "long", "table")), "as {format}"),
    "factor": (("decimal", "A factor."), "with the factor {factor}"),
}
PATTERNS = (
    "What is the {subject} of {owner}{details}?",
    "{verb} the {subject} of {owner}{details}.",
    "I need the {subject} of {owner}{details}.",
    "Tell me the {subject} of {owner}{details}.",
)


def draw_tool(values: Values) -> Tool:
    """Return a drawn tool of the side of `values`."""
    random = values.random
    subject = random.choice(
        [each for each in WORDS["subjects"] if is_held_out(each, HELD_OUT) == values.held_out]
    )
    verb, owner = random.choice(VERBS), random.choice([*OWNERS])
    details = random.sample([*DETAILS], random.randrange(3))
    parameters = {owner: Parameter(*OWNERS[owner])}
    parameters |= {each: Parameter(*DETAILS[each][0]) for each in details}
    verb_phrase = verb.replace("_", " ").capitalize()
    questions = tuple(
        pattern.format(
            subject=subject,
            verb=verb_phrase,
            owner=f"{{{owner}}}",
            details="".join(f", {DETAILS[each][1]}" for each in details[:count]),
        )
        for pattern in PATTERNS
        for count in range(len(details) + 1)
    )
    return Tool(
        f"{verb}_{subject}",
        f"{verb_phrase} the {subject} of a {owner}.",
        parameters,
        questions,
        f"The {subject} is {{result}}.",
        random.choice(("decimal", "integer", "phrase", "name")),
        subject,
    )
