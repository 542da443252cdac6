"""Variables of a process by which launchers and users set integers, such as RANK and WORLD_SIZE."""

import sys
from collections.abc import Mapping

__all__ = ["integer_variable"]


def integer_variable(
    env: Mapping[str, str],
    name: str,
    *,
    minimum: int = 0,
    maximum: int = sys.maxsize,
    default: int | None = None,
) -> int:
    """Return the integer of the variable `name`.

    Parameters
    ----------
    env
        All variables, by name.
    name
        The variable.
    minimum, maximum
        The allowed integers.
    default
        The integer if there is no such variable; with None, it is required.

    Raises
    ------
    ValueError
        If it is missing or is no integer in the range; the message names it.
    """
    if default is not None and name not in env:
        return default
    text = env.get(name)
    digits = (text or "").strip()
    # int() reads "1_0" as well, and refuses thousands of digits without a name.
    if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(maximum)):
        value = int(digits)
        if minimum <= value <= maximum:
            return value
    allowed = f"{minimum} or more" if maximum == sys.maxsize else f"{minimum} to {maximum}"
    actual = "is missing" if text is None else f"is {text!r:.40}"
    raise ValueError(f"{name} {actual}, expected an integer, {allowed}")
