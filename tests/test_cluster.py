"""The same run in parts, driven by engines elsewhere: whatever dies, nothing is lost, nothing is there twice, and limits hold.

The cluster is in this process (`NearCluster`): each engine and the host have a loop and a thread of their own, and what they say goes through pickle.
`tests/test_ray.py` does the same with Ray, on several nodes.
"""
import asyncio
import os
import random
import threading
from collections import Counter

import pytest
from fault_server import running

from toa_nb.cli import running as running_commands
from toa_nb.cli.commands import main
from toa_nb.cli.config import run_from
from toa_nb.compute import Budget
from toa_nb.core import InputError, Prompt, RewardError, ToaError
from toa_nb.models.client import ChatModel
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward
from toa_nb.rewards.queue import RewardOut
from toa_nb.run.cluster import NearCluster
from toa_nb.run.engine import Engine
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN
from toa_nb.search.tree import TOA
from toa_nb.store.far import BLOCK
from toa_nb.store.journal import RunStore

PROMPTS = [Prompt(f'p{i}', f'Say {i}.') for i in range(12)]


def digits(prompt, response): return sum(map(int, filter(str.isdigit, response)))/100


class Fakes(Engine):
    "An engine with fakes that no configuration describes; `gate` holds calls back."
    latency = 0.

    def make(self):
        return [FakeModel(name, latency=self.latency) for name in 'ab'], [FunctionReward(digits)]


class Slow(Fakes): latency = .01


def make(store, kind=Fakes, engines=2, method=None, cluster=None, **more):
    models = [FakeModel(name) for name in 'ab']
    cluster = cluster or NearCluster(engines, engine=kind)
    cluster.models = models
    return Run(PROMPTS, method or TOA(n=6, parallel=1), models, FunctionReward(digits), store=store, name='toa', check=False,
               ray=cluster if kind else None, **more)


async def finished(run): return await run


def drive(run): return asyncio.run(finished(run))


def samples(store):
    with RunStore(store, 'r') as s:
        assert s.check() == []
        return [(x.prompt_id, x.trial, x.completion and x.completion.text, x.scores) for x in s.samples('toa')]


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp('single')/'runs.db'
    return samples(drive(make(path, None)).store_at)


@pytest.mark.parametrize('engines', [1, 2, 4])
def test_it_is_the_single_run(single, tmp_path, engines):
    run = drive(make(tmp_path/'runs.db', engines=engines))
    p = run.progress
    assert (p.state, p.done, p.samples, p.scored, p.target, p.in_flight, p.session.calls) == ('finished', 12, 72, 72, 72, 0, 72)
    assert samples(run.store_at) == single and run.ok and len(run.best()) == 12
    with RunStore(run.store_at, 'r') as store: assert [r['status'] for r in store.runs()] == ['finished']


def test_a_finished_run_costs_nothing_and_extends_here_or_there(single, tmp_path):
    for kind in (Fakes, None):
        drive(make(tmp_path/f'{kind}.db'))
        again = drive(make(tmp_path/f'{kind}.db'))
        assert (again.progress.session.calls, again.progress.samples) == (0, 72)
        run = drive(make(tmp_path/f'{kind}.db', kind).extend(2))
        assert (run.progress.samples, run.progress.session.calls, run.progress.state) == (96, 24, 'finished')
    assert samples(tmp_path/'None.db') == samples(tmp_path/f'{Fakes}.db')


def test_a_run_that_began_in_one_process_goes_on_in_parts(single, tmp_path):
    first = make(tmp_path/'runs.db', None)
    async def stopped():
        first.start()
        while first.progress.samples < 20: await asyncio.sleep(0)
        first.cancel()
        await first.task
    asyncio.run(stopped())
    there = first.progress.samples
    run = drive(make(tmp_path/'runs.db'))
    assert (run.progress.resumed, run.progress.samples, run.progress.session.calls) == (there, 72, 72 - there)
    assert samples(tmp_path/'runs.db') == single


