"""A custom backend: one that times what the model compiles, and computes it as NumPy does.

python -m examples.custom_backend

A backend of another device moves arrays in `to_device`, and makes a program in `compile`.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from mimo_v2_flash import example_folder, load_model


class ProfilingBackend:
    """A backend that counts the calls of each function and its seconds."""

    execution_mode = "eager"  # shapes may depend on the data

    def __init__(self) -> None:
        self.calls, self.seconds = Counter[str](), Counter[str]()

    def to_device(self, tree: Any) -> Any:
        """Return the arrays as they are: the device is the host."""
        return tree

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function`, timed; `donate` would let its output take an argument's memory."""
        name = getattr(function, "__name__", type(function).__name__)

        def program(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            output = function(*args, **kwargs)
            self.calls[name] += 1
            self.seconds[name] += time.perf_counter() - start  # type: ignore[assignment]
            return output

        return program


def main() -> None:
    """Print where the time of a few tokens goes."""
    backend = ProfilingBackend()
    load_model(example_folder(), backend=backend).generate([[1, 45, 300]], max_new_tokens=8)
    for name, seconds in backend.seconds.most_common():
        print(f"{name}: {backend.calls[name]} calls, {seconds:.3f} s")


if __name__ == "__main__":
    main()
