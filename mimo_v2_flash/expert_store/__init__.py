"""A store of experts within a budget of bytes, and what recorded routing says of its policies."""

from .backend import ExpertStoreBackend
from .file_reader import ExpertReadError
from .store import ExpertStore, StoredExperts, StoreStats, find_store, store_stats

__all__ = [
    "ExpertReadError",
    "ExpertStore",
    "ExpertStoreBackend",
    "StoreStats",
    "StoredExperts",
    "find_store",
    "store_stats",
]
