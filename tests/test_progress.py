"""One progress: the run in memory, the run made again from its store, `toa status` and the run panel show the same, in every state of a run."""
import asyncio
import dataclasses

import pytest

from toa_nb.cli.running import status
from toa_nb.compute import Budget, get_spec
from toa_nb.core import CallTimeout, Prompt
from toa_nb.models.fakes import FakeModel
from toa_nb.panels.runs import RunPanel
from toa_nb.rewards.base import FunctionReward
from toa_nb.rewards.queue import RewardOut, RewardQueue
from toa_nb.run.progress import progress_of
from toa_nb.run.rescoring import rescore
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN, SequentialRefine
from toa_nb.store.journal import RunStore

TASKS = [Prompt(name, f'Write about the {name}.') for name in ('sky', 'sea')]
SPEC = dataclasses.replace(get_spec('Qwen2-7B-Instruct'), price_out=1.)


def length(prompt, response): return len(response)/100


def make(path, reply=None, method=None, reward=length, latency=.001, **settings):
    "A run of two prompts on one model."
    model = FakeModel('a', reply, latency=latency, capacity=2, spec=SPEC)
    return Run(TASKS, method or BestOfN(n=11), [model], reward, store=path, name='r', **settings)


async def cut(run, samples):
    "The run, stopped the hard way after so many samples."
    run.start()
    while run.progress.samples < samples and not run.task.done(): await asyncio.sleep(0)
    run.cancel(), run.cancel()
    return await run


def broken(messages, seed):
    "A model that fails for one of two prompts."
    if 'sea' in str(messages): raise CallTimeout('no answer within 60 s')
    return f'answer {seed}'


def silent(messages, seed): raise CallTimeout('no answer within 60 s')


async def new(path):
    with RunStore(path) as store: store.create_run('r', (run := make(path)).config(), TASKS)
    return run


async def cut_off(path): return await cut(make(path), 5)
async def finished(path): return await make(path)


async def paused(path):
    run = make(path).start()
    while run.progress.samples < 5: await asyncio.sleep(0)
    run.pause()
    return await run


async def stopped_when_nothing_is_left(path):
    "The pause comes with the last answers."
    run = make(path).start()
    while run.progress.samples < 20: await asyncio.sleep(0)
    while not run.task.done() and run.progress.samples < 22: await asyncio.sleep(0)
    run.pause()
    return await run


async def extended_and_cut(path):
    await make(path, method=BestOfN(n=3))
    return await cut(make(path, method=BestOfN(n=3)).extend(8), 9)


async def extended_and_cut_at_once(path):
    "Cut before anything was asked for: the finished prompts are open again."
    await make(path, method=BestOfN(n=3))
    return await cut(make(path, method=BestOfN(n=3)).extend(8), 0)


async def one_given_up(path): return await make(path, broken, concurrency=1)
async def all_given_up(path): return await make(path, silent)


async def given_up_and_tried_again(path):
    "One prompt is tried again, in vain, while the other one waits."
    await make(path, silent)
    return await make(path, broken, concurrency=1)


def limited(**limits):
    async def ended(path): return await make(path, budget=Budget(**limits))
    return ended


def limited_run(**limits):
    async def ended(path): return await make(path, budget=Budget(per_run=Budget(**limits)))
    return ended


async def without_a_guide(path):
    def fails(prompt, response): raise RuntimeError('CUDA out of memory')
    run = make(path, reward=RewardQueue(FunctionReward(fails, 'length'), retries=0), max_unguided=4)
    with pytest.raises(RewardOut): await run
    return run


async def guided_again(path):
    await without_a_guide(path)
    return await make(path)


async def some_scores_failed(path):
    "Failed scores are tried when the run is started again."
    def shy(prompt, response):
        if '1' in response: raise ValueError('not today')
        return length(prompt, response)
    await make(path, reward=RewardQueue(FunctionReward(shy, 'length'), retries=0), method=SequentialRefine(n=4))
    return await make(path, method=SequentialRefine(n=4))


async def rescored(path):
    run = await make(path)
    await rescore(path, 'r', FunctionReward(lambda prompt, response: 1., 'other'), every=0)
    return run


