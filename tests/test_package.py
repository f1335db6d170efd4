"""What a user gets: a wheel that imports in an empty environment, and an import that stays light."""
import re
import subprocess
import sys
import venv
from pathlib import Path

root = Path(__file__).parent.parent
heavy = ['torch', 'transformers', 'vllm', 'ray', 'ipywidgets', 'matplotlib', 'pandas', 'numpy', 'openai']


def python(code, exe=sys.executable, cwd=root):
    return subprocess.run([exe, '-c', code], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


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


def test_wheel_in_an_empty_environment(tmp_path):
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--outdir', tmp_path, root], check=True,
                   capture_output=True)
    [wheel] = tmp_path.glob('*.whl')
    venv.create(tmp_path/'env', with_pip=False)
    exe = tmp_path/'env'/('Scripts' if sys.platform == 'win32' else 'bin')/'python'
    pip = [sys.executable, '-m', 'pip'] if subprocess.run([sys.executable, '-m', 'pip', '--version'],
                                                          capture_output=True).returncode == 0 else ['pip']
    subprocess.run([*pip, '--python', str(exe), 'install', '--quiet', str(wheel)], check=True, cwd=tmp_path)
    code = ('import toa_nb; names = [getattr(toa_nb, n) for n in toa_nb.__all__]; print(toa_nb.__version__, len(names) '
            '> 20)')
    assert python(code, exe, tmp_path) == '0.1.0 True'
    assert (python(EACH_REMOTE_KIND, exe,
                   tmp_path) == "[('http', 4.0), ('metric_server', 4.0), ('vllm', 4.0), ('sglang', 4.0), ('judge', "
                                "4.0)]")
    # help is made from the installed sources
    assert 'at least 1' in python('import toa_nb; print(toa_nb.TOA.__doc__)', exe, tmp_path)
    listed = subprocess.run([exe, '-m', 'zipfile', '-l', wheel], check=True, capture_output=True, text=True).stdout
    assert 'tests/' not in listed and 'nbs/' not in listed
    files = {p.relative_to(root).as_posix() for p in (root/'toa_nb').rglob('*') if p.suffix in ('.js', '.css')}
    assert files and files <= set(re.findall(r'^(\S+)', listed, re.M))
    code = 'from toa_nb.panels import RunPanel, TreePanel; print(len(RunPanel("none.db").head.value) > 2000)'
    assert python(code, exe, tmp_path) == 'True'


def test_an_old_name_is_refused_with_the_new_one():
    code = 'try:\n    from toa_nb import reward\nexcept ImportError as e: print(e)'
    assert python(code) == '`reward` is now `get_reward`'
