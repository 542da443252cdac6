"""What a plan takes, without running it: bytes on every device, and bytes that ranks exchange."""

from .devices import Device, devices
from .traffic import Traffic, traffic
from .workload import Workload

__all__ = ["Device", "Traffic", "Workload", "devices", "traffic"]
