"""Weights from a model hub: a server of our own speaks the hub's protocol, and the real client fetches from it."""
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip('torch')
pytest.importorskip('transformers')

from clocks import HANG  # noqa: E402
from rm_oracles import build  # noqa: E402

from toa_nb.core import Prompt  # noqa: E402
from toa_nb.reward_models.load import load_reward_model  # noqa: E402

COMMIT = '0123456789abcdef0123456789abcdef01234567'
CODE = '''
import json, sys
from toa_nb.core import InputError, Prompt
from toa_nb.reward_models import load_reward_model
for name, revision in json.loads(sys.argv[1]):
    try:
        scorer = load_reward_model(name, family='linear', revision=revision, device='cpu')
        score, = scorer.score_pairs([(Prompt('sky', 'Why is the sky blue?'), 'Air scatters blue light.')])
        print(json.dumps([scorer.name, scorer.version, score.value]))
    except InputError as e: print(json.dumps(str(e)))
'''


class Hub(BaseHTTPRequestHandler):
    "The model `lab/tiny` at the revisions `main` and `COMMIT`."
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass

    def reply(self, status=200, body=b'', **headers):
        self.send_response(status)
        for key, value in {'Content-Length': len(body), 'X-Repo-Commit': COMMIT, **headers}.items():
            self.send_header(key.replace('_', '-'), str(value))
        self.end_headers()
        if self.command == 'GET': self.wfile.write(body)

    def do_GET(self):
        folder, asked = (self.server.folder,
                         self.path.partition('?')[0].removeprefix('/api/models').strip('/').split('/'))
        if asked[:2] != ['lab', 'tiny']:
            return self.reply(404, b'{"error": "Repository not found"}', X_Error_Code='RepoNotFound')
        if asked[3] not in ('main', COMMIT):
            return self.reply(404, b'{"error": "Revision not found"}', X_Error_Code='RevisionNotFound')
        if asked[2] == 'revision':
            files = [dict(rfilename=p.name) for p in sorted(folder.iterdir())]
            return (self.reply(200,
                               json.dumps(dict(id='lab/tiny', modelId='lab/tiny', sha=COMMIT, siblings=files)).encode(),
                               Content_Type='application/json'))
        if asked[2] == 'tree':
            files = [dict(type='file', path=p.name, size=p.stat().st_size,
                          oid=hashlib.sha1(p.read_bytes()).hexdigest()) for p in sorted(folder.iterdir())]
            return self.reply(200, json.dumps(files).encode(), Content_Type='application/json')
        self.server.fetched.append(asked[4])
        data = (folder/asked[4]).read_bytes()
        self.reply(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', Accept_Ranges='bytes')
    do_HEAD = do_GET


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    build('linear', folder)
    (folder/'evil.py').write_text('raise SystemExit("code of a checkpoint ran")')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.folder, server.fetched = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetched(hub, home, *wanted):
    "What a process of its own says of names and revisions; it has no other hub and an empty cache."
    env = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
    env |= dict(HF_ENDPOINT=f'http://127.0.0.1:{hub.server_address[1]}', HF_HOME=str(home),
                HF_HUB_DISABLE_TELEMETRY='1', NO_PROXY='127.0.0.1')
    done = subprocess.run([sys.executable, '-c', CODE, json.dumps(wanted)], capture_output=True, text=True, env=env,
                          timeout=HANG)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_weights(hub, found):
    "Whether what was fetched is the model in the hub's folder, with its commit."
    name, version, value = found
    here = load_reward_model(str(hub.folder), family='linear', device='cpu')
    score, = here.score_pairs([(Prompt('sky', 'Why is the sky blue?'), 'Air scatters blue light.')])
    assert name == 'tiny' and version.startswith(f'lab/tiny@{COMMIT[:12]} float32')
    assert value == pytest.approx(score.value, abs=1e-5)


def test_weights_come_from_the_hub_with_their_commit(hub, tmp_path):
    "By the name of a branch; and what the hub does not have is one line."
    absent = [('lab/nothing', 'main'), ('lab/tiny', 'v9'), ('not a name', 'main')]
    found, *errors = fetched(hub, tmp_path, ('lab/tiny', 'main'), *absent)
    check_weights(hub, found)
    assert 'model-00001-of-00002.safetensors' in hub.fetched and 'evil.py' not in hub.fetched
    for error, named in zip(errors, ('lab/nothing', 'v9', 'not a name'), strict=True):
        assert isinstance(error, str) and named in error and '\n' not in error and 'HF_TOKEN' in error


def test_weights_of_a_commit(hub, tmp_path):
    before = len(hub.fetched)
    check_weights(hub, *fetched(hub, tmp_path, ('lab/tiny', COMMIT)))
    assert 'model-00001-of-00002.safetensors' in hub.fetched[before:] and 'evil.py' not in hub.fetched


def test_no_hub_at_all_is_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, 'server_address', ('127.0.0.1', 9))
    error, = fetched(hub, tmp_path, ('lab/tiny', 'main'))
    assert isinstance(error, str) and 'lab/tiny' in error and '\n' not in error
