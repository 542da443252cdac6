"""MiMo-V2-Flash inference in pure NumPy kernels that nkipy traces to AWS Trainium2."""

from .checkpoint import load_weights
from .config import MiMoConfig
from .model import MiMoV2FlashModel

__all__ = ["MiMoConfig", "MiMoV2FlashModel", "load_weights"]
