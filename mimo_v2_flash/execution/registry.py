"""The registry of backends by command-line name. A backend is imported on first use."""

import importlib
from typing import Any

from .backend import Backend
from .compiler import INSTALL

__all__ = ["BACKENDS", "get_backend", "load_module"]

BACKENDS = {"numpy": "NumpyBackend", "xla": "XlaBackend", "neuron": "NeuronBackend"}

INSTALL_HINTS = {
    "jax": "pip install 'mimo-v2-flash[xla]'",
    "nkipy": "https://github.com/aws-neuron/nkipy says how to install it; the package of that name "
    "on PyPI is another project",
    "spike": f"nkipy's runtime, and the Neuron SDK below it; {INSTALL}",
}


def get_backend(name: str, **options: Any) -> Backend:
    """Return a new backend by its name, a key of `BACKENDS`.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    ImportError
        If a package that it needs is not installed; the message says how to install it.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r}: allowed is {' or '.join(BACKENDS)}")
    backend: Backend = getattr(load_module(name, f"backend {name}"), BACKENDS[name])(**options)
    return backend


def load_module(name: str, what: str) -> Any:
    """Return a module of this package; an ImportError says how to install what `what` needs."""
    try:
        return importlib.import_module(f".{name}", __package__)
    except ImportError as error:
        missing = str(error.name).split(".")[0]
        if missing not in INSTALL_HINTS:
            raise
        raise ImportError(f"{what} needs {missing}: {INSTALL_HINTS[missing]}") from error
