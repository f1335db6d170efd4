"""Runs against servers and rewards that fail in every way we know: a run ends by itself, the other models do the work, and the report says what happened."""
import asyncio
import math
import re

import pytest
from clocks import HANG, time_out_in_silence
from fault_server import Fault, FaultServer

from toa_nb import core
from toa_nb.core import Prompt, Score
from toa_nb.models import endpoints
from toa_nb.models.client import ChatModel
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import RewardUnreachable, Rule
from toa_nb.rewards.queue import RewardOut, RewardQueue
from toa_nb.run import schedule
from toa_nb.run.console import progress_line
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN, MoA, ParallelEnsemble, SequentialRefine
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore

PASSING = dict(
    error500=('ServerFailed', 'HTTP 500: internal error'), error503=('ServerFailed', 'HTTP 503: overloaded'),
    rate_limit=('RateLimited', 'HTTP 429: too many requests'),
    rate_limit_after=('RateLimited', 'HTTP 429: too many requests'),
    hang=('CallTimeout', 'no whole answer within 0.3 s'), trickle=('CallTimeout', 'no whole answer within 0.3 s'),
    reset=('ConnectionFailed', ''), cut=('ConnectionFailed', ''),
    truncated=('MalformedAnswer', 'the answer is not JSON'),
    html=('MalformedAnswer', 'the answer is not JSON: <html>'), error200=('MalformedAnswer', 'worker lost'),
    no_choices=('NoChoices', 'the list of choices is empty'))
LASTING = dict(
    auth=('AuthFailed', 'HTTP 401: Incorrect API key'), unknown_model=('UnknownModel',
        'HTTP 404: The model `b` does not exist.'),
    too_long=('ContextOverflow', 'HTTP 400: the prompt is longer'),
    none_content=('EmptyAnswer', 'the content is missing'),
    empty_text=('EmptyAnswer', 'the content is blank'), no_usage=('MissingUsage', 'the answer has no token counts'))
FAULTS = PASSING | LASTING


class Letters(Rule):
    "A deterministic reward."
    name, version = 'letters', '1'
    def score_one(self, prompt, response): return len(set(response))/10


def tasks(n): return [Prompt(f'p{i}', f'Write about the number {i}.') for i in range(n)]


def chat_model(name, server, outage_timeout):
    "A model with short pauses, whose calls time out where the server gives no answer."
    m = ChatModel(name, server.url, timeout=.3, retries=2, outage_timeout=outage_timeout)
    m.sleep = lambda seconds: asyncio.sleep(seconds/100)
    for endpoint in m.ready().endpoints: endpoint.breaker.pause, endpoint.breaker.max_pause = .02, .1
    time_out_in_silence(m, server)
    return m


async def driven(tmp, faults, method, prompts=6, names='ab', until=None, outage_timeout=HANG, settings=None, **server):
    "A run against a server with `faults`, and what is stored of it; extended, if need be, until that is as wanted."
    async with FaultServer(faults=faults, **dict(latency=.002) | server) as s:
        models = [chat_model(name, s, outage_timeout) for name in names]
        with RunStore(tmp/'runs.db', synchronous='NORMAL') as store:
            run = await asyncio.wait_for(Run(tasks(prompts), method, models, Letters(), store=store, name='r',
                                             check=False, **settings or {}), HANG)
            while until and not until(list(store.samples('r'))) and run.session.wanted < 100*method.n:
                await asyncio.wait_for(run.extend(method.n), HANG)
            samples = list(store.samples('r'))
        for m in models: await m.close()
    return run, samples


def good(samples, model=None):
    "The answers that came back whole."
    return [s for s in samples if s.error is None and model in (None, s.trial.model)]


def check_report(run, model, kind, first):
    "The report names the model, the fault, the count and the first message."
    failures = run.progress.failures[model, kind]
    assert failures.count > 0 and failures.first.startswith(f'{kind}: ') and first in failures.first
    assert f'{model}: {failures.count} x {kind}: ' in run.report()


