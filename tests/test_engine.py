"""What the engine guarantees about slots, budgets and resuming, on fake models with exact numbers."""
import asyncio
import contextlib
import dataclasses
import os
import sqlite3
from collections import Counter

import pytest
from clocks import HANG, Clock, set_clock

from toa_nb.compute import Budget, get_spec
from toa_nb.core import Completion, ConnectionFailed, InputError, Prompt, ReplayError, ServerFailed
from toa_nb.models.client import ChatModel
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import RewardUnreachable, Rule
from toa_nb.rewards.http_servers import HttpReward
from toa_nb.rewards.queue import RewardQueue
from toa_nb.rewards.verifiers import Regex
from toa_nb.run.forecast import projected
from toa_nb.run.run import Run
from toa_nb.search.samplers import PRS, BestOfN, MoA, ParallelEnsemble, SequentialRefine
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore
from toa_nb.store.tables import to_frame


class Letters(Rule):
    "A deterministic reward."
    name, version = 'letters', ''
    def score_one(self, prompt, response): return len(set(response))/10


def tasks(n): return [Prompt(f'p{i}', f'Write about the number {i}.') for i in range(n)]


class Watched(FakeModel):
    "A fake model that notes how many calls it works on, and refuses one too many."
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.busy, self.peak, self.used = 0, 0, 0.

    async def generate(self, messages, *, seed):
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        assert self.busy <= self.capacity, 'more calls than the model takes'
        try: answer = await super().generate(messages, seed=seed)
        finally: self.busy -= 1
        self.used += answer.latency
        return answer


def done(tmp, method, models, prompts=6, name='r', **settings):
    "A run to its end, and what is stored of it."
    async def go():
        with RunStore(tmp/'runs.db', synchronous='NORMAL') as store:
            run = await asyncio.wait_for(Run(tasks(prompts), method, models, RewardQueue(Letters(), wait=0),
                                             store=store, name=name, **settings), HANG)
            return run, list(store.samples(name))
    return asyncio.run(go())


# Slots

@pytest.mark.parametrize('method', [TOA(n=10), ParallelEnsemble(n=10), BestOfN(n=10), PRS(n=10), MoA(n=10),
                                    SequentialRefine(n=10)])
@pytest.mark.parametrize('concurrency', [None, 3])
def test_no_model_gets_more_calls_than_it_takes(method, concurrency, tmp_path):
    models = [Watched('a', latency=.001, capacity=2), Watched('b', latency=.002, capacity=5)]
    run, samples = done(tmp_path, method, models, concurrency=concurrency)
    assert len(samples) == 60 and all(m.peak <= m.capacity for m in models) and sum(m.peak for m in models) >= 2
    s = run.session
    assert not any([*s.parked.values(), *s.calls.values()]) and s.ready == s.active == s.tasks == {}


def test_capacity_that_grows_is_used(tmp_path):
    "An adaptive limit is read again after each call."
    class Growing(Watched):
        async def generate(self, messages, *, seed):
            answer = await super().generate(messages, seed=seed)
            self.capacity += 1
            return answer
    model = Growing('a', latency=.002, capacity=1)
    done(tmp_path, BestOfN(n=10), [model])
    assert model.peak >= 8


def test_a_slow_model_leaves_no_slot_of_the_others_empty(tmp_path):
    "While the slow model of three has work, it is full; the fast ones have done their part when it has answered half of its own."
    class Slow(Watched):
        "A model whose calls wait until they are let go."
        waiting, answers = 0, asyncio.Semaphore(0)
        async def generate(self, messages, *, seed):
            self.waiting += 1
            await self.answers.acquire()
            self.waiting -= 1
            return await super().generate(messages, seed=seed)
    models = [Watched('a', capacity=4), Watched('b', capacity=4), Slow('c', capacity=4)]
    async def go():
        with RunStore(tmp_path/'runs.db', synchronous='NORMAL') as store:
            run = Run(tasks(30), ParallelEnsemble(n=6), models, Letters(), store=store, name='r').start()
            for told in range(56):
                while models[2].waiting < 4: await asyncio.sleep(0)
                while told == 30 and run.progress.samples < 120 + told: await asyncio.sleep(0)
                models[2].answers.release()
            for _ in range(4): models[2].answers.release()
            return await run
    run = asyncio.run(asyncio.wait_for(go(), HANG))
    assert (run.progress.samples, [m.calls for m in models]) == (180, [60, 60, 60])


