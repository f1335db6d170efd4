"""A store whose texts are compressed reads as any other; and what a killed `upgrade`, `compact`, `merge` or `backup` leaves is removed by the next."""
import asyncio
import os
import signal
import subprocess
import sys
import warnings
from contextlib import closing

import pytest
from test_old_stores import old_store, samples, version

from toa_nb.cli.commands import main
from toa_nb.cli.config import run_from
from toa_nb.core import Completion, InputError, Prompt, Score, StoreError, Trial, Usage
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward
from toa_nb.run.cluster import NearCluster
from toa_nb.run.engine import Engine
from toa_nb.run.run import Run
from toa_nb.search.tree import TOA
from toa_nb.store.files import connect
from toa_nb.store.journal import RunStore
from toa_nb.store.locks import lock_store
from toa_nb.store.many import StoreSet
from toa_nb.store.merging import merge_stores
from toa_nb.store.upkeep import check_store, compact, upgrade_store

PROMPTS = [Prompt(f'p{i}', f'Say {i}.') for i in range(4)]


def long_text(messages, seed): return f'{seed}: ' + 'the light of day is scattered by the air '*9


def length(prompt, response): return len(set(response)) + int(response.split(':')[0]) % 97/100


class Fakes(Engine):
    def make(self): return [FakeModel('a', long_text)], [FunctionReward(length)]


def make(store, **more):
    run = Run(PROMPTS, TOA(n=4, parallel=1), [FakeModel('a', long_text)], FunctionReward(length), store=store, name='toa', check=False, **more)
    async def finished(): return await run
    return asyncio.run(finished())


def packed_rows(path):
    "Rows of answers that are bytes in the file, and all."
    with closing(connect(path, 'ro')) as db: return db.execute("SELECT sum(typeof(text) = 'blob'), count(*) FROM main.answer").fetchone()


@pytest.mark.parametrize('ray', [False, True])
def test_a_run_writes_compressed_texts_and_goes_on_with_them(tmp_path, ray):
    "In this process and through the host of a cluster; from a run without, and in a store that is compressed already."
    more = dict(ray=NearCluster(2, engine=Fakes)) if ray else {}
    make(tmp_path/'plain.db', **more)
    run = make(tmp_path/'small.db', compress=True, **more)
    assert run.ok and samples(tmp_path/'small.db') == samples(tmp_path/'plain.db')
    assert packed_rows(tmp_path/'small.db') == (16, 16) and packed_rows(tmp_path/'plain.db') == (0, 16)
    for path, compress in ((tmp_path/'small.db', False), (tmp_path/'plain.db', True)):
        run = Run(PROMPTS, TOA(n=4, parallel=1), [FakeModel('a', long_text)], FunctionReward(length), store=path, name='toa', check=False,
                  compress=compress, **more)
        async def extended(run=run): return await run.extend(2)
        asyncio.run(extended())
    assert samples(tmp_path/'small.db') == samples(tmp_path/'plain.db')
    assert packed_rows(tmp_path/'small.db') == (24, 24) and packed_rows(tmp_path/'plain.db') == (8, 24)
    assert check_store(tmp_path/'plain.db') == []


def test_copies_and_merged_stores_stay_compressed(tmp_path):
    for i in range(2): make(tmp_path/'runs.db', shard=(i, 2), compress=i == 1)
    parts = [tmp_path/f'runs.{i}-of-2.db' for i in range(2)]
    make(tmp_path/'single.db')
    single = samples(tmp_path/'single.db')
    with StoreSet(parts) as many:
        assert list(many.samples('toa')) == single
        assert len(many.find_keys('toa', text='light of DAY')[0]) == 16
    merge_stores(tmp_path/'all.db', parts)
    with RunStore(parts[1], 'r') as store: store.backup(tmp_path/'copy.db')
    assert samples(tmp_path/'all.db') == single and packed_rows(tmp_path/'all.db') == (16, 16)
    assert samples(tmp_path/'copy.db') == samples(parts[1]) and packed_rows(tmp_path/'copy.db') == (8, 8)
    assert [check_store(tmp_path/name) for name in ('all.db', 'copy.db')] == [[], []]


def test_where_it_can_be_asked_for(tmp_path, capsys):
    (tmp_path/'prompts.jsonl').write_text('{"id": "a", "instruction": "Why?"}\n')
    file = dict(prompts=str(tmp_path/'prompts.jsonl'), reward=dict(kind='regex', pattern='a'), store=str(tmp_path/'runs.db'),
                models=[dict(name='a', endpoints=['http://127.0.0.1:9/v1'])])
    assert [run_from(file | more).compress for more in ({}, dict(compress=True), dict(compress=False))] == [False, True, False]
    with pytest.raises(InputError, match='compress'): run_from(file | dict(compress='zlib'))
    old = old_store(tmp_path/'old.db')
    with pytest.raises(StoreError, match='texts of a store of version 1 can not be compressed. Make one .*: toa store upgrade'):
        RunStore(old, compress=True)
    assert main(['store', 'compact', str(old), '--compress']) == 0 and version(old) == 3
    assert main(['store', 'compact', str(old), '--no-compress']) == 0 and version(old) == 2
    assert main(['store', 'upgrade', str(old)]) == 0
    assert 'is of this version' in capsys.readouterr().out


