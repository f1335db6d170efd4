"""Sets from their official place, and data sets to the hub: a server of our own speaks the hub's protocol, and the real client talks to it.

The files have the names and columns of the official ones, and texts of our own."""
import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip('huggingface_hub')
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import yaml  # noqa: E402
from clocks import HANG  # noqa: E402

from toa_nb.core import Completion, Sample, Score, Trial, Usage  # noqa: E402
from toa_nb.data.rows import save_samples  # noqa: E402
from toa_nb.data.sets import PAIRS, SETS  # noqa: E402

COMMIT = '0123456789abcdef0123456789abcdef01234567'
LOAD = '''
import json, os, sys
from toa_nb.core import InputError
from toa_nb.data import sets
from toa_nb.data.prompts import load_prompts
from toa_nb.data.select import sample_prompts
sets.REPOSITORY = os.environ['HF_ENDPOINT'] + '/raw'
for name, options in json.loads(sys.argv[1]):
    said = []
    try:
        found = load_prompts(name, say=said.append, **options)
        drawn = [p.id for p in sample_prompts(found, 2)]
        first = found[0]
        print(json.dumps(dict(said=said, ids=[p.id for p in found], first=[first.instruction, first.reference, first.source, first.meta],
                              drawn=drawn)))
    except InputError as e: print(json.dumps(str(e)))
'''


def lines(rows): return ''.join(json.dumps(row) + '\n' for row in rows).encode()


def parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def pair(code): return {f'{code}-en': {code: f'slovo {code}', 'en': 'word'}}


def official():
    "Files of each repository, in their official form, with three rows each."
    question = dict(question_id='q1', category='arena-hard-v0.1', cluster='Sky', turns=[dict(content='Why is the sky blue?')])
    grade = [dict(question=f'How many are {n} and 1?', answer=f'Add them.\n#### 1,{n:03d}') for n in range(3)]
    problem = dict(problem='What is $1+1$?', solution=r'It is $\boxed{2}$.', answer='2', subject='Algebra', level=1)
    turns = [dict(role='user', content='Say hello.'), dict(role='assistant', content='Hello.')]
    liked = dict(prompt='Say hello.', all_generated_responses=['Hello.', 'Hi.'], all_rm_scores=[.2, .1], chosen=turns, rejected=turns)
    splits = {'test': 2, 'train': 1}
    files = {
        'tatsu-lab/alpaca_eval': {'alpaca_eval.json': json.dumps([dict(
            instruction=f'Name fruit {n}.', output='Apple.', generator='text_davinci_003', dataset='selfinstruct') for n in range(3)]).encode()},
        'lmarena-ai/arena-hard-auto-v0.1': {'data/train-00000-of-00001.parquet': parquet([question | {'question_id': f'q{n}'} for n in range(3)])},
        'lmarena-ai/arena-hard-auto': {'data/arena-hard-v2.0/question.jsonl': lines(
            [dict(uid=f'u{n}', category='hard_prompt', subcategory='coding', prompt='Write a loop.') for n in range(3)])},
        'openai/gsm8k': {f'{kind}/{split}-00000-of-00001.parquet': parquet(grade[:n]) for kind in ('main', 'socratic') for split, n in splits.items()},
        'HuggingFaceH4/MATH-500': {'test.jsonl': lines([problem | dict(unique_id=f'test/algebra/{n}.json') for n in range(3)])},
        'princeton-nlp/llama3-ultrafeedback-armorm': {
            f'data/{split}-0000{i}-of-00002.parquet': parquet([liked | {'prompt_id': str(n)} for n in range(i, i + 2)])
            for split in splits for i in range(2)},
        'haoranxu/WMT22-Test': {f'{code.strip("_")}-en/test-00000-of-00001.parquet': parquet([pair(code.strip('_'))]*3) for code in PAIRS}}
    return files | {'lab/renamed': files['openai/gsm8k']}


def published():
    "The published input files by their path: as many prompts as their names say."
    found = {}
    for name, known in SETS.items():
        for number, path in (known.published or {}).items():
            code = name.removeprefix('wmt22_')
            task = dict(en='word', **{code: 'slovo'}) if code in {c.strip('_') for c in PAIRS} else {}
            found[path] = lines(dict(id=n, instruction=f'Task {n}', dataset=name, **task) for n in range(int(number)))
    return found


