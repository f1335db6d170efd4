"""Rounds through the engine: the same answers whatever the number of calls in flight, the order in which they end, and where the run was stopped."""
import asyncio

import pytest

from toa_nb.compute import Budget
from toa_nb.core import Prompt
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import Rule
from toa_nb.run.run import Run
from toa_nb.search.rounds import Rounds
from toa_nb.search.simulate import FITTED, WORLDS, paired, simulate_methods
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore


class Letters(Rule):
    "A deterministic reward."
    name, version = 'letters', ''
    def score_one(self, prompt, response): return len(set(response))/10


def searched(tmp, method, capacity, name, latency=0., **settings):
    "The answers of a run, by prompt and number."
    async def go():
        models = [FakeModel(m, latency=latency*(i + 1), capacity=capacity) for i, m in enumerate('ab')]
        with RunStore(tmp/'runs.db') as store:
            await Run([Prompt(f'p{i}', f'Write about the number {i}.') for i in range(3)], method, models, Letters(),
                      store=store, name=name, **settings)
            return {(s.prompt_id, s.trial.number): (s.trial.model, s.trial.kind, s.trial.parents, s.completion.text)
                    for s in store.samples(name)}
    return asyncio.run(asyncio.wait_for(go(), 60))


def test_calls_in_flight_and_their_order_change_nothing(tmp_path):
    one = searched(tmp_path, Rounds(n=32), 1, 'one')
    assert one == searched(tmp_path, Rounds(n=32), 64, 'many', latency=.001)
    assert len(one) == 3*32 and {kind for _, kind, *_ in one.values()} > {'fresh', 'continue'}


@pytest.mark.parametrize('stops', [(5,), (10, 10, 10), (30, 1, 20)])
def test_a_stopped_and_resumed_run_finds_the_same_answers(stops, tmp_path):
    whole = searched(tmp_path, Rounds(n=32), 8, 'whole')
    for at in stops:
        part = searched(tmp_path, Rounds(n=32), 8, 'part', budget=Budget(samples=at))
        assert len(part) < 3*32
    assert searched(tmp_path, Rounds(n=32), 8, 'part', budget=Budget(samples=10**6)) == whole


def test_settings_come_back_from_the_store(tmp_path):
    method = Rounds(n=8, moves=['refine'], prior={'fresh': {'level': {'a': [.5, .2]}}})
    first = searched(tmp_path, method, 8, 'kept')
    again = Run.from_store(tmp_path/'runs.db', 'kept', [FakeModel('a'), FakeModel('b')], [Letters()])
    assert again.method == method and len(first) == 24


@pytest.mark.parametrize('world', ['fitted', 'equal', 'dominant', 'useless', 'copying', 'right_tail', 'other_scale'])
def test_rounds_are_not_below_published_toa(world):
    "On prompts that no figure shows."
    methods = dict(toa=TOA.published(n=64), rounds=Rounds(n=64))
    out = simulate_methods(WORLDS[world], methods, prompts=40, first=5000)
    unit = 5.5e-3*WORLDS[world].scale/FITTED.scale
    gain, half = paired(out['rounds']['top10'], out['toa']['top10'], unit)
    assert gain + half > 0


def test_a_search_that_reached_its_target_is_finished_and_stays_so(tmp_path):
    method = Rounds(n=32, target=.6)
    first = searched(tmp_path, method, 8, 'target')
    assert 3*4 <= len(first) < 3*32
    assert searched(tmp_path, method, 8, 'target') == first