async def until(condition, run):
    while not condition():
        assert not run.task.done(), run.task.exception() or run.progress
        await asyncio.sleep(.002)


def answers(session): return session.host.there.answers if session.host else 0


async def kill(run, what, wanted, rng):
    "Kill an engine or the host when there are so many answers, and wait until it is replaced."
    session = run.session
    await until(lambda: answers(session) >= wanted and session.engines, run)
    link = session.host if what == 'host' else rng.choice(session.engines)
    link.kill()
    await until(lambda: session.host is not link and link not in session.engines, run)


async def killing(run, kills, rng):
    "A run in which engines and the host are killed at random times."
    run.start()
    for what in kills: await kill(run, what, answers(run.session) + rng.randrange(1, 12), rng)
    return await run


@pytest.mark.parametrize('kills', [['engine', 'engine', 'engine'], ['host'], ['engine', 'host']])
def test_engines_and_the_host_die(single, tmp_path, kills):
    run = make(tmp_path/'runs.db', Slow, method=TOA(n=6, parallel=1))
    asyncio.run(killing(run, kills, random.Random(len(kills))))
    assert run.progress.state == 'finished' and samples(run.store_at) == single


def test_an_engine_that_only_seemed_dead_adds_nothing(single, tmp_path):
    "Its loop stands still, its part is given away, and then it goes on."
    cluster = NearCluster(2, stall=.3, engine=Slow)
    run, go = make(tmp_path/'runs.db', Slow, cluster=cluster), threading.Event()
    async def stalled():
        run.start()
        session = run.session
        await until(lambda: answers(session) >= 5 and len(session.engines) == 2, run)
        engine = session.engines[0]
        engine.kill = lambda: None
        engine.loop.call_soon_threadsafe(go.wait)
        await until(lambda: engine not in session.engines, run)
        parts = [n for n in engine.there.sessions]
        go.set()
        while engine.there.sessions: await asyncio.sleep(.002)
        await run
        return parts, session
    parts, session = asyncio.run(stalled())
    assert samples(run.store_at) == single and run.progress.state == 'finished'
    assert parts and all(session.tries[n] for n in parts)
    assert 'no answer in 0.3 s' in run.progress.remarks['an engine', 'EngineLost'].first


@pytest.mark.parametrize('limit', [1, 5, 40, 71])
def test_a_limit_on_samples_is_exact(tmp_path, limit):
    run = drive(make(tmp_path/'runs.db', method=TOA(n=6), budget=Budget(per_run=Budget(samples=limit))))
    assert (run.progress.state, run.progress.stopped_by, len(samples(run.store_at))) == ('stopped', 'samples', limit)
    run = drive(make(tmp_path/'runs.db', method=TOA(n=6), budget=Budget(per_run=Budget(samples=limit + 1))))
    assert len(samples(run.store_at)) == limit + 1 == run.progress.samples


def test_a_limit_on_samples_is_exact_when_engines_die(tmp_path):
    run = make(tmp_path/'runs.db', Slow, method=TOA(n=6), budget=Budget(per_run=Budget(samples=50)))
    asyncio.run(killing(run, ['engine', 'host'], random.Random(0)))
    assert (run.progress.stopped_by, len(samples(run.store_at))) == ('samples', 50)


def test_a_limit_that_is_above_what_is_wanted_ends_nothing(single, tmp_path):
    run = drive(make(tmp_path/'runs.db', budget=Budget(per_run=Budget(samples=72))))
    assert run.progress.samples == 72 and run.progress.done == 12


def test_a_limit_on_tokens_stops_all(tmp_path):
    run = drive(make(tmp_path/'runs.db', Slow, method=TOA(n=60, parallel=1), budget=Budget(per_run=Budget(tokens=500))))
    p = run.progress
    assert (p.state, p.stopped_by, p.in_flight) == ('stopped', 'tokens', 0) and p.spent.tokens >= 500 and p.samples < p.target
    assert len(samples(run.store_at)) == p.samples


