"""Names of programs for people: what it is of, the tokens, the filled slots."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.execution.program_recorder import RecordedProgram
from mimo_v2_flash.layers.attention import Attention
from mimo_v2_flash.layers.decoder import AttentionBlock, DecoderLayer, FeedForwardBlock
from mimo_v2_flash.layers.feed_forward import Dense, FeedForward

__all__ = ["layer_parts", "program_name", "unique_names"]

LABELS = {"kv_length": "filled", "send_capacity": "slots", "capacity": "seats"}
"""Words of names, by what a program is called with: manifests and `--json` hold them."""

FUNCTIONS = {"embedded": "embedding", "LogitsHead": "head of logits", "GreedyHead": "head"}


def unique_names(programs: Sequence[RecordedProgram]) -> list[str]:
    """Return a name for each program; equal ones are numbered."""
    names, seen = [program_name(program) for program in programs], Counter[str]()
    for place, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[place] = f"{name} ({seen[name]})"
    return names


def program_name(program: RecordedProgram) -> str:
    """Return such as "sliding attention + experts, 4 x 1 tokens, 132 filled".

    Tokens are sequences of this rank times tokens of each, of which a head sees some. `kv_length` are
    slots of the cache that are looked at, `slots` and `seats` the messages to a rank and the tokens
    before an expert that there is room for.
    """
    given = program.arguments
    x_BT = next(value for value in given.values() if hasattr(value, "shape"))
    sizes = given | (vars(given["dispatcher"]) if is_dataclass(given.get("dispatcher")) else {})
    words = [f"{sizes[name]} {label}" for name, label in LABELS.items() if name in sizes]
    rows, tokens = x_BT.shape[:2]
    seen = f"{len(given['row_N'])} of " if "row_N" in given else ""
    return ", ".join([_what(program.function), f"{seen}{rows} x {tokens} tokens", *words])


def layer_parts(function: Any) -> tuple[Attention | None, FeedForward | None]:
    """Return the attention and the feed-forward that a program has, if it is of a layer."""
    return (
        function.attention if isinstance(function, (DecoderLayer, AttentionBlock)) else None,
        function.feed_forward if isinstance(function, (DecoderLayer, FeedForwardBlock)) else None,
    )


def _what(function: Any) -> str:
    attention, network = layer_parts(function)
    words = []
    if attention is not None:
        window = attention.spec.window
        words.append("full attention" if window >= NO_WINDOW else "sliding attention")
    if network is not None:
        words.append("dense network" if isinstance(network, Dense) else "experts")
    name = getattr(function, "__name__", type(function).__name__)
    return " + ".join(words) or FUNCTIONS.get(name, name.replace("_", " "))