class Hub(BaseHTTPRequestHandler):
    "Data sets of the hub at `main` and `COMMIT`, the published files below /raw, and what can go wrong with a path."
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass

    def reply(self, status=200, body=b'', cut=0, **headers):
        self.send_response(status)
        for key, value in {'Content-Length': len(body) + cut, 'X-Repo-Commit': COMMIT, **headers}.items():
            self.send_header(key.replace('_', '-'), str(value))
        if cut: self.send_header('Connection', 'close')
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)
        self.close_connection = self.close_connection or bool(cut)

    def json(self, value, status=200, **headers): self.reply(status, json.dumps(value).encode(), Content_Type='application/json', **headers)

    def send(self, name, data):
        "A file, and what is wrong with it."
        if self.command != 'HEAD': self.server.fetched[name] += 1
        fault, etag = self.server.faults.get(name), dict(ETag=f'"{hashlib.sha256(data).hexdigest()}"', Accept_Ranges='bytes')
        if fault == 'page': data = b'<html><body>Please log in.</body></html>'
        if fault == 'short': data = data[:len(data)//2]
        if fault == 'cut' and self.command == 'HEAD': return self.reply(200, b'', len(data), **etag)
        if fault == 'cut': return self.reply(200, data[:len(data)//2], len(data) - len(data)//2, **etag)
        self.reply(200, data, **etag)

    def do_GET(self):
        path = self.path.partition('?')[0]
        if path.startswith('/raw/'):
            path = path.removeprefix('/raw/')
            if self.server.faults.get(path) == 'moved': return self.reply(301, Location=f'/moved/{path}')
            return self.send(path, self.server.published[path]) if path in self.server.published else self.reply(404)
        if path.startswith('/moved/'): return self.send('moved', self.server.published[path.removeprefix('/moved/')])
        kind, owner, name, *rest = path.removeprefix('/api').strip('/').split('/')
        if (owner, name) == ('old', 'name'): return self.reply(307, Location=self.path.replace('old/name', 'lab/renamed', 1))
        files = self.server.files.get(f'{owner}/{name}')
        if kind != 'datasets' or files is None: return self.json(dict(error='Repository not found'), 404, X_Error_Code='RepoNotFound')
        if rest and rest[1] not in ('main', COMMIT): return self.json(dict(error='Revision not found'), 404, X_Error_Code='RevisionNotFound')
        if not rest or rest[0] == 'revision':
            return self.json(dict(id=f'{owner}/{name}', sha=COMMIT, siblings=[dict(rfilename=file) for file in files]))
        if rest[0] == 'tree':
            return self.json([dict(type='file', path=file, size=len(data), oid=hashlib.sha1(data).hexdigest()) for file, data in files.items()])
        file = '/'.join(rest[2:])
        if file not in files: return self.reply(404, X_Error_Code='EntryNotFound')
        self.send(f'{owner}/{name}/{file}', files[file])
    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        if self.headers.get('Authorization') != 'Bearer hf_right':
            return self.json(dict(error='Invalid username or password.'), 401)
        if self.path == '/api/repos/create':
            self.server.created.append(json.loads(body))
            return self.json(dict(url=f'http://{self.headers["Host"]}/datasets/lab/rows'))
        if self.path == '/api/validate-yaml':
            yaml.safe_load(json.loads(body)['content'].split('---')[1])
            return self.json(dict(errors=[], warnings=[]))
        if '/preupload/' in self.path:
            asked = json.loads(body)['files']
            return self.json(dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in asked]))
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file': self.server.files['lab/rows'][line['value']['path']] = base64.b64decode(line['value']['content'])
        self.json(dict(success=True, commitOid=COMMIT, commitUrl=f'http://{self.headers["Host"]}/datasets/lab/rows/commit/{COMMIT}'))


@pytest.fixture(scope='module')
def hub():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.files, server.published = official() | {'lab/rows': {}}, published()
    server.faults, server.fetched, server.created = {}, Counter(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def apart(hub, home, *command, **more):
    "A process of its own that knows no other hub, and has its cache in `home`."
    env = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
    env |= dict(HF_ENDPOINT=f'http://127.0.0.1:{hub.server_address[1]}', HF_HOME=str(home/'hf'), TOA_CACHE=str(home/'toa'),
                HF_HUB_DISABLE_TELEMETRY='1', HF_HUB_DISABLE_PROGRESS_BARS='1', NO_PROXY='127.0.0.1', **more)
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, timeout=HANG)


def loaded(hub, home, *wanted):
    "What each set gives, or the error about it."
    done = apart(hub, home, '-c', LOAD, json.dumps(wanted))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope='module')
def home(tmp_path_factory): return tmp_path_factory.mktemp('downloads')