@pytest.mark.parametrize('kind', FAULTS)
def test_a_fault_in_a_tenth_of_the_calls_costs_no_sample(kind, tmp_path):
    fault = Fault(kind, .1, retry_after=.02)
    run, samples = asyncio.run(driven(tmp_path, [fault], ParallelEnsemble(n=16)))
    assert run.progress.state == 'finished' and len(good(samples)) == run.progress.samples == 6*16
    if kind in LASTING: assert run.progress.failures and all(k == FAULTS[kind][0] for _, k in run.progress.failures)
    else: assert run.progress.spent.calls > 6*16, 'attempts that failed are counted'


@pytest.mark.parametrize('kind', FAULTS)
def test_a_fault_in_all_calls_of_one_model_leaves_the_work_to_the_other(kind, tmp_path):
    run, samples = asyncio.run(driven(tmp_path, [Fault(kind, model='b', retry_after=.02)], TOA(n=8), outage_timeout=.1))
    assert run.progress.state == 'finished' and run.progress.given_up == 0
    assert len(good(samples, 'a')) == 6*8 and not good(samples, 'b')
    check_report(run, 'b', *FAULTS[kind])


@pytest.mark.parametrize('kind', FAULTS)
def test_a_fault_that_begins_in_the_middle(kind, tmp_path):
    run, samples = asyncio.run(driven(tmp_path, [Fault(kind, model='b', start=12, retry_after=.02)], TOA(n=10),
                                      outage_timeout=.1))
    assert run.progress.state == 'finished' and len(good(samples)) == 6*10
    assert 0 < len(good(samples, 'b')) <= 12
    check_report(run, 'b', *FAULTS[kind])


@pytest.mark.parametrize('kind', FAULTS)
def test_a_model_whose_fault_ends_in_the_middle_is_taken_back(kind, tmp_path):
    "However long that takes on a busy machine: the run lasts for several of the pauses in which `b` is left alone, and is extended if it does not."
    fault, back = Fault(kind, model='b', stop=6, retry_after=.02), lambda samples: good(samples, 'b')
    run, samples = asyncio.run(driven(tmp_path, [fault], TOA(n=20), until=back, outage_timeout=.1, latency=.03))
    assert run.progress.state == 'finished' and len(good(samples)) == 6*run.session.wanted
    assert good(samples, 'b'), 'b works again'


@pytest.mark.parametrize('method', [TOA(n=10), ParallelEnsemble(n=10), SequentialRefine(n=10), MoA(n=10)],
                         ids=lambda m: type(m).__name__)
@pytest.mark.parametrize('concurrency', [None, 1])
def test_a_model_that_dies_for_good_does_not_hold_up_the_others(concurrency, method, tmp_path, monkeypatch):
    "Its calls wait as long as the session had worked before, take no slot of the others, and then fail; alone they would wait for ever."
    monkeypatch.setattr(schedule, 'LEAST_WAIT', .05)
    run, samples = asyncio.run(driven(tmp_path, [Fault('reset', model='b', start=5)], method, prompts=3,
                                      outage_timeout=math.inf, settings=dict(concurrency=concurrency)))
    assert run.progress.state == 'finished' and len(good(samples)) == 3*10
    assert good(samples, 'b') and len(good(samples, 'a')) >= 3*10 - 5


def test_a_server_that_takes_calls_and_answers_none_leaves_the_slots_to_the_others(tmp_path, monkeypatch):
    "Long before the time limit of its calls: the others finish all that they were asked for, and the line names it."
    monkeypatch.setattr(endpoints, 'SILENT', .05)
    async def check():
        async with FaultServer(faults=[Fault('hang', model='b')], latency=.002) as s:
            models = [ChatModel(name, s.url) for name in 'ab']
            run = Run(tasks(6), ParallelEnsemble(n=8), models, Letters(), store=tmp_path/'runs.db', check=False,
                      concurrency=2).start()
            while run.progress.samples < 6*4: await asyncio.sleep(.001)
            assert 'b has said nothing for ' in progress_line(run.session) and 0 < run.session.calls['b'] <= 2
            run.cancel()
            run.cancel()
            await run
            for m in models: await m.close()
    asyncio.run(asyncio.wait_for(check(), HANG))


