"""What CLUSTER.md and SERVERS.md tell a reader to type is valid: configurations are read, commands are parsed, scripts run."""
import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from clocks import HANG

from toa_nb.cli.commands import parser
from toa_nb.cli.config import run_from
from toa_nb.core import Prompt, StoreError
from toa_nb.inputs import read_config
from toa_nb.models.fakes import FakeModel
from toa_nb.models.file import models_from
from toa_nb.rewards.base import FunctionReward
from toa_nb.run.cluster import NearCluster
from toa_nb.run.run import Run
from toa_nb.search.samplers import PRS
from toa_nb.store.journal import RunStore

ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT/name).read_text(encoding='utf-8') for name in ('CLUSTER.md', 'SERVERS.md')}


def blocks(page, kind): return re.findall(rf'```{kind}\n(.*?)```', PAGES[page], re.S)


def commands(page, program):
    "The lines of a page that call a program, without comments and what follows `&`."
    text = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ')
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words and '=' in words[0]: del words[0]
        if words and words[0] == program: yield [w for w in words[1:] if w != '&']


@pytest.mark.parametrize('page', PAGES)
def test_scripts_are_shell(page, tmp_path):
    for i, text in enumerate(blocks(page, 'bash')):
        (tmp_path/f'{i}.sh').write_text(text)
        done = subprocess.run(['bash', '-n', tmp_path/f'{i}.sh'], capture_output=True, text=True)
        assert not done.returncode and not done.stderr, text


@pytest.mark.parametrize('words', [pytest.param(words, id=' '.join(words)) for page in PAGES for words in commands(page, 'toa')])
def test_every_command_is_one(words):
    assert parser().parse_args(words).act


def test_configurations_are_read(tmp_path):
    "Whole files make a run; parts of a model stand in a model."
    whole = 0
    for page in PAGES:
        for text in blocks(page, 'toml'):
            (tmp_path/'part.toml').write_text(text)
            found = read_config(tmp_path/'part.toml')
            if 'models' not in found and 'endpoints' in found: found = dict(models=[dict(name='llama', model='meta-llama/Llama-3.1-8B-Instruct') | found])
            if 'models' in found: assert models_from(dict(models=found['models']))
            base = dict(prompts=str(tmp_path/'prompts.jsonl'), reward='armorm', models=[dict(name='a', endpoints=['http://127.0.0.1:9/v1'])])
            (tmp_path/'prompts.jsonl').write_text('{"id": "a", "instruction": "Why?"}\n')
            found = {**base, **found, 'prompts': base['prompts'], 'store': str(tmp_path/'runs.db')}
            run = run_from(found, ray=NearCluster(2)) if 'scorers' in found or found['reward'] != 'armorm' else None
            whole += run is not None
    assert whole >= 2


def test_what_is_imported_is_there():
    found = [line for text in PAGES.values() for line in re.findall('`(from toa_nb[^`]*)`', text)]
    assert found
    for line in found: exec(line, {})


def ray_options(name):
    from ray.scripts.scripts import cli
    return {option for p in cli.commands[name].params for option in p.opts}


def test_what_is_said_to_ray_is_understood():
    "Commands and options of Ray, and what the file for Ray Serve names, are those of the Ray that is installed."
    ray = Path(pytest.importorskip('ray').__file__).parent
    for words in commands('CLUSTER.md', 'ray'):
        assert {w.partition('=')[0] for w in words[1:] if w.startswith('--')} <= ray_options(words[0]), words
    text, = (t for page in PAGES for t in blocks(page, 'yaml'))
    app, = yaml.safe_load(text)['applications']
    module, _, function = app['import_path'].partition(':')
    assert function in names(ray.parent/module.replace('.', '/')/'__init__.py')
    for config in app['args']['llm_configs']:
        fields = names(ray/'llm/_internal/serve/core/configs/llm_config.py')
        assert {*config, *config['model_loading_config']} <= fields
        where, _, router = config['deployment_config']['request_router_config']['request_router_class'].rpartition('.')
        assert router in names(ray.parent/f'{where.replace(".", "/")}.py')


