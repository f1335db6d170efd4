"""Runs that are killed, run out of disk, or are copied while they go on: nothing that was committed is lost or paid for again."""
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import crash_run
import pytest
from clocks import HANG
from fault_server import running

from toa_nb.core import StoreError
from toa_nb.run.prompt_state import replay
from toa_nb.store.journal import RunStore


@pytest.fixture(scope='module')
def forks():
    "The process that forks the lives."
    with subprocess.Popen([sys.executable, crash_run.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope='module')
def server():
    with running('--models', 'a,b', '--latency', '0.008', '--sigma', '0.6') as url: yield url


def control(url, what='', **change):
    "What the server says, or a change of its settings."
    data = json.dumps(change).encode() if change else None
    with urllib.request.urlopen(f'{url.removesuffix("/v1")}/control{what}', data, timeout=HANG) as answer:
        return json.load(answer)


def calls(url):
    "The seeds of all calls that the server has seen, in order, the checks before a run left out; waits until the dead have hung up."
    while control(url)['connections'] > 1: time.sleep(.005)
    return [row[2] for row in control(url, '/log') if row[2]]


class Life:
    "One life of a run, in a process group of its own."
    def __init__(self, forks, tmp, *args, room=None):
        self.log = tmp/'end.json'
        self.log.unlink(missing_ok=True)
        forks.stdin.write(json.dumps([str(self.log), room, *map(str, args[:2]), *args[2:]]) + '\n')
        forks.stdin.flush()
        self.pid = int(forks.stdout.readline())

    def is_alive(self):
        try: os.kill(self.pid, 0)
        except ProcessLookupError: return False
        return True

    def kill(self, url, rng):
        "kill -9 to the whole group: now and then while it begins, mostly a moment after its first calls."
        before, deadline = control(url)['calls'], time.monotonic() + HANG
        if rng.random() < .15: deadline = time.monotonic() + rng.uniform(0, .3)
        while time.monotonic() < deadline and control(url)['calls'] <= before + 2: time.sleep(.002)
        time.sleep(rng.uniform(0, .1))
        with contextlib.suppress(ProcessLookupError): os.killpg(self.pid, signal.SIGKILL)
        while self.is_alive(): time.sleep(.002)

    def end(self):
        "How it ended by itself."
        deadline = time.monotonic() + HANG
        while self.is_alive() and time.monotonic() < deadline: time.sleep(.01)
        return json.loads(self.log.read_text())


def read(path, what):
    "What `what` finds in a store, if the run has begun; a store that is killed in its first instant has no tables yet."
    try:
        with RunStore(path, 'r') as store: return what(store) if store.runs() else {}
    except StoreError as e:
        if 'there is no store here' in str(e) or 'not a run store' in str(e): return {}
        raise


def journals(path):
    "The journal of each prompt."
    return read(path, lambda store: {p.id: store.journal('crash', p.id) for p in store.prompts('crash')})


def samples(path):
    "What is stored of each answer, by the seed of its call."
    return read(path, lambda store: {s.trial.seed: (s.prompt_id, s.trial, s.completion.text)
                                     for s in store.samples('crash')})


def tree(path):
    "What decides a search: the trials, the texts and the rewards, by prompt."
    with RunStore(path, 'r') as store:
        assert store.check() == []
        return [(s.prompt_id, s.trial, s.completion.text, s.value('letters')) for s in store.samples('crash')]


def resampled(path, *args):
    "Replay the journals into fresh samplers; returns what they were told."
    run, told = crash_run.run(*args), {}
    for prompt in run.prompts:
        sampler = run.method.start(prompt, list(run.models), run.seed, run.templates)
        told[prompt.id] = len(replay(sampler, journals(path)[prompt.id], 'letters', prompt.id))
        assert sampler.done
    return told


def is_prefix(before, now):
    "Does `now` go on where `before` stopped, for each prompt?"
    return all(now[p][:len(entries)] == entries for p, entries in before.items())


@pytest.mark.parametrize('parallel, kills, seed', [(1, 26, 1), (8, 26, 2)])
def test_killed_again_and_again(forks, server, tmp_path, parallel, kills, seed):
    rng, n, store = random.Random(seed), 90, tmp_path/'runs.db'
    args = (server, tmp_path/'runs.db', 4, n, parallel)
    control(server, reset=True, latency=.008 if parallel == 1 else .04)
    lives, spans, seen, past, kept = 0, [], 0, {}, {}
    while lives < kills and len(kept) < 4*n:
        life = Life(forks, tmp_path, *args)
        life.kill(server, rng)
        now, there, all_calls = journals(store), samples(store), calls(server)
        again = Counter(all_calls[seen:])
        assert is_prefix(past, now), 'the replayed part has changed'
        assert kept.items() <= there.items(), 'a committed sample is lost or has changed'
        assert not again.keys() & kept.keys(), 'a committed sample was generated again'
        assert set(again.values()) <= {1}, 'a call was made twice in one life'
        spans.append(len(again.keys() - there.keys()))
        lives, seen, past, kept = lives + 1, len(all_calls), now, there
    assert lives == kills and sum(map(bool, spans)) > kills/2, 'most kills have to hit calls in flight'
    assert Life(forks, tmp_path, *args).end() == 'finished'
    total, final = calls(server), samples(store)
    assert is_prefix(past, journals(store)) and len(final) == 4*n and kept.items() <= final.items()
    assert len(total) - len(final) == sum(spans), 'only calls in flight were paid for again'
    assert max(spans) <= 4*parallel and resampled(store, *args) == dict.fromkeys(['p0', 'p1', 'p2', 'p3'], n)
    if parallel == 1:
        assert Life(forks, tmp_path, server, tmp_path/'whole.db', 4, n, 1).end() == 'finished'
        assert tree(store) == tree(tmp_path/'whole.db')


def stretches(url, calls):
    "Four moments of a run that the server holds after every `calls` calls: each just as it is let go."
    for stretch in range(2, 6):
        while control(url)['in_flight'] or not control(url)['waiting']: time.sleep(.005)
        control(url, hold=stretch*calls)
        yield
    control(url, hold=0)


def test_a_full_disk_ends_the_run_and_loses_nothing(forks, server, tmp_path):
    "A limit on the size of files stands for the disk; with more room the run goes on."
    control(server, reset=True, latency=.002)
    store, args, kept = tmp_path/'runs.db', (server, tmp_path/'runs.db', 4, 60, 8), {}
    for room in (420_000, 500_000, 570_000):
        end, there = Life(forks, tmp_path, *args, room=room).end(), samples(store)
        assert end.startswith('StoreError: ') and 'Everything committed is safe' in end and 'resume the run' in end
        assert len(kept) < len(there) and kept.items() <= there.items()
        kept = there
    paid = len(calls(server))
    assert Life(forks, tmp_path, *args).end() == 'finished'
    final = samples(store)
    assert len(final) == 4*60 and kept.items() <= final.items()
    assert len(calls(server)) - paid == len(final) - len(kept), 'what was committed is not paid for again'
    assert len(resampled(store, *args)) == 4


def test_copies_made_while_the_run_goes_on_are_whole(forks, server, tmp_path):
    "`backup` at several moments: each copy is a beginning of the run, and goes on to the same end."
    control(server, reset=True, latency=.004, hold=20)
    store, args, copies = tmp_path/'runs.db', (server, tmp_path/'runs.db', 4, 30, 1), []
    life = Life(forks, tmp_path, *args)
    for _ in stretches(server, 20):
        copies.append(tmp_path/f'copy{len(copies)}.db')
        with RunStore(store, 'r') as reader: reader.backup(copies[-1])
    assert life.end() == 'finished' and len(copies) == 4
    whole = journals(store)
    assert all(is_prefix(journals(copy), whole) for copy in copies) and 0 < len(samples(copies[1])) < 4*30
    before = len(calls(server))
    there = len(samples(copies[1]))
    assert Life(forks, tmp_path, server, copies[1], *args[2:]).end() == 'finished'
    assert tree(copies[1]) == tree(store) and len(calls(server)) - before == 4*30 - there


def test_plain_copies_of_the_file_and_its_log_are_whole(forks, server, tmp_path):
    "`cp` of the store and its -wal file while the run writes them."
    control(server, reset=True, latency=.004, hold=60)
    store, args, copies = tmp_path/'runs.db', (server, tmp_path/'runs.db', 4, 80, 4), []
    life = Life(forks, tmp_path, *args)
    for _ in stretches(server, 60):
        copies.append(tmp_path/f'copy{len(copies)}.db')
        for end in ('', '-wal'): shutil.copy(f'{store}{end}', f'{copies[-1]}{end}')
    assert life.end() == 'finished'
    whole = journals(store)
    assert len(copies) == 4 and all(map(tree, copies))
    assert all(is_prefix(journals(copy), whole) for copy in copies)
