"""The sampling defaults of a checkpoint, from its generation_config.json."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["load_generation_config"]

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def load_generation_config(folder: str | PathLike[str]) -> dict[str, Any]:
    """Return the sampling parameters and end tokens of a checkpoint, as `generate` takes them.

    The result is empty if there is no such file; a field that is absent or null is left out. As in
    transformers, `do_sample` false is greedy, and true without a temperature is temperature 1.

    Raises
    ------
    ValueError
        If the file is not a JSON object.
    """
    file = Path(folder) / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: a JSON object is needed, not {config!r:.40}")
    names = (*SAMPLING, "eos_token_id")
    kwargs = {name: config[name] for name in names if config.get(name) is not None}
    if config.get("do_sample"):
        return {"temperature": 1.0} | kwargs
    return kwargs if config.get("do_sample") is None else kwargs | {"temperature": 0.0}
