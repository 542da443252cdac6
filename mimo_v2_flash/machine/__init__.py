"""What a machine has: packages, processor, memory, disk, devices, hub; for `mimo doctor`."""

__all__: list[str] = []
