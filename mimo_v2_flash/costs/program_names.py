"""Readable names of programs: layer parts, tokens, KV length and capacities."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import is_dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.execution.program_recorder import RecordedProgram
from mimo_v2_flash.layers.attention import Attention
from mimo_v2_flash.layers.decoder import AttentionBlock, DecoderLayer, FeedForwardBlock
from mimo_v2_flash.layers.feed_forward import Dense, FeedForward
from mimo_v2_flash.layers.forward_batch import SequenceRun
from mimo_v2_flash.layers.layer_range import LayerRange
from mimo_v2_flash.layers.mtp import MTPHead
from mimo_v2_flash.layers.replicated_range import ReplicatedLayer, ReplicatedRange

__all__ = [
    "ProgramLayer",
    "layer_parts",
    "program_layers",
    "program_name",
    "sequence_run",
    "unique_names",
]

LABELS = {"kv_length": "filled", "send_capacity": "slots", "capacity": "seats"}
"""Labels in names, by the program's argument; manifests and `--json` hold them, so they stay."""

FUNCTIONS = {
    "embed": "embedding",
    "LogitsHead": "head of logits",
    "GreedyHead": "head",
}


class ProgramLayer(NamedTuple):
    """A layer in a program, or a program that is none.

    Attributes
    ----------
    attention, feed_forward
        Its parts; None for one that it lacks.
    run
        The rectangle in which its tokens attend; None without attention.
    prefixes
        What the paths of its weights and caches begin with.
    """

    attention: Attention | None
    feed_forward: FeedForward | None
    run: SequenceRun | None
    prefixes: tuple[str, ...]


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
    if "caches" in arguments and run is None:  # tokens of a sequence are copied, by kind of layer
        rows, seen, labels = 1, "", [f"{len(arguments['caches'])} layers"]
    tokens = f"{seen}{rows} x {x_N.shape[0] // rows} tokens"
    return ", ".join([_function_name(program.function), tokens, *labels])


def sequence_run(program: RecordedProgram) -> SequenceRun | None:
    """Return the rectangle in which a program's tokens attend; None if it has no attention.

    Of a range of layers it is the one with the longest KV length.
    """
    runs = [layer.run for layer in program_layers(program) if layer.run]
    return max(runs, key=attrgetter("kv_length"), default=None)


def program_layers(program: RecordedProgram) -> list[ProgramLayer]:
    """Return the layers of a range of them, or all of another program as one."""
    function: Any = program.function
    metadata: Any = program.arguments.get("metadata")
    if not isinstance(function, LayerRange | ReplicatedRange):
        run = metadata.runs[0] if metadata else None
        return [ProgramLayer(*layer_parts(function), run, ("",))]
    return [
        ProgramLayer(
            *layer_parts(layer), metadata[kind].runs[0], (f"weights.{index}.", f"caches.{index}.")
        )
        for index, (layer, kind) in enumerate(zip(_decoders(function), function.kinds, strict=True))
    ]


def layer_parts(function: Any) -> tuple[Attention | None, FeedForward | None]:
    """Return the attention and the feed-forward part of a program; None for a part it lacks."""
    function = function.layer if isinstance(function, MTPHead) else function
    blocks = vars(function).values() if isinstance(function, DecoderLayer) else (function,)
    parts = {type(block): block for block in blocks}
    attention, feed_forward = parts.get(AttentionBlock), parts.get(FeedForwardBlock)
    return attention and attention.attention, feed_forward and feed_forward.feed_forward


def _function_name(function: Any) -> str:
    if isinstance(function, LayerRange | ReplicatedRange):
        kinds = Counter(_window(layer.attention_block.attention) for layer in _decoders(function))
        counted = " + ".join(f"{count} {kind}" for kind, count in kinds.items())
        replicated = "replicated " * isinstance(function, ReplicatedRange)
        return f"{len(function.layers)} {replicated}layers ({counted})"
    attention, network = layer_parts(function)
    parts = ["MTP head"] if isinstance(function, MTPHead) else []
    if attention is not None:
        parts.append(f"{_window(attention)} attention")
    if network is not None:
        parts.append("dense network" if isinstance(network, Dense) else "experts")
    name = getattr(function, "__name__", type(function).__name__)
    return " + ".join(parts) or FUNCTIONS.get(name, name.replace("_", " "))


def _window(attention: Attention) -> str:
    return "full" if attention.spec.window >= NO_WINDOW else "sliding"


def _decoders(function: LayerRange | ReplicatedRange) -> list[DecoderLayer]:
    """Return the decoder layers of a range."""
    return [
        layer.layer if isinstance(layer, ReplicatedLayer) else layer for layer in function.layers
    ]
