"""What load_model is asked for is checked before anything is read; a refusal names the option."""

import numpy as np
import pytest

from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.load_checks import check_types, requested_store


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "lru", "numpy"), "expert_cache_policy is for an expert_cache"),
        (("1GB", None, "xla"), "expert_cache is for backend numpy"),
        ((None, None, "numpy", "cuda"), "device_map is 'cuda', allowed is auto"),
        ((None, None, "neuron", "auto"), "device_map is for backend numpy"),
        (("1GB", None, "numpy", "auto"), "device_map chooses the size of an expert_cache"),
    ],
)
def test_a_store_that_cannot_be_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        requested_store(*arguments)


def test_a_store_has_a_size_and_a_policy():
    assert requested_store(None, None, "xla") is None
    size, policy = requested_store("1GB", "lru", "numpy")
    assert (size, policy.name) == ("1GB", "lru")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("numpy", "float8", None), "compute is 'float8'"),
        (("xla", "bfloat16", None), "compute"),
        (("numpy", "float32", "int4"), "cache_dtype"),
    ],
)
def test_a_type_that_a_backend_lacks_is_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check_types(*arguments, IsqRequest.of(None, None))


def test_products_of_k_quants_are_of_the_host_alone():
    request = IsqRequest.of("Q4K", None)
    check_types("numpy", "float32", np.float32, request)
    with pytest.raises(ValueError, match="isq is Q4K, allowed with a backend that compiles is "):
        check_types("neuron", "float32", None, request)
