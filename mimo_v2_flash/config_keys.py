"""Rules for the keys of a JSON config file: which are used, which are refused, which are named.

No key passes in silence. A key is used; or it would change what is computed, and only the values
that are computed are allowed; or it has no effect here, for a reason; or a warning names it.
"""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .config_rules import refuse

__all__ = ["KeyRules", "check_keys"]


class KeyRules(NamedTuple):
    """What this project makes of each key of a config file.

    Attributes
    ----------
    used
        Keys whose values are read; their reader refuses wrong ones.
    supported
        Keys that change what is computed, and the values of each that are computed.
    without_effect
        Keys that change nothing here, and why.
    """

    used: Collection[str]
    supported: Mapping[str, tuple[Any, ...]]
    without_effect: Mapping[str, str]


def check_keys(
    file: Path, entries: Mapping[str, Any], rules: KeyRules, *, stacklevel: int = 2
) -> None:
    """Refuse values that are not computed, and warn once of all keys that no rule knows.

    Parameters
    ----------
    file
        The file in the warning; whoever reads it puts it before the message of an error.
    entries
        The file's keys and values; a nested key is `object.key`.
    rules
        The rules of this kind of file.
    stacklevel
        The frame that the warning is attributed to, as in `warnings.warn`: 2 is the caller.

    Raises
    ------
    ValueError
        If a value of `rules.supported` is another; the message names key, value and those allowed.
    """
    for key, allowed in rules.supported.items():
        if key in entries and entries[key] not in allowed:
            refuse(key, entries[key], " or ".join(map(repr, allowed)))
    known = {*rules.used, *rules.supported, *rules.without_effect}
    if unknown := [key for key in entries if key not in known]:
        message = f"{file}: not understood and without effect: {', '.join(unknown)}"
        warnings.warn(message, stacklevel=stacklevel)