def test_calls_go_to_the_replica_that_answers(monkeypatch):
    monkeypatch.setattr(endpoints, 'SILENT', .05)
    async def check():
        async with FaultServer(faults=['hang'], latency=.002) as dead, FaultServer(latency=.002) as alive:
            model = ChatModel('a', [dead.url, alive.url])
            def call(n): return asyncio.ensure_future(model.generate((core.Message('user', f'Question {n}'),), seed=n))
            first = [call(n) for n in range(8)]
            while sum(task.done() for task in first) + dead.calls < 8 or not model.silent()[0]: await asyncio.sleep(.001)
            held, now = dead.calls, model.balancer.clock()
            model.balancer.clock = lambda: now  # from here on time stands still, so no slow moment looks like silence
            await asyncio.gather(*(call(n) for n in range(100, 200)))
            assert 0 < held == dead.calls < 8
            for task in first: task.cancel()
            await asyncio.wait(first)
            await model.close()
    asyncio.run(asyncio.wait_for(check(), HANG))


@pytest.mark.parametrize('share', [.1, 1.])
def test_an_answer_by_another_model_is_recorded_and_remarked(share, tmp_path):
    "It is no failure; the report says how often it was, in a later session too."
    run, samples = asyncio.run(driven(tmp_path, [Fault('other_model', share, model='b')], ParallelEnsemble(n=16)))
    others = [s for s in good(samples, 'b') if s.completion.served_model == 'another-model']
    assert len(good(samples)) == 6*16 and len(others) > 0 and (share < 1) == (len(others) < len(good(samples, 'b')))
    later, _ = asyncio.run(driven(tmp_path, [], ParallelEnsemble(n=16)))
    for r in (run, later):
        assert r.ok and r.progress.failures == {} and [(who, f.count)
                                                       for (who, _), f in r.progress.remarks.items()] == [('b', len(others))]
        assert f"b: {len(others)} x OtherModel: the server reports that 'another-model' answered, not 'b'" in r.report()


def test_everything_is_out_and_comes_back(tmp_path):
    "With no model left the run gives up, says so, and goes on when it is started again."
    run, samples = asyncio.run(driven(tmp_path, [Fault('error500')], TOA(n=4), outage_timeout=.1))
    assert run.progress.state == 'given up' and (run.progress.samples, run.progress.given_up) == (0, 6)
    assert '6 prompts given up' in run.report() and not run.ok
    run, samples = asyncio.run(driven(tmp_path, [], TOA(n=4)))
    assert (run.progress.samples, run.progress.given_up, run.progress.done) == (24, 0, 6)
    assert run.progress.failures and all(model in 'ab' for model, _ in run.progress.failures), 'the old failures are not forgotten'


# Before a run


@pytest.mark.parametrize('server, settings, exc, words', [
    (dict(key='right'), {}, core.AuthFailed, 'Name the environment variable that holds the key in api_key_env'),
    (dict(key='right'), dict(api_key_env='TOA_TEST_KEY'), core.AuthFailed, 'Check the key in TOA_TEST_KEY'),
    ({}, dict(model='nobody'), core.UnknownModel, 'This server lists a, b, c, d'),
    (dict(faults=['error500']), {}, core.ServerFailed, 'HTTP 500: internal error'),
    (dict(faults=['no_usage']), {}, core.MissingUsage, 'use a server that reports usage'),
    (None, {}, core.ConnectionFailed, 'refuses connections. Start the server there, or correct the address.')])
def test_what_can_not_work_is_refused_before_a_prompt_is_spent(server, settings, exc, words, tmp_path, monkeypatch):
    monkeypatch.setenv('TOA_TEST_KEY', 'wrong')
    async def check():
        async with FaultServer(**server or {}) as s:
            model = ChatModel('a', s.url if server is not None else 'http://127.0.0.1:9/v1', **settings)
            model.sleep = lambda seconds: asyncio.sleep(0)
            run = Run(tasks(100), TOA(n=8), [model], Letters(), store=tmp_path/'runs.db', name='r')
            with pytest.raises(exc, match=re.escape(words)) as e: await run
            await model.close()
            assert run.progress.state == 'failed' and s.calls <= 3
            return str(e.value)
    assert 'wrong' not in asyncio.run(check())
    with RunStore(tmp_path/'runs.db', 'r') as store: assert (store.count('r'), store.runs()[0]['status']) == (0, 'failed')


