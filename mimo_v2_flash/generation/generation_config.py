"""The generation defaults of a model: end tokens of its config, generation_config.json."""

from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.inputs import as_eos_token_ids
from mimo_v2_flash.json_object import parse_json_object

from .sampling import SamplingParams

__all__ = ["SAMPLING", "GenerationConfig", "load_generation_config"]

SAMPLING = tuple(field.name for field in fields(SamplingParams))


@dataclass(frozen=True, slots=True)
class GenerationConfig(SamplingParams):
    """What `generate` does unless it is called with other values; the default is greedy decoding.

    Attributes
    ----------
    eos_token_ids
        Token ids that end a sequence, in ascending order.
    """

    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def of_config(cls, config: MiMoConfig, eos_token_id: Any = None, **sampling: Any) -> Any:
        """Return the defaults `sampling`, with `eos_token_id` or, if it is None, the config's."""
        ends = config.eos_token_id if eos_token_id is None else eos_token_id
        return cls(**sampling, eos_token_ids=tuple(sorted(as_eos_token_ids(ends))))


def load_generation_config(folder: str | PathLike[str], config: MiMoConfig) -> GenerationConfig:
    """Return the generation defaults of the checkpoint in `folder`, whose config is `config`.

    Without a generation_config.json, or where a field of it is absent or null, decoding is greedy
    and end tokens are the config's. As in transformers, `do_sample` false is greedy, and true
    without a temperature is temperature 1.

    Raises
    ------
    ValueError
        If the file is not a JSON object, or a value is not allowed; the message names the file.
    """
    file = Path(folder) / "generation_config.json"
    try:
        return GenerationConfig.of_config(config, **_read(file) if file.is_file() else {})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def _read(file: Path) -> dict[str, Any]:
    """Return the fields of a file as `GenerationConfig.of_config` takes them."""
    config = parse_json_object(file.read_bytes())
    names = (*SAMPLING, "eos_token_id")
    kwargs = {name: config[name] for name in names if config.get(name) is not None}
    if config.get("do_sample"):
        return {"temperature": 1.0} | kwargs
    return kwargs if config.get("do_sample") is None else kwargs | {"temperature": 0.0}
