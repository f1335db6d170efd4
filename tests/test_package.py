"""What a user gets: a wheel that imports in an empty environment, and an import that stays light."""
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

root = Path(__file__).parent.parent
heavy = ['torch', 'transformers', 'vllm', 'ray', 'ipywidgets', 'matplotlib', 'pandas', 'numpy', 'openai']
variables = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}  # It would show the checkout to every environment


def python(code, exe=sys.executable, cwd=root):
    return subprocess.run([exe, '-c', code], cwd=cwd, env=variables, check=True, capture_output=True, text=True).stdout.strip()


def test_import_is_light():
    assert python(f'import sys, toa_nb; print([m for m in {heavy!r} if m in sys.modules])') == '[]'


def test_every_public_name_is_there():
    assert python('import toa_nb; print([n for n in toa_nb.__all__ if getattr(toa_nb, n, None) is None])') == '[]'


def test_unknown_name_is_an_attribute_error():
    assert python('import toa_nb; print(hasattr(toa_nb, "no_such_name"))') == 'False'


EACH_REMOTE_KIND = """
import asyncio, json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from toa_nb import ChatModel, HttpReward, Judge, MetricServerReward, Prompt, SglangReward, VllmReward

chat = {'object': 'chat.completion', 'choices': [{'index': 0, 'message': {'role': 'assistant', 'content': '4'}, 'finish_reason': 'stop'}],
        'usage': {'prompt_tokens': 9, 'completion_tokens': 1, 'total_tokens': 10}}
answers = {'/score': {'scores': [4]}, '/predict/': {'scores': [4]}, '/vllm/classify': {'data': [{'probs': [4]}]}, '/sglang/classify': [{'embedding': [4]}],
           '/v1/chat/completions': chat}

class Answers(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        data = json.dumps(answers[self.path]).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

server = ThreadingHTTPServer(('127.0.0.1', 0), Answers)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f'http://127.0.0.1:{server.server_port}'
rewards = [HttpReward(url + '/score'), MetricServerReward(url), VllmReward(url + '/vllm', 'm', name='vllm'),
           SglangReward(url + '/sglang', 'm', lambda messages: 'x', name='sglang'), Judge(ChatModel('m', url + '/v1'))]

async def main():
    found = []
    for reward in rewards:
        score, = await reward.score(Prompt('p', 'How many?'), ['Four.'])
        found.append((reward.name, getattr(score, 'value', score)))
        await reward.close()
    print(found)

asyncio.run(main())
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel of what belongs to the package, built beside the checkout."
    place = tmp_path_factory.mktemp('wheel')
    shutil.copytree(root/'toa_nb', place/'source/toa_nb', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'README.md', 'LICENSE'): shutil.copy(root/name, place/'source')
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', place, place/'source'],
                   check=True, capture_output=True)
    [path] = place.glob('*.whl')
    return path


def pip_install(env, *args):
    "Install into an environment that has no pip; returns its interpreter."
    venv.create(env, with_pip=False)
    exe = env/('Scripts' if sys.platform == 'win32' else 'bin')/'python'
    here = [sys.executable, '-m', 'pip']
    pip = here if subprocess.run([*here, '--version'], capture_output=True).returncode == 0 else ['pip']
    subprocess.run([*pip, '--python', str(exe), 'install', '--quiet', *map(str, args)], check=True, cwd=env, env=variables)
    return exe


def required(distribution, extras=('',)):
    "The names and extras of what a distribution needs here."
    for text in distribution.requires or ():
        found = Requirement(text)
        if found.marker is None or any(found.marker.evaluate({'extra': extra}) for extra in extras):
            yield found.name, ('', *found.extras)


def link_requirements(site, name):
    "Put what an installed distribution declares, and nothing else, beside it, from the environment of the tests."
    [own] = metadata.distributions(name=name, path=[str(site)])
    todo, seen = [*required(own)], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen: continue
        seen.add((name, extras))
        found = metadata.distribution(name)
        todo += required(found, extras)
        for top in {file.parts[0] for file in found.files} - {'..', '__pycache__'}:
            if not (site/top).exists(): (site/top).symlink_to(found.locate_file(top))


def check_what_works(exe, wheel, folder):
    "Use the package of another environment."
    code = 'import toa_nb; print(toa_nb.__version__, len([getattr(toa_nb, n) for n in toa_nb.__all__]) > 20)'
    assert python(code, exe, folder) == '0.1.0 True'
    found = "[('http', 4.0), ('metric_server', 4.0), ('vllm', 4.0), ('sglang', 4.0), ('judge', 4.0)]"
    assert python(EACH_REMOTE_KIND, exe, folder) == found
    # help is made from the installed sources
    assert 'at least 1' in python('import toa_nb; print(toa_nb.TOA.__doc__)', exe, folder)
    code = 'from toa_nb.panels import RunPanel, TreePanel; print(len(RunPanel("none.db").head.value) > 2000)'
    assert python(code, exe, folder) == 'True'
    assert python('import importlib.util as i; print(i.find_spec("torch"))', exe, folder) == 'None'


def test_wheel_with_what_it_declares(wheel, tmp_path):
    exe = pip_install(tmp_path/'env', '--no-deps', '--no-index', wheel)
    site = Path(python('import sysconfig; print(sysconfig.get_path("purelib"))', exe))
    link_requirements(site, 'toa_nb')
    check_what_works(exe, wheel, tmp_path)


@pytest.mark.slow
def test_wheel_in_an_empty_environment(wheel, tmp_path):
    check_what_works(pip_install(tmp_path/'env', wheel), wheel, tmp_path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    listed = zipfile.ZipFile(wheel).namelist()
    assert {name.split('/')[0] for name in listed} == {'toa_nb', f'{wheel.name.rsplit("-", 3)[0]}.dist-info'}
    files = {p.relative_to(root).as_posix() for p in (root/'toa_nb').rglob('*') if p.suffix in ('.py', '.js', '.css')}
    assert files <= set(listed)


def test_names_and_places_of_an_earlier_version_work_with_a_warning():
    code = """if True:
        import importlib, warnings
        warnings.simplefilter('always')
        from toa_nb.rewards import register
        from toa_nb import Card, stored_run
        import toa_nb
        print(register is toa_nb.register, Card is toa_nb.ModelSpec, stored_run == toa_nb.Run.from_store)
        import inspect, pkgutil
        for wing in ('', *(f'.{m.name}' for m in pkgutil.iter_modules(toa_nb.__path__) if m.ispkg)):
            package = importlib.import_module(f'toa_nb{wing}')
            for name in inspect.getclosurevars(package.__getattr__).nonlocals['renamed']: getattr(package, name)
    """
    assert python(code).startswith('True True True')
