"""What every export, table and figure has in common: what they take, dialogues, pairs, and work in proportion to the samples."""
import asyncio
import json
import tracemalloc

import matplotlib
import pytest

from toa_nb.analysis.comparisons import compare_methods
from toa_nb.analysis.curves import complete, reward_curve
from toa_nb.analysis.held_out import overoptimization
from toa_nb.analysis.plot import model_shares, plot_curve, plot_models
from toa_nb.analysis.summary import summarize
from toa_nb.core import Completion, InputError, Prompt, Sample, Score, Trial, Usage
from toa_nb.data.exports import to_dpo, to_sft, to_ultrafeedback
from toa_nb.data.prompts import prompts_from
from toa_nb.data.published import to_alpaca_eval, to_arena_hard, to_published
from toa_nb.data.rows import RowStream, load_samples, save_samples, write_json, write_jsonl, write_parquet
from toa_nb.data.trainers import to_axolotl, to_llama_factory
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN
from toa_nb.store.journal import RunStore
from toa_nb.store.samples import by_prompt
from toa_nb.store.tables import to_frame

matplotlib.use('agg')
words = FunctionReward(lambda prompt, response: float(len(set(response))), 'words')
TALK = {'id': 'talk', 'messages': [{'role': role, 'content': text} for role, text in (
    ('system', 'Be short.'), ('user', 'Hi'), ('assistant', 'Hello!'), ('user', 'Why?'))]}
arena_hard = lambda *args, **options: to_arena_hard(*args, count_tokens=len, tstamp=0., **options)
EXPORTS = dict(sft=to_sft, dpo=to_dpo, ultrafeedback=to_ultrafeedback, published=to_published,
               alpaca_eval=to_alpaca_eval, arena_hard=arena_hard)
TABLES = dict(to_frame=to_frame, reward_curve=lambda s: reward_curve(s, x='tokens'), complete=complete,
              summarize=summarize, plot_curve=plot_curve,
              model_shares=model_shares, plot_models=plot_models)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of four prompts, one of them a dialogue."
    prompts = prompts_from(['Why?', 'How?', 'When?', TALK])
    made = Run(prompts, BestOfN(4), [FakeModel('a')], words, store=tmp_path_factory.mktemp('run')/'runs.db')
    return made.wait(show=False)


@pytest.mark.filterwarnings('ignore:the FLOPs of a are unknown')
@pytest.mark.parametrize('name', EXPORTS | TABLES)
def test_a_run_a_store_and_its_path_give_the_same(run, name):
    act = (EXPORTS | TABLES)[name]
    with RunStore(run.store_at, 'r') as store:
        found = [act(source) for source in (run, store, run.store_at, str(run.store_at))]
    if name.startswith('plot_'): assert all(fig.axes for fig in found)
    elif name == 'model_shares': assert all(f[0].equals(found[0][0]) for f in found)
    else: assert all(f.equals(found[0]) if name in TABLES else f == found[0] for f in found) and len(found[0])


def without_run(row):
    "A row without what only the configuration of a run says."
    told = ('method', 'templates', 'system_prompt', 'origins', 'generator', 'ans_id')
    return {k: v for k, v in row.items() if not k.startswith(told) and (k, v) not in (
        ('model', 'toa_nb'), ('model', 'best_of_n'))}


@pytest.mark.parametrize('name', EXPORTS)
def test_samples_alone_need_their_prompts(run, name):
    with pytest.raises(InputError, match='samples alone do not hold their prompts'): EXPORTS[name](run.samples())
    rows = EXPORTS[name](run.samples(), run.prompts, reward='words')
    assert list(map(without_run, rows)) == list(map(without_run, EXPORTS[name](run)))


@pytest.mark.parametrize('act', [to_frame, to_sft, summarize, reward_curve, plot_curve,
                                 lambda s: save_samples(s, 'x.jsonl')])
