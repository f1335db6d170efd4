"The configurations of the published experiments load, have a forecast, and are what the paper says; what is said of our own experiment is in its answers."
import re
import subprocess
import sys
from pathlib import Path

import pytest

from toa_nb import Prompt, run_from
from toa_nb.run.forecast import Rate, project
from toa_nb.servers.fleet import read_servers

folder = Path(__file__).parent.parent/'data/experiments'
files = sorted(path for path in folder.glob('*.toml') if not path.name.startswith('servers'))
asked = dict(alpaca_eval=Prompt('a', 'Why?'), math=Prompt('a', 'How many?', reference='2'),
             wmt22=Prompt('a', 'Translate.', source='Warum?', meta=dict(source_language='German', target_language='English')))


def load(path, monkeypatch, tmp_path):
    for name in re.findall(r'TOA_KEY_\w+', path.read_text()): monkeypatch.setenv(name, 'key')
    task = next(t for t in asked if path.stem.startswith(t))
    return task, run_from(path, prompts=[asked[task]], store=tmp_path/'runs.db')


@pytest.mark.parametrize('path', files, ids=lambda path: path.stem)
def test_an_experiment_loads(path, monkeypatch, tmp_path):
    task, run = load(path, monkeypatch, tmp_path)
    assert run.name == path.stem and run.method.n == (128 if task == 'math' else 160)
    assert len(run.models) == (4 if task == 'math' else 5)
    assert all(m.spec and m.temperature == .7 and m.top_p == 1 and m.max_tokens == 2048 for m in run.models.values())
    spent = project(run, {m: Rate(400, 450, seen=1) for m in run.models}).spent
    assert spent.samples == run.method.n and spent.flops > 0 and spent.reward_flops > 0
    if path.stem.endswith('_toa'):
        wanted = dict(alpaca_eval=(.01, .1, 53), wmt22=(.05, 1, 53), math=(.1, 1, 64))[task]
        assert (run.method.alpha, run.method.tau, run.method.width) == wanted


def test_five_methods_on_three_tasks():
    methods = ('prs', 'parallel_ensemble', 'sequential_refine', 'moa', 'toa')
    assert {path.stem for path in files} == {f'{task}_{method}' for task in asked for method in methods}


@pytest.mark.parametrize('name', ['servers_small', 'servers_large_1', 'servers_large_2'])
def test_the_servers_of_the_experiments_are_known(name):
    plans = read_servers(folder/f'{name}.toml')
    text = ''.join(path.read_text() for path in files)
    for plan in plans: assert f'name = "{plan.name}"' in text and f'http://127.0.0.1:{plan.port}/v1' in text


def test_what_is_said_of_the_experiment_on_a_real_model_is_in_its_answers():
    root = folder.parent.parent
    command = [sys.executable, root/'benchmarks/real_search.py', '--from', folder/'search_pool.jsonl.gz']
    drawn = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    table, = re.findall(r'\| Rounds, all moves \| equal samples.*', drawn)
    best, five, flops = (cell.strip() for cell in table.strip('|').split('|')[2:])
    assert drawn.strip() in (root/'benchmarks/README.md').read_text(encoding='utf-8')
    said = [(root/name).read_text(encoding='utf-8') for name in ('README.md', 'nbs/LOG.md')]
    for text in said: assert best.replace('0.', '.') in text and f'{flops} times the FLOPs' in text
    assert five.replace('0.', '.') in ' '.join(said[1].split())
