"""A key is planted in the environment, and must be found nowhere else: not in stores, logs, errors, reprs, exports, output or notebooks.

The server echoes the key in its errors, as some do."""
import asyncio
import json
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import pytest
from clocks import HANG
from fault_server import running
from nbclient import NotebookClient

from toa_nb.cli.commands import main
from toa_nb.cli.config import run_from
from toa_nb.cli.running import check_run
from toa_nb.core import InputError, Prompt, ToaError
from toa_nb.run.run import Run
from toa_nb.store.journal import RunStore

root = Path(__file__).parent.parent
KEY = 'sk-planted-Qq7Zr4Wx9Lm2'
LETTERS = [{'kind': 'letter', 'letter': letter, 'relation': 'at least', 'count': 5} for letter in 'aeiou']
PIECES = [KEY, KEY.removeprefix('sk-planted-'), KEY[:16]]                      # a part of it would be bad enough


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TOA_PLANTED', KEY)
    logging.getLogger('matplotlib').setLevel(logging.WARNING)
    rows = [{'id': f'p{i}', 'instruction': f'Write about {i}.', 'constraints': LETTERS} for i in range(4)]
    Path('prompts.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return tmp_path


@pytest.fixture
def url(here):
    with running('--key-env', 'TOA_PLANTED') as address: yield address


@pytest.fixture
def closed(here, monkeypatch):
    "A server that wants another key, and says which one it got."
    monkeypatch.setenv('TOA_OTHER', 'another')
    with running('--key-env', 'TOA_OTHER') as address: yield address


def settings(url, **changes):
    models = [{'name': m, 'endpoints': [url], 'api_key_env': 'TOA_PLANTED', 'retries': 0} for m in 'ab']
    return {'prompts': 'prompts.jsonl', 'models': models, 'reward': 'constraints', 'method': {'name': 'toa', 'n': 8},
            'store': 'runs.db'} | changes


def configure(url, **changes): Path('run.json').write_text(json.dumps(settings(url, **changes)))


def control(url, **changes):
    urlopen(Request(url.removesuffix('/v1') + '/control', json.dumps(changes).encode())).close()


def clean(*things):
    "None of the texts holds the key, and neither does any file here."
    files = {str(f): f.read_bytes() for f in Path().rglob('*') if f.is_file()}
    for piece in PIECES:
        assert [i for i, t in enumerate(things) if piece in str(t)] == []
        assert [name for name, content in files.items() if piece.encode() in content] == []
    return files


def everything(error):
    "All that a report on an exception may show."
    return ([str(error), repr(error), repr(vars(error)),
             *traceback.TracebackException.from_exception(error, capture_locals=True).format()])


def test_the_search_for_it_works(here):
    Path('leak.log').write_text(f'Authorization: Bearer {KEY}')
    with pytest.raises(AssertionError): clean()
    Path('leak.log').unlink()
    with pytest.raises(AssertionError): clean(f'key {KEY}')


def test_a_run_leaves_no_trace(url, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    configure(url)
    assert main(['check', 'run.json']) == 0
    control(url, faults=['auth:0.2::4-', 'error500:0.1', 'html:0.1'])
    run = run_from('run.json')
    with RunStore('runs.db') as store:
        run.store_at = store
        run.wait(show=False)
        files = clean(repr(run), run.report(), run.config(), vars(run), run.progress, store.config('toa'),
                      *map(repr, store.samples('toa')))
    assert ('a', 'AuthFailed') in run.progress.failures or ('b', 'AuthFailed') in run.progress.failures
    assert any('***' in f.first for f in run.progress.failures.values()) and any(name.startswith('runs.db')
        for name in files)
    control(url, faults=[])
    for line in ('run run.json --json', 'status runs.db --json', 'resume runs.db --more 1',
                 'curve runs.db --x tokens -o curve.csv',
                 'curve runs.db --x tokens -o curve.png', 'export runs.db --format sft -o sft.jsonl',
                 'export runs.db --format dpo --rejected min -o dpo.parquet',
                 'export runs.db --format published -o published.jsonl'):
        assert main(line.split()) == 0
    out, err = capfd.readouterr()
    assert {'curve.csv', 'curve.png', 'sft.jsonl', 'dpo.parquet',
            'published.jsonl'} <= set(clean(out, err, caplog.text, *map(vars, caplog.records)))
    assert 'finished' in out and caplog.records


def test_errors_that_echo_the_key(closed, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    configure(closed)
    for argv in (['check', 'run.json', '--json'], ['check', 'run.json'], ['run', 'run.json'],
                 ['run', 'run.json', '--json']):
        assert main(argv) == 1
    with pytest.raises(ToaError) as raised: run_from('run.json').wait(show=False)
    model = run_from('run.json').models['a']
    async def alone():
        try: await model.generate((), seed=0)
        finally: await model.close()
    with pytest.raises(ToaError) as call: asyncio.run(alone())
    out, err = capfd.readouterr()
    assert 'HTTP 401: Incorrect API key provided: ***' in out and 'AuthFailed' in err
    clean(out, err, caplog.text, repr(model), vars(model), *(line for e in (raised, call)
                                                             for line in short(everything(e.value))))


@pytest.mark.parametrize('fault', ['quota', 'login', 'auth'])
@pytest.mark.parametrize('start', [0, 1], ids=['check', 'run'])
def test_a_server_that_echoes_the_key_with_any_status(url, capfd, caplog, fault, start):
    "From the first call on, which is that of the check, or from the second on, which is a sample's."
    caplog.set_level(logging.DEBUG)
    configure(url, models=settings(url)['models'][:1], method={'name': 'prs', 'n': 1},
              prompts={'file': 'prompts.jsonl', 'limit': 1})
    control(url, faults=[f'{fault}:1::{start}-'], reset=True)
    assert main(['run', 'run.json']) == 1
    out, err = capfd.readouterr()
    assert '***' in out + err
    with RunStore('runs.db', 'r') as store: samples = [repr(s) for s in store.samples('prs')]
    assert bool(samples) == bool(start) and all('***' in s for s in samples)
    clean(out, err, caplog.text, *samples, *map(vars, caplog.records))


def short(lines):
    "Without the locals of the frames that hold the key because they use it."
    return ([line for line in lines if not line.lstrip().startswith(('key = ',
        "self = <toa_nb.models.client.Connection", 'headers = '))])


@pytest.mark.parametrize('table', [{'kind': 'http', 'name': 'remote'}, {'kind': 'http'}], ids=['named', 'plain'])
def test_rewards_that_echo_the_key(closed, capfd, caplog, table):
    caplog.set_level(logging.DEBUG)
    configure(closed, reward=table | {'url': closed, 'api_key_env': 'TOA_PLANTED'})
    run = run_from('run.json')
    rows = asyncio.run(check_run(run))
    assert [r['ok'] for r in rows] == [False] * 3 and '***' in rows[2]['says']
    clean(rows, repr(run.reward), run.config(), caplog.text, *capfd.readouterr())


def test_a_judge_with_a_key(url, closed, capfd):
    judge = {'name': 'j', 'model': 'a', 'endpoints': [closed], 'api_key_env': 'TOA_PLANTED', 'retries': 0,
             'outage_timeout': .1}
    configure(url, reward={'kind': 'judge', 'model': judge}, held_out=['constraints'],
              prompts={'file': 'prompts.jsonl', 'limit': 1})
    assert main(['run', 'run.json', '--json']) == 1
    with RunStore('runs.db', 'r') as store: clean(store.config('toa'), *store.samples('toa'), *capfd.readouterr())


def test_a_key_in_the_wrong_place_is_not_repeated(url, capfd):
    model = settings(url)['models'][0]
    models = [{'api_key': KEY}, {'api_key_env': KEY}, {'endpoints': [f'http://me:{KEY}@host/v1']},
              {'endpoints': [f'http://host/v1?key={KEY}']},
              {'endpoints': [{'url': url, 'api_key': KEY}]}, {'extra': {'api_key': KEY}}]
    rewards = [{'api_key': KEY}, {'api_key_env': KEY}, {'url': f'http://me:{KEY}@host'},
               {'url': f'http://host/?key={KEY}'}]
    wrong = ([{'api_key': KEY}] + [{'models': [model | m]} for m in models]
             + [{'reward': {'kind': 'http', 'url': url} | r} for r in rewards])
    wrong += [{'reward': {'kind': 'judge', 'model': model | m}} for m in models]
    for change in wrong:
        configure(url, **change)
        errors = []
        for make in (lambda: run_from('run.json'), lambda change=change: run_from(settings(url, **change))):
            with pytest.raises(InputError) as e: make()
            errors += [str(e.value), repr(e.value)]
        assert main(['run', 'run.json']) == 2
        Path('run.json').unlink()
        clean(errors, *capfd.readouterr())


def test_a_stored_run_needs_the_variable_again(url, monkeypatch, capfd):
    configure(url, budget={'per_run': {'samples': 3}})
    assert main(['run', 'run.json', '--quiet']) == 3
    monkeypatch.delenv('TOA_PLANTED')
    assert main(['resume', 'runs.db']) == 2
    out, err = capfd.readouterr()
    assert 'models[0].api_key_env: the environment variable TOA_PLANTED is not set' in err
    monkeypatch.setenv('TOA_PLANTED', KEY)
    (run := Run.from_store('runs.db', budget=None)).wait(show=False)
    assert run.progress.samples == 32
    clean(out, err, *capfd.readouterr())


def test_the_output_of_a_process(closed):
    configure(closed)
    code = ('import logging, sys; logging.basicConfig(level=logging.DEBUG); from toa_nb.cli.commands import main; '
            'sys.exit(main(["run", "run.json"]))')
    env = os.environ | {'PYTHONPATH': str(root), 'OPENAI_LOG': 'debug'}
    ran = subprocess.run([sys.executable, '-X', 'dev', '-c', code], capture_output=True, text=True, env=env)
    assert ran.returncode == 1 and 'AuthFailed' in ran.stderr
    clean(ran.stdout, ran.stderr)


CELLS = ['from toa_nb.cli.config import run_from\nfrom toa_nb.cli.running import check_run\nrun = '
         'run_from("run.json")\nrun',
         'run.models["a"]', 'run.config()', 'await check_run(run)',
         'await run', 'run.progress', 'vars(run)', 'run.models["a"].balancer',
         'run_from("run.json", store="other.db").models["a"].ready().endpoints[0].connection',
         'await run_from("run.json", name="second")']


def test_the_outputs_of_a_notebook(url, closed, monkeypatch):
    "All cells run; one that fails (the last, at a server that wants another key) shows its traceback."
    configure(url)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    book.cells[-1].source = f'import json\nfrom pathlib import Path\ntext = Path("run.json").read_text().replace({url!r}, {closed!r})\n' \
                            'await run_from(json.loads(text), name="second")'
    monkeypatch.setenv('PYTHONPATH', str(root))
    NotebookClient(book, timeout=HANG, allow_errors=True).execute()
    assert 'AuthFailed' in str(book.cells[-1].outputs) and all(o.output_type != 'error' for c in book.cells[:-1]
                                                               for o in c.outputs)
    nbformat.write(book, 'out.ipynb')
    assert 'out.ipynb' in clean(book)


def test_a_prompt_or_reward_detail_is_not_searched_for_keys(here):
    "What is stored is what was given: the guarantee is about keys from the environment, not about texts of users."
    with RunStore('runs.db') as store: store.create_run('first', {}, [Prompt('p', f'My key is {KEY}, keep it safe.')])
    with pytest.raises(AssertionError): clean()
