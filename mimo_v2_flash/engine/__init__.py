"""The engine: requests, scheduler, sampling: the one loop that answers prompts."""

from .engine import Engine
from .request import QueueFullError
from .sampling_params import SamplingParams

__all__ = ["Engine", "QueueFullError", "SamplingParams"]
