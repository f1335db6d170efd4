"""Every method can be replayed from recorded answers, and nothing is given twice."""
import asyncio
from collections import Counter

import pytest

from toa_nb import METHODS, FakeModel, FunctionReward, Prompt, Run, get_spec, method_from
from toa_nb.analysis import replay_method

prompts = [Prompt(f'p{i}', f'Question {i}') for i in range(3)]
# Those that need no further package
methods = [name for name in METHODS if not name.startswith('ab_mcts')]
spec = get_spec('Qwen2-7B-Instruct')
digits = FunctionReward(lambda prompt, response: float(sum(map(ord, response)) % 97), name='digits')


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    "An ensemble and one run of every method."
    path = tmp_path_factory.mktemp('replay')/'runs.db'
    models = [FakeModel('a', spec=spec), FakeModel('b', spec=spec)]

    async def record():
        for name in methods:
            await Run(prompts, method_from(name, dict(n=12)), models, digits, store=path, name=name, check=False)
    asyncio.run(record())
    return path


@pytest.mark.parametrize('name', methods)
def test_every_method_is_replayed(store, name):
    found = replay_method(store, name, n=12, reward=digits)
    sums = found.coverage[['asked', 'exact', 'similar', 'missing']].sum()
    assert sums['exact'] > 0 and sums['asked'] == sums[['exact', 'similar', 'missing']].sum()
    assert sums['exact'] + sums['similar'] == len(found.samples)
    assert sums['missing'] == found.stopped
    if not found.stopped: assert len(found.samples) == 12*len(prompts)


@pytest.mark.parametrize('name', methods)
def test_no_answer_is_given_twice(store, name):
    found = replay_method(store, name, n=30, reward=digits, run=['best_of_n', 'parallel_ensemble'], missing='fail')
    given = Counter((s.prompt_id, s.completion.seed, s.trial.model, s.completion.text) for s in found.samples)
    recorded = Counter()
    from toa_nb import RunStore
    with RunStore(store, 'r') as records:
        for run in ('best_of_n', 'parallel_ensemble'):
            recorded.update((s.prompt_id, s.completion.seed, s.trial.model, s.completion.text) for s in records.samples(run))
    assert given and not given - recorded


def test_a_repeated_replay_is_the_same_and_leaves_the_store_alone(store):
    before = store.stat().st_mtime_ns
    one, two = (replay_method(store, 'toa', n=8, repeats=2, reward=digits) for _ in range(2))
    assert one.samples == two.samples and one.caveat == two.caveat
    assert store.stat().st_mtime_ns == before