def test_what_holds_no_samples_is_one_line(act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in (7, {'a': 1}, None):
        with pytest.raises(InputError,
                           match='holds no samples. Give samples, a Run, a RunStore, or the path of a store'):
            act(given)


def test_samples_come_back(run, tmp_path):
    assert load_samples(save_samples(run, tmp_path/'s.jsonl')) == run.samples()


@pytest.mark.parametrize('name', EXPORTS)
def test_a_dialogue_keeps_its_history_or_is_left_out_with_a_word(run, name):
    rows = EXPORTS[name](run)
    rows = [json.dumps(row) for row in rows if 'Why?' in json.dumps(row)
            and ('talk' in json.dumps(row) or 'Hello!' in json.dumps(row))]
    if name == 'alpaca_eval':
        assert not rows and EXPORTS[name](run).dropped == {'conversations, for which the format has no place': 1}
    else: assert len(rows) == 1 and all(text in rows[0] for text in ('Be short.', 'Hello!', 'Why?'))


def test_trainers_keep_the_history(run):
    rows = [r for r in to_dpo(run) if r['prompt_id'] == 'talk']
    for made in ([*to_llama_factory(rows)[0], *to_llama_factory(rows, form='sharegpt')[0], *to_axolotl(rows),
                  *to_axolotl(rows, 'argilla_chat')]):
        assert all(text in json.dumps(made) for text in ('Be short.', 'Hello!', 'Why?'))


def scored(*texts):
    return [Sample('r', 'p', Trial(i, 'a', ()), Completion(t, Usage(1, 1), 'stop'), None, (Score('words', -float(i)),))
            for i, t in enumerate(texts)]


@pytest.mark.parametrize('act', [to_dpo, to_ultrafeedback])
@pytest.mark.parametrize('policy', ['min', 'rank:2', 'mu-2sigma', 'margin>=0.5'])
@pytest.mark.parametrize('other', ['same words\n\n', '  same words', 'same\twords', 'same\u00a0words', 'samewords',
                                   'same words'])
def test_texts_that_differ_in_white_space_are_no_pair(act, policy, other):
    assert act(scored('same words', other), [Prompt('p', 'x')], rejected=policy) == []
    assert len(act(scored('same words', 'other words'), [Prompt('p', 'x')], rejected=policy)) == 1


def test_a_blank_answer_is_not_learnt():
    samples = scored(' \n', 'fine', 'worse')
    assert to_sft(samples, [Prompt('p', 'x')])[0]['completion'][0]['content'] == 'fine'
    assert to_dpo(samples, [Prompt('p', 'x')], rejected='min')[0]['chosen'][0]['content'] == 'fine'


@pytest.fixture(scope='module')
def wide(tmp_path_factory):
    "A run of 2,000 prompts with a sample each."
    made = Run(prompts_from([f'Say {i}.' for i in range(2000)]), BestOfN(1), [FakeModel('a')], words,
               store=tmp_path_factory.mktemp('wide')/'runs.db')
    return made.wait(show=False)


@pytest.mark.parametrize('name', [*EXPORTS, 'by_prompt', 'to_frame'])
def test_the_number_of_queries_does_not_grow_with_the_prompts(wide, name, monkeypatch):
    act, asked = dict(EXPORTS, by_prompt=lambda s: list(by_prompt(s)), to_frame=to_frame)[name], []
    with RunStore(wide.store_at, 'r') as store:
        inner = store.query
        monkeypatch.setattr(type(store), 'query', lambda self, *args: asked.append(args[0]) or inner(*args))
        act(store)
    assert 0 < len(asked) < 40


def test_methods_are_compared_from_a_store(tmp_path):
    prompts = prompts_from(['Why?', 'How?', 'When?'])
    for name in ('one', 'two'):
        asyncio.run(Run(prompts, BestOfN(4), [FakeModel('a')], words, store=tmp_path/'runs.db', name=name)._finish())
    table = compare_methods(tmp_path/'runs.db', 'one', 'two', x='samples', by='run')
    assert table['difference'].iloc[0] == 0 and table['n'].iloc[0] == 3
    with pytest.raises(InputError, match="no answer is scored by 'gold'"):
        overoptimization(tmp_path/'runs.db', 'gold', x='samples')


@pytest.mark.parametrize('write', [write_jsonl, write_json])
def test_rows_are_written_one_at_a_time(tmp_path, write):
    "30 MB of rows pass through less than 2 MB of memory."
    rows = RowStream(lambda tally: ({'text': chr(97 + i % 26) * 10_000} for i in range(3000)), {'text': str})
    tracemalloc.start()
    try: path, (_, peak) = write(rows, tmp_path/'rows'), tracemalloc.get_traced_memory()
    finally: tracemalloc.stop()
    assert path.stat().st_size > 3e7 and peak < 2e6


def test_groups_of_a_parquet_file_are_bounded(tmp_path, monkeypatch):
    import pyarrow.parquet as pq
    monkeypatch.setattr('toa_nb.data.rows.GROUP', 100_000)
    rows = RowStream(lambda tally: ({'text': 'x' * 1000} for _ in range(1000)), {'text': str})
    file = pq.ParquetFile(write_parquet(rows, tmp_path/'rows.parquet'))
    assert file.metadata.num_rows == 1000 and file.metadata.num_row_groups == 11
