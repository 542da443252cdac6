"""A fake of spike, nkipy's binding of the Neuron runtime, with the part that the backend uses."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ._spike import Spike

__all__ = ["SpikeModel", "SpikeTensor", "get_spike_singleton"]


@cache
def get_spike_singleton() -> Spike:
    """Return the runtime, started at the first call."""
    return Spike()


class SpikeTensor:
    """An array on the device."""

    def __init__(self, tensor_ref: Any, shape: Any, dtype: Any, name: str | None = None) -> None:
        self.tensor_ref, self.shape, self.dtype, self.name = tensor_ref, shape, dtype, name

    @classmethod
    def from_numpy(cls, array: np.ndarray, name: str | None = None) -> "SpikeTensor":
        """Return a device tensor with a copy of `array`."""
        reference = get_spike_singleton().allocate_tensor(array.nbytes, name=name)
        tensor = cls(reference, array.shape, array.dtype, name)
        tensor.write_from_numpy(array)
        return tensor

    def write_from_numpy(self, array: np.ndarray) -> None:
        """Overwrite the tensor with `array`."""
        if array.nbytes != len(self.tensor_ref.content):
            raise ValueError(f"{array.nbytes} bytes for {len(self.tensor_ref.content)}")
        get_spike_singleton().tensor_write_from_pybuffer(self.tensor_ref, array)

    def numpy(self) -> np.ndarray:
        """Return a host copy of the tensor."""
        array = np.empty(self.shape, self.dtype)
        get_spike_singleton().tensor_read_to_pybuffer(self.tensor_ref, array)
        return array


class SpikeModel:
    """A program on the device."""

    def __init__(self, model_ref: Any, name: str, neff_path: Path) -> None:
        self.model_ref, self.name, self.neff_path = model_ref, name, neff_path
        known = get_spike_singleton().get_tensor_info(model_ref)
        self.input_tensors_info, self.output_tensors_info = known.inputs, known.outputs

    @classmethod
    def load_from_neff(
        cls, neff_path: Path, name: str, cc_enabled=False, rank_id=0, world_size=1
    ) -> "SpikeModel":
        """Load the program of a NEFF file."""
        reference = get_spike_singleton().load_model(
            str(neff_path), 0, cc_enabled, rank_id, world_size
        )
        return cls(reference, name, neff_path)

    def __call__(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Run the program once."""
        _check(inputs, self.input_tensors_info)
        _check(outputs, self.output_tensors_info)
        get_spike_singleton().execute(
            self.model_ref,
            inputs={name: tensor.tensor_ref for name, tensor in inputs.items()},
            outputs={name: tensor.tensor_ref for name, tensor in outputs.items()},
        )


def _check(tensors: dict[str, Any], known: dict[str, Any]) -> None:
    if unknown := set(tensors) - set(known):
        raise ValueError(f"unknown {sorted(unknown)}, expected {sorted(known)}")
    for name, tensor in tensors.items():
        stored = "int8" if tensor.dtype.name.startswith("float8") else tensor.dtype.name
        assert (list(tensor.shape), stored) == (known[name].shape, known[name].dtype), name
