"""The registry of backends by command-line name. A backend is imported on first use."""

import importlib
from typing import Any

from .backend import Backend

__all__ = ["BACKENDS", "INSTALL", "backend_name", "get_backend", "load_module"]

BACKENDS = {"numpy": "NumpyBackend", "xla": "XlaBackend", "neuron": "NeuronBackend"}
INSTALL = "https://awsdocs-neuron.readthedocs-hosted.com/en/latest/setup says how to install it"
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
    name = backend_name(name)
    backend: Backend = getattr(load_module(name, f"backend {name}"), BACKENDS[name])(**options)
    return backend


def backend_name(backend: str | Backend) -> str:
    """Return the name of a backend, or that of the host's with the same execution mode.

    Raises
    ------
    ValueError
        If `backend` is a name, and there is none of that name.
    """
    if not isinstance(backend, str):
        names = {class_name: name for name, class_name in BACKENDS.items()}
        host = "numpy" if backend.execution_mode == "eager" else "xla"
        return names.get(type(backend).__name__, host)
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: allowed is {' or '.join(BACKENDS)}")
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
