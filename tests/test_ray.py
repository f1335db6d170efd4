"""The same run on Ray, on three nodes of this machine: an engine, a node, the host, the driver, a scorer are killed, an engine stands still and comes back.

`tests/test_cluster.py` has the same in one process. Here the processes are real, and so are the kills. Each test takes a minute or so.
"""
import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from clocks import HANG
from fault_server import running

from toa_nb.compute import Budget
from toa_nb.core import InputError, Prompt, StoreError
from toa_nb.models.client import ChatModel
from toa_nb.run.on_ray import RayCluster
from toa_nb.run.run import Run
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore
from toa_nb.store.locks import is_locked

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
PROMPTS = [Prompt(f'p{i}', f'Write about the number {i}.') for i in range(12)]
N = 30
KEY = 'sk-very-secret-value'
NODE = dict(num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=80*2**20)  # Ray does not look whether the GPU is there


def add_node(cluster, tries=3):
    "Ray gives a node 30 s to begin, which is too little on a busy machine."
    for left in reversed(range(tries)):
        try: return cluster.add_node(**NODE)
        except Exception:
            if not left: raise


@pytest.fixture(scope='module')
def cluster():
    "Three nodes; the first is that of the driver. The token and the key are in the environment that they inherit."
    os.environ.update(RAY_USAGE_STATS_ENABLED='0', TOA_RAY_KEY=KEY, PYTHONPATH=f'{HERE}:{HERE.parent}')
    ray, utils = pytest.importorskip('ray'), pytest.importorskip('ray.cluster_utils')
    made = utils.Cluster()
    for _ in range(3): add_node(made)
    ray.init(address=made.address, log_to_driver=False, logging_level='error')
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope='module')
def server():
    with running('--models', 'a,b', '--latency', '0.1', '--sigma', '0.6') as url: yield url


def make(server, store, n=N, parallel=1, **more):
    models = [ChatModel(name, server, max_tokens=32, timeout=600, api_key_env='TOA_RAY_KEY') for name in 'ab']
    return Run(PROMPTS, TOA(n=n, parallel=parallel), models, 'crash_run:Letters', store=store, name='toa', **more)


@pytest.fixture(scope='module')
def folder():
    "The reward is found beside these tests, here and in the engines."
    before = os.getcwd()
    os.chdir(HERE)
    yield HERE
    os.chdir(before)


@pytest.fixture(scope='module')
def single(cluster, server, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp('single')/'runs.db'
    return samples(make(server, path).wait(show=False).store_at)


def samples(store):
    with RunStore(store, 'r') as s:
        assert s.check() == []
        return [(x.prompt_id, x.trial, x.completion.text, x.value('letters')) for x in s.samples('toa')]


def actors(what):
    "The processes of actors on the nodes of this test."
    raylets = {p.pid for p in psutil.Process().children() if 'raylet' in p.name()}
    return [p for p in psutil.process_iter(['ppid', 'cmdline']) if p.info['ppid'] in raylets
            and (p.info['cmdline'] or [''])[0].startswith(f'ray::{what}')]


async def until(condition, run):
    while not condition():
        assert not run.task.done(), run.task.exception() or run.progress
        await asyncio.wait([run.task], timeout=.05)


def began(run, answers): return run.progress.samples >= answers and len(run.session.engines) == run.cluster.engines


def kill_engine(run, cluster): random.choice(actors('Engine')).kill()
def kill_host(run, cluster): actors('RunHost')[0].kill()


def kill_node(run, cluster):
    "A node that is not the driver's, and that has an engine."
    cluster.remove_node(random.choice(list(cluster.worker_nodes)), allow_graceful=False)
    add_node(cluster)


@pytest.mark.parametrize('kills', [[kill_engine, kill_engine], [kill_node], [kill_host], [kill_engine, kill_host]],
                         ids=['engines', 'node', 'host', 'both'])
def test_what_dies_is_replaced(cluster, server, single, tmp_path, kills):
    run = make(server, tmp_path/'runs.db', ray='auto', workers=3)
    async def killed():
        run.start()
        for i, kill in enumerate(kills, 1):
            await until(lambda i=i: began(run, 60*i), run)
            kill(run, cluster)
        return await run
    asyncio.run(killed())
    assert run.progress.state == 'finished' and samples(run.store_at) == single


def kill_scorer(run, cluster): random.choice(actors('Scorer')).kill()


@pytest.mark.parametrize('kills', [[kill_scorer]*3, [kill_scorer, kill_engine, kill_node]], ids=['scorers', 'others too'])
def test_a_scorer_that_dies_is_started_again_and_asked_again(cluster, server, single, tmp_path, kills):
    "At random times. Nothing is paid twice but calls that were in flight in an engine that died."
    run, rng = make(server, tmp_path/'runs.db', ray='auto', workers=2, scorers={'letters': dict(actors=3, gpus=.5, cpus=.5)}), random.Random()
    async def killed():
        run.start()
        for i, kill in enumerate(kills, 1):
            wanted = 60*i + rng.randrange(60)
            await until(lambda wanted=wanted: began(run, wanted) and actors('Scorer'), run)
            kill(run, cluster)
        return await run
    asyncio.run(killed())
    assert run.progress.state == 'finished' and samples(run.store_at) == single and not run.progress.failures
    if kills == [kill_scorer]*3: assert run.progress.session.calls == len(single)
    assert not actors('Scorer')


@pytest.mark.parametrize('what', ['Scorer', 'Engine', 'RunHost'])
def test_a_process_that_stands_still_is_ended_and_replaced(cluster, server, single, tmp_path, what):
    "It is there and answers nothing, as where a driver or a disk hangs."
    run = make(server, tmp_path/'runs.db', ray=RayCluster('auto', 2, stall=5.), scorers={'letters': dict(actors=2, cpus=.5)})
    async def stalled():
        run.start()
        await until(lambda: began(run, random.randrange(40, 120)) and len(actors('Scorer')) == 2, run)
        process = random.choice(actors(what))
        process.suspend()
        await until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, run)
        return await run
    asyncio.run(stalled())
    assert run.progress.state == 'finished' and samples(run.store_at) == single
    if what == 'Scorer': assert run.progress.session.calls == len(single) and ('a scorer of letters', 'ScorerLost') in run.progress.remarks


