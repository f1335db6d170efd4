"""Adding a reward to a stored run, and where a guiding and a held-out reward part: what the notebooks don't teach."""
import asyncio
from dataclasses import replace

import numpy as np
import pytest

from toa_nb.analysis.curves import reward_curve
from toa_nb.analysis.held_out import overoptimization
from toa_nb.compute import ModelSpec, reward_flops
from toa_nb.core import Completion, InputError, Prompt, Sample, Score, StoreError, StoreLocked, Trial, Usage
from toa_nb.models.fakes import FakeModel
from toa_nb.reward_models.server import serve_reward
from toa_nb.rewards.base import FunctionReward, GroupReward, RewardUnreachable
from toa_nb.rewards.constraints import Constraints
from toa_nb.rewards.http_servers import HttpReward
from toa_nb.rewards.queue import RewardQueue
from toa_nb.run.rescoring import rescore
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore
from toa_nb.store.tables import to_frame

prompts = [Prompt(f'p{i}', f'Question {i}?') for i in range(6)]
length = FunctionReward(lambda prompt, response: len(response), name='length', version='1')


class Counting(GroupReward):
    "Scores by the number of vowels; records every call, and how many responses wait at the same time."
    name, version = 'vowels', '1'

    def __init__(self, fail=(), block=None): self.calls, self.fail, self.block = [], set(fail), block

    @property
    def texts(self): return [r for groups in self.calls for _, responses in groups for r in responses]

    async def score_groups(self, groups):
        self.calls.append([(p.id, list(responses)) for p, responses in groups])
        if self.block and len(self.calls) > 1: await self.block.wait()
        return [[Score('', float('aeiou'.count(r[-1])) + len(r), tokens=3, details={'last': r[-1]})
                 if r not in self.fail else float('nan')
                 for r in responses] for _, responses in groups]


def quick(reward, **settings): return RewardQueue(reward, **{'wait': 0, 'retries': 0, 'pause': 0} | settings)


def stored(path, run='r'):
    with RunStore(path, 'r') as store: return list(store.samples(run))


async def made(path, n=8, name='r', method=BestOfN, **settings):
    "A finished run whose answers all differ."
    model = FakeModel('a', lambda messages, seed: f'{messages[-1].content} answer {seed}')
    return await Run(prompts, method(n=n), [model], length, store=path, name=name, **settings)


def test_scores_are_stored_whole_and_nothing_else_changes(tmp_path):
    path, reward = tmp_path/'r.db', Counting()

    async def go():
        await made(path)
        before = stored(path)
        done = await rescore(path, 'r', quick(reward))
        return before, done

    before, done = asyncio.run(go())
    after = stored(path)
    assert (done.samples, done.scored, done.before, done.left_out, done.failed, done.seen) == (48, 48, 0, 0, 0, 48)
    assert [s.scores[1] for s in after] == [
        Score('vowels', float('aeiou'.count(s.completion.text[-1])) + len(s.completion.text), version='1', tokens=3,
              details={'last': s.completion.text[-1]})
        for s in before]
    assert [replace(s, scores=s.scores[:1]) for s in after] == before
    assert len(set(reward.texts)) == len(reward.texts) == 48


def test_batches_hold_several_prompts_in_prompt_order_and_each_prompt_once(tmp_path):
    path, reward = tmp_path/'r.db', Counting()

    async def go():
        await made(path)
        await rescore(path, 'r', quick(reward, max_batch=16))

    asyncio.run(go())
    order = [name for call in reward.calls for name, _ in call]
    assert order == sorted(order)
    assert max(len(call) for call in reward.calls) > 1
    for call in reward.calls: assert len({name for name, _ in call}) == len(call)
    assert all(sum(len(responses) for _, responses in call) <= 16 for call in reward.calls)


