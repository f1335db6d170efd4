"""Stores of version 1 are read, resumed, extended, merged and upgraded; what is read from them is the same in both versions."""
import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from toa_nb.analysis.curves import reward_curve
from toa_nb.analysis.pool import ReplayPool
from toa_nb.analysis.query import sql
from toa_nb.core import Prompt, StoreError, StoreLocked, Trial
from toa_nb.data.writing import FORMATS, NoRows, export
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward
from toa_nb.run.progress import progress_of
from toa_nb.run.run import Run
from toa_nb.search.tree import TOA
from toa_nb.store.files import connect
from toa_nb.store.journal import RunStore
from toa_nb.store.many import StoreSet
from toa_nb.store.merging import merge_stores
from toa_nb.store.samples import by_prompt
from toa_nb.store.tables import to_frame
from toa_nb.store.upkeep import check_store, compact, upgrade_store

STORED = Path(__file__).parent/'golden'/'store_v1.sql'  # written by toa_nb 0.1 before there was version 2


def digits(prompt, response): return sum(map(int, filter(str.isdigit, response)))/100
def letters(prompt, response): return len(response)/100


def old_store(path):
    "A store of version 1: a finished run of TOA, and one with odd texts, a failure, thoughts and a continuation."
    with closing(sqlite3.connect(path)) as db: db.executescript(STORED.read_text(encoding='utf-8'))
    return path


def as_version_1(path):
    "Make a closed store of this version one of version 1, with its pages of 4 KiB."
    with closing(connect(path, 'rw')) as db:
        db.executescript('''ALTER TABLE sample RENAME COLUMN length TO text;
            UPDATE sample SET text = (SELECT a.text FROM answer a WHERE a.trial = sample.trial);
            DROP TABLE answer; PRAGMA user_version = 1; PRAGMA journal_mode = DELETE; PRAGMA page_size = 4096; VACUUM''')
    return path


def version(path):
    with closing(connect(path, 'ro')) as db: return db.execute('PRAGMA user_version').fetchone()[0]


def samples(path, *runs):
    with RunStore(path, 'r') as store: return [s for run in runs or store.run_names() for s in store.samples(run)]


def outcome(path, run='toa'): return [(s.prompt_id, s.trial, s.completion.text, s.scores) for s in samples(path, run)]


def same(left, right):
    for one, other in zip(left, right, strict=True):
        if isinstance(one, pd.DataFrame): pd.testing.assert_frame_equal(one, other)
        else: assert one == other


def view(path):
    "What is read from a store."
    df = to_frame(path, run='toa', texts=True)
    odd = to_frame(path, run='odd')
    with RunStore(path, 'r') as store:
        found = [store.runs(), progress_of(store, 'toa'), store.journal('toa', 'p1'), store.journal('odd', 'q'),
                 store.pending('odd', 'q'), [store.counts(run) for run in store.run_names()], store.rewards('toa'),
                 [store.count('odd', failed) for failed in (None, True, False)]]
        for wanted in (dict(text='né'), dict(text='OO'), dict(sort='best'), dict(sort='longest', low=.1, reward='letters')):
            for run in store.run_names():
                keys, total = store.find_keys(run, **wanted)
                found += [total, store.found_rows(keys, 'digits')]
    return [df, odd, reward_curve(df, x='tokens'), *found, samples(path), list(by_prompt(path)), repr(list(ReplayPool(path, 'toa'))),
            sql(path, 'SELECT model, count(*), sum(length), max(reward) FROM samples GROUP BY ALL ORDER BY ALL', 'toa')]


def exported(path, folder):
    "Every export of the run `toa`, by format."
    found = {}
    for name, format in FORMATS.items():
        place = folder/f'{name}{".jsonl" if ".jsonl" in format.endings else ".json"}'
        try: export(path, place, name, run='toa')
        except NoRows as e: found[name] = str(e)
        else: found[name] = re.sub('"tstamp": [0-9.]+', '', place.read_text(encoding='utf-8'))
    return found