def test_all_models_that_fail_their_check_are_named_at_once(tmp_path):
    async def check():
        async with FaultServer(models=['a']) as s:
            models = [ChatModel(name, s.url) for name in 'abc']
            with pytest.raises(core.UnknownModel, match='The model `b` does not exist.*The model `c` does not exist'):
                await Run(tasks(1), TOA(n=8), models, Letters(), store=tmp_path/'runs.db')
            for m in models: await m.close()
    asyncio.run(check())


# Rewards


class Bad(Rule):
    "A reward that does something wrong with the responses of model b, and judges the others."
    name, version = 'bad', ''
    def __init__(self, how): self.how, self.asked = how, 0

    async def score_groups(self, groups):
        self.asked += 1
        if not any('b' in r for _, responses in groups for r in responses): pass
        elif self.how == 'raise': raise ValueError('can only read French')
        elif self.how == 'hang': await asyncio.Event().wait()
        elif self.how == 'count': return [[1.] for _ in groups] + [[1.]]
        elif self.how == 'type': return [['good' if 'b' in r else 1. for r in responses] for _, responses in groups]
        elif self.how == 'sometimes' and self.asked % 2: raise ValueError('busy')
        value = dict(nan=math.nan, infinity=math.inf).get(self.how, 1.)
        return [[value if 'b' in r else 1. for r in responses] for _, responses in groups]


def fake_models(): return [FakeModel(name, lambda messages, seed, name=name: f'{name} {seed}') for name in 'ab']


def rewarded(reward, tmp, method=None, **settings):
    "A run of two fake models with `reward`."
    async def go():
        queue = RewardQueue(reward, **{'timeout': .05, 'retries': 1, 'pause': .01, 'wait': .001} | settings)
        with RunStore(tmp/'runs.db', synchronous='NORMAL') as store:
            run = await asyncio.wait_for(Run(tasks(3), method or ParallelEnsemble(n=6), fake_models(), queue, store=store, name='r'), HANG)
            return run, list(store.samples('r'))
    return asyncio.run(go())


@pytest.mark.parametrize('how, kind, first', [
    ('raise', 'RewardRaised', 'ValueError: can only read French'), ('nan', 'ScoreNotFinite', 'returned nan'), ('infinity', 'ScoreNotFinite', 'returned inf'),
    ('type', 'ScoreNotFinite', "returned 'good'"), ('count', 'WrongScoreCount', '2 scores for 1 response'),
    ('hang', 'RewardTimeout', 'no score within 0.05 s')])
@pytest.mark.parametrize('method', [ParallelEnsemble(n=6), TOA(n=6)])
def test_a_reward_that_fails_costs_scores_and_no_samples(how, kind, first, method, tmp_path):
    run, samples = rewarded(Bad(how), tmp_path, method)
    assert run.progress.state == 'finished' and run.progress.samples == 18
    by_model = {m: [s for s in samples if s.trial.model == m] for m in 'ab'}
    assert all(s.value('bad') == 1. for s in by_model['a']) and all(s.value('bad') is None for s in by_model['b']) and by_model['b']
    assert run.progress.scored == len(by_model['a'])
    failures = run.progress.failures['bad', kind]
    assert failures.count == len(by_model['b']) and first in failures.first and f'bad: {failures.count} x {kind}: ' in run.report()


def test_a_failure_of_the_reward_that_passes_costs_nothing(tmp_path):
    run, _ = rewarded(Bad('sometimes'), tmp_path, retries=4)
    assert (run.progress.scored, run.progress.failures) == (18, {})


def test_a_reward_that_fails_always_lets_every_method_end(tmp_path):
    class Broken(Rule):
        name, version = 'broken', ''
        def score_one(self, prompt, response): raise OSError('no such weights')
    for i, method in enumerate([BestOfN(n=6), TOA(n=6), TOA.published(n=6)]):
        (tmp_path/str(i)).mkdir()
        run, samples = rewarded(Broken(), tmp_path/str(i), method)
        assert (run.progress.samples, run.progress.scored, run.progress.best) == (18, 0, {})
        assert run.progress.failures['broken', 'RewardRaised'].count == 18


