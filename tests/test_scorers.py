"""Rewards in processes of their own: one that dies is asked again, and a run reaches what it would have reached. With Ray in tests/test_ray.py."""
import asyncio
import random
import threading
from dataclasses import replace

import pytest
from test_cluster import PROMPTS, Fakes, Slow, digits, samples, until

from toa_nb.cli.commands import main
from toa_nb.cli.config import run_from
from toa_nb.compute import ModelSpec
from toa_nb.core import InputError, RewardRaised
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward, GroupReward
from toa_nb.rewards.queue import RewardOut, RewardQueue
from toa_nb.run.cluster import NearCluster
from toa_nb.run.run import Run
from toa_nb.run.scorers import PooledReward, Scorer
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore


class Counted(Scorer):
    "Counts its lives and what it scores; a call takes a while."
    scored, lives, lock, seconds = [], 0, threading.Lock(), .001

    def __init__(self, recipe):
        super().__init__(recipe)
        with self.lock: Counted.lives += 1

    def make(self):
        async def scored(prompt, response):
            await asyncio.sleep(self.seconds)
            with self.lock: self.scored.append((prompt.id, response))
            return digits(prompt, response)
        return FunctionReward(scored, 'digits')


@pytest.fixture(autouse=True)
def fresh():
    Counted.scored, Counted.lives, Counted.seconds = [], 0, .001


class NoReward(Fakes):
    "An engine that would notice if it scored by itself."
    def make(self):
        models, _ = super().make()
        def never(prompt, response): raise AssertionError('scored in the engine')
        return models, [FunctionReward(never, 'digits')]


class SlowNoReward(NoReward): latency = .005


def make(store, cluster, scorers=None, reward=None, **more):
    return Run(PROMPTS, TOA(n=6, parallel=1), [FakeModel(name) for name in 'ab'], reward or FunctionReward(digits), store=store, name='toa',
               check=False, ray=cluster, scorers={'digits': dict(actors=2)} if scorers is None else scorers, **more)


def drive(run):
    async def finished(): return await run
    return asyncio.run(finished())


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    run = Run(PROMPTS, TOA(n=6, parallel=1), [FakeModel(name) for name in 'ab'], FunctionReward(digits), name='toa', check=False,
              store=tmp_path_factory.mktemp('single')/'runs.db')
    return samples(drive(run).store_at)


def test_engines_have_their_answers_scored_there(single, tmp_path):
    run = drive(make(tmp_path/'runs.db', NearCluster(2, engine=NoReward, scorer=Counted)))
    assert samples(run.store_at) == single and run.ok
    assert (len(Counted.scored), len(set(Counted.scored)), Counted.lives) == (72, 72, 2)


@pytest.mark.parametrize('seed', range(3))
def test_a_scorer_that_dies_is_asked_again(single, tmp_path, seed):
    "At random times; no answer is generated twice, and every one has one score, that of the single run."
    Counted.seconds, rng = .01, random.Random(seed)
    cluster = NearCluster(2, engine=SlowNoReward, scorer=Counted)
    run = make(tmp_path/'runs.db', cluster)
    async def killing():
        run.start()
        for _ in range(3):
            wanted = len(Counted.scored) + rng.randrange(1, 12)
            await until(lambda wanted=wanted: len(Counted.scored) >= wanted, run)
            rng.choice(run.session.scorers['digits'][0]).restart()
        return await run
    asyncio.run(killing())
    assert Counted.lives == 5 and samples(run.store_at) == single
    assert run.progress.session.calls == run.progress.samples == 72 and not run.progress.failures


def test_a_scorer_dies_with_an_engine_and_the_host(single, tmp_path):
    cluster = NearCluster(2, engine=SlowNoReward, scorer=Counted)
    run = make(tmp_path/'runs.db', cluster)
    async def killing():
        run.start()
        await until(lambda: len(Counted.scored) >= 10 and run.session.engines, run)
        run.session.scorers['digits'][0][0].restart()
        run.session.engines[0].kill()
        run.session.host.kill()
        return await run
    asyncio.run(killing())
    assert samples(run.store_at) == single