def names(path):
    "What a module defines or imports, and the fields of its classes."
    tree = ast.parse(path.read_text())
    found = {getattr(n, 'name', None) for n in ast.walk(tree)} | {n.target.id for n in ast.walk(tree)
             if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return found


def test_the_options_of_vllm():
    "vllm is not a dependency; where it is installed, the options of the page are its own."
    if not find_spec('vllm'): pytest.skip('vllm is not installed')
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils import FlexibleArgumentParser
    known = {o for a in make_arg_parser(FlexibleArgumentParser())._actions for o in a.option_strings}
    for words in commands('SERVERS.md', 'vllm'): assert {w for w in words if w.startswith('--')} <= known, words


VLLM = '''
import sys, threading
sys.path.insert(0, TESTS)
from http.server import BaseHTTPRequestHandler, HTTPServer
class Health(BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200), self.end_headers()
    def log_message(self, *args): pass
threading.Thread(target=HTTPServer(('127.0.0.1', HEALTH), Health).serve_forever, daemon=True).start()
import fault_server
sys.argv = ['fault_server', '--port', sys.argv[-1], '--any-model', '--latency', '.05']
fault_server.asyncio.run(fault_server.serve(fault_server.options()))
'''
TOA = '''
import json, sys
sys.path[:0] = [ROOT]
if sys.argv[1] == 'serve-reward':
    from http.server import BaseHTTPRequestHandler, HTTPServer
    class Score(BaseHTTPRequestHandler):
        def do_GET(self): self.send_response(404), self.end_headers()
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            self.send_response(200), self.send_header('Content-Type', 'application/json'), self.end_headers()
            self.wfile.write(json.dumps(dict(scores=[len(str(item)) for item in asked['items']])).encode())
        def log_message(self, *args): pass
    HTTPServer(('127.0.0.1', int(sys.argv[-1])), Score).serve_forever()
from toa_nb.cli.commands import main
sys.exit(main(sys.argv[1:]))
'''


def free_ports(n):
    import socket
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in found: s.bind(('127.0.0.1', 0))
        return [s.getsockname()[1] for s in found]


@pytest.fixture
def job(tmp_path):
    "The two files of the page in a folder of their own, with servers of this machine in place of vllm and the reward model; two tasks instead of 16."
    model, health, reward = map(str, free_ports(3))
    places = dict(TESTS=repr(str(ROOT/'tests')), ROOT=repr(str(ROOT)), HEALTH=health)
    (tmp_path/'bin').mkdir()
    for name, text in (('vllm', VLLM), ('toa', TOA)):
        for key, value in places.items(): text = text.replace(key, value)
        (tmp_path/'bin'/name).write_text(f'#!{sys.executable}{text}')
        (tmp_path/'bin'/name).chmod(0o755)
    def ported(text): return text.replace('8100', reward).replace('127.0.0.1:8000/health', f'127.0.0.1:{health}').replace('8000', model)
    toml, script = ported(blocks('CLUSTER.md', 'toml')[0]), ported(next(t for t in blocks('CLUSTER.md', 'bash') if 'SBATCH' in t))
    (tmp_path/'run.toml').write_text(toml.replace('n = 160', 'n = 40, parallel = 1'))
    (tmp_path/'run.sbatch').write_text(script.replace('/16"', '/2"'))
    (tmp_path/'prompts.jsonl').write_text(''.join(f'{{"id": "p{i}", "instruction": "Say {i}."}}\n' for i in range(4)))
    env = os.environ | dict(PATH=f'{tmp_path}/bin:{os.environ["PATH"]}')
    def start(task): return subprocess.Popen(['bash', 'run.sbatch'], cwd=tmp_path, env=env | dict(SLURM_ARRAY_TASK_ID=str(task)),
                                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    def toa(*words): return subprocess.run([tmp_path/'bin'/'toa', *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    return start, toa


@pytest.mark.slow
def test_the_slurm_job(job, tmp_path):
    "SIGTERM, as before the time limit: exit code 3, nothing is left running. The same task once more, the other one, then merged and extended."
    start, toa = job
    task = start(0)
    deadline = time.monotonic() + HANG
    while count(tmp_path/'runs.0-of-2.db') < 5 and task.poll() is None and time.monotonic() < deadline: time.sleep(.05)
    task.send_signal(signal.SIGTERM)
    out, _ = task.communicate(timeout=HANG)
    assert task.returncode == 3, out
    assert 5 <= count(tmp_path/'runs.0-of-2.db') < 80
    for number in (0, 1):
        task = start(number)
        out, _ = task.communicate(timeout=HANG)
        assert task.returncode == 0, out
    assert toa('status', 'runs.0-of-2.db', 'runs.1-of-2.db').returncode == 0
    merged = toa('store', 'merge', 'runs.db', 'runs.0-of-2.db', 'runs.1-of-2.db')
    assert (merged.returncode, merged.stdout) == (0, 'runs.db: 160 samples of toa\n'), merged.stderr
    assert toa('store', 'check', 'runs.db').stdout == 'runs.db: ok\n'


def count(path):
    try:
        with RunStore(path, 'r') as store: return store.count('toa') if store.run_names() else 0
    except StoreError: return 0


def test_the_recipe_for_polars_gives_the_curve(tmp_path, monkeypatch):
    "It is run as it stands, where polars is installed; the line for DuckDB is run everywhere."
    from toa_nb.analysis.curves import reward_curve
    from toa_nb.analysis.query import sql, write_samples
    reward = FunctionReward(lambda prompt, response: int(response, 16)/16**8, 'digits')
    prompts = [Prompt(f'p{i}', f'Say {i}.') for i in range(5)]
    Run(prompts, PRS(n=6), [FakeModel('a'), FakeModel('b')], reward, store=tmp_path/'runs.db', check=False).wait(show=False)
    monkeypatch.chdir(tmp_path)
    write_samples('runs.db', 'table', per_file=2)
    wanted = reward_curve('runs.db', x='samples')['mean'].tolist()
    query, = (re.search("'(SELECT .*?)'", line)[1] for line in PAGES['CLUSTER.md'].splitlines() if "sql('table/*.parquet'" in line)
    assert len(sql('table/*.parquet', query)) == 1
    recipe, = (text for text in blocks('CLUSTER.md', 'python') if 'polars' in text)
    pytest.importorskip('polars')
    exec(recipe, found := {})
    assert found['curve']['best'].to_list() == pytest.approx(wanted) and set(found['curve']['prompts']) == {5}
