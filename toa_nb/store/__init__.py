"The SQLite run store."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    locks='is_locked',
    records='digest TrialRow',
    queries='StoreReader',
    writer='StoreWriter',
    journal='RunStore',
)