def test_only_two_batches_are_out_at_a_time(tmp_path):
    path, queue, most = tmp_path/'r.db', quick(Counting(), max_batch=4), []

    async def go():
        await made(path)
        judge, out = queue.score, 0

        async def counted(prompt, response):
            nonlocal out
            out += 1
            most.append(out)
            try: return await judge(prompt, response)
            finally: out -= 1

        queue.score = counted
        return await rescore(path, 'r', queue)

    assert asyncio.run(go()).scored == 48
    assert max(most) == 8


def test_cut_off_in_the_middle_it_goes_on_where_it_was(tmp_path):
    path = tmp_path/'r.db'

    async def go():
        await made(path)
        first = Counting(block=asyncio.Event())
        task = asyncio.ensure_future(rescore(path, 'r', quick(first, max_batch=8)))
        while len(first.calls) < 2: await asyncio.sleep(0)
        with RunStore(path, 'r') as store:
            while sum(s.value('vowels') is not None for s in store.samples('r')) < 8: await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError): await task
        await asyncio.sleep(0)
        assert not [t for t in asyncio.all_tasks() if t.get_coro().__qualname__.endswith('gold')]
        kept = [s.completion.text for s in stored(path) if s.value('vowels') is not None]
        second = Counting()
        done = await rescore(path, 'r', quick(second))
        return kept, second, done

    kept, second, done = asyncio.run(go())
    assert len(kept) == 8
    assert (done.before, done.scored) == (8, 40)
    assert not set(kept) & set(second.texts)
    assert all(s.value('vowels') is not None for s in stored(path))


def test_failures_are_stored_reported_and_tried_again(tmp_path):
    path = tmp_path/'r.db'

    async def go():
        await made(path)
        texts = [s.completion.text for s in stored(path)]
        reward = Counting(fail=texts[:3])
        first = await rescore(path, 'r', quick(reward))
        states = [s.scores[1].error for s in stored(path)[:4]]
        reward.fail = {texts[0]}
        reward.calls.clear()
        return texts, reward, first, states, await rescore(path, 'r', quick(reward))

    texts, reward, first, states, second = asyncio.run(go())
    assert (first.scored, first.failed) == (45, 3)
    assert first.failures['vowels', 'ScoreNotFinite'].count == 3
    assert all(e.startswith('ScoreNotFinite') for e in states[:3]) and states[3] is None
    assert sorted(reward.texts) == sorted(texts[:3])
    assert (second.scored, second.failed, second.before) == (2, 1, 45)
    assert '1 failed' in repr(second) and 'vowels: 1 x ScoreNotFinite' in repr(second)


def test_going_back_to_an_older_version_scores_again(tmp_path):
    path, reward = tmp_path/'r.db', Counting()

    async def go():
        await made(path, n=1)
        for reward.version in ('1', '2', '1', '1'):
            done = await rescore(path, 'r', quick(reward))
        return done

    done = asyncio.run(go())
    assert (done.scored, done.before, len(reward.texts)) == (0, 6, 18)
    assert {s.scores[1].version for s in stored(path)} == {'1'}


def test_what_the_search_has_not_heard_and_what_has_no_answer_is_left_alone(tmp_path):
    path = tmp_path/'r.db'
    ask, usage = lambda n: Trial(n, 'a', ()), Usage(3, 3)

    async def go():
        with RunStore(path) as store:
            store.create_run('r', {'reward': 'length'}, prompts[:1])
            for n in range(5): store.add_trial('r', 'p0', ask(n))
            await store.finish('r', 'p0', 0, Completion('told and scored', usage), scores=[Score('length', 1.)])
            await store.finish('r', 'p0', 1, Completion('cut', usage), error='EmptyAnswer: no')
            await store.finish('r', 'p0', 2, error='CallTimeout: 60 s')
            await store.add_completion('r', 'p0', 3, Completion('not told', usage))
            reward = Counting()
            done = await rescore(store, 'r', quick(reward))
            left = [s.trial.number for s in store.unscored('r', 'p0')], [t.trial.number
                for t in store.pending('r', 'p0')]
            return done, reward.texts, left, store.closed

    done, texts, left, closed = asyncio.run(go())
    assert (texts, done.scored, done.left_out, done.samples, done.seen) == (['told and scored'], 1, 3, 4, 4)
    assert left == ([3], [4])
    assert not closed


