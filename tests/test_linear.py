"""The work of a command that reads a store grows with the samples in it and no faster: steps of SQLite and calls of functions are counted, not seconds."""
import sqlite3
import sys

import pytest

from toa_nb.cli.commands import main
from toa_nb.core import Prompt
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward
from toa_nb.run.progress import progress_of
from toa_nb.run.run import Run
from toa_nb.search.samplers import PRS, BestOfN
from toa_nb.store import queries
from toa_nb.store.journal import RunStore

SIZES = 100, 200  # prompts, with two samples each
length = FunctionReward(lambda prompt, response: float(len(response)), 'length', version='1')


def answer(messages, seed): return 'x' * (1 + seed % 9)


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
    "By size and state: a whole run, one whose prompts have begun and left no note of what they add up to, and two methods in one store."
    found = {}
    for n in SIZES:
        path = tmp_path_factory.mktemp('linear')/'runs.db'
        prompts = [Prompt(f'p{i}', f'Say {i}.') for i in range(n)]
        Run(prompts, BestOfN(2), [FakeModel('a', answer)], length, store=path, name='r').wait(show=False)
        begun = path.with_name('begun.db')
        with RunStore(path, 'r') as store: store.backup(begun)
        with sqlite3.connect(begun) as db: db.execute("DELETE FROM event WHERE kind IN ('done', 'status')")
        db.close()
        several = path.with_name('several.db')
        with RunStore(path, 'r') as store: store.backup(several)
        Run(prompts, PRS(4), [FakeModel(name, answer) for name in 'ab'], length, store=several, name='prs').wait(show=False)
        found[n, 'finished'], found[n, 'begun'], found[n, 'several'] = path, begun, several
    return found


def work(act, *args, monkeypatch):
    "Hundreds of steps of SQLite, and calls of functions, that `act` takes."
    steps, calls, opened = [], [], queries.open_reader

    def counted(*args, **options):
        db = opened(*args, **options)
        db.set_progress_handler(lambda: steps.append(1), 100)
        return db
    monkeypatch.setattr(queries, 'open_reader', counted)
    sys.setprofile(lambda frame, event, arg: calls.append(1) if event == 'call' else None)
    try: act(*args)
    finally: sys.setprofile(None)
    return len(steps), len(calls)


def status(path, folder): assert main(['status', str(path), '--json']) in (0, 3)
def curve(path, folder): assert main(['curve', str(path), '--x', 'samples', '--json']) == 0


def command(*args):
    def act(path, folder): assert main([args[0], str(path), *args[1:], '--json']) == 0
    return act


def export(kind, *rules, name='rows.jsonl'):
    def act(path, folder): assert main(['export', str(path), '--format', kind, '-o', str(folder/name), '--quiet', *rules]) == 0
    return act


def read(what):
    def act(path, folder):
        with RunStore(path, 'r') as store: what(store)
    return act


COMMANDS = dict(
    status=status, curve=curve, sft=export('sft'), ultrafeedback=export('ultrafeedback'),
    progress=read(lambda store: progress_of(store, 'r')), samples=read(lambda store: list(store.samples('r'))),
    found=read(lambda store: store.found_rows(store.find_keys('r', 'x', sort='best', limit=20)[0], '')))

REPORTS = dict(
    summary=command('summary'), compare=command('compare', '--x', 'tokens'), prompts=command('compare', '--prompts'),
    reach=command('compare', '--reach', '3', '--x', 'tokens'), curve=command('curve', '--x', 'tokens'))
PRS_ROWS = ('--run', 'prs')
EXPORTS = {
    'dpo.jsonl': export('dpo', *PRS_ROWS, '--rejected', 'rank:2', '--rejected', 'margin>=1'),
    'kto.parquet': export('kto', *PRS_ROWS, name='rows.parquet'), 'sft folder': export('sft', '--split', '.1', name='rows'),
    'different.jsonl': export('sft', *PRS_ROWS, '--top', '2', '--different'), 'published.jsonl': export('published', *PRS_ROWS),
    'samples.jsonl': export('samples')}
EVERY = [(name, state, act) for name, act in COMMANDS.items() for state in ('finished', 'begun')]
EVERY += [(name, 'several', act) for name, act in (REPORTS | EXPORTS).items()]


@pytest.mark.parametrize('name, state, act', EVERY, ids=lambda given: given if isinstance(given, str) else '')
def test_twice_the_samples_take_twice_the_work(stores, name, state, act, tmp_path, monkeypatch, capsys):
    act(stores[SIZES[0], state], tmp_path)  # what is loaded once is not counted
    few, many = (work(act, stores[n, state], tmp_path, monkeypatch=monkeypatch) for n in SIZES)
    assert few[1] > 100
    assert [more <= 2.2*less + 20 for less, more in zip(few, many)] == [True, True], (few, many)


def test_work_that_grows_faster_is_noticed(stores, monkeypatch):
    def pairs(path):
        with RunStore(path, 'r') as store: store.query('SELECT count(*) FROM trial a, trial b WHERE a.number < b.number')
    few, many = (work(pairs, stores[n, 'begun'], monkeypatch=monkeypatch)[0] for n in SIZES)
    assert many > 3*few