STATES = dict(
    new=new, cut_off=cut_off, finished=finished, paused=paused,
    stopped_when_nothing_is_left=stopped_when_nothing_is_left,
    extended_and_cut=extended_and_cut, extended_and_cut_at_once=extended_and_cut_at_once, one_given_up=one_given_up,
    all_given_up=all_given_up,
    given_up_and_tried_again=given_up_and_tried_again, without_a_guide=without_a_guide, guided_again=guided_again,
    some_scores_failed=some_scores_failed, rescored=rescored,
    **{f'prompts_limited_in_{k}': limited(**{k: v}) for k, v in dict(samples=3, tokens=40, flops=3e12, seconds=1e-6,
        cost=2e-5).items()},
    **{f'run_limited_in_{k}': limited_run(**{k: v}) for k, v in dict(samples=7, tokens=80, flops=6e12, seconds=1e-6,
        cost=2e-5).items()})


def numbers(p):
    "What every view has to show."
    return dict(state=p.state, stopped_by=p.stopped_by, prompts=p.prompts, done=p.done, given_up=p.given_up,
                samples=p.samples, target=p.target,
                waiting=p.waiting, best=p.mean_best)


def books(p):
    "What the views from memory and store have to agree in, besides."
    failures = {key: f.count for key, f in p.failures.items()}
    return numbers(p) | dict(scored=p.scored, by_prompt=p.best, failures=failures, tokens=p.spent.tokens,
                             calls=p.spent.calls)


@pytest.mark.parametrize('name', STATES)
def test_all_views_of_a_store_agree(name, tmp_path):
    path = tmp_path/'runs.db'
    run = asyncio.run(STATES[name](path))
    again = Run.from_store(path, 'r', models=run.models.values(), rewards=[FunctionReward(length)])
    with RunStore(path, 'r') as store: stored = progress_of(store, 'r')
    assert books(stored) == books(again.progress) == books(run.progress)
    [row] = status(path)
    shown = numbers(stored) | dict(state=row['status'])
    assert {k: row['status' if k == 'state' else k] for k in shown} == shown
    panel = RunPanel(path)
    panel.show('r')
    assert books(panel.read(panel.look)) == books(stored)
    panel.look.close()


def test_a_run_that_goes_on_is_seen_by_others_as_it_is_here(tmp_path):
    "Everything that is told is in the store a moment later; the numbers are compared when nothing moves."
    async def check():
        gate, path = asyncio.Event(), tmp_path/'runs.db'
        class Gated(FakeModel):
            async def generate(self, messages, *, seed):
                if self.calls >= 6: await gate.wait()
                return await super().generate(messages, seed=seed)
        run = Run(TASKS, BestOfN(n=11), [Gated('a', capacity=2)], length, store=path, name='r').start()
        while run.progress.samples < 6: await asyncio.sleep(.001)
        await run.session.store.flush()
        with RunStore(path, 'r') as store: seen = progress_of(store, 'r')
        assert numbers(seen) == numbers(run.progress) and (seen.state, seen.samples) == ('running', 6)
        [row] = status(path)
        assert (row['status'], row['samples'], row['done']) == ('running', 6, 0)
        gate.set()
        await run
    asyncio.run(check())


def test_a_process_that_died_is_cut_off(tmp_path):
    with RunStore(tmp_path/'runs.db') as store:
        store.create_run('r', make(tmp_path/'runs.db').config(), TASKS)
        store.set_status('r', 'running')
    with RunStore(tmp_path/'runs.db', 'r') as store: assert progress_of(store, 'r').state == 'cut off'
    assert status(tmp_path/'runs.db')[0]['status'] == 'cut off'


def test_a_finished_run_calls_nobody_and_stays_finished(tmp_path):
    "Also where its only server is gone by now."
    class Gone(FakeModel):
        async def check(self): raise CallTimeout('no answer')
    path = tmp_path/'runs.db'
    asyncio.run(finished(path))
    async def again(): return await Run(TASKS, BestOfN(n=11), [model], length, store=path, name='r')
    model = Gone('a')
    run = asyncio.run(again())
    assert (run.progress.state, run.ok, model.calls) == ('finished', True, 0)
    async def more(): return await Run(TASKS, BestOfN(n=11), [model], length, store=path, name='r').extend(2)
    with pytest.raises(CallTimeout): asyncio.run(more())
    with RunStore(path, 'r') as store:
        assert (progress_of(store, 'r').state, progress_of(store, 'r').done) == ('finished', 2)