def test_prompts_come_before_trials_of_the_same_prompt(tmp_path):
    "With as many prompts as slots no trial knows of another one; with one prompt the search fills the slots by itself."
    _, samples = done(tmp_path, TOA(n=6), [FakeModel('a', latency=.04, capacity=4)], prompts=20, name='many')
    assert sum(s.trial.in_flight for s in samples if s.prompt_id in ('p0', 'p1', 'p2', 'p3')) == 0
    _, samples = done(tmp_path, TOA(n=16), [FakeModel('a', latency=.001, capacity=4)], prompts=1, name='one')
    assert max(s.trial.in_flight for s in samples) >= 3


def test_long_prompts_do_not_delay_the_rest(tmp_path):
    "One of twenty prompts gets no answer until the others are done: they end before it, and its own tail is searched in parallel."
    class Long(FakeModel):
        async def generate(self, messages, *, seed):
            if 'number 0.' in messages[-1].content: await others.wait()
            return await super().generate(messages, seed=seed)
    others = asyncio.Event()
    async def go():
        with RunStore(tmp_path/'runs.db', synchronous='NORMAL') as store:
            run = Run(tasks(20), TOA(n=16, parallel=4), [Long('a', capacity=8)], RewardQueue(Letters(), wait=0),
                      store=store, name='r').start()
            while run.progress.done < 19: await asyncio.sleep(0)
            assert run.progress.samples == 19*16 and not list(store.samples('r', 'p0'))
            others.set()
            await run
            return list(store.samples('r', 'p0'))
    samples = asyncio.run(asyncio.wait_for(go(), HANG))
    assert max(s.trial.in_flight for s in samples) >= 3 and len(samples) == 16


# Budgets

def words(k, clock=None):
    "A model that answers `k` words; with a clock, each answer takes a millisecond of it."
    def reply(messages, seed):
        if clock: clock.pass_by(.001)
        return ' '.join(['word']*k)
    return FakeModel('a', reply, latency=.001, spec=get_spec('Qwen2-7B-Instruct'), capacity=4)


@pytest.fixture
def clock(monkeypatch):
    "The clock of every run in a test."
    clock = Clock()
    set_clock(monkeypatch, 'toa_nb.run', clock)
    return clock


@pytest.mark.parametrize('limit, value', [('samples', 5), ('tokens', 100), ('flops', 1.5e12), ('seconds', .004),
                                          ('cost', 40e-6)])
@pytest.mark.parametrize('method', [BestOfN(n=40), TOA(n=40)])
def test_limits_per_prompt(limit, value, method, clock, tmp_path):
    "A prompt ends at its limit, overshot by no more than the trials that were out; the run goes on to the last prompt."
    model = words(10, clock)
    model.spec = dataclasses.replace(model.spec, price_in=0., price_out=1.)
    run, samples = done(tmp_path, method, [model], prompts=3, budget=Budget(**{limit: value}))
    by_prompt = Counter(s.prompt_id for s in samples)
    assert run.progress.state == 'finished' and run.progress.done == 3 and len(by_prompt) == 3
    assert all(n < 40 for n in by_prompt.values())
    assert run.progress.target == (15 if limit == 'samples' else 120)
    if limit == 'samples': assert set(by_prompt.values()) == {5} and projected(run.progress).samples == 15
    if limit == 'cost': assert all(4 <= n <= 4 + 3 for n in by_prompt.values())
    if limit == 'tokens':
        assert all(sum(s.completion.usage.total for s in samples if s.prompt_id == p) >= 100 for p in by_prompt)


@pytest.mark.parametrize('limit, value', [('samples', 30), ('tokens', 600), ('flops', 9e12), ('seconds', .02),
                                          ('cost', 300e-6)])
def test_limits_per_run(limit, value, clock, tmp_path):
    "The run stops at the first limit to be reached, says which, and overshoots by no more than what was in flight."
    model = words(10, clock)
    model.spec = dataclasses.replace(model.spec, price_in=0., price_out=1.)
    run, samples = done(tmp_path, BestOfN(n=40), [model], prompts=50, budget=Budget(per_run=Budget(**{limit: value})))
    p = run.progress
    assert (p.state, p.stopped_by) == ('stopped', limit) and 0 < p.samples < 400 and f'({limit})' in run.report()
    spent = dict(samples=p.samples, tokens=p.spent.tokens, flops=p.spent.flops, cost=p.spent.cost,
                 seconds=p.seconds)[limit]
    assert spent >= value
    if limit == 'samples': assert spent == value
    assert spent <= value + 4*spent/p.samples