def test_all_versions_read_the_same(tmp_path):
    "Version 3 is version 2 with compressed texts; it is made of version 1 in one step."
    old, new, small = (old_store(tmp_path/f'{name}.db') for name in ('old', 'new', 'small'))
    upgrade_store(new)
    compact(small, compress=True)
    assert [(version(path), check_store(path)) for path in (old, new, small)] == [(1, []), (2, []), (3, [])]
    before = view(old)
    same(before, view(new))
    same(before, view(small))
    assert [s.completion and s.completion.text for s in samples(old, 'odd')] == [
        'né 😀', '\ud83d half', 'zero\0inside', '', None, 'cut', 'né 😀 and on']
    assert to_frame(old, run='odd')['length'].tolist() == to_frame(new, run='odd')['length'].tolist() == [4, 6, 11, 0, 0, 3, 11]
    assert version(old) == 1


def test_all_versions_export_the_same(tmp_path):
    old, found = old_store(tmp_path/'old.db'), []
    for name, change in (('1', None), ('2', upgrade_store), ('3', lambda path: compact(path, compress=True))):
        if change: change(old)
        (tmp_path/name).mkdir()
        found.append(exported(old, tmp_path/name))
    assert found[0] == found[1] == found[2] and list(found[0]) == list(FORMATS)


def go_on(path, more=0):
    run = Run.from_store(path, 'toa', models=[FakeModel(name) for name in 'ab'], rewards=[FunctionReward(digits), FunctionReward(letters)],
                         check=False)
    async def finished(): return await (run.extend(more) if more else run)
    return asyncio.run(finished())


def test_a_run_goes_on_in_both_versions_as_in_one(tmp_path):
    old, new = old_store(tmp_path/'old.db'), old_store(tmp_path/'new.db')
    upgrade_store(new)
    for path in (old, new):
        run = go_on(path, 4)
        assert (run.progress.samples, run.progress.session.calls, run.progress.state) == (30, 12, 'finished')
    assert outcome(old) == outcome(new)
    assert (version(old), version(new), check_store(old), check_store(new)) == (1, 2, [], [])


def begun(path):
    "A run that was stopped on its way."
    run = Run([Prompt(f'p{i}', f'Say {i}.') for i in range(3)], TOA(n=6, parallel=1), [FakeModel(name) for name in 'ab'],
              FunctionReward(digits), held_out=[FunctionReward(letters)], store=path, check=False, name='toa')
    async def stopped():
        run.start()
        while run.progress.samples < 7: await asyncio.sleep(0)
        run.cancel()
        await run.task
    asyncio.run(stopped())
    return path


def test_a_stopped_run_is_resumed_in_both_versions(tmp_path):
    new = begun(tmp_path/'new.db')
    old = as_version_1(shutil.copy(new, tmp_path/'old.db'))
    assert samples(old) == samples(new) and len(samples(old)) < 18
    for path in (old, new): assert go_on(path).progress.samples == 18
    assert outcome(old) == outcome(new) and version(old) == 1


def test_parts_of_both_versions_are_read_and_merged_as_one(tmp_path):
    run = dict(check=False, name='toa')
    async def shard(i): await Run([Prompt(f'p{i}', f'Say {i}.') for i in range(4)], TOA(n=4, parallel=1), [FakeModel('a')],
                                  FunctionReward(digits), store=tmp_path/'runs.db', shard=(i, 2), **run)
    for i in range(2): asyncio.run(shard(i))
    parts = [tmp_path/f'runs.{i}-of-2.db' for i in range(2)]
    merge_stores(tmp_path/'new.db', parts)
    as_version_1(parts[0])
    merge_stores(tmp_path/'mixed.db', parts)
    with StoreSet(parts) as many: assert list(many.samples('toa')) == samples(tmp_path/'new.db')
    assert samples(tmp_path/'mixed.db') == samples(tmp_path/'new.db') and version(tmp_path/'mixed.db') == 2
    pd.testing.assert_frame_equal(to_frame(tmp_path/'mixed.db'), to_frame(tmp_path/'new.db'))


def test_a_store_of_version_1_is_copied_and_compacted_as_such(tmp_path):
    old = old_store(tmp_path/'old.db')
    before = samples(old)
    with RunStore(old) as store:
        store.backup(tmp_path/'copy.db')
        store.create_run('empty', {}, [Prompt('q', 'Why?')])
        store.add_trial('empty', 'q', Trial(0, 'a', ()))
        asyncio.run(store.finish('empty', 'q', 0, None, 'ServerFailed: HTTP 500'))
        store.remove_run('empty')
    compact(old)
    for path in (old, tmp_path/'copy.db'):
        assert (version(path), samples(path), check_store(path)) == (1, before, [])


