"""A reward server that others reach: whatever a client sends, the server answers, stays within its limits, and still serves the next."""
import asyncio
import json
import os
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from clocks import HANG
from hypothesis import given, settings
from hypothesis import strategies as st

from toa_nb.core import InputError, Prompt, Score
from toa_nb.reward_models.server import ServerLimits, serve_reward
from toa_nb.rewards.base import FunctionReward
from toa_nb.rewards.http_servers import HttpReward
from toa_nb.rewards.queue import RewardQueue

pytest.importorskip('uvicorn')
SKY = Prompt('sky', 'Why is the sky blue?')
ITEMS = json.dumps({'items': [{'prompt': 'a', 'response': 'four'}]}).encode()


def length(prompt, response): return float(len(response))


@contextmanager
def client(server):
    "A connection of our own, so that anything can be sent."
    with socket.create_connection(server.address, timeout=HANG) as s: yield s


def answer(s):
    "Status and body of the answer on a connection, read to its end."
    data = b''
    while b'\r\n\r\n' not in data:
        if not (piece := s.recv(65536)): return None, data
        data += piece
    head, _, body = data.partition(b'\r\n\r\n')
    wanted = next((int(line.split(b':')[1]) for line in head.lower().split(b'\r\n')
                   if line.startswith(b'content-length:')), None)
    while (wanted is None or len(body) < wanted) and (piece := s.recv(65536)): body += piece
    return int(head.split()[1]), body


def send(s, data):
    "Send as much as the server takes."
    try: s.sendall(data)
    except (BrokenPipeError, ConnectionResetError): pass


def post(body, path='/score', headers=b'', length=True):
    about = b'content-length: %d\r\n' % len(body) if length else b''
    return b'POST %s HTTP/1.1\r\nhost: x\r\n%s%s\r\n' % (path.encode(), about, headers) + body


def asked(server, data):
    "What the server answers to these bytes."
    with client(server) as s:
        send(s, data)
        return answer(s)


def still_serves(server): return json.loads(asked(server, post(ITEMS))[1])['scores'] == [4.]


@pytest.fixture(scope='module')
def server():
    with serve_reward(FunctionReward(length, version='1')) as server: yield server


@pytest.fixture(scope='module')
def small():
    with serve_reward(length, limits=ServerLimits(body=1000, responses=3, connections=4, seconds=1.)) as server:
        yield server


@pytest.mark.parametrize('line', [
    b'content-length: abc', b'content-length: -5', b'content-length: 1, 2', b'content-length: 1\r\ncontent-length: 2',
    b'content-length: 0x10',
    b'content-length: ' + b'9'*400, b'content-length:', b'transfer-encoding: gzip',
    b'transfer-encoding: chunked\r\ncontent-length: abc', b'no colon here',
    b'x: ' + b'y'*100_000])
def test_malformed_headers(server, line):
    status, body = asked(server, b'POST /score HTTP/1.1\r\nhost: x\r\n' + line + b'\r\n\r\n')
    assert status in (400, 413, 431, 501) and body
    assert still_serves(server)


@pytest.mark.parametrize('data', [b'\x00\xff'*50, b'GET\r\n\r\n', b'POST /score HTTP/9.9\r\n\r\n',
                                  b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'*20 + b'\r\n\r\n',
                                  b'POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n\r\n'])
def test_what_is_not_http(server, data):
    assert asked(server, data)[0] in (400, 404, 505)
    assert still_serves(server)


def test_ten_gigabytes_announced_are_refused_before_the_first_byte(server):
    status, body = asked(server, b'POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000000\r\n\r\n')
    assert (status, json.loads(body)['detail']) == (413,
                                                    'the body is larger than 16777216 bytes: send fewer responses at a '
                                                    'time')
    assert still_serves(server)


