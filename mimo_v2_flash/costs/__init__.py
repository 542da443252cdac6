"""Resources of a deployment: memory of every device, traffic between ranks, projected time."""

from .devices import Device, devices
from .traffic import Traffic, traffic
from .workload import Workload

__all__ = ["Device", "Traffic", "Workload", "devices", "traffic"]