def test_a_run_that_was_cut_off_is_scored_and_reaches_the_tree_that_it_would_have_reached(tmp_path):
    path = tmp_path/'r.db'
    tree = lambda name: [(s.trial, s.completion.text, s.value('length')) for s in stored(path, name)]

    def models(latency):
        return [FakeModel('a', lambda messages, seed: f'{seed % 97:02d}' * (1 + seed % 7), latency=latency)]

    async def go():
        search = lambda name, latency=0.: Run(prompts[:1], TOA(n=20, parallel=1), models(latency), length, store=path,
                                              name=name)
        await search('whole')
        cut = search('cut', .001).start()
        while cut.progress.samples < 5: await asyncio.sleep(.001)
        cut.cancel()
        cut.cancel()
        await cut
        middle = await rescore(path, 'cut', quick(Counting()))
        await search('cut')
        end = await rescore(path, 'cut', quick(Counting()))
        return middle, end

    middle, end = asyncio.run(go())
    assert 5 <= middle.scored < 20
    assert end.before == middle.scored and end.before + end.scored == 20
    assert tree('cut') == tree('whole')


@pytest.mark.parametrize('wrong', ['no run', 'no constraints', 'read-only', 'held by another',
                                   'another version of the guide'])
def test_what_cannot_work_is_refused_before_the_reward_is_asked(tmp_path, wrong):
    path, reward = tmp_path/'r.db', Counting()

    async def go():
        await made(path, n=1)
        if wrong == 'no run':
            with pytest.raises(StoreError, match="no run 'other'"): await rescore(path, 'other', reward)
        elif wrong == 'no constraints':
            with pytest.raises(InputError, match='no constraints to check'): await rescore(path, 'r', Constraints())
        elif wrong == 'read-only':
            with RunStore(path, 'r') as store, pytest.raises(StoreError, match='open for reading only'):
                await rescore(store, 'r', reward)
        elif wrong == 'held by another':
            with RunStore(path), pytest.raises(StoreLocked): await rescore(path, 'r', reward)
        else:
            reward.name, reward.version = 'length', '2'
            with pytest.raises(InputError, match="guided this run as version '1' and is now '2'"):
                await rescore(path, 'r', reward)

    asyncio.run(go())
    assert reward.calls == []
    assert [len(s.scores) for s in stored(path)] == [1] * 6
    with RunStore(path): pass                                                     # nothing is left locked


def test_a_store_that_fails_ends_it_with_that_error(tmp_path):
    path = tmp_path/'r.db'

    async def go():
        await made(path)
        with RunStore(path) as store:
            def full(*args): raise StoreError('the disk is full')
            store.add_scores = full
            with pytest.raises(StoreError, match='the disk is full'): await rescore(store, 'r', quick(Counting()))
        return len(asyncio.all_tasks())

    # this one, and at most the queue's worker at its end
    assert asyncio.run(go()) <= 2


def test_the_spec_of_the_reward_is_on_record(tmp_path):
    path, spec = tmp_path/'r.db', ModelSpec('rm', 1_000, 1_000, 1, 8, 1, 1, 8, 16, 32, head_rows=0, source='test')
    reward = Counting()
    reward.spec = spec

    async def go():
        await made(path, n=1)
        await rescore(path, 'r', quick(reward))

    asyncio.run(go())
    with RunStore(path, 'r') as store:
        value, = [value for kind, value in store.events('r') if kind == 'reward']
    assert (value['name'], value['version'], ModelSpec(**value['spec'])) == ('vowels', '1', spec)


