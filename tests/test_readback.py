"""What is written comes back: every format with its reader, for any text; and the programs that read it, where they can be installed."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toa_nb.core import Completion, Message, Prompt, Sample, Score, Trial, Usage
from toa_nb.data.exports import to_ultrafeedback
from toa_nb.data.files import file_records
from toa_nb.data.prompts import load_prompts
from toa_nb.data.published import read_alpaca_eval, read_arena_hard, read_published, read_tree, to_alpaca_eval, to_published
from toa_nb.data.rows import load_samples, save_samples
from toa_nb.data.sets import SETS
from toa_nb.data.trainers import _readers, trl_rows
from toa_nb.data.writing import FORMATS, export
from toa_nb.servers.local import cache_folder

settings.register_profile('toa_nb', deadline=None, derandomize=True)
settings.load_profile('toa_nb')
TEXT = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), min_size=1, max_size=30).filter(str.strip)
LATER = st.lists(st.tuples(TEXT, TEXT), max_size=2)
SCORES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=4, unique=True)
ROWS = [(name, form) for name, f in FORMATS.items() for form in f.forms or ('',) if name in _readers]


def source(system, later, task, texts, scores):
    "A prompt and answers to it; the system text and earlier turns can be missing."
    before = [Message(role, text) for pair in later for role, text in zip(('user', 'assistant'), pair)]
    turns = [Message('system', system)] * bool(system) + before + [Message('user', task)]
    prompt = Prompt('p', task) if len(turns) == 1 else Prompt('p', messages=turns)
    samples = [Sample('r', 'p', Trial(n, f'm{n}', (), seed=n, action=f'm{n}'), Completion(f'{n} {text}', Usage(3, 2)), None,
                      (Score('armo', score),)) for n, (text, score) in enumerate(zip(texts, scores))]
    return samples, [prompt]


@pytest.mark.parametrize('name, form', ROWS)
@given(system=st.one_of(st.just(''), TEXT), later=LATER, task=TEXT, texts=st.lists(TEXT, min_size=4, max_size=4), scores=SCORES)
@settings(max_examples=12)
def test_rows_come_back(tmp_path_factory, name, form, system, later, task, texts, scores):
    place = tmp_path_factory.getbasetemp()/f'back_{name}{form}'
    samples, prompts = source(system, [] if name == 'rewardbench' else later, task, texts, scores)
    if name == 'rewardbench': samples, prompts = source('', [], task, texts, scores)
    f = FORMATS[name]
    plain = (f.make(form) if name in ('llama_factory', 'axolotl', 'openai') else f.make)(samples, prompts, 'armo')
    for ending in f.endings:
        done = export(samples, place.with_suffix(ending), name, form, prompts=prompts, reward='armo')
        back = trl_rows([row for _, row in file_records(done.files[0])], name)
        assert back == trl_rows(plain, name if f.turn is None else 'sft')


@given(later=LATER, task=TEXT, texts=st.lists(TEXT, min_size=4, max_size=4), scores=SCORES)
@settings(max_examples=15)
def test_published_records_and_samples_come_back(tmp_path_factory, later, task, texts, scores):
    folder = tmp_path_factory.getbasetemp()
    samples, prompts = source('', later, task, texts, scores)
    assert load_samples(save_samples(samples, folder/'s.jsonl')) == samples
    rows = to_published(samples, prompts)
    back, read = read_published(export(samples, folder/'p.jsonl', 'published', prompts=prompts).files[0])
    assert back == prompts and to_published(read, back) == rows
    if not later:
        back, read = read_alpaca_eval(export(samples, folder/'a.json', 'alpaca_eval', prompts=prompts).files[0])
        found = [dict(dataset='alpaca_eval', instruction=p.instruction, output=s.completion.text, generator=s.run) for p, s in zip(back, read)]
        assert found == to_alpaca_eval(samples, prompts)
    back, read = read_arena_hard(export(samples, folder/'h.jsonl', 'arena_hard', prompts=prompts).files[0])
    assert [m.content for m in (back[0].messages or (Message('user', back[0].instruction),))] == [
        m.content for m in (prompts[0].messages or (Message('user', task),))]
    assert read[0].completion.text == max(samples, key=lambda s: s.value('armo')).completion.text


def test_every_answer_of_an_ultrafeedback_row_comes_back():
    samples, prompts = source('Be short.', [], 'Why?', list('abcd'), [1., 2., 3.])
    row = to_ultrafeedback(samples, prompts)[0]
    assert row['all_generated_responses'] == [s.completion.text for s in samples]
    assert [json.loads(text)[0]['value'] for text in row['all_scores']] == row['all_rm_scores'] == [1., 2., 3.]
    assert (row['all_models'], row['all_seeds'], row['all_tokens']) == (['m0', 'm1', 'm2'], [0, 1, 2], [2, 2, 2])


def text_of(nodes):
    "The published form, from nodes."
    def own(n):
        model = f'model: {n["model"]}; ' if n['model'] else ''
        return f'layer: {n["layer"]}; {model}reward: {n["reward"]}; visits: {n["visits"]}'
    above = lambda n: 'root' if n['parent'] is None else f'parent: {own(nodes[n["parent"]])}'
    return ''.join(f'{"    " * n["layer"]}--> {own(n)} ({above(n)})\n' for n in nodes)


def test_published_trees_are_read():
    traces = [json.loads(p.read_text()) for p in sorted((Path(__file__).parent/'golden').glob('toa_*.json'))]
    assert len(traces) == 18
    for trace in traces:
        nodes = read_tree(trace['tree_info'])
        assert text_of(nodes) == trace['tree_info']
        assert sum(n['model'] is None for n in nodes) - 1 == len(trace['plays'])


def test_an_upload_that_fails_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip('huggingface_hub')
    from toa_nb.core import ToaError
    from toa_nb.data.writing import upload
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(ToaError, match='me/set was not uploaded') as failed: upload(tmp_path, 'me/set', ['train.parquet'])
    assert len(str(failed.value).splitlines()) == 1


@pytest.mark.net
@pytest.mark.parametrize('name', SETS)
def test_a_set_is_downloaded_from_its_place(name):
    prompts = load_prompts(name, say=print)
    sizes = dict(alpaca_eval=805, arena_hard=500, arena_hard_v2=750, gsm8k=1319, gsm8k_socratic=1319, math500=500)
    assert len(prompts) == sizes.get(name, len(prompts)) > 400 and prompts.about.revision
    if SETS[name].published: assert len(load_prompts(name, published=200)) == 200


ALPACA = '''
import sys, json
from alpaca_eval import utils
table = utils.load_or_convert_to_dataframe(sys.argv[1])
print(json.dumps(table.to_dict("records")))
'''


@pytest.mark.slow
def test_alpaca_eval_reads_model_outputs(tmp_path):
    from test_evaluation import environment
    exe = environment('alpaca-eval-0.6.6', 'alpaca_eval==0.6.6', 'setuptools<81')
    samples, prompts = source('', [], 'Why?', list('abcd'), [1., 2., 3.])
    done = export(samples, tmp_path/'o.json', 'alpaca_eval', prompts=prompts)
    read = subprocess.run([exe, '-c', ALPACA, done.files[0]], check=True, capture_output=True, text=True)
    assert json.loads(read.stdout.splitlines()[-1]) == to_alpaca_eval(samples, prompts)


AXOLOTL = '''
import json, sys
from axolotl.prompt_strategies.dpo import chat_template
from axolotl.utils.dict import DictDefault
class Tokenizer:
    chat_template = eos_token = ""
    def apply_chat_template(self, turns, add_generation_prompt=False, **more):
        return "".join(f"<{t['role']}>{t['content']}" for t in turns) + ("<assistant>" if add_generation_prompt else "")
form, path = sys.argv[1:]
make = getattr(chat_template, form)(DictDefault(chat_template="chatml", datasets=[{}]))
made = make[0] if isinstance(make, tuple) else make
print(json.dumps([made(json.loads(line), tokenizer=Tokenizer()) for line in open(path)]))
'''


@pytest.mark.slow
@pytest.mark.parametrize('form', ['default', 'argilla_chat'])
def test_axolotl_reads_its_pairs(tmp_path, form):
    "Its own functions, without its dependencies, beside the packages of this environment."
    home = cache_folder()/'test-axolotl-0.19.0'
    if not (home/'complete').exists():
        install = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(home), 'axolotl==0.19.0', 'colorama', 'addict']
        if subprocess.run(install, capture_output=True).returncode: pytest.skip('axolotl could not be installed')
        (home/'complete').touch()
    samples, prompts = source('Be short.', [('Hi', 'Hello!')], 'Why?', list('abcd'), [1., 2., 3.])
    done = export(samples, tmp_path/'p.jsonl', 'axolotl', f'{form}_dpo', prompts=prompts, rejected='min')
    read = subprocess.run([sys.executable, '-c', AXOLOTL, form, done.files[0]], capture_output=True, text=True,
                          env=os.environ | {'PYTHONPATH': str(home), 'HF_HUB_OFFLINE': '1'})
    assert read.returncode == 0, read.stderr[-2000:]
    [row] = json.loads(read.stdout.splitlines()[-1])
    assert all(text in row['prompt'] for text in ('Be short.', 'Hello!', 'Why?'))
    assert '2 c' in row['chosen'] and '0 a' in row['rejected']
