"""What a collective takes on Trainium2: a latency, and its bytes over the link.

Source: jinhuang12/vllm-neuron (`docs/kernel_ledger.md`), measured on 64 ranks: 17.5 us, the
fastest of its collectives, and 100 GB/s.
"""

__all__ = ["EXCHANGE_BYTES_PER_SECOND", "EXCHANGE_SECONDS", "collective_seconds"]

EXCHANGE_SECONDS, EXCHANGE_BYTES_PER_SECOND = 17.5e-6, 100e9


def collective_seconds(*sent: float) -> float:
    """Return the seconds of collectives, one after the other, that send so many bytes each."""
    return sum(EXCHANGE_SECONDS + each / EXCHANGE_BYTES_PER_SECOND for each in sent)