def test_cancel_and_go_on(single, tmp_path):
    run = make(tmp_path/'runs.db', Slow)
    async def cancelled():
        run.start()
        await until(lambda: answers(run.session) >= 10, run)
        run.cancel()
        await run.task
    asyncio.run(cancelled())
    p = run.progress
    assert (p.state, p.stopped_by, p.in_flight) == ('stopped', 'cancelled', 0) and 10 <= p.samples < 72
    assert len(samples(run.store_at)) == p.samples
    assert drive(make(tmp_path/'runs.db')).progress.samples == 72 and samples(tmp_path/'runs.db') == single


def test_pause_and_start_the_same_run(single, tmp_path):
    "As a notebook does; what is called with the progress hears of both sessions."
    seen = []
    run = make(tmp_path/'runs.db', Slow, on_progress=lambda p: seen.append((p.state, p.samples)))
    async def paused():
        run.start()
        await until(lambda: answers(run.session) >= 10, run)
        run.pause()
        await run
        there, states = run.progress.samples, run.progress.state
        await run.start()
        return there, states
    there, state = asyncio.run(paused())
    assert state == 'stopped' and 10 <= there < 72 and run.progress.resumed == there and samples(tmp_path/'runs.db') == single
    assert seen[-1] == ('finished', 72) and ('stopped', there) in seen


class Unguided(Fakes):
    def make(self):
        def fails(prompt, response): raise RewardError('no')
        return [FakeModel(name) for name in 'ab'], [FunctionReward(fails, 'digits')]


def test_a_guide_that_is_out_ends_the_run_as_in_one_process(tmp_path):
    with pytest.raises(RewardOut, match='digits has failed 20 times in a row'):
        drive(make(tmp_path/'runs.db', Unguided, method=BestOfN(n=30)))
    with RunStore(tmp_path/'runs.db', 'r') as store: assert store.runs()[0]['status'] == 'failed'


def test_a_store_that_can_not_be_opened_is_named_as_in_one_process(tmp_path):
    "By the host, and no end of it hides the cause."
    (tmp_path/'text.db').write_text('hello')
    with RunStore(tmp_path/'taken.db'):
        for name in ('taken.db', 'none/runs.db', 'text.db'):
            errors = []
            for kind in (Fakes, None):
                with pytest.raises(ToaError) as e: drive(make(tmp_path/name, kind))
                errors.append((type(e.value), str(e.value)))
            assert errors[0] == errors[1] and name in errors[0][1]


class Broken(Fakes):
    async def ready(self): raise ConnectionError('dies at once')


def test_engines_that_never_live_end_the_run(tmp_path):
    with pytest.raises(ToaError, match='engines were lost one after the other.*dies at once'):
        drive(make(tmp_path/'runs.db', Broken))


class Older(Fakes):
    async def ready(self): return await super().ready() | dict(version='0.0.1', host='node7')


def test_a_node_that_lacks_what_engines_need_is_named(tmp_path, monkeypatch):
    "Another version of toa_nb, a key that is set elsewhere only, and a reward that no file has."
    with pytest.raises(InputError, match='node7 has toa_nb 0.0.1, and this computer has .*. Install the same version everywhere'):
        drive(make(tmp_path/'a.db', Older))
    monkeypatch.delenv('NODE_KEY', raising=False)
    model = ChatModel('a', 'http://127.0.0.1:9/v1', api_key_env='NODE_KEY')
    regex = {'kind': 'regex', 'pattern': 'a'}
    for name, reward, says in (('b', regex, "engine on .*: model 'a': the environment variable NODE_KEY is not set.*before `ray start`"),
                               ('c', FunctionReward(digits), "Run.reward: the reward 'digits' is an object in this process.*'my_rewards:digits'")):
        with pytest.raises(InputError, match=says):
            drive(Run(PROMPTS, BestOfN(n=2), [model], reward, store=tmp_path/f'{name}.db', check=False, ray=NearCluster(1)))