@pytest.mark.parametrize('seed', range(2))
def test_a_scorer_that_stands_still_is_made_anew(single, tmp_path, seed):
    "Its loop answers nothing while it has answers to score; it is ended, and what it had is scored again."
    Counted.seconds, rng, go = .01, random.Random(seed), threading.Event()
    run = make(tmp_path/'runs.db', NearCluster(2, stall=1., engine=SlowNoReward, scorer=Counted))
    async def stalled():
        run.start()
        await until(lambda: len(Counted.scored) >= rng.randrange(1, 30), run)
        rng.choice(run.session.scorers['digits'][0]).loop.call_soon_threadsafe(go.wait)
        await until(lambda: ('a scorer of digits', 'ScorerLost') in run.session.own.remarks, run)
        return await run
    try: asyncio.run(stalled())
    finally: go.set()
    assert samples(run.store_at) == single and run.progress.session.calls == run.progress.samples == 72
    assert run.progress.remarks['a scorer of digits', 'ScorerLost'].first == 'ScorerLost: no answer in 1 s'


class Weights(GroupReward):
    "A reward that only scorers may make."
    def __init__(self, name): self.name, self.version, self.spec = name, 'weights-7', ModelSpec('rm', 100)

    async def score_groups(self, groups): return [[digits(p, r) for r in responses] for p, responses in groups]

    def validate(self, prompt):
        if prompt.id == 'bad': raise InputError('it can not be scored', f'prompt {prompt.id!r}')


class WithWeights(Scorer):
    def make(self):
        assert self.recipe.table in ('armorm', {'kind': 'armorm'})
        return Weights(self.recipe.name)


class Described(Fakes):
    "An engine whose rewards come from the configuration."
    def make(self):
        from toa_nb.run.stored import stored_rewards
        return super().make()[0], stored_rewards(self.recipe.config, self.stand_ins())


def test_weights_are_loaded_by_scorers_only(single, tmp_path):
    "Neither this process nor an engine makes the reward; what the store keeps of it comes from a scorer. The run goes on, and is checked."
    def cluster(): return NearCluster(2, engine=Described, scorer=WithWeights)
    run = make(tmp_path/'runs.db', cluster(), {'armorm': dict(actors=2)}, {'kind': 'armorm'})
    assert isinstance(run.reward, PooledReward)
    drive(run)
    with RunStore(run.store_at, 'r') as store: config = store.config('toa')
    assert config['versions'] == {'armorm': 'weights-7'} and config['reward_specs']['armorm']['name'] == 'rm'
    found = [(p, t, text, tuple(replace(s, reward='digits', version='') for s in scores)) for p, t, text, scores in samples(run.store_at)]
    assert found == single
    again = drive(make(tmp_path/'runs.db', cluster(), {'armorm': dict(actors=1)}, 'armorm').extend(1))
    assert (again.progress.resumed, again.progress.session.calls) == (72, 12)
    bad = Run([replace(PROMPTS[0], id='bad')], TOA(n=2), [FakeModel('a')], 'armorm', store=tmp_path/'bad.db', check=False, ray=cluster(),
              scorers={'armorm': {}})
    with pytest.raises(InputError, match="prompt 'bad': it can not be scored"): drive(bad)


def test_too_few_gpus_are_said_before_anything_is_paid(tmp_path):
    cluster = NearCluster(1, engine=Fakes, scorer=Counted, gpus=(0, 1))
    run = make(tmp_path/'runs.db', cluster, {'digits': dict(actors=2, gpus=2)})
    with pytest.raises(InputError, match='Run.scorers.digits: 2 of 2 scorers, of 2 GPUs each, find none: the cluster has 1 GPUs. Lower'): drive(run)
    with pytest.raises(InputError, match='find none'): drive(make(tmp_path/'runs.db', cluster, {'digits': dict(actors=2, gpus=2)}).extend(4))
    with RunStore(run.store_at, 'r') as store: assert (store.count('toa'), store.extended('toa')) == (0, 0)
    run = make(tmp_path/'runs.db', cluster, {'digits': dict(actors=3, gpus=.4)})
    with pytest.warns(UserWarning, match='1 of 3 scorers, of 0.4 GPUs each, find none'): drive(run)
    assert run.progress.samples == 72