def test_every_set_comes_from_its_place_with_revision_and_licence(hub, tmp_path):
    "All sets twice, in processes of their own: the second time no file is fetched."
    home, before = tmp_path, Counter(hub.fetched)
    wanted = [(name, dict(split=split)) for name, known in SETS.items() for split in known.files]
    first = loaded(hub, home, *wanted)
    fetched = Counter(hub.fetched) - before
    assert set(fetched.values()) == {1}
    assert loaded(hub, home, *wanted) == first and Counter(hub.fetched) - before == fetched
    for (name, options), found in zip(wanted, first, strict=True):
        assert found['said'] == [f'{name}: {SETS[name].repo} at {COMMIT}, {options["split"]}; licence {SETS[name].licence}']
        count = {'gsm8ktest': 2, 'gsm8ktrain': 1, 'gsm8k_socratictest': 2, 'gsm8k_socratictrain': 1}
        assert len(found['ids']) == len(set(found['ids'])) == count.get(name + options['split'], 3)
        assert len(found['drawn']) == min(2, len(found['ids'])) and set(found['drawn']) <= set(found['ids'])


def test_what_the_sets_say(hub, home):
    names = ['alpaca_eval', 'arena_hard', 'arena_hard_v2', 'gsm8k', 'math500', 'ultrafeedback', 'wmt22_cs']
    found = {name: row['first'] for name, row in zip(names, loaded(hub, home, *((name, {}) for name in names)))}
    assert [found[name][0] for name in names[:-1]] == [
        'Name fruit 0.', 'Why is the sky blue?', 'Write a loop.', 'How many are 0 and 1?', 'What is $1+1$?', 'Say hello.']
    assert (found['gsm8k'][1], found['math500'][1], found['math500'][3]['category']) == ('1000', '2', 'Algebra')
    assert 'output' not in found['alpaca_eval'][3] and found['alpaca_eval'][3]['dataset'] == 'selfinstruct'
    assert not {'chosen', 'rejected', 'all_rm_scores'} & found['ultrafeedback'][3].keys()
    assert (found['wmt22_cs'][1:3], found['wmt22_cs'][3]['dataset']) == (['word', 'slovo cs'], 'wmt22-cs-en')


def test_every_published_file_is_fetched_once_and_has_its_number(hub, tmp_path):
    home, before = tmp_path, Counter(hub.fetched)
    wanted = [(name, dict(published=int(number))) for name, known in SETS.items() for number in known.published or ()]
    first = loaded(hub, home, *wanted)
    fetched = Counter(hub.fetched) - before
    assert loaded(hub, home, *wanted) == first and Counter(hub.fetched) - before == fetched
    for (name, options), found in zip(wanted, first, strict=True):
        path = SETS[name].published[str(options['published'])]
        assert len(found['ids']) == options['published'] and fetched[path] == 1
        assert found['said'][0].endswith(f'/raw at {path.partition("/")[0]}, {options["published"]} prompts; licence {SETS[name].licence}')


def test_a_named_revision(hub, home):
    found, error = loaded(hub, home, ('math500', dict(revision=COMMIT)), ('math500', dict(revision='v9')))
    assert found['said'] == [f'math500: HuggingFaceH4/MATH-500 at {COMMIT}, test; licence mit']
    assert 'HuggingFaceH4/MATH-500 was not downloaded (RevisionNotFoundError' in error and '\n' not in error


def test_a_place_that_moved_is_followed(hub, tmp_path, monkeypatch):
    path = SETS['math500'].published['100']
    monkeypatch.setitem(hub.faults, path, 'moved')
    code = "from dataclasses import replace\nfrom toa_nb.data import sets\nsets.SETS['gsm8k'] = replace(sets.SETS['gsm8k'], repo='old/name')\n"
    wanted = [('math500', dict(published=100)), ('gsm8k', {})]
    done = apart(hub, tmp_path, '-c', code + LOAD, json.dumps(wanted))
    first, second = map(json.loads, done.stdout.splitlines())
    assert (len(first['ids']), len(second['ids']), hub.fetched['moved']) == (100, 2, 1)


@pytest.mark.parametrize('fault, said', [
    ('cut', 'was not downloaded (IncompleteRead'), ('short', 'has 50 prompts and not 100'), ('page', 'has 0 prompts and not 100')])
def test_a_published_file_that_is_not_whole_is_not_kept(hub, tmp_path, monkeypatch, fault, said):
    path, wanted = SETS['math500'].published['100'], ('math500', dict(published=100))
    monkeypatch.setitem(hub.faults, path, fault)
    error, = loaded(hub, tmp_path, wanted)
    assert said in error and path in error and '\n' not in error and not [*tmp_path.glob('toa/published/**/*.jsonl*')]
    monkeypatch.delitem(hub.faults, path)
    assert len(loaded(hub, tmp_path, wanted)[0]['ids']) == 100


