"""How a checkpoint asks to be sampled: its generation_config.json."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["load_generation_config"]

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def load_generation_config(folder: str | PathLike[str]) -> dict[str, Any]:
    """Return what generation_config.json says of sampling and end tokens, as `generate` takes it.

    Empty where there is no such file; a field that is absent or null is left out. As in
    transformers, `do_sample` false is greedy, and true without a temperature is temperature 1.

    Raises
    ------
    ValueError
        If the file is no JSON object.
    """
    file = Path(folder) / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{file}: a JSON object is needed, not {said!r:.40}")
    asked = {name: said[name] for name in (*SAMPLING, "eos_token_id") if said.get(name) is not None}
    if said.get("do_sample"):
        return {"temperature": 1.0} | asked
    return asked if said.get("do_sample") is None else asked | {"temperature": 0.0}