def test_what_scoring_costs_is_known_from_the_store_prefixes_included(tmp_path):
    path, spec = tmp_path/'r.db', ModelSpec('rm', 1_000, 1_000, 1, 8, 1, 1, 8, 16, 32, head_rows=0, source='test')

    class Model(Counting):
        async def score_groups(self, groups):
            return [[Score('', 1., tokens=4, details={'cached_tokens': 20}) for _ in responses]
                    for _, responses in groups]

    reward, other = Model(), Model()
    reward.spec, other.name = spec, 'plain'

    async def go(reward):
        await rescore(path, 'r', quick(reward))
        with RunStore(path, 'r') as store:
            return to_frame(store, specs={})['reward_flops'].tolist(), to_frame(list(store.samples('r')),
                reward='length', specs={},
                                                                                                      reward_specs={
                'vowels': spec})['reward_flops'].tolist()

    asyncio.run(made(path, n=1))
    one = float(reward_flops(spec, 24) - reward_flops(spec, 20))
    assert asyncio.run(go(reward)) == ([one] * 6, [one] * 6)
    # it reads tokens and nobody knows its size
    assert all(np.isnan(v) for v in asyncio.run(go(other))[0])


def test_progress_is_told_while_it_lasts(tmp_path, capsys):
    path, said = tmp_path/'r.db', ''

    async def slow(prompt, response):
        nonlocal said
        while 'samples' not in said:
            said += capsys.readouterr().err
            await asyncio.sleep(.001)
        return 1.

    async def go():
        await made(path, n=1)
        await rescore(path, 'r', quick(FunctionReward(slow), max_batch=1), every=.01)
        capsys.readouterr()
        await rescore(path, 'r', quick(Counting()), every=0)
        return capsys.readouterr().err

    silent = asyncio.run(go())
    assert 'r by slow: 0/6 samples' in said
    assert silent == ''


# --- where two rewards part

none = dict(specs={}, reward_specs={'rm': None, 'gold': None}, reward='rm')


def search(prompt, guide, gold, run='toa', model='a'):
    scores = lambda g, j: (Score('rm', float(g)),) + (() if j is None else (Score('gold', float(j)),))
    answer = lambda i: (run, prompt, Trial(i, model, ()), Completion('text', Usage(5, 5), latency=1.), None)
    return [Sample(*answer(i), scores(g, j)) for i, (g, j) in enumerate(zip(guide, gold))]


def many(gold, n=12, guide=None, seed=0, noise=.05, **kw):
    rng = np.random.default_rng(seed)
    return [s for p in range(n) for s in search(f'p{p:02}', guide or range(len(gold)),
                                                gold + p * .1 + noise * rng.normal(size=len(gold)), **kw)]


def row(samples, **kw): return overoptimization(to_frame(samples, **none), 'gold', x='samples', **kw).iloc[0]


def test_the_peak_lies_on_the_curve_and_its_interval_around_it():
    samples = many(np.array([0, .3, .5, .6, .4, .2, 0]))
    found, held = row(samples), reward_curve(to_frame(samples, **none), x='samples', held_out='gold')
    assert found['at'] == found['peak'] == held.loc[held['mean'].idxmax(), 'x'] == 4
    assert found['low'] <= found['peak'] <= found['high'] <= found['end'] == 7
    assert found['guide_low'] <= found['guide'] <= found['guide_high']
    assert found['held_out_low'] <= found['held_out'] <= found['held_out_high'] < 0
    assert abs(found['held_out'] + .6) < .1


@pytest.mark.parametrize('values', [[0, .1, .2, .3, .4], [.3, .3, .3, .3, .3], [.3, .4, .39, .4, .4]])
def test_no_fall_no_overoptimization(values):
    found = row(many(np.array(values), noise=.1))
    assert not found['overoptimized'] and np.isnan(found['at'])


