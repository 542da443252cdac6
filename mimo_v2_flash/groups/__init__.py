"""With whom: ranks that run the same program on their own shares."""

from .group import Group
from .solo import SoloGroup
from .threads import ThreadGroup

__all__ = ["Group", "SoloGroup", "ThreadGroup"]