class Broken(Scorer):
    def make(self): raise InputError('the package torch is not installed', 'reward', "Run: pip install 'toa_nb[rewards]'.")


class Failing(Scorer):
    def begin(self):
        def fails(prompt, response): raise RewardRaised('no')
        self.queue = self.queue or RewardQueue(FunctionReward(fails, 'digits'), retries=0)
        return self.queue


class Hanging(Scorer):
    def begin(self):
        async def hangs(prompt, response): await asyncio.Event().wait()
        self.queue = self.queue or RewardQueue(FunctionReward(hangs, 'digits'), timeout=.01)
        return self.queue


def test_what_scorers_report_ends_the_run(tmp_path):
    with pytest.raises(InputError, match='scorer on .*the package torch is not installed. Run: pip'):
        drive(make(tmp_path/'a.db', NearCluster(1, engine=Fakes, scorer=Broken)))
    with pytest.raises(RewardOut, match='digits has failed 20 times in a row.*RewardRaised: no'):
        drive(make(tmp_path/'b.db', NearCluster(1, engine=Fakes, scorer=Failing)))
    with pytest.raises(RewardOut, match='digits has failed 20 times in a row.*RewardTimeout'):  # not after the time for weights
        drive(make(tmp_path/'c.db', NearCluster(1, engine=Fakes, scorer=Hanging)))


def test_where_scorers_are_named(tmp_path, capsys):
    (tmp_path/'prompts.jsonl').write_text('{"id": "a", "instruction": "Why?"}\n')
    file = dict(prompts=str(tmp_path/'prompts.jsonl'), reward='armorm', store=str(tmp_path/'runs.db'), held_out=[dict(kind='regex', pattern='a')],
                models=[dict(name='a', endpoints=['http://127.0.0.1:9/v1'])], scorers=dict(armorm=dict(actors=4, gpus=.25)))
    run = run_from(file, ray=NearCluster(2))
    assert (run.pools['armorm'].actors, run.pools['armorm'].gpus, type(run.reward).__name__) == (4, .25, 'PooledReward')
    with pytest.raises(InputError, match='scorers.armorm.*gpu'): run_from(file | dict(scorers=dict(armorm=dict(gpu=1))), ray=NearCluster(2))
    with pytest.raises(InputError, match='scorers.armrom: the run has no such reward'):
        Run(PROMPTS, TOA(n=2), [FakeModel('a')], FunctionReward(digits), ray='local', scorers={'armrom': {}}, store=tmp_path/'runs.db')
    file = tmp_path/'run.toml'
    file.write_text('prompts = "prompts.jsonl"\nreward = "armorm"\n[[models]]\nname = "a"\nendpoints = ["http://127.0.0.1:9/v1"]\n')
    assert main(['run', str(file), '--scorer', 'armorm=2']) == 2
    assert '--scorer: scorers need a cluster. Give --ray too.' in capsys.readouterr().err
    assert main(['run', str(file), '--ray', 'local', '--scorer', 'armorm=2:1.5']) == 2
    assert '1.5 GPUs. Give a fraction' in capsys.readouterr().err


def test_an_engine_asks_for_scores_slowly_too(single, tmp_path):
    "More scorers than engines, and one that never becomes ready: it gets nothing."
    class Late(Counted):
        async def ready(self):
            if Counted.lives == 3 and self.first: await asyncio.Event().wait()
            return await super().ready()

        def __init__(self, recipe):
            super().__init__(recipe)
            self.first = Counted.lives == 1
    run = drive(make(tmp_path/'runs.db', NearCluster(2, engine=Slow, scorer=Late), {'digits': dict(actors=3)}))
    assert samples(run.store_at) == single and len(Counted.scored) == 72
