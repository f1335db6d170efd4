"The SQLite run store, and what is read from it: samples, and the table of them."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    locks='is_locked',
    records='digest TrialRow',
    queries='StoreReader',
    writer='StoreWriter',
    journal='RunStore',
    many='StoreSet',
    sources='opened samples_of',
    samples='by_prompt guide only_reward ranked',
    tables='as_frame to_frame',
    merging='merge_stores',
    upkeep='check_store compact upgrade_store',
    far='FarPart FarStore NearLink StoreHost Superseded',
)
