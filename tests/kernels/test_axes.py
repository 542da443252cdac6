"""Tests of axes: shapes and dtypes are checked against names, with clear error messages."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.kernels.axes import (
    MAX_SIGNATURES,
    axes_of,
    check_dtypes,
    check_shapes,
    checked,
)


@checked
def twice(x_BT, position_BT, w_eFD=None, *, times: int = 2):
    """Return `x_BT` times `times`."""
    return x_BT * times


@checked
def forgetful(x_BT, y_T):
    """Return the first row."""
    return x_BT[0]


def test_an_accepted_call_is_no_licence_for_another():
    x_BT, y_T = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    for _ in range(2):
        forgetful(x_BT, y_T)
        forgetful(x_BT, y_T=y_T)
    for wrong in ({"y_T": y_T[:2]}, {"y_T": y_T.astype(np.float64)}, {"y_T": [1.0, 1.0, 1.0]}):
        for _ in range(2):
            with pytest.raises(ValueError, match="forgetful: y_T"):
                forgetful(x_BT, **wrong)


def test_a_kernel_remembers_a_bounded_number_of_signatures():
    for length in range(MAX_SIGNATURES + 3):
        forgetful(np.ones((1, length), np.float32), np.ones(length, np.float32))
    (accepted,) = (
        cell.cell_contents for cell in forgetful.__closure__ if type(cell.cell_contents) is set
    )
    assert 0 < len(accepted) <= MAX_SIGNATURES


X_BT, POSITION_BT = np.ones((2, 3), np.float32), np.zeros((2, 3), np.int32)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("x_BTD", "BTD"),
        ("w_gate_eFD", "eFD"),
        ("position_B1S", "B1S"),
        ("sink_H", "H"),
        ("_N", "N"),
        ("rotary_dim", ""),
        ("x", ""),
        ("NO_SINK", "SINK"),
        ("k_", ""),
    ],
)
def test_the_ending_of_a_name_says_its_axes(name, axes):
    assert axes_of(name) == axes


def test_lengths_are_measured():
    tensors = {"x_BT": X_BT, "window": 3, "mask_B1": np.ones((2, 1)), "w_eT": np.ones((5, 3))}
    assert check_shapes("kernel", tensors) == {"1": 1, "B": 2, "T": 3, "e": 5}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x_BT": np.ones(3)}, r"kernel: x_BT must have 2 axes \(B, T\), got 1 \(\(3,\)\)"),
        ({"x_BT": [[1.0]]}, r"kernel: x_BT must have 2 axes \(B, T\), got none: <class 'list'>"),
        ({"x_BT": X_BT, "y_T": np.ones(4)}, r"y_T is \(4,\), but axis T is 3 in x_BT"),
        ({"x_BT": X_BT, "y_1": np.ones(4)}, r"y_1 is \(4,\), but axis 1 is 1 in its name"),
        ({"x_BB": X_BT}, r"x_BB is \(2, 3\), but axis B is 2 in x_BB"),
    ],
)
def test_a_shape_that_contradicts_a_name_is_told(tensors, message):
    with pytest.raises(ValueError, match=message):
        check_shapes("kernel", tensors)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("x_B", np.float32),
        ("x_B", ml_dtypes.bfloat16),
        ("token_B", np.int32),
        ("prior_position_B", np.int32),
        ("visible_B", np.bool_),
        ("window", np.float64),
    ],
)
def test_the_noun_of_a_name_says_its_dtype(name, dtype):
    check_dtypes("kernel", {name: np.zeros(1, dtype)})


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("x_B", np.float64, "x_B must be float32 or bfloat16, got float64"),
        ("x_B", np.int32, "x_B must be float32 or bfloat16, got int32"),
        ("prior_position_B", np.int64, "prior_position_B must be int32, got int64"),
        ("token_B", np.float32, "token_B must be int32, got float32"),
        ("visible_B", np.float32, "visible_B must be bool, got float32"),
    ],
)
def test_a_dtype_that_contradicts_a_name_is_told(name, dtype, message):
    with pytest.raises(ValueError, match=f"kernel: {message}"):
        check_dtypes("kernel", {name: np.zeros(1, dtype)})


def test_what_stores_in_its_own_way_has_no_dtype_to_check():
    class WithoutDtype:
        shape = (4,)

    check_dtypes("kernel", {"w_B": WithoutDtype()})


def test_a_checked_kernel_computes_and_keeps_its_name():
    np.testing.assert_array_equal(twice(X_BT, POSITION_BT, times=3), 3 * X_BT)
    assert (twice.__name__, twice.__doc__) == ("twice", "Return `x_BT` times `times`.")


def test_arguments_are_checked_by_position_and_by_name():
    with pytest.raises(ValueError, match="twice: position_BT is"):
        twice(X_BT, POSITION_BT[:, :2])
    with pytest.raises(ValueError, match="twice: w_eFD must have 3 axes"):
        twice(X_BT, POSITION_BT, w_eFD=X_BT)
    with pytest.raises(ValueError, match="twice: position_BT must be int32"):
        twice(position_BT=X_BT, x_BT=X_BT)