def test_a_limit_on_what_is_unknown_is_refused_before_a_call(tmp_path):
    model = FakeModel('a')
    with pytest.raises(Exception, match='Give every model a spec'):
        done(tmp_path, BestOfN(n=4), [model], budget=Budget(flops=1e12))
    assert model.calls == 0


def test_parked_trials_of_a_prompt_without_budget_are_not_called(tmp_path):
    "When model b answers, the prompts have spent their tokens on a; what waits for b is dropped."
    class Late(FakeModel):
        async def generate(self, messages, *, seed):
            await spent.wait()
            return await super().generate(messages, seed=seed)
    spent, models = asyncio.Event(), [FakeModel('a', lambda m, s: 'many words indeed', capacity=4),
                                      Late('b', capacity=1)]
    async def go():
        run = Run(tasks(4), ParallelEnsemble(n=12), models, Letters(), store=tmp_path/'runs.db', name='r',
                  budget=Budget(tokens=30)).start()
        while run.progress.spent.tokens < 4*30: await asyncio.sleep(0)
        spent.set()
        return await run
    run = asyncio.run(asyncio.wait_for(go(), HANG))
    assert run.progress.state == 'finished' and run.progress.done == 4 and models[1].calls <= 2


def test_a_budget_that_is_raised_lets_a_run_go_on(tmp_path):
    for tokens, state in ((100, 'stopped'), (200, 'stopped'), (10**6, 'finished')):
        run, samples = done(tmp_path, BestOfN(n=8), [words(3)], prompts=6, budget=Budget(per_run=Budget(tokens=tokens)))
        assert run.progress.state == state and run.progress.spent.tokens >= min(tokens, 384)
    assert len(samples) == 48 and run.progress.session.samples < 48


def test_projected_totals_agree_with_the_end(tmp_path):
    run, _ = done(tmp_path, BestOfN(n=8), [words(3)], budget=Budget(per_run=Budget(samples=12)))
    half = projected(run.progress)
    run, _ = done(tmp_path, BestOfN(n=8), [words(3)])
    assert (half.samples, half.tokens, half.flops) == (48, run.progress.spent.tokens,
                                                       pytest.approx(run.progress.spent.flops))


def test_the_seconds_of_a_prompt_add_up_over_sessions(clock, tmp_path):
    "Prompts that ran out of time stay closed, unless they are given more of it."
    first, samples = done(tmp_path, BestOfN(n=200), [words(3, clock)], prompts=3, budget=Budget(seconds=.01))
    again, same = done(tmp_path, BestOfN(n=200), [words(3, clock)], prompts=3, budget=Budget(seconds=.01))
    assert (samples == same and again.models['a'].calls == 0
            and (again.progress.done, again.progress.state) == (3, 'finished'))
    assert again.progress.spent.tokens == first.progress.spent.tokens and again.progress.best == first.progress.best
    with RunStore(tmp_path/'runs.db', 'r') as store: spent = store.last_events('r', 'done')
    more, samples = done(tmp_path, BestOfN(n=200), [words(3, clock)], prompts=3, budget=Budget(seconds=3600))
    with RunStore(tmp_path/'runs.db', 'r') as store:
        assert all(note['seconds'] > spent[p]['seconds'] >= .01 for p, note in store.last_events('r', 'done').items())
    assert len(samples) == 600 > len(same) and more.progress.done == 3


def test_the_projection_ends_where_the_budgets_of_the_prompts_do(tmp_path):
    "Half of a run shows tokens, FLOPs and cost of the whole of it, in its report too."
    model = words(10)
    model.spec = dataclasses.replace(model.spec, price_out=1.)
    run, samples = done(tmp_path, BestOfN(n=40), [model], budget=Budget(tokens=150, per_run=Budget(samples=30)))
    each = samples[0].completion.usage.total
    p, whole = run.progress, projected(run.progress)
    assert (p.samples, p.target, whole.tokens) == (30, 240, 6*150) and whole.samples == round(900/each)
    assert (whole.flops == pytest.approx(p.spent.flops*30/p.samples*900/(30*each))
            and whole.cost == pytest.approx(p.spent.cost*900/(30*each)))
    assert f'projected total: 900 tokens, {whole.flops:.3g} FLOPs, 0 FLOPs of rewards, cost {whole.cost:.4g}' in run.report()


