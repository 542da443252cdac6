"""Serve a model over HTTP, with OpenAI's API: chat, completions, tools, structured output.

One line of JSON per request goes to standard error, without prompts and answers. SIGTERM and Ctrl-C
let running answers end first; a second Ctrl-C does not.
"""

import argparse
import os
import signal
import sys
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Any

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.model_loader import load_model
from mimo_v2_flash.serving.engine_thread import EngineThread
from mimo_v2_flash.serving.event_stream import EventStream, Submission
from mimo_v2_flash.serving.served_model import ServedModel
from mimo_v2_flash.text.tokenizer import load_tokenizer

from .engine_report import engine_numbers
from .example_model import add_model_argument, check_folder
from .option_types import natural, positive
from .options import add_draft_tokens_argument
from .parallel_options import SINGLE_RANK, RankSetup, add_parallel_arguments
from .result import Result
from .runtime_options import RuntimeOptions, add_runtime_arguments

__all__ = ["add_arguments", "run"]

CONTEXT_POLICIES = ("truncate", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_model_argument(parser)
    add_parallel_arguments(parser)
    add_runtime_arguments(parser)
    server = parser.add_argument_group("server", "Address, and who may ask for how much.")
    server.add_argument(
        "--host", default="127.0.0.1", help="Address to listen on (default: 127.0.0.1)."
    )
    server.add_argument(
        "--port",
        type=int,
        choices=range(65536),
        default=8000,
        metavar="PORT",
        help="Port; 0 takes a free one (default: 8000).",
    )
    server.add_argument(
        "--served-model-name",
        metavar="NAME",
        help="Name of the model in requests (default: the name of its folder).",
    )
    server.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help="Key that requests must have as a bearer; may be repeated (default: "
        "MIMO_API_KEY, or none is needed).",
    )
    _add_limits(server)
    _add_engine_arguments(parser)


def _add_limits(server: Any) -> None:
    server.add_argument(
        "--max-body",
        type=positive,
        default=8 << 20,
        metavar="BYTES",
        help="Maximum size of a request's body (default: 8388608).",
    )
    server.add_argument(
        "--drain-seconds",
        type=natural,
        default=30,
        help="Seconds that running answers have to end after SIGTERM (default: 30).",
    )


def _add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine", "How many requests run, and what is kept of them.")
    engine.add_argument(
        "--max-sequences",
        type=positive,
        default=32,
        help="Maximum number of answers that are generated at a time (default: 32).",
    )
    engine.add_argument(
        "--max-length",
        type=positive,
        help="Maximum number of tokens of a prompt and its answer (default: the model's).",
    )
    engine.add_argument(
        "--max-waiting",
        type=natural,
        default=256,
        help="Maximum number of requests that wait; more are told to come back (default: 256).",
    )
    engine.add_argument(
        "--memory",
        metavar="SIZE",
        help="Maximum memory of each rank for keys and values: bytes, 8GiB, or a part of the free "
        "memory such as 50%% (default: 90%%).",
    )
    engine.add_argument(
        "--prefix-cache",
        default="10%",
        metavar="SIZE",
        help="The part of it for known prefixes: bytes, 1GiB, or a part of the free memory "
        "(default: 10%%).",
    )
    add_draft_tokens_argument(engine)
    engine.add_argument(
        "--context-policy",
        choices=CONTEXT_POLICIES,
        default=CONTEXT_POLICIES[0],
        help="Drop the oldest turns of a chat that is too long, or refuse it (default: truncate).",
    )


def run(
    model: Path,
    served_model_name: str | None,
    context_policy: str,
    max_sequences: int,
    max_length: int | None,
    max_waiting: int,
    memory: str | None,
    prefix_cache: str,
    draft_tokens: int | str = "auto",
    setup: RankSetup = SINGLE_RANK,
    **options: Any,
) -> Result:
    """Serve until a signal asks to end; return the engine's statistics.

    Rank 0 serves, other ranks compute with it. An error of the model ends the server, and is
    raised.
    """
    check_folder(model)
    api_server, service = _serving("api_server"), _serving("service")
    runtime = RuntimeOptions.pop_from(options)
    keywords = runtime.keywords(NumpyBackend(), model.resolve().name)
    loaded = load_model(model, group=setup.group, parallel=setup.plan, **keywords)
    sizes: dict[str, Any] = {"memory": _size(memory), "prefix_cache": _size(prefix_cache)}
    sizes["draft_tokens"] = draft_tokens
    engine = Engine(loaded, max_sequences, max_length, max_waiting=max_waiting, **sizes)
    if setup.group.rank:
        _follow(engine)
        return Result({"model": model})
    name, tokenizer = served_model_name or model.resolve().name, load_tokenizer(model)
    served = ServedModel(name, loaded, tokenizer, max_length)
    with EngineThread(engine) as thread:
        answers = service.Service(served, thread, drops_turns=context_policy == "truncate")
        server = _listen(api_server, answers, **options)
        _warm_up(thread)
        if engine.failure is None:
            _announce(name, server.url, loaded.compute)
            server.run()
        numbers, failure = engine_numbers(engine.stats), engine.failure
    if failure is not None:
        raise failure
    return Result({"model": model, "compute": loaded.compute} | numbers)


def _size(text: str | None) -> int | str | None:
    is_number = text is not None and text.isdecimal() and len(text) < 20
    return int(text) if text and is_number else text


def _follow(engine: Engine) -> None:
    """Compute with rank 0 until it ends: a signal to all ranks is for rank 0 to heed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    engine.follow()


def _listen(
    api_server: Any,
    service: Any,
    host: str,
    port: int,
    api_key: list[str] | None,
    max_body: int,
    drain_seconds: int,
) -> Any:
    """Return a server that listens, and logs to standard error."""
    return api_server.APIServer(
        service,
        host=host,
        port=port,
        api_keys=api_key or os.environ.get("MIMO_API_KEY", "").split(),
        max_body_bytes=max_body,
        drain_seconds=drain_seconds,
        log=sys.stderr,
    )


def _warm_up(thread: EngineThread) -> None:
    """Load compiled code, or programs, before there is a client."""
    deque(
        EventStream(thread, [Submission([0], SamplingParams(max_tokens=2 + MAX_DRAFT_TOKENS))]),
        maxlen=0,
    )


def _announce(name: str, url: str, compute: str) -> None:
    page = f"with a chat page at {url}"
    sys.stderr.write(f"{name} is served at {url}/v1, {page}, in {compute} compute\n")
    sys.stderr.flush()


def _serving(name: str) -> Any:
    """Return a module of the server; ImportError if the extra is missing, with the command."""
    try:
        return import_module(f"mimo_v2_flash.serving.{name}")
    except ImportError as error:
        raise ImportError(
            f"serve needs {error.name}, which is not installed: "
            'pip install "mimo-v2-flash[serve]", or in a checkout: pip install -e ".[serve]"'
        ) from error
