"""Commands by name: the module of each, its sentence in `mimo --help`, and whether it has ranks."""

from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["COMMANDS", "Command"]


class Command(NamedTuple):
    """A command of `mimo`, whose module is imported when the command is used.

    Attributes
    ----------
    module
        Module in this package, with `add_arguments(parser)` and `run(**options) -> Result`.
    summary
        First sentence of the module's docstring.
    on_ranks
        Whether it runs on all ranks of torchrun; `run` then takes their `setup`.
    """

    module: str
    summary: str
    on_ranks: bool = False

    def load(self) -> Any:
        """Return the command's module."""
        return import_module(f".{self.module}", __package__)


COMMANDS = {
    "generate": Command(
        "generate",
        "Generate text: continue a prompt, or answer a chat message, and report speed and memory.",
        on_ranks=True,
    ),
    "demo": Command(
        "demo", "Show a tiny trained model write, then check every kernel against its oracle."
    ),
    "run": Command("run", "Chat with a model in the terminal, or through pipes."),
    "serve": Command(
        "serve",
        "Serve a model over HTTP, with OpenAI's API: chat, completions, tools, structured output.",
        on_ranks=True,
    ),
    "evaluate": Command(
        "evaluate",
        "Evaluate a model on a text: bits per byte, and perplexity per token.",
        on_ranks=True,
    ),
    "random": Command(
        "random_model",
        "Run the model at its true widths with random weights, and report its speed and memory.",
        on_ranks=True,
    ),
    "download": Command(
        "download",
        "Fetch some experts of MiMo-V2-Flash from the Hugging Face hub, and run a prompt on them.",
    ),
    "test": Command(
        "self_check", "Check every kernel against its float64 oracle, on this machine's CPU."
    ),
    "doctor": Command(
        "doctor",
        "Check this machine: what is installed, what it has, and what would not work, with its "
        "remedy.",
    ),
    "prepare": Command(
        "prepare",
        "Prepare weights: select experts and layers of a checkpoint, convert them, and write "
        "shards.",
    ),
    "quantize": Command(
        "quantize",
        "Quantize a checkpoint: write prepared weights in other formats, or measure their errors.",
    ),
    "experts": Command(
        "experts",
        "Simulate expert stores on recorded routing, or choose the experts that a store keeps.",
    ),
    "plan": Command(
        "plan",
        "Compute the memory and the traffic of every device of a deployment, without running it.",
    ),
    "cost": Command(
        "cost",
        "Estimate what every program of a deployment costs on Trainium2, without weights or a "
        "device.",
    ),
    "compile": Command(
        "compile_programs",
        "Compile every program of a deployment for Trainium2, without weights and without a "
        "device.",
    ),
    "trace": Command(
        "trace",
        "Trace a prompt: write every named tensor of its prefill to a file, for `mimo compare`.",
    ),
    "compare": Command(
        "compare", "Compare two traces of the same tokens, and name the first tensor that diverges."
    ),
}