# Resuming

async def cut_off(tmp, method, samples, prompts=6, **settings):
    "A run that is stopped the hard way after some samples."
    models = [FakeModel(name, latency=.001, capacity=2, spec=get_spec('Qwen2-7B-Instruct')) for name in 'ab']
    run = Run(tasks(prompts), method, models, Letters(), store=tmp/'runs.db', name='r', **settings).start()
    while run.progress.samples < samples and not run.task.done(): await asyncio.sleep(0)
    run.cancel(), run.cancel()
    return await run


@pytest.mark.parametrize('at', [5, 20, 50])
def test_the_books_are_complete_before_a_call_is_paid_for(at, tmp_path):
    "A session that does nothing at all reports what the sessions before it have stored, failures included."
    asyncio.run(cut_off(tmp_path, TOA(n=10), at))
    idle = asyncio.run(cut_off(tmp_path, TOA(n=10), 0)).progress
    with RunStore(tmp_path/'runs.db', 'r') as store:
        told = [entry[2] for p in tasks(6) for entry in store.journal('r', p.id) if entry[0] == 'tell']
        assert idle.spent.tokens == sum(s.completion.usage.total
                                        for s in store.samples('r')) and idle.session.calls == 0
    assert idle.samples == idle.resumed == idle.scored == len(told) >= at
    assert idle.best == {p: max(s.value('letters') for s in told if s.prompt_id == p)
                         for p in {s.prompt_id for s in told}}
    end = asyncio.run(cut_off(tmp_path, TOA(n=10), 99)).progress
    with RunStore(tmp_path/'runs.db', 'r') as store:
        assert end.spent.tokens == sum(s.completion.usage.total for s in store.samples('r'))
    assert (end.state, end.samples, end.spent.samples, end.done) == ('finished', 60, 60, 6)


def test_an_extended_run_that_is_cut_off_keeps_its_books(tmp_path):
    "Some prompts have gone on after their notes, some have not; each is counted once."
    asyncio.run(cut_off(tmp_path, TOA(n=4), 24))
    answers = [3]
    class Few(FakeModel):
        "Gives no answer after the third one of both models."
        async def generate(self, messages, *, seed):
            if not answers[0]: await asyncio.Event().wait()
            answers[0] -= 1
            return await super().generate(messages, seed=seed)
    async def extended():
        models = [Few(name, capacity=1, spec=get_spec('Qwen2-7B-Instruct')) for name in 'ab']
        run = Run(tasks(6), TOA(n=4), models, Letters(), store=tmp_path/'runs.db', name='r').extend(3).start()
        while run.progress.samples < 27: await asyncio.sleep(0)
        run.cancel(), run.cancel()
        return await run
    half = asyncio.run(asyncio.wait_for(extended(), HANG)).progress
    idle, end = (asyncio.run(cut_off(tmp_path, TOA(n=4), n)).progress for n in (0, 99))
    assert half.samples == idle.samples == 27 and (idle.session.calls, idle.target) == (0, 42)
    with RunStore(tmp_path/'runs.db', 'r') as store:
        assert end.spent.tokens == sum(s.completion.usage.total for s in store.samples('r'))
    assert (end.samples, end.spent.samples, end.done) == (42, 42, 6)


@pytest.mark.parametrize('limit, value', [('samples', 30), ('tokens', 900)])
def test_a_run_that_its_budget_ended_pays_nothing_more(limit, value, tmp_path):
    runs = [done(tmp_path, TOA(n=40), [words(3)], budget=Budget(per_run=Budget(**{limit: value}))) for _ in range(3)]
    assert all((run.progress.state, run.progress.stopped_by) == ('stopped', limit) for run, _ in runs)
    assert [run.models['a'].calls for run, _ in runs[1:]] == [0, 0] and runs[0][1] == runs[1][1] == runs[2][1]


def test_asking_for_more_in_vain_and_again_asks_once(tmp_path):
    "The request is stored when the servers have answered their check."
    class Down(FakeModel):
        async def check(self): raise ServerFailed('HTTP 500: down')
    done(tmp_path, BestOfN(n=2), [FakeModel('a')])
    async def more(model):
        return await Run(tasks(6), BestOfN(n=2), [model], Letters(), store=tmp_path/'runs.db', name='r').extend(3)
    for _ in range(2):
        with pytest.raises(ServerFailed): asyncio.run(more(Down('a')))
    assert asyncio.run(more(FakeModel('a'))).progress.samples == 6*5