def test_too_few_gpus_are_said_at_the_start(cluster, server, single, tmp_path):
    run = make(server, tmp_path/'runs.db', ray='auto', scorers={'letters': dict(actors=2, gpus=2)})
    with pytest.raises(InputError, match='Run.scorers.letters: 2 of 2 scorers, of 2 GPUs each, find none: the cluster has 3 GPUs'): run.wait(show=False)
    assert samples(run.store_at) == []


def test_an_engine_that_stood_still_adds_nothing(cluster, server, single, tmp_path):
    "It is not killed when it counts as lost, so that it goes on with a part that others have by then."
    import ray
    run, left = make(server, tmp_path/'runs.db', ray=RayCluster('auto', 2, stall=5.)), []
    async def stalled():
        run.start()
        await until(lambda: began(run, 60), run)
        for link in run.session.engines: link.kill = lambda link=link: left.append(link)
        engine = random.choice(actors('Engine'))
        engine.suspend()
        await until(lambda: ('an engine', 'EngineLost') in run.progress.remarks, run)
        engine.resume()
        await run
    asyncio.run(stalled())
    for link in left: ray.kill(link.actor)
    assert run.progress.state == 'finished' and samples(run.store_at) == single
    assert 'no answer in 5 s' in run.progress.remarks['an engine', 'EngineLost'].first


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_the_gentle_way(cluster, server, single, tmp_path, number):
    "As Slurm sends it before the end of a job: calls in flight finish, and are stored."
    store = tmp_path/'runs.db'
    command = [sys.executable, '-c', DRIVER, str(HERE), server, str(store), cluster.address]
    with subprocess.Popen(command, cwd=HERE) as driver:
        while stored(store) < 40 and driver.poll() is None: time.sleep(.05)
        driver.send_signal(number)
        assert driver.wait(HANG) == 0
    with RunStore(store, 'r') as s: assert s.runs()[0]['status'] == 'stopped' and ('stopped_by', 'cancelled') in s.events('toa')
    run = make(server, store, ray='auto').wait(show=False)
    assert run.progress.session.calls == len(single) - run.progress.resumed and samples(store) == single


DRIVER = '''
import sys, ray
sys.path.insert(0, sys.argv[1])
from test_ray import make
make(sys.argv[2], sys.argv[3], ray=sys.argv[4], workers=2).wait(show=False)
'''


def test_the_driver_dies_and_the_run_goes_on(cluster, server, single, tmp_path):
    "kill -9 to the process that the user started: actors end with it, the store is free again, and nothing is lost."
    store, kept = tmp_path/'runs.db', []
    for answers in (40, 120):
        command = [sys.executable, '-c', DRIVER, str(HERE), server, str(store), cluster.address]
        with subprocess.Popen(command, cwd=HERE) as driver:
            deadline = time.monotonic() + HANG
            while stored(store) < answers and driver.poll() is None and time.monotonic() < deadline: time.sleep(.05)
            assert driver.poll() is None
            driver.send_signal(signal.SIGKILL)
        while actors('RunHost') or actors('Engine') or is_locked(store): time.sleep(.02)
        now = samples(store)
        assert set(map(repr, kept)) <= set(map(repr, now)) and len(now) >= answers
        kept = now
    run = make(server, store, ray='auto').wait(show=False)
    assert run.progress.session.calls == len(single) - len(kept) and samples(store) == single


def stored(store):
    "Samples in a store that is written; it has no tables in its first instant."
    try:
        with RunStore(store, 'r') as s: return s.count('toa') if s.run_names() else 0
    except StoreError: return 0


def test_limits_are_exact_and_cancel_is_gentle(cluster, server, single, tmp_path):
    run = make(server, tmp_path/'runs.db', parallel=8, ray='auto', budget=Budget(per_run=Budget(samples=100))).wait(show=False)
    assert (run.progress.stopped_by, len(samples(run.store_at))) == ('samples', 100)
    run = make(server, tmp_path/'runs.db', parallel=8, ray='auto', concurrency=4)
    async def cancelled():
        run.start()
        await until(lambda: run.progress.samples >= 150, run)
        run.cancel()
        await run.task
    asyncio.run(cancelled())
    assert (run.progress.state, run.progress.stopped_by) == ('stopped', 'cancelled')
    assert len(samples(run.store_at)) == run.progress.samples < 12*N


def test_no_key_in_any_argument(cluster, server, single, tmp_path, monkeypatch):
    from ray import cloudpickle

    from toa_nb.run.on_ray import RayLink
    sent, begin, engine = [], RayLink.begin, RayCluster.engine
    def spied_begin(self, name, args): return sent.append(cloudpickle.dumps(args)) or begin(self, name, args)
    def spied_engine(self, recipe): return sent.append(cloudpickle.dumps(recipe)) or engine(self, recipe)
    monkeypatch.setattr(RayLink, 'begin', spied_begin)
    monkeypatch.setattr(RayCluster, 'engine', spied_engine)
    make(server, tmp_path/'runs.db', n=2, ray='auto', scorers={'letters': {}}).wait(show=False)
    assert any(b'TOA_RAY_KEY' in data for data in sent) and not any(KEY.encode() in data for data in sent)
    assert KEY.encode() not in (tmp_path/'runs.db').read_bytes()