CHILD = '''
import asyncio, os, signal, sys
from toa_nb.core import Completion, Trial
from toa_nb.store.upkeep import RunStore, upgrade_store
path = sys.argv[1]
def kill(*args): os.kill(os.getpid(), signal.SIGKILL)
'''


def killed(code, path):
    done = subprocess.run([sys.executable, '-c', CHILD + textwrap.dedent(code), str(path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_an_upgrade_takes_what_a_killed_writer_left_in_the_log(tmp_path):
    old = old_store(tmp_path/'old.db')
    killed('''
        store = RunStore(path)
        store.add_trial('toa', 'p0', Trial(40, 'a', ()))
        async def main():
            await store.finish('toa', 'p0', 40, Completion('the last one', None))
            await store.flush()
            kill()
        asyncio.run(main())''', old)
    assert (tmp_path/'old.db-wal').stat().st_size
    upgrade_store(old)
    assert version(old) == 2 and samples(old, 'toa')[6].completion.text == 'the last one'
    assert [p.name for p in tmp_path.iterdir()] == ['old.db']


def test_an_upgrade_that_fails_changes_nothing(tmp_path, monkeypatch):
    old = old_store(tmp_path/'old.db')
    with RunStore(old), pytest.raises(StoreLocked, match='is writing this store'): upgrade_store(old)
    def full(*args): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m, pytest.raises(OSError, match='No space'):
        m.setattr(os, 'fsync', full)
        upgrade_store(old)
    before = samples(old)
    with closing(sqlite3.connect(old)) as db: db.execute('CREATE TABLE guest (name)')
    with pytest.raises(StoreError, match='old.db: its table guest is not one of toa_nb'): upgrade_store(old)
    assert version(old) == 1 and [p.name for p in tmp_path.iterdir()] == ['old.db'] and samples(old) == before


def test_a_row_that_changes_on_the_way_is_noticed(tmp_path, monkeypatch):
    old = old_store(tmp_path/'old.db')
    from toa_nb.store import upkeep
    def other(db, path): return {**attach(db, path), 'answer': "(SELECT trial, text || random() AS text FROM part.sample WHERE text > '')"}
    attach = upkeep.attach
    monkeypatch.setattr(upkeep, 'attach', other)
    with pytest.raises(StoreError, match='old.db: of answer, [0-9]+ rows not copied'): upgrade_store(old)
    assert version(old) == 1


@pytest.mark.parametrize('run', ['toa', 'odd', None])
def test_a_part_of_a_table_is_equal_to_that_part_of_the_whole(tmp_path, run):
    paths = [old_store(tmp_path/'old.db'), old_store(tmp_path/'new.db')]
    upgrade_store(paths[1])
    whole = to_frame(paths[1], run, reward='digits', texts=True)
    pd.testing.assert_frame_equal(to_frame(paths[0], run, reward='digits', texts=True), whole)
    for path in paths:
        for name in whole:
            pd.testing.assert_frame_equal(to_frame(path, run, reward='digits', columns=[name]), whole[[name]])


def test_a_part_of_a_table_is_read_while_the_run_goes_on_and_from_several_stores(tmp_path):
    models, reward = [FakeModel('a'), FakeModel('b')], FunctionReward(digits, name='digits')
    for name in ('one', 'two'): Run([Prompt('p', 'Why?'), Prompt('q', 'How?')], TOA(n=6), models, reward, store=tmp_path/f'{name}.db', name=name).wait()
    whole = to_frame(tmp_path/'*.db')
    assert whole['run'].unique().tolist() == ['one', 'two']
    for name in whole: pd.testing.assert_frame_equal(to_frame(tmp_path/'*.db', columns=[name]), whole[[name]])
    with RunStore(tmp_path/'one.db') as store:
        store.add_trial('one', 'p', Trial(6, 'a', ()))
        pd.testing.assert_frame_equal(to_frame(store, columns=['number', 'flops']), to_frame(store)[['number', 'flops']])
