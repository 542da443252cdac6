"""Readable names of programs: layer parts, tokens, KV length and capacities."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.execution.program_recorder import RecordedProgram
from mimo_v2_flash.layers.attention import Attention
from mimo_v2_flash.layers.decoder import AttentionBlock, DecoderLayer, FeedForwardBlock
from mimo_v2_flash.layers.feed_forward import Dense, FeedForward
from mimo_v2_flash.layers.forward_batch import SequenceRun
from mimo_v2_flash.layers.mtp import MTPHead

__all__ = ["layer_parts", "program_name", "sequence_run", "unique_names"]

LABELS = {"kv_length": "filled", "send_capacity": "slots", "capacity": "seats"}
"""Labels in names, by the program's argument; manifests and `--json` hold them, so they stay."""

FUNCTIONS = {
    "embed": "embedding",
    "LogitsHead": "head of logits",
    "GreedyHead": "head",
}


def unique_names(programs: Sequence[RecordedProgram], rows: int) -> list[str]:
    """Return a name for each program of a rank with `rows` sequences; equal ones are numbered."""
    names, seen = [program_name(program, rows) for program in programs], Counter[str]()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def program_name(program: RecordedProgram, rows: int) -> str:
    """Return a name such as "sliding attention + experts, 4 x 1 tokens, 132 filled".

    "4 x 1 tokens" are this rank's sequences x tokens of each; a head may see only some of them.
    "filled" is the KV length, "slots" the send capacity to each rank and "seats" the capacity of
    each expert, in tokens.
    """
    arguments = program.arguments
    run, dispatcher = sequence_run(program), arguments.get("dispatcher")
    sizes = {"kv_length": run.kv_length} if run else {}
    sizes |= vars(dispatcher) if is_dataclass(dispatcher) else {}
    labels = [f"{sizes[name]} {label}" for name, label in LABELS.items() if name in sizes]
    x_N = next(value for value in arguments.values() if hasattr(value, "shape"))
    seen = f"{len(arguments['row_N'])} of " if "row_N" in arguments else ""
    if "caches" in arguments:  # tokens of a sequence are copied, in layers of a kind
        rows, seen, labels = 1, "", [f"{len(arguments['caches'])} layers"]
    tokens = f"{seen}{rows} x {x_N.shape[0] // rows} tokens"
    return ", ".join([_function_name(program.function), tokens, *labels])


def sequence_run(program: RecordedProgram) -> SequenceRun | None:
    """Return the rectangle in which a program's tokens attend; None if it has no attention."""
    metadata = program.arguments.get("metadata")
    return metadata.runs[0] if metadata else None


def layer_parts(function: Any) -> tuple[Attention | None, FeedForward | None]:
    """Return the attention and the feed-forward part of a program; None for a part it lacks."""
    function = function.layer if isinstance(function, MTPHead) else function
    blocks = vars(function).values() if isinstance(function, DecoderLayer) else (function,)
    parts = {type(block): block for block in blocks}
    attention, feed_forward = parts.get(AttentionBlock), parts.get(FeedForwardBlock)
    return attention and attention.attention, feed_forward and feed_forward.feed_forward


def _function_name(function: Any) -> str:
    attention, network = layer_parts(function)
    parts = ["MTP head"] if isinstance(function, MTPHead) else []
    if attention is not None:
        window = attention.spec.window
        parts.append("full attention" if window >= NO_WINDOW else "sliding attention")
    if network is not None:
        parts.append("dense network" if isinstance(network, Dense) else "experts")
    name = getattr(function, "__name__", type(function).__name__)
    return " + ".join(parts) or FUNCTIONS.get(name, name.replace("_", " "))
