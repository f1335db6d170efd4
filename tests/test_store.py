"The run store under bad input, crashes, full disks, copies, rivals and arbitrary sequences of operations."
import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from pathlib import Path

import pytest
from clocks import HANG
from hypothesis import given, settings
from hypothesis import strategies as st

from toa_nb.core import Completion, InputError, Message, Prompt, Sample, Score, StoreError, StoreLocked, Trial, Usage
from toa_nb.store.journal import RunStore
from toa_nb.store.locks import is_locked
from toa_nb.store.records import TrialRow, digest

ASK = (Message('user', 'Why?'),)
CHILD = '''
import asyncio, os, sys
from toa_nb.core import *
from toa_nb.store import *
path, ask = sys.argv[1], (Message('user', 'Why?'),)
async def one(store, n, prompt='a', size=10):
    store.add_trial('run', prompt, Trial(n, 'model', ask, seed=n))
    await store.finish('run', prompt, n, Completion('x' * size, Usage(1, 2)), scores=[Score('length', float(n))])
'''


def trial(n, **more): return Trial(n, 'model', ASK, seed=n, **more)


def child(code, *args, **more):
    command = [sys.executable, '-c', CHILD + textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def new_store(path, ids=('a', 'b')):
    store = RunStore(path)
    store.create_run('run', {'n': 1}, [Prompt(i, 'Why?') for i in ids])
    return store


def no_gaps(path):
    "Every `seq` that was handed out up to the clock is in some table: the store is a prefix of what happened."
    with sqlite3.connect(path) as db:
        seqs = ([s for s, in db.execute('SELECT seq FROM trial UNION ALL SELECT seq FROM tell UNION ALL SELECT seq '
                                        'FROM event UNION ALL SELECT seq FROM score')])
        clock, = db.execute('SELECT seq FROM clock').fetchone()
    db.close()
    assert sorted(seqs) == list(range(1, clock + 1))
    return clock


async def fill(store, numbers, prompt='a', text='x' * 10):
    for n in numbers:
        store.add_trial('run', prompt, trial(n))
        await store.finish('run', prompt, n, Completion(text, Usage(1, 2)), scores=[Score('length', float(n))])
    await store.flush()


# Bad places and bad files

def folder(tmp): (tmp/'runs.db').mkdir()
def missing_parent(tmp): return tmp/'no'/'runs.db'
def text_file(tmp): (tmp/'runs.db').write_text('{"id": 1}\n' * 1000)
def short_text_file(tmp): (tmp/'runs.db').write_text('no')


def other_database(tmp):
    with sqlite3.connect(tmp/'runs.db') as db: db.execute('CREATE TABLE guest (name)')
    db.close()


def finished_store(tmp):
    store = new_store(tmp/'runs.db')
    asyncio.run(fill(store, range(200), text='x' * 1000))
    store.close()


def newer_version(tmp):
    finished_store(tmp)
    with sqlite3.connect(tmp/'runs.db') as db: db.execute('PRAGMA user_version = 4')
    db.execute('PRAGMA journal_mode = DELETE')
    db.close()


def cut_short(tmp):
    finished_store(tmp)
    os.truncate(tmp/'runs.db', 4096 * 10)


def holes(tmp):
    finished_store(tmp)
    with open(tmp/'runs.db', 'r+b') as f:
        for page in range(20, 30): f.seek(page * 4096); f.write(b'\xa5' * 4096)


def not_there(tmp): pass
def empty_file(tmp): (tmp/'runs.db').touch()


BAD = [(folder, 'rw', 'folder'), (folder, 'r', 'folder'), (missing_parent, 'rw', 'no folder'),
       (missing_parent, 'r', 'no folder'),
       (text_file, 'rw', 'not a run store'), (text_file, 'r', 'not a run store'),
       (short_text_file, 'rw', 'not a run store'),
       (other_database, 'rw', 'not a run store'), (other_database, 'r', 'not a run store'),
       (newer_version, 'rw', 'newer toa_nb'),
       (newer_version, 'r', 'newer toa_nb'), (cut_short, 'rw', 'damaged'), (cut_short, 'r', 'damaged'),
       (holes, 'rw', 'damaged'),
       (holes, 'r', 'damaged'), (not_there, 'r', 'no store here'), (empty_file, 'r', 'the file is empty')]


@pytest.mark.parametrize('make,mode,says', BAD, ids=[f'{m.__name__}-{mode}' for m, mode, _ in BAD])
def test_what_can_not_be_opened(tmp_path, make, mode, says):
    path = make(tmp_path) or tmp_path/'runs.db'
    before = {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob('*')}
    with pytest.raises(StoreError) as e: RunStore(path, mode)
    text = str(e.value)
    assert says in text and str(path) in text and '\n' not in text and text.endswith('.')
    assert {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob('*')} == before


def test_unknown_mode(tmp_path):
    with pytest.raises(InputError, match="no mode 'w'"): RunStore(tmp_path/'runs.db', 'w')


async def flushed(store): await store.flush()


def test_read_only_place():
    "In a folder that other users can enter, unlike those of pytest."
    with tempfile.TemporaryDirectory() as folder: check_read_only(Path(folder))


def check_read_only(tmp_path):
    finished_store(tmp_path)
    os.chmod(tmp_path, 0o555); os.chmod(tmp_path/'runs.db', 0o444)
    c = child('''
        if os.getuid() == 0: os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        try: RunStore(path)
        except StoreError as e: print(e)
        print(RunStore(path, 'r').count('run'))''', tmp_path/'runs.db')
    out, err = c.communicate(timeout=HANG)
    os.chmod(tmp_path, 0o755)
    assert not err and out.splitlines() == [
        f'{tmp_path}/runs.db: the store can not be written here. Open it with mode="r", or copy it to a place where '
        f'you can write.', '200']


def test_an_empty_file_becomes_a_store(tmp_path):
    (tmp_path/'runs.db').touch()
    new_store(tmp_path/'runs.db').close()
    with RunStore(tmp_path/'runs.db', 'r') as store: assert store.runs()[0]['name'] == 'run'


def test_odd_file_names(tmp_path):
    path = tmp_path/'a?mode=ro#50%25 né.db'
    new_store(path).close()
    assert path.exists() and RunStore(path, 'r').config('run') == {'n': 1}


def test_check_finds_damage(tmp_path, monkeypatch):
    holes(tmp_path)
    monkeypatch.setattr('toa_nb.store.files.CHECKED', 0)
    with RunStore(tmp_path/'runs.db', 'r') as store:
        assert store.check()
        with pytest.raises(StoreError, match='damaged'): list(store.samples('run'))


# One writer

def test_a_second_process_is_refused_until_the_first_dies(tmp_path):
    path = tmp_path/'runs.db'
    code = ("store = RunStore(path); store.create_run('run', {}, [Prompt('a', 'Why?')]); print('ready', flush=True); "
            "sys.stdin.read()")
    c = child(code, path, stdin=subprocess.PIPE)
    try:
        assert c.stdout.readline() == 'ready\n'
        message = rf'runs.db: process {c.pid} on .* since 20..-..-.. ..:..:.. UTC is writing this store. Close it there'
        with pytest.raises(StoreLocked, match=message): RunStore(path)
        with RunStore(path, 'r') as reader: assert reader.runs()[0]['name'] == 'run'
    finally: c.kill(); c.communicate()
    assert (tmp_path/'runs.db-lock').exists()
    with RunStore(path) as store:
        with pytest.raises(StoreLocked, match=f'process {os.getpid()} on'): RunStore(path)
        assert store.runs()[0]['name'] == 'run'
    assert [p.name for p in tmp_path.iterdir()] == ['runs.db']


def test_the_name_of_a_dead_process_is_not_repeated(tmp_path):
    c = child("store = RunStore(path); print('ready', flush=True); sys.stdin.read()", tmp_path/'runs.db',
              stdin=subprocess.PIPE)
    c.stdout.readline(); c.kill(); c.communicate()
    import fcntl
    with open(tmp_path/'runs.db-lock') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(StoreLocked, match='another process that has just begun is writing') as e:
            RunStore(tmp_path/'runs.db')
        assert str(c.pid) not in str(e.value)


def test_readers_see_what_is_committed_and_write_nothing(tmp_path):
    with new_store(tmp_path/'runs.db') as store, RunStore(tmp_path/'runs.db', 'r') as reader:
        asyncio.run(fill(store, range(3)))
        assert [s.trial.number for s in reader.samples('run', 'a')] == [0, 1, 2]
        with pytest.raises(StoreError, match='open for reading only'): reader.add_trial('run', 'a', trial(9))
        with pytest.raises(StoreError, match='open for reading only'): reader.set_status('run', 'done')


# Nothing awaited is lost

@pytest.mark.parametrize('after', [1, 7, 40, 150, 400])
def test_kill_9(tmp_path, after):
    path = tmp_path/'runs.db'
    c = child('''
        async def prompt(store, p):
            for n in range(10**6):
                await one(store, n, p, 500)
                print(p, n, flush=True)
        async def main():
            store = RunStore(path)
            store.create_run('run', {}, [Prompt(p, 'Why?') for p in 'abcdefgh'])
            await asyncio.gather(*[prompt(store, p) for p in 'abcdefgh'])
        asyncio.run(main())''', path)
    lines = [c.stdout.readline() for _ in range(after)]
    c.send_signal(signal.SIGKILL)
    lines += c.stdout.read().splitlines(keepends=True)
    c.communicate()
    awaited = {(p, int(n)) for p, n in (line.split() for line in lines if line.endswith('\n'))}  # the last may be torn
    with RunStore(path) as store:
        stored = {(s.prompt_id, s.trial.number): s for s in store.samples('run')}
        assert awaited <= set(stored)
        assert all(s.completion.text == 'x' * 500 and s.value('length') == n for (_, n), s in stored.items())
        assert store.check() == []
        asyncio.run(fill(store, [max([n for p, n in stored if p == 'a'], default=-1) + 1000]))
    no_gaps(path)


def test_a_store_that_is_forgotten_is_committed_when_python_ends(tmp_path):
    c = child('''
        store = RunStore(path)
        store.create_run('run', {}, [Prompt('a', 'Why?')])
        store.add_trial('run', 'a', Trial(0, 'model', ask))''', tmp_path/'runs.db')
    assert c.communicate(timeout=HANG) == ('', '') and c.returncode == 0
    with RunStore(tmp_path/'runs.db', 'r') as store: assert store.counts('run') == {'a': (1, 0)}
    assert [p.name for p in tmp_path.iterdir()] == ['runs.db']


def test_a_cancelled_wait_loses_nothing(tmp_path):
    async def main(store):
        store.add_trial('run', 'a', trial(0))
        task = asyncio.ensure_future(store.add_completion('run', 'a', 0, Completion('paid', Usage(1, 1))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError): await task
        await store.flush()
        assert [s.completion.text for s in store.unscored('run', 'a')] == ['paid']
    with new_store(tmp_path/'runs.db') as store: asyncio.run(main(store))


def test_a_loop_that_ended_does_not_stop_the_writer(tmp_path):
    store = new_store(tmp_path/'runs.db')
    for n in range(20):
        loop = asyncio.new_event_loop()
        store.add_trial('run', 'a', trial(n))
        loop.create_task(store.finish('run', 'a', n, error='CallTimeout: 1 s')).cancel()
        loop.call_soon(loop.stop); loop.run_forever(); loop.close()
    asyncio.run(fill(store, [100]))
    store.close()
    with RunStore(tmp_path/'runs.db', 'r') as again: assert again.counts('run')['a'] == (21, 1)


# The disk is full

def test_disk_full(tmp_path):
    async def main(store):
        kept, n = [], 0
        store._commits.db.execute('PRAGMA max_page_count = 60')
        with pytest.raises(StoreError, match='the disk is full. Everything committed is safe') as first:
            for n in range(1000): await fill(store, [n], text='x' * 2000); kept.append(n)
        with pytest.raises(StoreError) as again: store.add_trial('run', 'b', trial(0))
        assert str(again.value) == str(first.value)
        with pytest.raises(StoreError) as again: await store.flush()
        assert str(again.value) == str(first.value)
        with pytest.raises(StoreError): store.set_status('run', 'done')
        return kept
    store = new_store(tmp_path/'runs.db')
    kept = asyncio.run(main(store))
    store.close()
    with RunStore(tmp_path/'runs.db') as again:
        assert kept and set(kept) <= {s.trial.number for s in again.samples('run')}
        assert again.check() == []
        asyncio.run(fill(again, [5000]))


def test_all_who_wait_hear_of_a_full_disk(tmp_path):
    async def main(store):
        store._commits.db.execute('PRAGMA max_page_count = 30')
        jobs = [fill(store, [n], text='x' * 2000) for n in range(200)]
        return await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 60)
    store = new_store(tmp_path/'runs.db')
    results = asyncio.run(main(store))
    store.close()
    failed = {n for n, r in enumerate(results) if r is not None}
    assert failed and all(isinstance(results[n], StoreError) for n in failed)
    with RunStore(tmp_path/'runs.db', 'r') as again:
        assert set(range(200)) - failed <= {s.trial.number for s in again.samples('run')}


def test_file_size_limit(tmp_path):
    c = child('''
        import resource
        async def main():
            store = RunStore(path)
            store.create_run('run', {}, [Prompt('a', 'Why?')])
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))
            try:
                for n in range(1000): await one(store, n, 'a', 1000); print(n)
            except StoreError as e: print(e)
            try: await store.flush()
            except StoreError as e: print(e)
            store.close()
        asyncio.run(main())''', tmp_path/'runs.db')
    out, err = c.communicate(timeout=HANG)
    *numbers, first, again = out.splitlines()
    assert not err and first == again and 'Everything committed is safe' in first
    with RunStore(tmp_path/'runs.db') as store:
        assert len(numbers) > 5 and {int(n) for n in numbers} <= {s.trial.number for s in store.samples('run')}
        assert store.check() == []


# Copies

@pytest.mark.parametrize('with_wal', [True, False])
def test_copies_of_a_store_that_is_being_written(tmp_path, with_wal):
    path, counts = tmp_path/'runs.db', []

    async def main(store):
        for round in range(6):
            await fill(store, range(round * 50, round * 50 + 50), text='x' * 300)
            copy = tmp_path/f'copy{round}.db'
            await asyncio.gather(fill(store, range(1000 * round + 1000, 1000 * round + 1100), 'b'),
                                 asyncio.to_thread(copy_files, copy))
            with RunStore(copy) as c:
                assert c.check() == []
                counts.append(c.count('run') if c.runs() else 0)
                if with_wal: assert {s.trial.number for s in c.samples('run', 'a')} == set(range(round * 50 + 50))
            no_gaps(copy)

    def copy_files(copy):
        shutil.copyfile(path, copy)
        if with_wal: shutil.copyfile(f'{path}-wal', f'{copy}-wal')

    with new_store(path) as store: asyncio.run(main(store))
    assert counts == sorted(counts)


def test_a_torn_copy_is_noticed(tmp_path):
    finished_store(tmp_path)
    before = (tmp_path/'runs.db').read_bytes()
    with RunStore(tmp_path/'runs.db') as store: asyncio.run(fill(store, range(300, 600), text='y' * 1000))
    (tmp_path/'torn.db').write_bytes((tmp_path/'runs.db').read_bytes()[:40960] + before[40960:])
    with pytest.raises(StoreError, match='damaged'): RunStore(tmp_path/'torn.db')


DAMAGE = {
    'no JSON as configuration': ("UPDATE run SET config = 'x'", lambda s: s.config('run'),
                                 'row 1 of its table run can not be read (JSONDecodeError'),
    'nothing as configuration': ("UPDATE run SET config = 'null'", lambda s: s.config('run'),
                                 'row 1 of its table run can not be read (TypeError'),
    'an empty configuration': ("UPDATE run SET config = '{}'", lambda s: s.config('run')['n'],
                               "a run has no setting 'n'"),
    'no JSON as prompt': ("UPDATE prompt SET json = '{' WHERE id = 2", lambda s: s.prompts('run'),
                          'row 2 of its table prompt can not be read (JSONDecodeError'),
    'a prompt without a text': ("UPDATE prompt SET json = '{\"id\": \"b\"}' WHERE id = 2",
                                lambda s: s.changed('run', [Prompt('b', 'Why?')]),
                                'row 2 of its table prompt can not be read (InputError'),
    'a list as prompt': ("UPDATE prompt SET json = '[1]' WHERE id = 1", lambda s: s.prompts('run'),
                         'row 1 of its table prompt can not be read'),
    'no JSON as event': ("UPDATE event SET value = 'x' WHERE prompt IS NULL", lambda s: s.runs(),
                         'row 4 of its table event can not be read (JSONDecodeError'),
    'no JSON as note': ("UPDATE event SET value = 'x' WHERE prompt = 1", lambda s: s.last_events('run', 'done'),
                        'row 5 of its table event can not be read'),
    'no JSON in a journal': ("UPDATE event SET value = 'x' WHERE prompt = 1", lambda s: s.journal('run', 'a'),
                             'row 5 of its table event can not be read'),
    'a text as score': ("UPDATE score SET value = 'good'", lambda s: list(s.samples('run')),
                        'row 1 of its table score can not be read (TypeError'),
    'no JSON as details': ("UPDATE score SET details = 'x'", lambda s: s.unscored('run', 'a'),
                           'row 1 of its table score can not be read (JSONDecodeError'),
    'texts as parents': ("UPDATE trial SET parents = 'x,y'", lambda s: s.pending('run', 'a'),
                         'row 1 of its table trial can not be read (ValueError'),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_rows_that_can_not_be_read_are_named(tmp_path, name):
    sql, read, says = DAMAGE[name]
    with new_store(tmp_path/'runs.db') as store:
        asyncio.run(fill(store, [0]))
        store.set_status('run', 'finished')
        store.event('run', 'a', 'done', {'best': 1.})
    with sqlite3.connect(tmp_path/'runs.db') as db: db.execute(sql)
    db.close()
    with RunStore(tmp_path/'runs.db', 'r') as store, pytest.raises(StoreError) as e: read(store)
    assert (f'runs.db: the store is damaged: {says}' in str(e.value)
            and str(e.value).endswith('Restore a copy made with `backup`.'))


def test_backup_refuses_to_overwrite(tmp_path):
    with new_store(tmp_path/'runs.db') as store:
        store.backup(tmp_path/'copy.db')
        with pytest.raises(StoreError, match='a file already'): store.backup(tmp_path/'copy.db')
        with pytest.raises(StoreError, match='no folder'): store.backup(tmp_path/'no'/'copy.db')


# Group commit

def test_one_wake_up_per_group(tmp_path):
    async def main(store):
        loop, wakes, groups = asyncio.get_running_loop(), [], []
        call, write = loop.call_soon_threadsafe, store._commits.write
        loop.call_soon_threadsafe = lambda f, *a: (wakes.append(len(a[0])), call(f, *a))
        store._commits.write = lambda ops: (groups.append(len(ops)), write(ops))[1]
        for n in range(300): store.add_trial('run', 'a', trial(n))
        await asyncio.gather(*[store.add_completion('run', 'a', n, Completion('x', Usage(1, 1))) for n in range(300)])
        assert sum(wakes) == 300 and len(wakes) <= len(groups) < 300
    with new_store(tmp_path/'runs.db') as store: asyncio.run(main(store))


def test_asks_from_many_threads(tmp_path):
    with new_store(tmp_path/'runs.db', [f't{i}' for i in range(8)]) as store:
        def work(p):
            for n in range(100): store.add_trial('run', p, trial(n))
        threads = [threading.Thread(target=work, args=(f't{i}',)) for i in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        asyncio.run(flushed(store))
        assert all([r.trial.number for r in store.pending('run', p)] == list(range(100)) for p in store.counts('run'))
    assert no_gaps(tmp_path/'runs.db') == 800


# Mistakes of a caller

def test_mistakes_hurt_only_their_sender(tmp_path):
    async def main(store):
        store.add_trial('run', 'a', trial(0))
        good, bad = Completion('x', Usage(1, 1)), [('run', (1, 'run', '{}', 'now'))]  # a key that is there
        with pytest.raises(StoreError, match='was asked before'): store.add_trial('run', 'a', trial(0))
        with pytest.raises(StoreError, match='was never asked'): await store.add_completion('run', 'a', 7, good)
        with pytest.raises(StoreError, match='neither a completion nor an error'):
            await store.add_completion('run', 'a', 0)
        with pytest.raises(StoreError, match='no answer to score'):
            await store.add_scores('run', 'a', 0, [Score('r', 1.)])
        with pytest.raises(StoreError, match='no answer to tell'): store.mark_told('run', 'a', 0)
        with pytest.raises(StoreError, match="no run 'walk'. There are: run"): store.add_trial('walk', 'a', trial(0))
        with pytest.raises(StoreError, match="no prompt 'z'"): store.add_trial('run', 'z', trial(0))
        store.add_trial('run', 'a', trial(1)), store.add_trial('run', 'a', trial(2))
        results = await asyncio.gather(store.add_completion('run', 'a', 0, good),
                                       store._later(bad), store.add_completion('run', 'a', 2, good),
                                       return_exceptions=True)
        assert [type(r) for r in results] == [type(None), StoreError, type(None)]
        with pytest.raises(StoreError, match='was answered before'): await store.add_completion('run', 'a', 0, good)
        assert [s.trial.number for s in store.samples('run')] == [0, 2]
        store.mark_told('run', 'a', 0)
        await store.flush()
        store.mark_told('run', 'a', 0)
        await store.flush()
        assert store.counts('run')['a'] == (3, 1)
    with new_store(tmp_path/'runs.db') as store: asyncio.run(main(store))
    with pytest.raises(StoreError, match='the store is closed. Open it again.'): store.add_trial('run', 'a', trial(3))
    with pytest.raises(StoreError, match='the store is closed'): store.runs()
    store.close()


def test_a_queued_row_that_can_not_be_stored_stops_the_store(tmp_path):
    async def main(store):
        await fill(store, [0])
        store.add_trial('run', 'a', trial(0))
        with pytest.raises(StoreError, match='UNIQUE'): await store.flush()
    with new_store(tmp_path/'runs.db') as store: asyncio.run(main(store))
    assert no_gaps(tmp_path/'runs.db') == 3


@pytest.mark.parametrize('config,prompts,says', [
    ({'path': Path('x')}, [Prompt('a', 'Why?')], "run 'new': the configuration can not be saved"),
    ({}, [Prompt('a', 'Why?'), Prompt('a', 'How?')], "'a' is the id of several prompts"),
    ({}, [Prompt('a', 'Why?', meta={'x': object()})], "prompt 'a': its metadata can not be saved")])
def test_runs_that_can_not_be_created(tmp_path, config, prompts, says):
    with new_store(tmp_path/'runs.db') as store:
        with pytest.raises(InputError, match=says): store.create_run('new', config, prompts)
        assert [r['name'] for r in store.runs()] == ['run']


# Thoughts

async def think(store, number, thoughts):
    store.add_trial('run', 'a', trial(number))
    await store.finish('run', 'a', number, Completion('4', Usage(1, 2), thoughts=thoughts))


def thoughts_of(store): return [s.completion.thoughts for s in store.samples('run')]


def test_thoughts_come_back_beside_the_answer(tmp_path):
    thoughts = ['2 and 2 make 4.', None, '', 'half \ud83d']
    with new_store(tmp_path/'runs.db') as store:
        for n, text in enumerate(thoughts): asyncio.run(think(store, n, text))
        assert thoughts_of(store) == thoughts
    with RunStore(tmp_path/'runs.db', 'r') as store: assert thoughts_of(store) == thoughts


def test_a_store_from_before_there_were_thoughts(tmp_path):
    with new_store(tmp_path/'runs.db') as store: asyncio.run(think(store, 0, None))
    with sqlite3.connect(tmp_path/'runs.db') as db: db.execute('DROP TABLE thoughts')
    db.close()
    with RunStore(tmp_path/'runs.db', 'r') as store: assert thoughts_of(store) == [None]
    with RunStore(tmp_path/'runs.db') as store:
        asyncio.run(think(store, 1, 'Hm.'))
        assert thoughts_of(store) == [None, 'Hm.']


# Prefixes

def continuation(number, prefix): return Trial(number, 'qwen', (), (0,), 'continue', prefix=prefix)


def test_the_length_of_a_prefix_comes_back_with_its_trial(tmp_path):
    with new_store(tmp_path/'runs.db') as store:
        store.add_trial('run', 'a', trial(0))
        for n in (1, 2): store.add_trial('run', 'a', continuation(n, 40*n))
    with RunStore(tmp_path/'runs.db', 'r') as store:
        assert [row.trial.prefix for row in store.pending('run', 'a')] == [0, 40, 80]


def test_a_store_from_before_there_were_continuations(tmp_path):
    with new_store(tmp_path/'runs.db') as store: asyncio.run(think(store, 0, None))
    with sqlite3.connect(tmp_path/'runs.db') as db: db.execute('DROP TABLE prefix')
    db.close()
    with RunStore(tmp_path/'runs.db', 'r') as store: assert [s.trial.prefix for s in store.samples('run')] == [0]
    with RunStore(tmp_path/'runs.db') as store:
        store.add_trial('run', 'a', continuation(1, 7))
        asyncio.run(store.finish('run', 'a', 1, Completion('4', Usage(1, 2))))
        assert [s.trial.prefix for s in store.samples('run')] == [0, 7]


# Any text, any order

ODD = ['', '\0', 'a\0b', '\ud83d', '\ud83d\ude00', '😀', 'né', '\x1f\n\r', "'; DROP TABLE trial; --", '\ufffe\uffff',
       'x' * 10_000]


@pytest.mark.parametrize('text', ODD, ids=ascii)
def test_any_text_survives(tmp_path, text):
    async def main(store):
        t = Trial(0, f'm{text}', (Message('user', text),), action=text)
        store.add_trial(f'run{text}', f'p{text}', t)
        completion = Completion(text, Usage(1, 2), text, 1.5, text, text, 1, 2, -0.5)
        scores = [Score(f'r{text}', .1, version=text, details={text: [text]}), Score('e', error=f'e{text}')]
        await store.finish(f'run{text}', f'p{text}', 0, completion, None, scores)
        store.event(f'run{text}', f'p{text}', f'k{text}', {text: text})
        await store.flush()
        return t, completion
    with RunStore(tmp_path/'runs.db') as store:
        prompt = Prompt(f'p{text}', f'i{text}', reference=text, source=text, meta={text: text})
        store.create_run(f'run{text}', {text: text}, [prompt])
        t, completion = asyncio.run(main(store))
    with RunStore(tmp_path/'runs.db', 'r') as store:
        assert (store.prompts(f'run{text}') == [prompt] and store.config(f'run{text}') == {text: text}
                and store.runs()[0]['name'] == f'run{text}')
        s, = store.samples(f'run{text}')
        bare = Trial(0, f'm{text}', (), action=text)
        assert s == Sample(f'run{text}', f'p{text}', bare, completion, None,
                           (Score(f'r{text}', .1, version=text, details={text: [text]}), Score('e', error=f'e{text}')))
        assert store.journal(f'run{text}', f'p{text}') == [('ask', TrialRow(bare, digest(t.messages))), ('tell', 0, s),
                                                           ('event', f'k{text}', {text: text})]


def test_details_of_any_kind_do_not_cost_the_score(tmp_path):
    np = pytest.importorskip('numpy')

    async def main(store):
        store.add_trial('run', 'a', trial(0))
        score = Score('r', 1., details={'n': np.float32(.5), 'v': np.arange(2), 'p': Path('x')})
        await store.finish('run', 'a', 0, Completion('x', Usage(1, 1)), scores=[score])
    with new_store(tmp_path/'runs.db') as store:
        asyncio.run(main(store))
        assert next(store.samples('run')).scores[0].details == {'n': .5, 'v': [0, 1], 'p': 'x'}


def test_pages(tmp_path, monkeypatch):
    monkeypatch.setattr('toa_nb.store.queries.PAGE', 3)
    with new_store(tmp_path/'runs.db', 'abcd') as store:
        for prompt, n in ('a', 3), ('b', 7), ('d', 1): asyncio.run(fill(store, range(n), prompt))
        assert [(s.prompt_id, s.trial.number, s.value('length')) for s in store.samples('run')] == [
            (p, n, float(n)) for p, k in (('a', 3), ('b', 7), ('d', 1)) for n in range(k)]
        assert ([s.trial.number for s in store.samples('run', 'b')] == list(range(7))
                and list(store.samples('run', 'c')) == [])
        assert store.counts('run') == {'a': (3, 3), 'b': (7, 7), 'c': (0, 0), 'd': (1, 1)} and store.count('run') == 11


texts = st.text(st.characters(), max_size=8)
floats = st.floats(allow_nan=False, allow_infinity=False)
scores = st.lists(st.one_of(st.builds(Score, st.sampled_from(['r', 's']), floats, st.none(), texts, st.integers(0, 99),
                                      st.none() | st.just({'k': [1]})),
                            st.builds(Score, st.sampled_from(['r', 's']), st.none(),
                                      st.text('ab', min_size=1, max_size=3))), min_size=1, max_size=3)
usages = st.builds(Usage, st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))
completions = st.builds(Completion, texts, st.none() | usages, texts, floats, texts, texts,
                        st.none() | st.integers(0, 9),
                        st.integers(1, 3), st.none() | floats)
trials = st.builds(lambda *a: (*a[:-1], a[-1]*(a[2] == 'continue')), texts,
                   st.lists(st.integers(0, 9), max_size=3).map(tuple),
                   st.sampled_from(['fresh', 'refine', 'revise', 'continue', 'aggregate']),
                   st.integers(0, 9), texts, st.none() | st.integers(0, 9), st.integers(0, 2**31 - 1),
                   st.integers(0, 9), st.integers(0, 999))
prompt_ids = st.sampled_from('abc')
operations = st.lists(st.one_of(
    st.tuples(st.just('ask'), prompt_ids, trials), st.tuples(st.just('complete'), prompt_ids, completions,
                                                             st.integers(0, 9)),
    st.tuples(st.just('fail'), prompt_ids, st.none() | completions, st.integers(0, 9)),
    st.tuples(st.just('score'), prompt_ids, scores, st.integers(0, 9)),
    st.tuples(st.just('tell'), prompt_ids, st.integers(0, 9)),
    st.tuples(st.just('finish'), prompt_ids, completions, scores, st.integers(0, 9)),
    st.tuples(st.just('event'), prompt_ids, st.sampled_from(['extend', 'stop']), st.none() | st.integers() | texts),
    st.tuples(st.just('reopen'))), max_size=40)


class Model:
    "What a store should hold, as plain lists and dicts."
    def __init__(self):
        self.trials, self.back, self.scores, self.mark_told, self.log = {}, {}, {}, {}, {p: [] for p in 'abc'}
    def keys(self, p): return [k for k in self.trials if k[0] == p]
    def waiting(self, p): return [k for k in self.keys(p) if k not in self.back]
    def answered(self, p): return [k for k in self.keys(p) if k in self.back]
    def open(self, p): return [k for k in self.answered(p) if k not in self.mark_told]

    def sample(self, k, scores):
        completion, error = self.back[k]
        return Sample('run', k[0], self.trials[k].trial, completion, error,
                      tuple({s.reward: s for s in scores}.values()))

    def tell(self, k):
        self.mark_told[k] = list(self.scores[k])
        self.log[k[0]].append(('tell', k[1], self.sample(k, self.mark_told[k])))

    def check(self, store):
        assert list(store.samples('run')) == [self.sample(k, self.scores[k]) for p in 'abc' for k in self.answered(p)]
        assert store.counts('run') == {p: (len(self.keys(p)), len([k for k in self.keys(p) if k in self.mark_told]))
                                       for p in 'abc'}
        for p in 'abc':
            assert store.journal('run', p) == self.log[p]
            assert store.pending('run', p) == [self.trials[k] for k in self.waiting(p)]
            settled = [k for k in self.open(p) if self.back[k][1] or self.scores[k]]
            assert store.untold('run', p) == [self.sample(k, self.scores[k]) for k in settled]
            assert store.unscored('run', p) == [self.sample(k, ()) for k in self.open(p) if k not in settled]


async def apply(store, model, op, *args):
    p, pick = args[0], lambda keys: keys[args[-1] % len(keys)] if keys else None
    if op == 'ask':
        n = len(model.keys(p))
        t = Trial(n, args[1][0], ASK, *args[1][1:])
        store.add_trial('run', p, t)
        model.trials[p, n] = TrialRow(Trial(n, args[1][0], (), *args[1][1:]), digest(ASK))
        model.log[p].append(('ask', model.trials[p, n]))
    elif op == 'event':
        store.event('run', p, *args[1:])
        model.log[p].append(('event', *args[1:]))
    elif op in ('complete', 'fail', 'finish') and (k := pick(model.waiting(p))):
        error = 'EmptyAnswer: no text' if op == 'fail' else None
        model.back[k], model.scores[k] = (args[1], error), args[2] if op == 'finish' else []
        if op == 'finish': await store.finish('run', *k, args[1], None, args[2]); model.tell(k)
        else: await store.add_completion('run', *k, args[1], error)
    elif op == 'score' and (k := pick(model.answered(p))):
        await store.add_scores('run', *k, args[1])
        model.scores[k] = model.scores[k] + args[1]
    elif op == 'tell' and (k := pick(model.open(p))):
        store.mark_told('run', *k)
        model.tell(k)


@settings(max_examples=60, deadline=None)
@given(ops=operations)
def test_any_sequence_reads_back_as_a_plain_model_would(tmp_path_factory, ops):
    async def main(path):
        store, model = new_store(path, 'abc'), Model()
        for op, *args in ops:
            if op == 'reopen': store.close(); store = RunStore(path)
            else: await apply(store, model, op, *args)
        await store.flush()
        model.check(store)
        store.close()
        with RunStore(path, 'r') as again: model.check(again)
        no_gaps(path)
    asyncio.run(main(tmp_path_factory.mktemp('model')/'runs.db'))


def test_several_runs_do_not_mix(tmp_path):
    with new_store(tmp_path/'runs.db') as store:
        store.create_run('other', {}, [Prompt('a', 'How?')])
        asyncio.run(fill(store, range(3)))
        store.add_trial('other', 'a', trial(0))
        store.event('other', None, 'budget', 'samples')
        store.set_status('other', 'done', 1.5)
        assert (store.count('run'), store.count('other')) == (3, 0) and store.counts('other') == {'a': (1, 0)}
        assert store.events('other') == [('budget', 'samples'),
                                         ('status', {'status': 'done', 'seconds': 1.5})] and store.events('run') == []
        assert [(r['name'], r['status'], r['seconds']) for r in store.runs()] == [('run', 'new', None),
            ('other', 'done', 1.5)]
        assert len(store.journal('other', 'a')) == 1


# The file is taken away

def delete(tmp): (tmp/'runs.db').unlink()
def move(tmp): (tmp/'runs.db').rename(tmp/'elsewhere.db')
def delete_the_log(tmp): (tmp/'runs.db-wal').unlink()
def delete_the_lock(tmp): (tmp/'runs.db-lock').unlink()
def delete_all(tmp): [p.unlink() for p in tmp.iterdir()]


def replace_by_a_copy(tmp):
    with RunStore(tmp/'runs.db', 'r') as store: store.backup(tmp/'old.db')
    os.replace(tmp/'old.db', tmp/'runs.db')


TAKEN = [delete, move, delete_all, replace_by_a_copy, delete_the_log, delete_the_lock]


@pytest.mark.parametrize('take', TAKEN)
def test_a_store_that_is_taken_away_is_noticed_at_the_next_commit(tmp_path, take):
    async def main(store):
        await fill(store, range(3))
        take(tmp_path)
        store.add_trial('run', 'b', trial(0))
        with pytest.raises(StoreError, match='while it was being written') as first:
            await store.add_completion('run', 'b', 0, Completion('paid', Usage(1, 1)))
        for call in (lambda: store.add_trial('run', 'b', trial(1)), lambda: store.set_status('run', 'finished')):
            with pytest.raises(StoreError) as again: call()
            assert str(again.value) == str(first.value)
        with pytest.raises(StoreError): await store.flush()
    store = new_store(tmp_path/'runs.db')
    asyncio.run(main(store))
    store.close()
    if take in (delete, delete_all): assert not (tmp_path/'runs.db').exists()
    else:
        with RunStore(tmp_path/('elsewhere.db' if take is move else 'runs.db')) as again:
            assert again.check() == [] and [s.trial.number for s in again.samples('run', 'a')] == [0, 1, 2]
            asyncio.run(fill(again, [10]))


def write_a_backup_over(tmp): write_over(tmp, (tmp/'old.db').read_bytes())
def write_another_store_over(tmp):
    new_store(tmp/'other.db', 'z').close()
    write_over(tmp, (tmp/'other.db').read_bytes())
def empty_it(tmp): write_over(tmp, b'')
def write_anything_over(tmp): write_over(tmp, os.urandom(50_000))
def write_half_of_it_over(tmp): write_over(tmp, (tmp/'old.db').read_bytes()[:5000])
def replace_by_the_backup(tmp): os.replace(tmp/'old.db', tmp/'runs.db')


def write_over(tmp, data):
    "As `cp` does: the same file, with other content."
    with open(tmp/'runs.db', 'wb') as f: f.write(data)


OVER = [write_a_backup_over, write_another_store_over, empty_it, write_anything_over, write_half_of_it_over]


@pytest.mark.parametrize('take', [*OVER, delete, replace_by_the_backup])
def test_what_a_lost_store_held_is_rescued(take, tmp_path):
    "The file that was put in its place is left as it is, and the rescued store is whole and goes on."
    async def main(store):
        await fill(store, range(3))
        store.backup(tmp_path/'old.db')
        await fill(store, range(3, 6))
        take(tmp_path)
        store.add_trial('run', 'b', trial(0))
        with pytest.raises(StoreError, match='All that it held is in .*runs.rescued.db.'):
            await store.add_completion('run', 'b', 0, Completion('paid', Usage(1, 1)))
    store = new_store(tmp_path/'runs.db')
    asyncio.run(main(store))
    placed = (tmp_path/'runs.db').read_bytes() if (tmp_path/'runs.db').exists() else None
    store.close()
    assert placed == ((tmp_path/'runs.db').read_bytes() if placed is not None else None)
    with warnings.catch_warnings(action='error'), RunStore(tmp_path/'runs.rescued.db') as rescued:
        assert rescued.check() == [] and [s.trial.number for s in rescued.samples('run', 'a')] == list(range(6))
        assert [s.completion.text for s in rescued.samples('run', 'b')] == ['paid']
        asyncio.run(fill(rescued, [10]))


def touch(path): os.utime(path, ns=(1, 1))
def checkpoint(path):
    with sqlite3.connect(path) as db: db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    db.close()
def look(path):
    with RunStore(path, 'r') as store: store.check()


@pytest.mark.parametrize('act', [touch, checkpoint, look])
def test_what_changes_nothing_in_the_file_ends_nothing(act, tmp_path):
    async def main(store):
        for n in range(0, 9, 3):
            await fill(store, range(n, n + 3))
            act(tmp_path/'runs.db')
    with new_store(tmp_path/'runs.db') as store:
        asyncio.run(main(store))
        assert len(list(store.samples('run', 'a'))) == 9
    with RunStore(tmp_path/'runs.db', 'r') as store: assert store.check() == []


def test_own_checkpoints_are_not_taken_for_others(tmp_path):
    async def main(store):
        store._commits.db.execute('PRAGMA wal_autocheckpoint = 3')
        for n in range(20): await fill(store, [n], text='x'*5000)
    with new_store(tmp_path/'runs.db') as store:
        asyncio.run(main(store))
        assert len(list(store.samples('run', 'a'))) == 20


def test_another_writer_is_noticed(tmp_path):
    "Whatever let it in: the count in the file is not the one that this writer left."
    async def main(store):
        with sqlite3.connect(tmp_path/'runs.db') as db: db.execute('UPDATE clock SET seq = seq + 1')
        db.close()
        store.add_trial('run', 'a', trial(0))
        with pytest.raises(StoreError, match='another program has written this store'): await store.flush()
    with new_store(tmp_path/'runs.db') as store: asyncio.run(main(store))


# Other names of the file

def test_no_name_of_the_file_lets_a_second_writer_in(tmp_path):
    (tmp_path/'folder').symlink_to(tmp_path, target_is_directory=True)
    (tmp_path/'link.db').symlink_to('runs.db')
    names = ['runs.db', 'link.db', 'folder/runs.db', 'folder/link.db']
    code = '''
        for name in sys.argv[2:]:
            try: RunStore(os.path.join(path, name))
            except StoreError as e: print(type(e).__name__)
            else: print('opened')'''
    with new_store(tmp_path/'runs.db') as store:
        assert child(code, tmp_path, *names).communicate(timeout=HANG) == ('StoreLocked\n' * 4, '')
        os.link(tmp_path/'runs.db', tmp_path/'hard.db')
        assert child(code, tmp_path, *names, 'hard.db').communicate(timeout=HANG) == ('StoreError\n' * 5, '')
        asyncio.run(fill(store, [0]))
    with pytest.raises(StoreError, match='more than one name'): RunStore(tmp_path/'runs.db')
    (tmp_path/'hard.db').unlink()
    with RunStore(tmp_path/'link.db') as store: assert store.count('run') == 1 and store.path == tmp_path/'runs.db'


# Values that no column can hold

odd_values = st.one_of(st.integers(-2**70, 2**70), st.integers(2**62, 2**66), st.none(), st.booleans(), st.floats(),
                       texts, st.lists(st.integers(), max_size=2),
                       st.dictionaries(texts, st.integers(), max_size=1), st.binary(max_size=3))


@settings(max_examples=60, deadline=None)
@given(values=st.lists(odd_values, min_size=11, max_size=11))
def test_no_value_of_a_server_ends_a_run(tmp_path_factory, values):
    async def main(store):
        a, b, c, finish, latency, endpoint, served, seed, logprob, version, tokens = values
        completion = Completion('paid', Usage(a, b, c), finish, latency, endpoint, served, seed, 1, logprob)
        store.add_trial('run', 'a', trial(0))
        await store.finish('run', 'a', 0, completion, scores=[Score('r', 1., version=version, tokens=tokens)])
        await fill(store, [1])
    with new_store(tmp_path_factory.mktemp('odd')/'runs.db') as store:
        asyncio.run(main(store))
        odd, plain = store.samples('run')
        assert (odd.completion.text, odd.value('r'), plain.value('length')) == ('paid', 1., 1.)
        counts = odd.completion.usage
        assert counts is None or all(v is None or not isinstance(v, int) or -2**63 <= v < 2**63
                                     for v in (counts.prompt_tokens, counts.completion_tokens))
        too_large = [v for v in values[:3] if isinstance(v, int) and not -2**63 <= v < 2**63]
        assert counts is None if too_large else True
        assert bool(store.remarks('run')) >= bool(too_large)


# File systems without locks or WAL

NO_LOCKS = '''
import errno, fcntl, warnings
def refuse(*_): raise OSError(errno.ENOLCK, 'No locks available')
fcntl.flock = refuse
warnings.simplefilter('ignore')
'''
NO_FCNTL = "sys.modules['fcntl'] = None\n"


@pytest.mark.parametrize('without', [NO_LOCKS, NO_FCNTL], ids=['locks', 'fcntl'])
def test_one_writer_where_there_are_no_locks(tmp_path, without):
    "Children live on a file system without locks; the second is refused until the first is killed, and then finds what it has committed."
    path = tmp_path/'runs.db'
    c = child(without + textwrap.dedent('''
        async def main():
            store = RunStore(path)
            store.create_run('run', {}, [Prompt('a', 'Why?')])
            for n in range(10): await one(store, n)
            with RunStore(path, 'r') as reader: print(reader.count('run'), flush=True)
            sys.stdin.read()
        asyncio.run(main())'''), path, stdin=subprocess.PIPE)
    second = without + textwrap.dedent('''
        try:
            with RunStore(path) as store:
                asyncio.run(one(store, 10))
                print(store.count('run'), store.check())
        except StoreLocked as e: print(e)''')
    try:
        assert c.stdout.readline() == '10\n'
        out, err = child(second, path).communicate(timeout=HANG)
        assert f'process {c.pid} on' in out and 'is writing this store' in out and not err
        # a computer with locks respects the other's
        with pytest.raises(StoreLocked, match=f'process {c.pid} on'): RunStore(path)
        assert is_locked(path)
    finally: c.kill(); c.communicate()
    assert not is_locked(path)
    out, err = child(second, path).communicate(timeout=HANG)
    assert (out, err) == ('11 []\n', '')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['runs.db']
    with RunStore(path) as store: asyncio.run(fill(store, [20]))
    no_gaps(path)


@pytest.mark.parametrize('mode', ['r', 'rw'])
def test_kill_9_in_the_middle_of_commits_without_locks(tmp_path, mode):
    "A lock folder that a killed writer left does not keep the next reader or writer out."
    path = tmp_path/'runs.db'
    c = child(NO_LOCKS + textwrap.dedent('''
        async def main():
            store = RunStore(path)
            store.create_run('run', {}, [Prompt('a', 'Why?')])
            for n in range(5): await one(store, n)
            os.mkdir(path + '.lock')  # as SQLite does in a transaction
            os.utime(path + '.lock', (0, 0))
            print('ready', flush=True)
            sys.stdin.read()
        asyncio.run(main())'''), path, stdin=subprocess.PIPE)
    c.stdout.readline(); c.kill(); c.communicate()
    out, err = child(NO_LOCKS + textwrap.dedent('''
        with RunStore(path, sys.argv[2]) as store: print(store.count('run'), store.check())'''), path,
        mode).communicate(timeout=HANG)
    assert (out, err) == ('5 []\n', '') and not (tmp_path/'runs.db.lock').exists()


def test_a_network_file_system_is_written_without_wal(tmp_path, monkeypatch):
    path = tmp_path/'runs.db'
    new_store(path).close()
    monkeypatch.setattr('toa_nb.store.commits.network_kind', lambda path: 'nfs4')
    monkeypatch.setattr('toa_nb.store.writer.network_kind', lambda path: 'nfs4')
    with pytest.warns(UserWarning, match=r'network file system \(nfs4\), so the store is written without WAL'):
        store = RunStore(path)
    with store, RunStore(path, 'r') as reader:
        asyncio.run(fill(store, range(5)))
        assert reader.count('run') == 5 and not (tmp_path/'runs.db-wal').exists()
        store.backup(tmp_path/'copy.db')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['copy.db', 'runs.db']
    monkeypatch.undo()
    with RunStore(path) as store:
        assert store.remark == '' and (tmp_path/'runs.db-wal').exists()
        asyncio.run(fill(store, [7]))
        with RunStore(tmp_path/'copy.db', 'r') as copy: assert copy.count('run') == 5


# Copies of a live store

@pytest.mark.parametrize('mode', ['r', 'rw'])
def test_a_copy_without_its_log_gives_a_warning(tmp_path, mode, recwarn):
    with new_store(tmp_path/'runs.db') as store:
        asyncio.run(fill(store, range(5)))
        shutil.copyfile(tmp_path/'runs.db', tmp_path/'copy.db')
        RunStore(tmp_path/'runs.db', 'r').close()
        store.backup(tmp_path/'good.db')
    for name in ('runs.db', 'good.db'): RunStore(tmp_path/name, mode).close()
    assert not recwarn.list
    with pytest.warns(UserWarning,
                      match='copy.db: this is a copy made while a run was writing the store. If its -wal file was not '
                            'copied too'):
        RunStore(tmp_path/'copy.db', mode).close()


def test_a_killed_writer_is_not_mistaken_for_a_copy(tmp_path, recwarn):
    c = child('''
        store = RunStore(path)
        store.create_run('run', {}, [Prompt('a', 'Why?')])
        print('ready', flush=True)
        sys.stdin.read()''', tmp_path/'runs.db', stdin=subprocess.PIPE)
    c.stdout.readline(); c.kill(); c.communicate()
    for mode in ('r', 'r', 'rw', 'r'): RunStore(tmp_path/'runs.db', mode).close()
    assert not recwarn.list


def test_a_store_without_the_table_of_writers_opens_as_before(tmp_path, recwarn):
    "Stores of earlier versions have no such table."
    new_store(tmp_path/'runs.db').close()
    with sqlite3.connect(tmp_path/'runs.db') as db: db.execute('DROP TABLE writer')
    db.close()
    with RunStore(tmp_path/'runs.db', 'r') as store:
        store.backup(tmp_path/'copy.db')
        assert store.runs()[0]['name'] == 'run'
    for name in ('runs.db', 'copy.db'):
        with RunStore(tmp_path/name) as store: asyncio.run(fill(store, [0]))
    assert not recwarn.list
