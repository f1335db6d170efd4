"""Moves through the engine: what is sent, stored and told, models that can't continue, and searches that are stopped in between."""
import asyncio
from dataclasses import replace

import pytest

from toa_nb.compute import Budget
from toa_nb.core import Prompt, Score, Usage
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import Rule
from toa_nb.run.progress import progress_of
from toa_nb.run.run import Run
from toa_nb.search.rounds import Rounds
from toa_nb.search.samplers import PRS, SequentialRefine
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore

ALL = ('fresh', 'refine', 'revise', 'continue')


class Letters(Rule):
    "A deterministic reward that says what is wrong."
    name, version = 'letters', ''
    def score_one(self, prompt, response):
        found = len(set(response))
        return Score(self.name, found/40, version='', details={'letters': found})
    def explain(self, score): return f'It has {score.details["letters"]} letters.'


def reply(messages, seed): return ' '.join(f'word{seed*k % 97}' for k in range(1, 9))


def searched(tmp, method, name, able='ab', check=True, names='ab', **settings):
    "The samples of a run with the models a and b, by prompt and number; and the run."
    async def go():
        models = [FakeModel(m, reply, continues=m in able) for m in names]
        with RunStore(tmp/'runs.db') as store:
            run = Run([Prompt(f'p{i}', f'Write about the number {i}.') for i in range(2)], method, models, Letters(),
                      store=store, name=name, check=check, **settings)
            await run
            return {(s.prompt_id, s.trial.number): s for s in store.samples(name)}, run
    return asyncio.run(asyncio.wait_for(go(), 60))


def facts(samples):
    return {k: (s.trial.model, s.trial.kind, s.trial.parents, s.trial.prefix, s.completion.text)
            for k, s in samples.items()}


def test_a_continuation_keeps_the_prefix_of_its_parent(tmp_path):
    samples, _ = searched(tmp_path, Rounds(n=48, moves=ALL), 'all')
    assert {s.trial.kind for s in samples.values()} == set(ALL)
    for (prompt, _), s in samples.items():
        assert (s.trial.prefix > 0) == (s.trial.kind == 'continue')
        if s.trial.kind != 'continue': continue
        parent = samples[prompt, s.trial.parents[0]].completion.text
        assert s.completion.text.startswith(parent[:s.trial.prefix]) and s.completion.usage.completion_tokens == 8


@pytest.mark.parametrize('method, names', [  # The chains of two models would number their answers as these come
    (Rounds(n=32, moves=ALL), 'ab'), (PRS(n=24, improve='continue'), 'ab'), (TOA(n=24, improve='continue', parallel=1), 'ab'),
    (SequentialRefine(n=24, improve='revise'), 'a')], ids=repr)
def test_a_stopped_and_resumed_search_finds_the_same_answers(method, names, tmp_path):
    whole, _ = searched(tmp_path, method, 'whole', names=names, concurrency=1)
    part, _ = searched(tmp_path, method, 'part', names=names, concurrency=1, budget=Budget(samples=13))
    assert len(part) == 26 < len(whole)
    again, _ = searched(tmp_path, method, 'part', names=names, concurrency=1, budget=Budget(samples=10**6))
    assert facts(again) == facts(whole)


def test_a_model_that_can_not_continue_loses_only_this_move(tmp_path):
    samples, run = searched(tmp_path, Rounds(n=48, moves=ALL), 'one', able='a')
    made = {(s.trial.model, s.trial.kind) for s in samples.values()}
    assert ('a', 'continue') in made and ('b', 'continue') not in made and ('b', 'fresh') in made
    assert len(samples) == 96 and not run.progress.failures
    part, _ = searched(tmp_path, Rounds(n=48, moves=ALL), 'part', able='a', budget=Budget(samples=30))
    again, _ = searched(tmp_path, Rounds(n=48, moves=ALL), 'part', able='a', budget=Budget(samples=10**6))
    assert len(part) < len(again) and facts(again) == facts(samples)


def test_a_server_that_does_not_continue_after_all_costs_no_sample(tmp_path):
    class Changed(FakeModel):
        "It seems to continue, and does not."
        async def can_continue(self): return True

    async def go():
        with RunStore(tmp_path/'runs.db') as store:
            run = await Run([Prompt('p', 'Write.')], PRS(n=12, improve='continue'),
                            [Changed('a', reply, continues=False)], Letters(), store=store, concurrency=1)
            return [s for s in store.samples(run.name)]
    samples = asyncio.run(asyncio.wait_for(go(), 60))
    assert [s.trial.kind for s in samples if not s.error] == ['fresh']*12
    assert {s.error.split(':')[0] for s in samples if s.error} == {'CannotContinue'}


def test_the_report_has_the_prefix_cache_beside_what_was_possible(tmp_path):
    class Cached(FakeModel):
        "Its cache holds a tenth of each prompt."
        async def generate(self, messages, *, seed):
            done = await super().generate(messages, seed=seed)
            return replace(done, usage=Usage(100, done.usage.completion_tokens, 10))

    async def go(most):
        with RunStore(tmp_path/'runs.db') as store:
            return await Run([Prompt('p', 'Write about the colours of a harbour in the morning.')], PRS(n=8),
                             [Cached('a', reply)], Letters(), store=store, budget=Budget(samples=most), concurrency=1)
    first = asyncio.run(asyncio.wait_for(go(3), 60)).progress.prefixes['a']
    run = asyncio.run(asyncio.wait_for(go(100), 60))
    read, cached, possible = run.progress.prefixes['a']
    assert first[:2] == (300, 30) and (read, cached) == (800, 80) and first[2] < possible < read
    assert f'prefix cache: 10% of the prompt tokens, {possible/read:.0%} possible' in run.report()
    with RunStore(tmp_path/'runs.db', 'r') as store: assert progress_of(store, run.name).prefixes == run.progress.prefixes
