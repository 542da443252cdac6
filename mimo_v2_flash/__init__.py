"""MiMo-V2-Flash inference in pure NumPy kernels that nkipy traces to AWS Trainium2."""

from .config import MiMoConfig
from .model import MiMoV2FlashModel
from .model_loader import load_model
from .weights import load_weights

__all__ = ["MiMoConfig", "MiMoV2FlashModel", "load_model", "load_weights"]