# What a killed process leaves

CHILD = '''
import os, signal, sqlite3, sys
from pathlib import Path
from toa_nb.store.journal import RunStore
from toa_nb.store.merging import merge_stores
from toa_nb.store.upkeep import compact, upgrade_store
path, out = map(Path, sys.argv[1:3])
def kill(*args): os.kill(os.getpid(), signal.SIGKILL)
def begun(): return any(p.stat().st_size for p in path.parent.glob(f'.*.db.{os.getpid()}'))
connect = sqlite3.connect
def dying(*args, **more):
    db = connect(*args, **more)
    db.set_progress_handler(lambda: kill() if begun() else 0, 20)
    return db
for at in sys.argv[3:]:
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        continue
    if at == 'writing': sqlite3.connect = dying
    else: setattr(os, at, kill)
    try: ACT
    finally: os._exit(1)
'''
COMMANDS = dict(upgrade='upgrade_store(path)', compact='compact(path)', merge='merge_stores(out, [path])', backup='RunStore(path, "r").backup(out)')


def killed(what, path, out, *moments):
    "Processes that run a command and are killed at a moment each."
    command = [sys.executable, '-c', CHILD.replace('ACT', COMMANDS[what]), str(path), str(out), *moments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)]*len(moments), done.stderr


def hidden(folder): return sorted(p.name for p in folder.iterdir() if p.name.startswith('.'))


@pytest.mark.parametrize('what', COMMANDS)
def test_what_a_killed_command_leaves_is_removed_by_the_next(tmp_path, what):
    "Killed while it writes, before the disk has everything, and before the file gets its name: each removes what the one before has left."
    path, out = old_store(tmp_path/'runs.db'), tmp_path/'new.db'
    seen, before = samples(path), path.read_bytes()
    target = out if what in ('merge', 'backup') else path
    killed(what, path, out, 'writing', 'fsync', 'replace')
    assert path.read_bytes() == before and not out.exists() and hidden(tmp_path) and samples(path) == seen
    act = dict(upgrade=lambda: upgrade_store(path), compact=lambda: compact(path), merge=lambda: merge_stores(out, [path]),
               backup=lambda: RunStore(path, 'r').backup(out))[what]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        act()
    told = [str(w.message) for w in found if 'which a process that was killed had begun to write' in str(w.message)]
    assert told and all(line.startswith(f'{target}: removed .{target.name}.') for line in told)
    assert hidden(tmp_path) == [] and samples(target) == seen and check_store(target) == []


def test_check_removes_it_too_but_not_what_is_being_written(tmp_path, capsys):
    path = old_store(tmp_path/'runs.db')
    killed('compact', path, tmp_path/'new.db', 'replace')
    lock = lock_store(path)  # as a process does that is still writing
    assert check_store(path) == [] and len(hidden(tmp_path)) == 1
    lock.release()
    assert main(['store', 'check', str(path)]) == 0
    seen = capsys.readouterr()
    assert seen.out == f'{path}: ok\n' and 'removed .runs.db.' in seen.err and hidden(tmp_path) == []


async def one(store, text):
    store.add_trial('r', 'a', Trial(0, 'm', ()))
    await store.finish('r', 'a', 0, Completion(text, Usage(1, 2)), scores=[Score('s', 1.)])


@pytest.mark.parametrize('text', [5, None, b'bytes', ['list'], 1.5, {'a': 1}])
@pytest.mark.parametrize('compress', [False, True])
def test_a_text_that_is_not_one_is_refused_by_the_writer(tmp_path, text, compress):
    "It raises where it is handed over; the store takes the next answer."
    with RunStore(tmp_path/'runs.db', compress=compress) as store:
        store.create_run('r', {}, [Prompt('a', 'Why?')])
        with pytest.raises(InputError, match="trial 0 of 'a' in run 'r': the text is a value of type"): asyncio.run(one(store, text))
        asyncio.run(store.finish('r', 'a', 0, Completion('Because.', Usage(1, 2))))
        assert [s.completion.text for s in store.samples('r')] == ['Because.']
    assert check_store(tmp_path/'runs.db') == [] and os.listdir(tmp_path) == ['runs.db']