def test_a_body_without_end_is_cut_off(small):
    with client(small) as s:
        s.sendall(b'POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n')
        for _ in range(10_000): send(s, b'3e8\r\n' + b'x'*1000 + b'\r\n')
        status, body = answer(s)
    # the answer is lost where the client goes on sending for longer than the server listens
    assert status in (413, None)
    assert still_serves(small)


def test_a_client_that_sends_too_much_sees_the_refusal(small):
    status, body = asked(small, post(b'x'*100_000))
    assert (status, json.loads(body)['detail']) == (413,
                                                    'the body is larger than 1000 bytes: send fewer responses at a time')
    assert still_serves(small)


@pytest.mark.parametrize('part, status, says', [
    (b'', 408, 'no request was sent within 1 s'), (b'POST /sc', 408, 'no request was sent within 1 s'),
    (b'POST /score HTTP/1.1\r\nhost: x\r\n', 408, 'no request was sent within 1 s'),
    (b'POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{"items"', 408,
     'the body was not sent within 1 s')])
def test_a_slow_client_is_told_which_time_is_over(small, part, status, says):
    with client(small) as s:
        s.sendall(part)
        got, body = answer(s)
    assert (got, json.loads(body)['detail']) == (status, says)
    assert still_serves(small)


def test_headers_that_come_byte_by_byte_do_not_hold_a_connection(small):
    over = threading.Event()
    with client(small) as s:
        def drip():
            while not over.wait(.02): send(s, b'x')
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        try: status, body = answer(s)
        except ConnectionResetError: status = None
        over.set()
        thread.join()
    assert status in (408, None)
    assert still_serves(small)


def test_more_connections_than_allowed_are_refused_and_the_others_served():
    with serve_reward(length, limits=ServerLimits(connections=3)) as server:
        with client(server) as a, client(server) as b, client(server) as c:
            for s in (a, b, c):
                s.sendall(post(ITEMS))
                assert answer(s)[0] == 200
            status, body = asked(server, post(ITEMS))
            assert (status, json.loads(body)['detail']) == (503, '3 connections are open already: try again later')
            a.sendall(post(ITEMS))
            assert answer(a)[0] == 200


def test_idle_connections_are_closed_so_that_others_get_in(small):
    with client(small) as a, client(small) as b, client(small) as c, client(small) as d:
        for s in (a, b, c, d): assert answer(s)[0] == 408
    assert still_serves(small)


@pytest.mark.parametrize('body, says', [
    (b'', 'it is not JSON'), (b'{', 'it is not JSON'), (b'['*200_000, 'it is not JSON'),
    (b'1'*10_000, 'it is not JSON'), (b'\xff\xfe', 'it is not JSON'),
    (b'null', 'another form'), (b'[1]', 'another form'), (b'{"items": 7}', 'another form'),
    (b'{"items": [7]}', 'another form'), (b'{"items": {"a": 1}}', 'another form'),
    (b'{"items": [{"prompt": "a"}]}', 'another form'), (b'{"items": [{"prompt": "a", "response": 7}]}',
                                                        '7 is not a text'),
    (b'{"items": [{"prompt": 7, "response": "x"}]}', 'is not a text or a table'),
    (b'{"items": [{"prompt": {"instruction": 7}, "response": "x"}]}', 'not what belongs'),
    (b'{"items": [{"prompt": {"messages": 7}, "response": "x"}]}', 'a prompt'),
    (b'{"items": [{"prompt": {"messages": [{}]}, "response": "x"}]}', 'a prompt'),
    (b'{"items": [{"prompt": {}, "response": "x"}]}', 'the instruction is empty')])
def test_bodies_of_another_form(server, body, says):
    status, text = asked(server, post(body))
    assert status == 400 and says in json.loads(text)['detail']
    assert still_serves(server)


def test_a_small_body_with_very_many_responses_is_refused(small):
    body = b'{"items": [' + b', '.join([b'{"prompt": "a", "response": ""}']*4) + b']}'
    status, text = asked(small, post(body))
    assert status == 400 and 'it has 4 responses, more than 3' in json.loads(text)['detail']