@pytest.mark.parametrize('change, says', [
    (dict(reward=Regex('[b-z]', 'r')), "version of the reward 'r' was '[a-z]' and is now '[b-z]'"),
    (dict(model=dict(temperature=0.)), "temperature of the model 'a' was 0.7 and is now 0.0"),
    (dict(model=dict(extra={'top_k': 5})), "extra of the model 'a' was {'stop': [1, 2]} and is now {'top_k': 5}"),
    (dict(model=dict(model='qwen')), "model of the model 'a' was 'a' and is now 'qwen'"),
    (dict(prompts=[Prompt('p0', 'Write about the number 0.', reference='0')]),
     "reference of the prompt 'p0' was None and is now '0'"),
    (dict(prompts=[Prompt('p0', 'x'*400)]),
     "instruction of the prompt 'p0' was 'Write about the number 0.' and is now 'xxx"),
    (dict(model=dict(timeout=3., retries=9, concurrency=2, api_key_env='TOA_KEY', endpoints='http://127.0.0.1:8/v1'),
          budget=Budget(tokens=9)), None)])
def test_a_run_goes_on_as_the_same_experiment_or_not_at_all(change, says, tmp_path):
    "What decides what is asked, and what an answer is worth, is compared before a server is called; where and how long is not."
    def run(prompts=None, reward=None, model=None, **settings):
        model = ChatModel('a', **dict(endpoints='http://127.0.0.1:9/v1', extra={'stop': (1, 2)}) | (model or {}))
        return Run(prompts or tasks(1), BestOfN(n=1), [model], reward or Regex('[a-z]', 'r'), store=tmp_path/'runs.db',
                   name='r', **settings)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TOA_KEY', 'key')
        with pytest.raises(ConnectionFailed): run().wait(show=False)
        with RunStore(tmp_path/'runs.db') as store:
            async def answer():
                store.add_trial('r', 'p0', BestOfN(n=1).start(tasks(1)[0], ['a']).ask())
                await store.add_completion('r', 'p0', 0, Completion('1', None))
            asyncio.run(answer())
        with pytest.raises(InputError if says else ConnectionFailed) as e: run(**change).wait(show=False)
    if says:
        told = str(e.value).replace(f'{tmp_path}{os.sep}', '')
        assert f"run 'r' in runs.db: {says}" in told and len(told) < 420 and '\n' not in told


def test_a_run_is_taken_up_with_the_budget_and_the_servers_of_its_last_session(tmp_path):
    limits = [Budget(per_run=Budget(tokens=tokens)) for tokens in (100, 200)]
    for budget in limits: done(tmp_path, BestOfN(n=40), [words(3)], budget=budget)
    again = Run.from_store(tmp_path/'runs.db', models=[words(3)], rewards=[Letters()])
    assert again.budget == limits[1] and again.wait(show=False).progress.session.calls == 0
    with RunStore(tmp_path/'runs.db', 'r') as store: assert [kind for kind, _ in store.events('r')].count('config') == 1


def test_notes_of_earlier_versions_are_read(tmp_path):
    "Without the time and the limit, a prompt that its budget ended tries again, as it did then."
    done(tmp_path, BestOfN(n=4), [words(3)], prompts=2, budget=Budget(samples=2))
    with contextlib.closing(sqlite3.connect(tmp_path/'runs.db')) as db, db:
        db.execute("UPDATE event SET value = json_remove(value, '$.seconds', '$.limit') WHERE kind = 'done'")
    for n, calls in ((2, 0), (3, 2)):
        run, samples = done(tmp_path, BestOfN(n=4), [words(3)], prompts=2, budget=Budget(samples=n))
        assert (run.models['a'].calls, len(samples), run.progress.samples, run.progress.done) == (calls, 2*n, 2*n, 2)


@pytest.mark.parametrize('method', [TOA(n=6), TOA.published(n=6), PRS(n=6), MoA(n=6), SequentialRefine(n=6),
                                    ParallelEnsemble(n=6)])
