"The SQLite run store."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    journal='digest is_locked RunStore TrialRow',
)