VALUES = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=5),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                          ['items', 'inputs', 'data', 'prompt', 'response', 'instruction', 'messages', 'role',
                           'content', 'meta', 'src', 'mt', 'id']), inner, max_size=4), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), VALUES.map(lambda v: json.dumps(v).encode()),
                 VALUES.map(lambda v: json.dumps({'items': [{'prompt': v, 'response': 'x'}]}).encode())),
                 st.sampled_from(['/score', '/predict/']))
def test_any_body_gets_an_answer(body, path):
    status, text = asked(RUNNING[0], post(body, path))
    assert status in (200, 400) and ('scores' in json.loads(text)) == (status == 200)


RUNNING = []


@pytest.fixture(autouse=True, scope='module')
def running(server):
    RUNNING.append(server)
    yield
    RUNNING.clear()


def test_clients_that_leave_are_forgotten(server):
    threads = threading.active_count()
    for part in (b'', b'POST /score HTTP/1.1\r\n', post(ITEMS)[:-3], post(ITEMS)):
        for _ in range(20):
            with client(server) as s: s.sendall(part)
    assert still_serves(server)
    end = time.monotonic() + 60
    while server.server.server_state.connections and time.monotonic() < end: time.sleep(.01)
    assert not server.server.server_state.connections and not server.server.server_state.tasks
    assert threading.active_count() <= threads + 5


def test_a_reward_that_raises_is_the_failure_of_its_responses_and_not_of_the_server():
    def fails(prompt, response): raise MemoryError('no room')
    with serve_reward(fails) as server:
        status, body = asked(server, post(ITEMS))
        assert (status, json.loads(body)['errors']) == (200, ['RewardRaised: MemoryError: no room'])


def test_a_reward_that_ends_the_program_does_not_end_the_server():
    "A verifier that calls sys.exit, and one that cancels its own call."
    def fails(prompt, response):
        if response == 'four': return 4.
        raise dict(exit=SystemExit(3), interrupt=KeyboardInterrupt(), cancel=asyncio.CancelledError())[response]
    with serve_reward(fails) as server:
        for how in ('exit', 'interrupt', 'cancel'):
            status, body = asked(server, post(json.dumps({'items': [{'prompt': 'a', 'response': how}]}).encode()))
            assert status == 200 and json.loads(body)['errors'][0].startswith('RewardRaised: ')
        assert still_serves(server)


def test_details_of_any_kind_are_sent_as_json():
    def odd(prompt, response): return Score('odd', 1., details={(1, 2): float('nan'), 'at': {3}})
    def refuse(name): raise AssertionError(f'{name} is not JSON')
    with serve_reward(odd) as server:
        status, body = asked(server, post(ITEMS))
    assert status == 200
    assert json.loads(body, parse_constant=refuse)['details'] == [{'(1, 2)': None, 'at': '{3}'}]


def test_a_compressed_body_is_named(server):
    status, body = asked(server, post(b'\x1f\x8b\x08', headers=b'content-encoding: gzip\r\n'))
    assert (status, json.loads(body)['detail']) == (415, 'the body is compressed: send it as it is')
    assert still_serves(server)


def test_clients_that_leave_do_not_pile_up_requests_without_bound():
    "Their requests are worked on; above the limit no more are taken, and after that the server serves as before."
    go_on = threading.Event()
    def slow(prompt, response):
        if len(response) > 9: go_on.wait(HANG)
        return float(len(response))
    large = post(json.dumps({'items': [{'prompt': 'a', 'response': 'x'*2000}]}).encode())
    with serve_reward(slow, limits=ServerLimits(bodies=10_000)) as server:
        try:
            for held in range(1, 5):
                with client(server) as s: s.sendall(large)
                while server.app.held < 2000*held: time.sleep(.005)
            status, body = asked(server, large)
            assert status == 503 and 'bytes are worked on already: try again later' in json.loads(body)['detail']
        finally: go_on.set()
        while server.app.held: time.sleep(.005)
        assert still_serves(server)


