"""Names of programs for people: what it is of, the tokens, the filled slots."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from mimo_v2_flash.backends.rehearsal import Rehearsed
from mimo_v2_flash.config import EVERYTHING
from mimo_v2_flash.layers.decoder import Decoder
from mimo_v2_flash.layers.feed_forward import Dense

__all__ = ["layer_of", "named_apart", "program_name"]

FUNCTIONS = {"embedded": "embedding", "Predicted": "head of logits", "Chosen": "head"}
PARTS = {"attend": 0, "feed": 1}  # of a layer that is two programs


def named_apart(programs: Sequence[Rehearsed]) -> list[str]:
    """Return a name for each program; equal ones are numbered."""
    names, seen = [program_name(program) for program in programs], Counter[str]()
    for place, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[place] = f"{name} ({seen[name]})"
    return names


def program_name(program: Rehearsed) -> str:
    """Return such as "sliding attention + experts, 4 x 1 tokens, 132 filled".

    Tokens are sequences of this rank times tokens of each; `filled` are slots of the cache that are
    looked at, `slots` and `seats` the messages to a rank and the tokens before an expert that there
    is room for.
    """
    given = program.given
    x_BT = next(value for value in given.values() if hasattr(value, "shape"))
    sizes = given | (vars(given["exchange"]) if is_dataclass(given.get("exchange")) else {})
    words = [f"{sizes[name]} {name}" for name in ("filled", "slots", "seats") if name in sizes]
    rows, tokens = x_BT.shape[:2]
    return ", ".join([_what(program.function), f"{rows} x {tokens} tokens", *words])


def layer_of(function: Any) -> Decoder | None:
    """Return the layer that a program is, or is a part of, if it is one."""
    layer = getattr(function, "__self__", function)
    return layer if isinstance(layer, Decoder) else None


def _what(function: Any) -> str:
    decoder = layer_of(function)
    if decoder is None:
        name = getattr(function, "__name__", type(function).__name__)
        return FUNCTIONS.get(name, name.replace("_", " "))
    parts = (
        f"{'full' if decoder.attention.spec.window >= EVERYTHING else 'sliding'} attention",
        "dense network" if isinstance(decoder.feed_forward, Dense) else "experts",
    )
    return parts[PARTS[function.__name__]] if decoder is not function else " + ".join(parts)
