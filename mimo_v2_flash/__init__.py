"""MiMo-V2-Flash inference in pure NumPy kernels that nkipy traces to AWS Trainium2."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load_weights
    from .config import MiMoConfig
    from .engine import Engine, SamplingParams
    from .example_folders import example_folder
    from .layers.nonfinite import NonFiniteError
    from .model import MiMoV2FlashModel
    from .model_loader import load_model
    from .runner import ChatCompletionRequest, CompletionRequest, Runner, Which

__version__ = "0.1.0"

__all__ = [
    "ChatCompletionRequest",
    "CompletionRequest",
    "Engine",
    "MiMoConfig",
    "MiMoV2FlashModel",
    "NonFiniteError",
    "Runner",
    "SamplingParams",
    "Which",
    "example_folder",
    "load_model",
    "load_weights",
]

_MODULES = {
    "ChatCompletionRequest": "runner",
    "CompletionRequest": "runner",
    "Engine": "engine",
    "MiMoConfig": "config",
    "MiMoV2FlashModel": "model",
    "NonFiniteError": "layers.nonfinite",
    "Runner": "runner",
    "SamplingParams": "engine",
    "Which": "runner",
    "example_folder": "example_folders",
    "load_model": "model_loader",
    "load_weights": "checkpoint",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first used: `mimo --help` needs no NumPy."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
