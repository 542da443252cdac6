"""What a plan takes, without running it: bytes on every device, and bytes that ranks exchange."""

from .devices import Device, devices
from .load import Load
from .traffic import Traffic, traffic

__all__ = ["Device", "Load", "Traffic", "devices", "traffic"]
