"""Old import paths: where each public name of the last release is now.

They work for one release and warn. A module at an old path has no code of its own:
`moved_attributes` is its `__getattr__`.
"""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["MOVED", "moved_attribute", "moved_attributes"]

_PACKAGE = __package__

MOVED: dict[str, dict[str, str]] = {
    "backends": {
        "Backend": "execution.Backend",
        "NumpyBackend": "execution.NumpyBackend",
        "backend_named": "execution.registry.get_backend",
    },
    "backends.named": {
        "BACKENDS": "execution.registry.BACKENDS",
        "backend_named": "execution.registry.get_backend",
    },
    "cli.trace_file": {
        "OURS": "tracing.trace_file.OURS",
        "TraceFile": "tracing.trace_file.TraceFile",
        "open_trace": "tracing.trace_file.open_trace",
        "write_trace": "tracing.trace_file.write_trace",
    },
    "generation.text": {
        "Completion": "text.completion.Completion",
        "complete": "text.completion.complete",
    },
    "generation.tokenizer": {
        "Detokenizer": "text.tokenizer.Detokenizer",
        "END_OF_TEXT": "text.tokenizer.END_OF_TEXT",
        "end_of_text": "text.tokenizer.end_of_text",
        "load_tokenizer": "text.tokenizer.load_tokenizer",
        "prompt_tokens": "text.chat_template.prompt_tokens",
        "tokens": "text.tokenizer.tokens",
    },
    "groups": {
        "ALONE": "parallel.ALONE",
        "CountedGroup": "parallel.InstrumentedGroup",
        "Group": "parallel.Group",
        "HostGroup": "parallel.HostGroup",
        "RankError": "parallel.RankError",
        "SoloGroup": "parallel.SoloGroup",
        "ThreadGroup": "parallel.ThreadGroup",
        "agree": "parallel.check_consistent",
        "started": "parallel.init_process_group",
    },
    "plan": {
        "Plan": "parallel_config.ParallelConfig",
        "Share": "parallel_config.ShardSpec",
        "WHOLE": "parallel_config.UNSHARDED",
        "shares_of": "parallel_config.all_shard_specs",
    },
    "weights": {"load_weights": "checkpoint.load_weights"},
    "weights.checkpoint": {
        "Checkpoint": "checkpoint.source.Checkpoint",
        "open_checkpoint": "checkpoint.source.open_checkpoint",
    },
    "weights.convert": {
        "ConversionJob": "convert.job.ConversionJob",
        "plan_conversion_job": "convert.job.plan_conversion_job",
    },
    "weights.encoding": {"Encoding": "convert.encoding.Encoding"},
    "weights.source": {"FolderSource": "checkpoint.source.FolderSource"},
}
"""The new path of each name, by the module where it was; both within the package."""


def moved_attributes(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of the old `module`: `moved_attribute` of it."""

    def __getattr__(name: str) -> Any:  # noqa: N807
        return moved_attribute(module, name)

    return __getattr__


def moved_attribute(module: str, name: str) -> Any:
    """Return what `name` of the old `module` is now, with a DeprecationWarning that says where.

    Raises
    ------
    AttributeError
        The old module had no such name.
    """
    try:
        place = MOVED[module.removeprefix(f"{_PACKAGE}.")][name]
    except KeyError:
        raise AttributeError(f"module {module!r} has no attribute {name!r}") from None
    warnings.warn(f"{module}.{name} is now {_PACKAGE}.{place}", DeprecationWarning, stacklevel=3)
    new_module, _, new_name = place.rpartition(".")
    return getattr(importlib.import_module(f"{_PACKAGE}.{new_module}"), new_name)