def test_a_guide_that_stands_still_has_not_parted():
    falling, still = many(np.array([.6, .4, .2, 0])), many(np.array([.6, .4, .2, 0]), guide=[3, 2, 1, 0])
    assert row(falling)['overoptimized'] and row(falling)['at'] == 1
    # the first answer stays the chosen one
    found = row(still)
    assert not found['overoptimized'] and found['guide'] == 0
    found = row(still, y='mean')                                                  # both fall
    assert not found['overoptimized'] and found['guide_high'] < 0 and found['held_out_high'] < 0


@pytest.mark.parametrize('n, overoptimized', [(1, False), (5, False), (6, True)])
def test_few_prompts_prove_nothing(n, overoptimized):
    assert row(many(np.array([.2, .6, .1, 0]), n=n))['overoptimized'] == overoptimized


def test_it_is_the_same_twice_and_in_any_order_of_methods():
    one, other = many(np.array([0, .4, .2, 0.])), many(np.array([0, .2, .4, .1]), run='prs', seed=1)
    both = overoptimization(to_frame(one + other, **none), 'gold', x='samples').set_index('method')
    swapped = overoptimization(to_frame(other + one, **none), 'gold', x='samples').set_index('method')
    assert both.sort_index().equals(swapped.sort_index())
    assert both['at'].tolist() == [2, 3]


def test_answers_that_only_one_of_the_two_has_scored_take_no_part():
    samples = many(np.array([0, .4, .2, 0.]), noise=0)
    unjudged = [s for p in range(12) for s in search(f'p{p:02}', [99], [None])]
    late = [replace(s, trial=replace(s.trial, number=4)) for s in unjudged]
    failed = ([replace(s, trial=replace(s.trial, number=5), scores=(Score('rm', error='RewardTimeout: 60 s'),
        Score('gold', 50.))) for s in unjudged])
    found = row(samples + late + failed)
    assert (found['at'], found['end']) == (2, 6)
    assert abs(found['held_out'] + .4) < 1e-9 and abs(found['guide'] - 2) < 1e-9


def test_two_searches_of_a_prompt_are_one_prompt():
    samples = many(np.array([0, .4, .2, 0.])) + many(np.array([0, .4, .2, 0.]), run='again', seed=1)
    found = overoptimization(to_frame(samples, **none, labels={'toa': 'm', 'again': 'm'}), 'gold', x='samples')
    assert found['n'].tolist() == [12] and found['overoptimized'].tolist() == [True]


def test_unknown_names_are_refused_and_unknown_costs_left_out():
    df = to_frame(many(np.array([0, .4, .2, 0.])), **none)
    with pytest.raises(InputError, match="no answer is scored by 'other'. There are scores of: gold"): overoptimization(df, 'other')
    unknown = overoptimization(df, 'gold', x='flops')
    assert unknown.empty and unknown.attrs['unknown'] == ['toa'] and not unknown['overoptimized'].any()


def test_the_version_of_a_reward_server_is_stored_and_known_again(tmp_path):
    path = tmp_path/'r.db'

    async def scored(version):
        with serve_reward(FunctionReward(lambda prompt, response: len(response), version=version)) as server:
            return await rescore(path, 'r', HttpReward(f'{server.url}/score', name='served'))

    async def go():
        await made(path)
        return [await scored(version) for version in ('weights 7', 'weights 7', 'weights 8')]

    assert [(done.scored, done.before) for done in asyncio.run(go())] == [(48, 0), (0, 48), (48, 0)]
    assert {s.version for sample in stored(path) for s in sample.scores if s.reward == 'served'} == {'weights 8'}


def test_a_reward_server_that_is_not_there_is_said_before_anything_is_stored(tmp_path):
    path, reward = tmp_path/'r.db', HttpReward('http://127.0.0.1:9/score', name='served')
    asyncio.run(made(path))
    with pytest.raises(RewardUnreachable, match='Is the server running'): asyncio.run(rescore(path, 'r', reward))
    with RunStore(path, 'r') as store: assert 'reward' not in [kind for kind, _ in store.events('r')]
