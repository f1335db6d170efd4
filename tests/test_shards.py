"""A run in shards is the run of one process: read as one, merged, and extended."""
import asyncio

import pandas as pd
import pytest

from toa_nb.analysis.curves import reward_curve
from toa_nb.analysis.paths import search_samples
from toa_nb.analysis.summary import summarize
from toa_nb.core import InputError, Prompt, StoreLocked
from toa_nb.data.exports import to_dpo, to_sft
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward
from toa_nb.run.progress import progress_of
from toa_nb.run.run import Run
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore
from toa_nb.store.many import StoreSet
from toa_nb.store.merging import merge_stores
from toa_nb.store.samples import by_prompt
from toa_nb.store.tables import to_frame

PROMPTS = [Prompt(f'p{i}', f'Say {i}.') for i in range(8)]
CLOCK = ['seconds']  # the only column that no two runs share


def digits(prompt, response): return sum(map(int, filter(str.isdigit, response)))/100


def make(store, n=6, prompts=PROMPTS, **more):
    models = [FakeModel(name) for name in 'ab']
    return Run(prompts, TOA(n=n, parallel=1), models, FunctionReward(digits), store=store, check=False, name='toa', **more)


def drive(run): return asyncio.run(finished(run))


async def finished(run): return await run


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp('single')/'runs.db'
    drive(make(path))
    return path


@pytest.fixture(scope='module')
def seen(single): return view(single)


@pytest.fixture(scope='module', params=[1, 2, 4])
def shards(request, tmp_path_factory):
    n, place = request.param, tmp_path_factory.mktemp('shards')
    runs = [drive(make(place/'runs.db', shard=(i, n))) for i in reversed(range(n))]
    return [run.store_at for run in runs]


def frame(df):
    df = df.drop(columns=CLOCK)
    return df.sort_values(['prompt_id', 'order']).reset_index(drop=True)


def samples(store): return [(s.prompt_id, s.trial, s.completion.text, s.scores) for s in store.samples('toa')]


def view(source):
    "What is read from a source: its table, curve and summary, rows to train on, and samples by prompt."
    df = to_frame(source)
    rows = [list(to_sft(source)), list(to_dpo(source)), [(p, len(found)) for p, found in by_prompt(source)]]
    return [frame(df), reward_curve(df, x='tokens'), summarize(df)], rows


def same(left, right):
    "Both views show the same run."
    for one, other in zip(left[0], right[0]): pd.testing.assert_frame_equal(one, other)
    assert left[1] == right[1]


def test_shards_read_as_one_are_the_single_run(single, seen, shards):
    same(view(shards), seen)
    with StoreSet(shards) as many, RunStore(single, 'r') as one:
        assert samples(many) == samples(one)
        left, right = progress_of(many, 'toa'), progress_of(one, 'toa')
        assert (left.done, left.samples, left.target, left.best) == (right.done, right.samples, right.target, right.best)
        assert left.state == right.state == 'finished'


def test_merged_shards_are_the_single_run_and_extend(single, seen, shards, tmp_path):
    merge_stores(tmp_path/'all.db', shards)
    same(view(tmp_path/'all.db'), seen)
    grown = tmp_path/'grown.db'
    with RunStore(single, 'r') as store: store.backup(grown)
    for path in (tmp_path/'all.db', grown):
        run = drive(make(path).extend(4))
        assert (run.progress.samples, run.progress.session.calls, run.progress.state) == (80, 32, 'finished')
    with RunStore(tmp_path/'all.db', 'r') as merged, RunStore(grown, 'r') as one: assert samples(merged) == samples(one)


def test_a_stopped_shard_is_finished_after_the_merge(single, tmp_path):
    first = make(tmp_path/'runs.db', shard=(0, 2))
    async def stopped():
        first.start()
        while first.progress.samples < 9: await asyncio.sleep(0)
        first.cancel()
        await first.task
    asyncio.run(stopped())
    drive(make(tmp_path/'runs.db', shard=(1, 2)))
    merge_stores(tmp_path/'all.db', str(tmp_path/'runs.*-of-2.db'))
    with RunStore(tmp_path/'all.db', 'r') as store: assert store.runs()[0]['status'] == 'stopped'
    drive(make(tmp_path/'all.db'))
    with RunStore(tmp_path/'all.db', 'r') as merged, RunStore(single, 'r') as one: assert samples(merged) == samples(one)


def test_a_shard_resumes_from_its_store(tmp_path):
    drive(make(tmp_path/'runs.db', n=2, shard=(1, 4)))
    again = Run.from_store(tmp_path/'runs.1-of-4.db', models=[FakeModel(name) for name in 'ab'],
                           rewards=[FunctionReward(digits)], check=False)
    assert [p.id for p in again.prompts] == ['p1', 'p5'] and again.config()['shard'] == [1, 4]
    drive(again.extend(1))
    with RunStore(tmp_path/'runs.1-of-4.db', 'r') as store:
        assert store.count('toa') == 6 and store.config('toa')['shard'] == [1, 4]


def test_what_is_not_merged(tmp_path):
    for i in range(2): drive(make(tmp_path/'runs.db', n=1, shard=(i, 2)))
    drive(make(tmp_path/'more.db', n=2, shard=(1, 2)))
    drive(make(tmp_path/'seed.db', n=1, seed=1, shard=(1, 2)))
    drive(make(tmp_path/'over.db', n=1, shard=(0, 3)))
    first, out = tmp_path/'runs.0-of-2.db', tmp_path/'out.db'
    for other, says in (('more', "its setting 'n' is "), ('seed', 'its seed is 1 and in '),
                        ('runs.0-of-2', 'given twice|is writing this store')):
        path = tmp_path/f'{other}.1-of-2.db' if other != 'runs.0-of-2' else first
        with pytest.raises((InputError, StoreLocked), match=says): merge_stores(out, [first, path])
    with pytest.raises(InputError, match="its prompt 'p0' is also in "): merge_stores(out, [first, tmp_path/'over.0-of-3.db'])
    with pytest.raises(InputError, match="shard 1 of 2 is missing"): merge_stores(out, [first])
    with RunStore(first), pytest.raises(StoreLocked): merge_stores(out, str(tmp_path/'runs.*.db'))
    assert not out.exists()


@pytest.mark.parametrize('shards', [2], indirect=True)
def test_panels_and_a_search_show_shards_as_the_single_run(single, shards):
    from toa_nb.panels.curves import CurvePanel
    from toa_nb.panels.samples import SampleBrowser
    from toa_nb.panels.trees import TreePanel
    def tree(panel): return [(n, s.completion.text, s.scores) for n, s in panel.samples.items()]
    def listed(panel): return [row[:9] for row in panel.found.found]
    for panel, read in ((CurvePanel, CurvePanel.summary), (TreePanel, tree), (SampleBrowser, listed)):
        assert read(panel(shards)) == read(panel(single))
    with StoreSet(shards) as many, RunStore(single, 'r') as one:
        for wanted in (dict(sort='best'), dict(sort='worst', low=.1), dict(sort='model'), dict(text='1'), dict(limit=7, offset=4)):
            left, right = (search_samples(store, 'toa', **wanted) for store in (many, one))
            pd.testing.assert_frame_equal(left.drop(columns='latency'), right.drop(columns='latency'))
            assert left.attrs == right.attrs
