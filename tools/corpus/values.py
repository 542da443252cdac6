"""Drawn values of conversations: names, phrases, numbers, files; those held out are never trained.

A value is held out by a hash of its text, so that the two sides never share one.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import yaml

from .python_docs import is_held_out

__all__ = ["WORDS", "Values", "listed"]

HELD_OUT = 8  # one value in so many

WORDS: dict[str, list[str]] = {
    key: words.split()
    for key, words in yaml.safe_load(
        Path(__file__).with_name("words.yaml").read_text(encoding="utf-8")
    ).items()
}
PHRASE = ("adjectives", "nouns")
EXTENSIONS = ("txt", "csv", "md", "json", "log", "py")


class Values:
    """A source of values that are all held out, or all not.

    Parameters
    ----------
    random
        The generator that draws them.
    held_out
        Which side they are of.
    """

    def __init__(self, random: Random, held_out: bool) -> None:
        self.random, self.held_out = random, held_out

    def _draw(self, make: Callable[[], str]) -> str:
        while is_held_out(value := make(), HELD_OUT) != self.held_out:
            pass
        return value

    def _name(self) -> str:
        choice = self.random.choice
        syllables = range(choice((1, 2, 2, 3)))
        parts = [choice(WORDS["onsets"]) + choice(WORDS["vowels"]) for _ in syllables]
        coda = choice(("", choice(WORDS["codas"])))
        return "".join([*parts, coda]).capitalize()

    def name(self) -> str:
        """Return a name of a person, town or firm, such as Bramio."""
        return self._draw(self._name)

    def person(self) -> str:
        """Return a first and a last name."""
        return self._draw(lambda: f"{self._name()} {self._name()}")

    def phrase(self) -> str:
        """Return an adjective and a noun."""
        choice = self.random.choice
        return self._draw(lambda: " ".join(choice(WORDS[key]) for key in PHRASE))

    def identifier(self) -> str:
        """Return an adjective and a noun as an identifier."""
        return self.phrase().replace(" ", "_")

    def file(self) -> str:
        """Return the name of a file."""
        extension = self.random.choice(EXTENSIONS)
        return f"{self.identifier()}.{extension}"

    def integer(self) -> str:
        """Return an integer of two to four digits."""
        draw, top = self.random.randrange, 10 ** self.random.choice((2, 3, 4))
        return self._draw(lambda: str(draw(10, top)))

    def decimal(self) -> str:
        """Return a number with one or two decimals."""
        return self._draw(lambda: f"{self.random.randrange(1, 999)}.{self.random.randrange(1, 99)}")

    def date(self) -> str:
        """Return a date."""
        draw = self.random.randrange
        return self._draw(lambda: f"{draw(1980, 2060)}-{draw(1, 13):02}-{draw(1, 29):02}")

    def expression(self) -> str:
        """Return an arithmetical expression of two numbers."""
        sign = self.random.choice("+-*/")
        return f"{self.integer()} {sign} {self.integer()}"

    def items(self) -> list[str]:
        """Return two to four different phrases."""
        items: list[str] = []
        size = self.random.randrange(2, 5)
        while len(items) < size:
            if (phrase := self.phrase()) not in items:
                items.append(phrase)
        return items


def listed(items: list[str]) -> str:
    """Return items as a sentence has them: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