# --- keys ---

def test_beyond_this_machine_a_key_is_needed(monkeypatch):
    for host in ('0.0.0.0', '::', '10.1.2.3', 'some.host'):
        with pytest.raises(InputError, match='can be reached by other machines'): serve_reward(length, host)
    monkeypatch.setenv('TOA_SERVER_KEY', 'sk-planted-secret')
    with serve_reward(length, api_key_env='TOA_SERVER_KEY') as server:
        assert 'planted' not in f'{server!r} {server.app!r} {vars(server)}'
        for headers in (b'', b'authorization: Bearer sk-planted\r\n', b'authorization: sk-planted-secret\r\n',
                        b'authorization: Bearer \xff\xfe\r\n'):
            status, body = asked(server, post(ITEMS, headers=headers))
            assert status == 401 and b'planted' not in body
        assert asked(server, b'GET /health HTTP/1.1\r\nhost: x\r\n\r\n')[0] == 401
        assert asked(server, post(ITEMS, headers=b'authorization: Bearer sk-planted-secret\r\n'))[0] == 200
        assert ([s.value for s in asyncio.run(HttpReward(server.url + '/score',
                                                         api_key_env='TOA_SERVER_KEY').score(SKY, ['four']))] == [4.])


def test_a_key_is_asked_for_before_a_body_is_read(monkeypatch):
    monkeypatch.setenv('TOA_SERVER_KEY', 'sk-planted-secret')
    with serve_reward(length, api_key_env='TOA_SERVER_KEY') as server:
        assert asked(server, b'POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n')[0] == 401


# --- restarts and large answers ---

def test_a_reward_server_that_restarts_costs_no_sample():
    first = serve_reward(FunctionReward(length, 'length', version='1'))
    url, port = first.url + '/score', first.address[1]
    async def main():
        queue = RewardQueue(HttpReward(url), wait=0., pause=.01, cache=False)
        assert (await queue.score(SKY, 'one')).value == 3.
        await asyncio.to_thread(first.stop)
        waiting = [asyncio.ensure_future(queue.score(SKY, 'x'*n)) for n in range(1, 9)]
        while queue.down_since is None: await asyncio.sleep(.01)
        with serve_reward(FunctionReward(length, 'length', version='1'), port=port):
            scores = [s.value for s in await asyncio.gather(*waiting)]
            await queue.close()
        return scores, queue.out
    assert asyncio.run(main()) == ([float(n) for n in range(1, 9)], None)


def test_what_a_remote_reward_finds_wrong_is_said_at_home():
    from toa_nb.rewards.constraints import Constraints
    prompt = Prompt('p', 'No commas.', meta={'constraints': [{'kind': 'no_commas'}]})
    with serve_reward(Constraints()) as server:
        reward = HttpReward(server.url + '/score')
        bad, good = asyncio.run(reward.score(prompt, ['a, b', 'a']))
    assert (reward.explain(bad), reward.explain(good)) == ('The response does not obey: no commas.', '')


def test_an_answer_of_many_megabytes_is_not_read():
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from toa_nb.rewards.base import evaluate
    from toa_nb.rewards.remote import ScoresTooLarge
    class Endless(BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(400): self.wfile.write(b' '*2**20)
            except OSError: pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
    try: [[got]] = asyncio.run(evaluate(HttpReward(f'http://127.0.0.1:{server.server_port}'), [(SKY, ['x'])]))
    finally:
        server.shutdown()
        server.server_close()
    assert type(got) is ScoresTooLarge and not got.retryable


def test_loopback_is_called_without_a_proxy(monkeypatch, server):
    for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'): monkeypatch.setenv(name, 'http://127.0.0.1:9')
    for name in ('NO_PROXY', 'no_proxy'): monkeypatch.delenv(name, raising=False)
    assert [s.value for s in asyncio.run(HttpReward(server.url + '/score').score(SKY, ['four']))] == [4.]
    assert os.environ['HTTP_PROXY']