def test_nothing_secret_is_sent(tmp_path, monkeypatch):
    "The key of a model is in no message to an engine or to the host, and in no part of the store."
    monkeypatch.setenv('A_KEY', 'sk-very-secret-value')
    cluster = NearCluster(2)
    run = Run(PROMPTS, BestOfN(n=2), [ChatModel('a', 'http://127.0.0.1:9/v1', api_key_env='A_KEY', retries=0, outage_timeout=0.)],
              {'kind': 'regex', 'pattern': 'a'}, store=tmp_path/'runs.db', check=False, ray=cluster)
    drive(run)
    sent = [data for link in cluster.made for data in link.sent]
    assert len(sent) > 10 and any(b'A_KEY' in data for data in sent)
    assert not any(b'very-secret' in data for data in sent)
    assert b'very-secret' not in (tmp_path/'runs.db').read_bytes()


OWN = """
def letters(prompt, response): return len(set(response))
def short(prompt, response): return 1/len(response)
"""
FILE = """
prompts = "prompts.jsonl"
reward = "cluster_reward:letters"
held_out = [{kind = "cluster_reward:short"}]
method = {name = "toa", n = 3, parallel = 1}
budget = {per_run = {samples = 22}}

[[models]]
name = "a"
endpoints = ["URL"]
max_tokens = 32
"""


def test_engines_are_made_from_a_file(tmp_path, capsys, monkeypatch):
    "Real models behind HTTP, a reward of one's own beside the file, one that is held out, and a limit; then `toa resume`."
    (tmp_path/'cluster_reward.py').write_text(OWN)
    (tmp_path/'prompts.jsonl').write_text(''.join(f'{{"id": "{p.id}", "instruction": "{p.instruction}"}}\n' for p in PROMPTS))
    with running('--models', 'a') as url:
        (tmp_path/'run.toml').write_text(FILE.replace('URL', url))
        run = drive(run_from(tmp_path/'run.toml', ray=NearCluster(2), store=tmp_path/'runs.db'))
        assert (run.progress.samples, run.progress.stopped_by) == (22, 'samples')
        run = drive(run_from(tmp_path/'run.toml', ray=NearCluster(2), store=tmp_path/'runs.db', budget=None))
        assert (run.progress.samples, run.progress.resumed, run.ok) == (36, 22, True)
        again = drive(Run.from_store(tmp_path/'runs.db', ray=NearCluster(2)).extend(1))
        assert (again.progress.samples, again.progress.session.calls) == (48, 12)
        assert set(again.samples()[0].scores[i].reward for i in range(2)) == {'letters', 'short'}
        assert main(['run', str(tmp_path/'run.toml'), '--ray', 'nowhere', '--quiet']) == 2
        monkeypatch.setattr(running_commands, 'go', lambda run, args: 0 if run.folder == tmp_path else 9)
        assert main(['resume', str(tmp_path/'runs.db'), '--ray', 'local']) == 0 # engines look for modules beside the store
    assert "ray: 'nowhere' is not the address of a Ray cluster" in capsys.readouterr().err


def test_numbers_are_unique_and_attempts_have_their_own(tmp_path):
    run = make(tmp_path/'runs.db', Slow)
    asyncio.run(killing(run, ['engine'], random.Random(3)))
    with RunStore(run.store_at, 'r') as store:
        seqs = [s for table in ('trial', 'tell', 'score') for s, in store.query(f'SELECT seq FROM {table}')]
        trials = store.query('SELECT prompt, number FROM trial ORDER BY seq')
    assert max(Counter(seqs).values()) == 1 and len(set(trials)) == len(trials) == 72
    assert len({s//BLOCK for s in seqs}) >= 4, os.fspath(run.store_at)
