"""Searches of others through the engine: stopped and resumed they find the same answers, and a model that cannot make a move costs nothing else."""
import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from toa_nb.analysis.kernels import kernel
from toa_nb.cli.config import read_method
from toa_nb.compute import Budget
from toa_nb.core import Prompt
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import Rule
from toa_nb.run.run import Run
from toa_nb.search.adaptive_branching import ABMCTSA
from toa_nb.search.aggregation import RSA, SelfMoA
from toa_nb.search.bandit import REx
from toa_nb.search.chains import QUEST
from toa_nb.search.methods import METHODS as NAMES
from toa_nb.search.methods import method_from
from toa_nb.search.probing import Probe
from toa_nb.search.routing import RoBoN
from toa_nb.store.journal import RunStore

METHODS = [RSA(n=16, population=4, k=2), RoBoN(n=16), QUEST(n=16, chains=1), REx(n=16, parallel=1),
           ABMCTSA(n=16, parallel=1), Probe(n=16, moves=('refine', 'continue'))]
KINDS = {'SelfMoA': {'fresh', 'aggregate'}, 'RSA': {'fresh', 'aggregate'}, 'RoBoN': {'fresh'}, 'REx': {'fresh', 'refine'},
         'QUEST': {'fresh', 'continue'}, 'ABMCTSA': {'fresh', 'refine'}, 'Probe': {'fresh', 'refine', 'continue'}}


class Letters(Rule):
    "A deterministic reward."
    name, version = 'letters', ''
    def score_one(self, prompt, response): return len(set(response))/20


def name(method): return type(method).__name__


def searched(tmp, method, name, continues=True, **settings):
    "The stored samples of a run with one call at a time."
    async def go():
        models = [FakeModel(m, capacity=1, continues=continues) for m in 'ab']
        with RunStore(tmp/'runs.db') as store:
            await Run([Prompt(f'p{i}', f'Write about the number {i}.') for i in range(2)], method, models, Letters(),
                      store=store, name=name, concurrency=1, **settings)
            return list(store.samples(name))
    return asyncio.run(asyncio.wait_for(go(), 60))


def shape(samples):
    return {(s.prompt_id, s.trial.number): (s.trial.model, s.trial.kind, s.trial.parents, s.trial.prefix, s.completion.text)
            for s in samples if s.completion}


@pytest.mark.parametrize('method', METHODS, ids=name)
def test_a_stopped_and_resumed_run_finds_the_same_answers(method, tmp_path):
    whole = shape(searched(tmp_path, method, 'whole'))
    assert len(whole) == 2*16 and {kind for _, kind, *_ in whole.values()} == KINDS[name(method)]
    for at in (3, 9):
        assert len(searched(tmp_path, method, 'part', budget=Budget(samples=at))) < 2*16
    assert shape(searched(tmp_path, method, 'part', budget=Budget(samples=10**6))) == whole


@pytest.mark.parametrize('method', [SelfMoA(n=16), QUEST(n=16), REx(n=16), ABMCTSA(n=16)], ids=name)
def test_a_search_whose_next_step_depends_on_the_order_of_tells_goes_on_where_it_was(method, tmp_path):
    first = shape(searched(tmp_path, method, 'part', budget=Budget(samples=7)))
    whole = shape(searched(tmp_path, method, 'part', budget=Budget(samples=10**6)))
    assert len(whole) == 2*16 and first.items() <= whole.items()
    assert {kind for _, kind, *_ in whole.values()} == KINDS[name(method)]


@pytest.mark.parametrize('method', [QUEST(n=12), Probe(n=12, moves=('refine', 'continue')), REx(n=12, improve='continue')],
                         ids=name)
def test_models_that_can_not_continue_make_other_moves(method, tmp_path):
    samples = [s for s in searched(tmp_path, method, 'it', continues=False) if s.completion and not s.error]
    assert len(samples) == 2*12 and 'continue' not in {s.trial.kind for s in samples}


def test_a_kernel_reads_a_stored_run(tmp_path):
    searched(tmp_path, Probe(n=40, moves=('refine', 'continue')), 'probe')
    found = kernel(tmp_path/'runs.db', draws=20)
    assert list(found.table['move'].unique()) == ['fresh', 'refine', 'continue', 'refine, null draft']
    assert found.reward == 'letters' and found.table['answers'].iloc[2] == 2*16//2 + 2*16//2


@pytest.mark.parametrize('known', [n for n in NAMES if n != 'ab_mcts_m'])
def test_settings_come_back_from_a_file(known):
    method = method_from(known, {'n': 7})
    assert method_from(known, json.loads(json.dumps(asdict(method)))) == method


def test_lists_of_moves_are_read_from_a_configuration():
    "A file has lists where a setting has tuples."
    def read(**table): return read_method(table, Path(), 'run.toml: method')
    assert read(name='probe', n=8, moves=['refine', 'continue']) == Probe(n=8, moves=('refine', 'continue'))
    with pytest.raises(ValueError, match='method.moves: a text instead of a list'): read(name='rounds', moves='refine')