def test_extending_a_finished_run_pays_for_the_new_samples_only(method, tmp_path):
    async def go():
        models = [FakeModel(name, spec=get_spec('Qwen2-7B-Instruct')) for name in 'ab']
        run = await Run(tasks(4), method, models, Letters(), store=tmp_path/'runs.db', name='r')
        first = run.progress.spent
        await run.extend(3)
        await run.extend(2)
        calls = sum(m.calls for m in models)
        again = await Run(tasks(4), method, models, Letters(), store=tmp_path/'runs.db', name='r')
        assert calls == sum(m.calls for m in models) == 4*11
        assert again.progress.samples == again.progress.resumed == 44 and again.progress.state == 'finished'
        assert (first.samples == 24 and again.progress.spent.tokens == run.progress.spent.tokens
                and again.progress.best == run.progress.best)
    asyncio.run(go())


def test_a_run_with_other_code_is_refused_and_not_corrupted(tmp_path):
    "A sampler that asks for something else than what is stored ends the resume before a call."
    done(tmp_path, TOA(n=6, parallel=1), [FakeModel('a'), FakeModel('b')], budget=Budget(per_run=Budget(samples=9)))
    model, start = FakeModel('a'), TOA.start
    def other(self, prompt, models, seed=0, templates=None): return start(self, prompt, models, seed + 1, templates)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(TOA, 'start', other, raising=False)
        with pytest.raises(ReplayError, match="run 'r', prompt 'p0': trial 0 is not what the sampler asks for now"):
            done(tmp_path, TOA(n=6, parallel=1), [model, FakeModel('b')])
    assert model.calls == 0
    run, samples = done(tmp_path, TOA(n=6, parallel=1), [FakeModel('a'), FakeModel('b')])
    assert run.progress.state == 'finished' and len(samples) == 36


def test_failures_of_finished_prompts_are_in_the_report_of_a_later_session(tmp_path):
    flaky = FakeModel('a', fail=lambda n: ServerFailed('HTTP 500: busy') if n % 5 == 0 else None)
    first, _ = done(tmp_path, BestOfN(n=5), [flaky])
    later, _ = done(tmp_path, BestOfN(n=5), [FakeModel('a')])
    assert first.progress.failures == later.progress.failures and later.progress.failures['a', 'ServerFailed'].count > 3


def test_the_kinds_of_models_and_rewards_are_saved(tmp_path):
    run = Run(tasks(1), BestOfN(n=1), [ChatModel('q', 'http://127.0.0.1:9/v1', api_key_env='TOA_KEY')], Letters(),
              store=tmp_path/'runs.db')
    assert run.config()['models'] == [dict(name='q', api_key_env='TOA_KEY', model='q',
                                           endpoints=[{'url': 'http://127.0.0.1:9/v1'}])]


def test_a_failure_counts_every_call_that_it_cost(tmp_path):
    "In the books of the run, in those of a session that only reads the store, and in the table of the analysis."
    def fail(number): return ServerFailed('HTTP 500', attempts=5) if number == 1 else None
    def run():
        return Run(tasks(1), BestOfN(n=3), [FakeModel('a', fail=fail)], Letters(), store=tmp_path/'runs.db', name='r')
    first = run().wait(show=False)
    assert (first.progress.samples, first.progress.spent.calls) == (3, 8)
    again = run().wait(show=False)
    assert (again.progress.spent.calls, again.progress.session.calls) == (8, 0)
    with RunStore(tmp_path/'runs.db', 'r') as store:
        assert sorted(s.attempts for s in store.samples('r')) == [1, 1, 1, 5]
        assert to_frame(store)['calls'].sum() == 8


def test_cancelling_twice_at_once_puts_the_store_away(tmp_path):
    async def go():
        run = Run(tasks(2), BestOfN(n=3), [FakeModel('a', latency=.01)], Letters(), store=tmp_path/'runs.db',
                  name='r').start()
        run.cancel()
        run.cancel()
        await run
        return run.progress.state
    assert asyncio.run(go()) == 'stopped'
    RunStore(tmp_path/'runs.db').close()


def test_a_reward_server_that_can_not_be_reached_is_refused_before_a_prompt_is_spent(tmp_path):
    model = FakeModel('a')
    run = Run(tasks(2), BestOfN(n=3), [model], HttpReward('http://127.0.0.1:9/score', name='far'),
              store=tmp_path/'runs.db', name='r')
    with pytest.raises(RewardUnreachable, match='far'): run.wait(show=False)
    assert model.calls == 0