def test_a_file_of_the_hub_that_was_cut_off_is_fetched_again(hub, tmp_path, monkeypatch):
    monkeypatch.setitem(hub.faults, 'HuggingFaceH4/MATH-500/test.jsonl', 'cut')
    error, = loaded(hub, tmp_path, ('math500', {}))
    assert 'HuggingFaceH4/MATH-500 was not downloaded (' in error and '\n' not in error
    monkeypatch.delitem(hub.faults, 'HuggingFaceH4/MATH-500/test.jsonl')
    assert len(loaded(hub, tmp_path, ('math500', {}))[0]['ids']) == 3


@pytest.mark.parametrize('name, file, fault', [('math500', 'HuggingFaceH4/MATH-500/test.jsonl', 'short'),
                                               ('gsm8k', 'openai/gsm8k/main/test-00000-of-00001.parquet', 'page')])
def test_a_file_of_the_hub_with_other_contents_is_named_with_what_to_do(hub, tmp_path, monkeypatch, name, file, fault):
    "The hub's client keeps what has the length that was announced, so the message names the file to delete."
    monkeypatch.setitem(hub.faults, file, fault)
    error, = loaded(hub, tmp_path, (name, {}))
    found = re.search(r'not valid JSON.* Delete (\S+) to download it again\.', error)
    assert error.startswith(f'{name}:') and found
    Path(found[1]).unlink()
    monkeypatch.delitem(hub.faults, file)
    assert len(loaded(hub, tmp_path, (name, {}))[0]['ids']) == (3 if name == 'math500' else 2)


def test_a_file_of_another_shape_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.setitem(hub.files['HuggingFaceH4/MATH-500'], 'test.jsonl', lines([dict(question='Why?')]))
    error, = loaded(hub, tmp_path, ('math500', {}))
    assert "test.jsonl: the first record: there is no field 'unique_id', only question. Delete" in error


def test_a_set_of_the_hub_without_a_name_here(hub, tmp_path):
    pytest.importorskip('datasets')
    found, = loaded(hub, tmp_path, ('hf://HuggingFaceH4/MATH-500', dict(columns=dict(instruction='problem', id='unique_id'))))
    assert (len(found['ids']), found['first'][0]) == (3, 'What is $1+1$?')


def pushed(hub, folder, token):
    samples = [Sample('r', f'p{n}', Trial(i, 'm', ()), Completion(f'{n} {i}', Usage(3, 2)), None, (Score('rm', float(i)),))
               for n in range(4) for i in range(3)]
    save_samples(samples, folder/'s.jsonl')
    (folder/'p.jsonl').write_bytes(lines(dict(id=f'p{n}', instruction=f'Say {n}.') for n in range(4)))
    (folder/'rows').mkdir()
    (folder/'rows/key.txt').write_text('private')  # is not of the export, and stays here
    code = '''
import sys
from toa_nb.core import ToaError
from toa_nb.data import export, load_prompts, load_samples
try: print(export(load_samples(sys.argv[1] + '/s.jsonl'), sys.argv[1] + '/rows', 'sft', prompts=load_prompts(sys.argv[1] + '/p.jsonl'),
                  test=.5, push_to_hub='lab/rows').url)
except ToaError as e: print(e)
'''
    return apart(hub, folder, '-c', code, str(folder), HF_TOKEN=token)


def test_a_folder_is_uploaded_to_a_private_set_and_can_be_read_from_there(hub, tmp_path):
    done = pushed(hub, tmp_path, 'hf_right')
    assert done.stdout.splitlines()[-1:] == [f'http://127.0.0.1:{hub.server_address[1]}/datasets/lab/rows'], done.stdout + done.stderr
    made, = hub.created
    assert (made['name'], made['organization'], made['type']) == ('rows', 'lab', 'dataset')
    assert made.get('private') or made.get('visibility') == 'private', made
    local = {p.name: p.read_bytes() for p in (tmp_path/'rows').iterdir()}
    assert local.pop('key.txt') and 'README.md' in local and hub.files['lab/rows'] == local
    rows = [row for name, data in local.items() if name.endswith('.parquet') for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    assert sorted(row['completion'][0]['content'] for row in rows) == [f'{n} 2' for n in range(4)]


def test_an_upload_that_is_refused_is_one_line_without_the_token(hub, tmp_path):
    done = pushed(hub, tmp_path, 'hf_wrong_one')
    error = (done.stdout.splitlines() or [done.stderr])[-1]
    assert 'lab/rows was not uploaded (' in error and '401' in error and f'The files are in {tmp_path}/rows.' in error
    assert 'hf_wrong_one' not in done.stdout + done.stderr