class Server(Rule):
    "A reward that judges `good` answers and then gives none any more, in one way or another."
    name, version = 'letters', '1'
    def __init__(self, good, how): self.good, self.how, self.texts = good, how, []

    async def score_groups(self, groups):
        self.texts += [r for _, responses in groups for r in responses]
        if len(self.texts) <= self.good: return [[len(set(r))/10 for r in responses] for _, responses in groups]
        if self.how == 'hang': await asyncio.Event().wait()
        raise RewardUnreachable('no connection')


@pytest.mark.parametrize('how', ['hang', 'gone'])
@pytest.mark.parametrize('method', [ParallelEnsemble(n=30), TOA(n=30)])
def test_a_guide_that_dies_ends_the_run_and_no_answer_is_lost(how, method, tmp_path):
    "The run fails and says which reward, how often and why; when the reward is back, what was paid for is scored and the rest is asked for."
    dead = RewardQueue(Server(20, how), max_batch=1, timeout=.01, retries=0, wait=0, max_lost=3, outage_timeout=0)
    def run(reward, models): return Run(tasks(3), method, models, reward, store=tmp_path/'runs.db', name='r')
    first = run(dead, models := [FakeModel(name, latency=.002, capacity=2) for name in 'ab'])
    with pytest.raises(RewardOut, match=r'letters is out: \d+ responses in a row got no answer, the last one because of Reward(Timeout|Unreachable): no'):
        first.wait(show=False)
    paid = sum(m.calls for m in models)
    assert first.progress.state == 'failed' and first.progress.in_flight == 0 and 20 <= paid <= 90
    with RunStore(tmp_path/'runs.db', 'r') as store: assert store.count('r') == paid
    last = run(Letters(), models).wait(show=False)
    assert sum(m.calls for m in models) == last.progress.samples == 90 and 0 <= 90 - last.progress.scored <= 2
    assert last.ok == (last.progress.scored == 90)


def test_a_watching_reward_that_is_out_does_not_stop_a_run(tmp_path):
    watch = RewardQueue(Server(5, 'gone'), retries=0, wait=0, max_lost=2, outage_timeout=0)
    watch.reward.name = watch.name = 'watch'
    run = Run(tasks(3), TOA(n=6), fake_models(), Letters(), store=tmp_path/'runs.db', held_out=[watch]).wait(show=False)
    assert run.ok and (run.progress.samples, run.progress.scored) == (18, 18) and ' x RewardUnreachable: no connection' in run.report()
    assert 'watch is out (RewardOut: watch is out: ' in progress_line(run.session)


def test_a_watching_reward_may_fail_while_the_guiding_one_works(tmp_path):
    run = asyncio.run(watched(tmp_path))
    assert (run.progress.samples, run.progress.scored) == (18, 18) and ('bad', 'ScoreNotFinite') in run.progress.failures


async def watched(tmp): return await Run(tasks(3), TOA(n=6), fake_models(), Letters(), store=tmp/'runs.db', held_out=[Bad('nan')])


def test_unknown_rewards_and_prompts_that_a_reward_can_not_judge_are_refused_at_start(tmp_path):
    with pytest.raises(core.InputError, match='armo-rm'): Run(tasks(2), TOA(n=6), fake_models(), 'armo-rm', store=tmp_path/'runs.db')
    with pytest.raises(core.InputError, match="prompt 'p0': it has no constraints to check"):
        Run(tasks(2), TOA(n=6), fake_models(), 'constraints', store=tmp_path/'runs.db')
    assert not (tmp_path/'runs.db').exists()


def test_details_and_versions_of_scores_are_stored(tmp_path):
    class Detailed(Rule):
        name, version = 'detailed', '7'
        def score_one(self, prompt, response): return Score('detailed', 1., tokens=3, details={'length': len(response)})
    run, samples = rewarded(Detailed(), tmp_path)
    assert run.progress.spent.reward_tokens == 54
    assert {(s.scores[0].version, s.scores[0].details['length']) for s in samples} == {('7', len(s.completion.text)) for s in samples}
