"""An OpenAI-compatible chat server for tests: deterministic text, any latency, faults on request.

As a process of its own:   python tests/fault_server.py --port 8000 --models a,b --latency 0.05 --fault error500:0.1 --fault hang:1:b
Inside a test:             async with FaultServer(faults=[Fault('rate_limit', .1)]) as server: ... server.url
As a child of a test:      with running('--latency', '0.05') as url: ...

The text depends on the messages, the seed and the model and on nothing else. Which call meets a fault depends on its number only, so a test sees
the same faults each time. A fault is KIND[:SHARE[:MODEL[:START-STOP]]]: it hits SHARE of the calls START <= number < STOP (of MODEL, where one is named).
  GET  /control            counts of calls by model and fault, calls in flight and their peak
  GET  /control/log        one row per call: number, model, seed, digest of model, messages and seed, fault, arrival, end, and what became of it
  POST /control            change settings while running: {"faults": ["html:0.5"], "latency": 0.1, "slots": 8, "reset": true}
It is plain asyncio because it has to be much quicker than the client that it measures.
"""
import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial

KINDS = {
    'error500': 'HTTP 500', 'error503': 'HTTP 503', 'rate_limit': 'HTTP 429',
    'rate_limit_after': 'HTTP 429 with Retry-After',
    'auth': 'HTTP 401 that quotes the key', 'unknown_model': 'HTTP 404', 'too_long': 'HTTP 400',
    'hang': 'no answer', 'reset': 'connection reset before the answer', 'cut': 'connection closed inside the body',
    'trickle': 'a byte now and then',
    'none_content': 'content is null', 'empty_text': 'content is blank', 'no_choices': 'choices is []',
    'no_usage': 'no usage',
    'truncated': 'JSON cut short', 'html': 'HTML with status 200', 'error200': 'an error object with status 200',
    'quota': 'the same, and it quotes the key',
    'login': 'HTML with status 200 that quotes the key', 'other_model': 'another model id',
}
SILENT = ('hang', 'trickle')  # faults that end in the time limit of the client
WORDS = ('amber brook cedar delta ember fable grove harbor island jasper kettle lantern meadow nectar orchard pebble '
         'quartz river summit timber umber '
         'valley willow yarrow zephyr anchor beacon candle drift echo feather glimmer hollow iris juniper kindle '
         'ledger marble north opal prairie quill '
         'ripple saddle thistle under violet wander xenon yonder zenith atlas breeze copper dune eagle flint garnet '
         'hazel ivory jade keel lilac').split()


@dataclass
class Fault:
    kind: str
    share: float = 1.
    model: str | None = None
    start: int = 0
    stop: float = float('inf')
    retry_after: float = 1.

    def __post_init__(self):
        if self.kind not in KINDS: raise ValueError(f'no fault {self.kind!r}; known: {", ".join(KINDS)}')

    @classmethod
    def parse(cls, text):
        kind, share, model, window = (text.split(':', 3) + [''] * 3)[:4]
        start, _, stop = window.partition('-')
        return cls(kind, float(share or 1), model or None, int(start or 0), float(stop or 'inf'))

    def hits(self, number, salt):
        "Whether call `number` meets this fault: decided by the number alone."
        if not self.start <= number < self.stop: return False
        draw = int.from_bytes(hashlib.sha256(f'{salt}:{self.kind}:{number}'.encode()).digest()[:4], 'big') / 2**32
        return draw < self.share


def digest(model, messages, seed):
    "What the text of an answer depends on."
    return hashlib.sha256(json.dumps([model, messages, seed], separators=(',', ':')).encode()).digest()


def text_of(key, n_words):
    "A text of `n_words` words for a digest."
    words = []
    while len(words) < n_words:
        words += [WORDS[b % len(WORDS)] for b in key]
        key = hashlib.sha256(key).digest()
    return ' '.join(words[:n_words]).capitalize() + '.'


def http(status, body, content_type='application/json', headers=''):
    "The bytes of a response."
    return f'HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n'.encode() + body


def http_json(status, value, headers=''): return http(status, json.dumps(value).encode(), headers=headers)
def http_error(status, message, headers=''):
    return http_json(status, {'error': {'message': message, 'type': 'test', 'code': status}}, headers)


class Call:
    "One chat completion: waits for a slot, then for its latency, then answers, possibly with a fault."
    def __init__(self, server, connection, body, key):
        self.server, self.connection, self.auth, self.timer, self.started = server, connection, key, None, False
        self.model, self.seed, self.body = body.get('model'), body.get('seed'), body
        self.key = digest(self.model, body.get('messages'), self.seed)
        self.fault = server.pick(self.model)
        self.row = [server.calls, self.model, self.seed, self.key.hex()[:16], self.fault.kind if self.fault else '',
                    time.time(), None, 'open']
        server.register(self)

    def begin(self):
        "Take a slot; answer after the latency."
        self.started = True
        self.timer = asyncio.get_running_loop().call_later(self.server.latency_of(self.key), self.answer)

    def end(self, what):
        "Give the slot back and write the log."
        if self.row[-1] != 'open': return
        self.row[-2:] = time.time(), what
        if self.timer: self.timer.cancel()
        self.server.finished(self)

    def completion(self):
        "The plain answer."
        text = text_of(self.key, min(self.server.words, self.body.get('max_tokens') or self.server.words))
        n_in, n_out = sum(len(m['content'].split()) for m in self.body['messages']), len(text.split())
        choice = {'index': 0, 'message': {'role': 'assistant', 'content': text}, 'finish_reason': 'stop'}
        if self.body.get('logprobs'):
            choice['logprobs'] = {'content': [{'token': w, 'logprob': -.5} for w in text.split()]}
        usage = {'prompt_tokens': n_in, 'completion_tokens': n_out, 'total_tokens': n_in + n_out,
                 'prompt_tokens_details': {'cached_tokens': n_in // 2}}
        return {'id': f'cmpl-{self.row[0]}', 'object': 'chat.completion', 'created': 1700000000, 'model': self.model,
                'choices': [choice], 'usage': usage}

    def answer(self):
        "Send the answer or the fault."
        kind = self.fault.kind if self.fault else ''
        if kind in SILENT: self.server.silence(self.key)
        if kind == 'hang': return
        if kind == 'trickle': return self.trickle(http_json(200, self.completion()))
        self.connection.send(self, self.faulty(kind) if kind else http_json(200, self.completion()),
                             broken=kind in ('reset', 'cut'))

    def faulty(self, kind):
        "The bytes of a fault."
        ok = self.completion()
        message = ok['choices'][0]['message']
        if kind == 'reset': return b''
        if kind == 'cut': return http_json(200, ok)[:-20]
        if kind == 'error500': return http_error(500, 'internal error')
        if kind == 'error503': return http_error(503, 'overloaded')
        if kind == 'rate_limit': return http_error(429, 'too many requests')
        if kind == 'rate_limit_after':
            return http_error(429, 'too many requests', f'Retry-After: {self.fault.retry_after:g}\r\n')
        if kind == 'auth': return http_error(401, f'Incorrect API key provided: {self.auth}')
        if kind == 'unknown_model': return http_error(404, f'The model `{self.model}` does not exist.')
        if kind == 'too_long': return http_error(400, 'the prompt is longer than the context of 4096 tokens')
        if kind == 'truncated': return http(200, json.dumps(ok).encode()[:90])
        if kind == 'html': return http(200, b'<html><body>Gateway login</body></html>', 'text/html')
        if kind == 'error200': return http_error(200, 'worker lost')
        if kind == 'quota': return http_error(200, f'Quota of key {self.auth} exceeded')
        if kind == 'login':
            return http(200, f'<html><body>No login for {self.auth}</body></html>'.encode(), 'text/html')
        if kind == 'none_content': message['content'] = None
        if kind == 'empty_text': message['content'] = ' \n'
        if kind == 'no_choices': ok['choices'] = []
        if kind == 'no_usage': del ok['usage']
        if kind == 'other_model': ok['model'] = 'another-model'
        return http_json(200, ok)

    def trickle(self, data, at=0):
        "Send one byte every `trickle` seconds."
        if at == len(data): return self.end('answered')
        self.connection.transport.write(data[at:at + 1])
        self.timer = asyncio.get_running_loop().call_later(self.server.trickle, self.trickle, data, at + 1)


class Connection(asyncio.Protocol):
    "One client connection: HTTP/1.1 with keep-alive, one request at a time."
    def __init__(self, server): self.server, self.buffer, self.call = server, b'', None

    def connection_made(self, transport):
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, exc):
        self.server.connections.discard(self)
        if self.call: self.call.end('gone')

    def data_received(self, data):
        self.buffer += data
        head, found, rest = self.buffer.partition(b'\r\n\r\n')
        if not found: return
        lines = head.decode('latin-1').split('\r\n')
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(':') for line in lines[1:])}
        length = int(headers.get('content-length', 0))
        if len(rest) < length: return
        self.buffer = rest[length:]
        method, path, _ = lines[0].split(' ')
        self.request(method, path, rest[:length], headers.get('authorization', '').removeprefix('Bearer '))

    def request(self, method, path, body, key):
        server, path = self.server, path.split('?')[0]
        if path.startswith('/control'): return self.control(method, path, body)
        if server.key and key != server.key:
            return self.transport.write(http_error(401, f'Incorrect API key provided: {key}'))
        if path.endswith('/models'): return self.transport.write(server.models_answer())
        if not path.endswith('/chat/completions'): return self.transport.write(http_error(404, f'no {path} here'))
        try: body = json.loads(body)
        except ValueError: return self.transport.write(http_error(400, 'the body is not JSON'))
        Call(server, self, body, key)

    def control(self, method, path, body):
        if method == 'POST': self.server.change(**json.loads(body))
        self.transport.write(http_json(200, list(self.server.log) if path.endswith('/log') else self.server.state()))

    def send(self, call, data, broken=False):
        if not self.transport.is_closing():
            self.transport.write(data)
            if broken and not data: self.reset()
            elif broken: self.transport.close()
        call.end('broken' if broken else 'answered')

    def reset(self):
        "Close so that the client sees a reset instead of an orderly end."
        self.transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.transport.abort()


class FaultServer:
    "The server; `async with` starts it on a free port of the loopback interface."
    def __init__(self, models=('a', 'b', 'c', 'd'), latency=0., sigma=0., slots=0, reject=False, words=12, faults=(),
                 key='', trickle=.05, salt=0,
                 strict=True, list_models=True, port=0, hold=0):
        self.models, self.latency, self.sigma, self.slots, self.reject, self.words = (tuple(models), latency, sigma,
            slots, reject, words)
        self.key, self.trickle, self.salt, self.strict, self.list_models, self.port = (key, trickle, salt, strict,
            list_models, port)
        self.hold = hold  # calls that may begin until it is raised; 0: all
        self.connections, self.waiting, self.silences = set(), deque(), {}
        self.change(faults, reset=True)

    def change(self, faults=None, reset=False, **settings):
        "Other settings from now on; `reset` forgets counts and log, so that windows count from here."
        if faults is not None:
            self.faults = [f if isinstance(f, Fault) else Fault.parse(f) if isinstance(f, str) else Fault(**f)
                           for f in faults]
        for name, value in settings.items():
            if not hasattr(self, name): raise ValueError(f'no setting {name!r}')
            setattr(self, name, value)
        if reset:
            self.calls, self.begun, self.busy, self.peak = 0, 0, 0, 0
            self.by_model, self.by_fault, self.log = Counter(), Counter(), deque(maxlen=1_000_000)
        self.admit()

    def state(self):
        return {'calls': self.calls, 'by_model': dict(self.by_model), 'by_fault': dict(self.by_fault),
                'in_flight': self.busy, 'peak': self.peak,
                'waiting': len(self.waiting), 'connections': len(self.connections)}

    def models_answer(self):
        if not self.list_models: return http_error(404, 'no list of models here')
        return http_json(200, {'object': 'list', 'data': [{'id': m, 'object': 'model'} for m in self.models]})

    def pick(self, model):
        "The fault that the next call of `model` meets, or None."
        if self.strict and model not in self.models: return Fault('unknown_model')
        for i, fault in enumerate(self.faults):
            if fault.model in (None, model) and fault.hits(self.by_model[model] if fault.model else self.calls,
                                                           f'{self.salt}:{i}'):
                return fault
        return None

    def silence(self, key):
        "Tell a test that waits for it that a call gets no answer."
        waiting = self.silences.pop(key, None)
        if waiting and not waiting.done(): waiting.set_result(None)

    def latency_of(self, key):
        "Seconds that the answer takes: log-normal with median `latency` where `sigma` is not 0."
        return self.latency * random.Random(key).lognormvariate(0, self.sigma) if self.sigma else self.latency

    def register(self, call):
        "Count a call and let it begin, wait for a slot, or be turned away."
        self.calls += 1
        self.by_model[call.model] += 1
        if self.reject and self.slots and self.busy >= self.slots: call.fault = Fault('rate_limit')
        if call.fault: self.by_fault[call.fault.kind] += 1
        self.log.append(call.row)
        call.connection.call = call
        if not self.has_room(): return self.waiting.append(call)
        self.start(call)

    def has_room(self):
        "Whether another call may begin."
        free = not self.slots or self.reject or self.busy < self.slots
        return free and (not self.hold or self.begun < self.hold)

    def start(self, call):
        self.busy, self.begun = self.busy + 1, self.begun + 1
        self.peak = max(self.peak, self.busy)
        call.begin()

    def finished(self, call):
        call.connection.call = None
        if call.started: self.busy -= 1
        self.admit()

    def admit(self):
        "Let calls that wait begin."
        while self.waiting and self.has_room():
            if (waiting := self.waiting.popleft()).row[-1] == 'open': self.start(waiting)

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(partial(Connection, self), '127.0.0.1', self.port, backlog=4096)
        self.port = self.listener.sockets[0].getsockname()[1]
        self.url = f'http://127.0.0.1:{self.port}/v1'
        return self

    async def __aexit__(self, *_):
        self.listener.close()
        for connection in list(self.connections): connection.transport.abort()
        await asyncio.sleep(0)


@contextlib.contextmanager
def running(*arguments, python=sys.executable):
    "A server in a process of its own, ended on leaving; gives its address."
    process = subprocess.Popen([python, os.path.abspath(__file__), *arguments], stdout=subprocess.PIPE, text=True)
    try: yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--port', type=int, default=0, help='0 (default): any free port; the address is printed')
    parser.add_argument('--models', default='a,b,c,d', help='ids served, separated by commas')
    parser.add_argument('--latency', type=float, default=0., help='seconds per answer (median with --sigma)')
    parser.add_argument('--sigma', type=float, default=0., help='spread of a log-normal latency')
    parser.add_argument('--slots', type=int, default=0, help='calls worked on at once; 0: no limit')
    parser.add_argument('--reject', action='store_true',
                        help='answer 429 where all slots are taken, instead of queueing')
    parser.add_argument('--words', type=int, default=12, help='words per answer')
    parser.add_argument('--trickle', type=float, default=.05, help='seconds between the bytes of the fault `trickle`')
    parser.add_argument('--key-env', default='', help='environment variable that holds the key to ask for')
    parser.add_argument('--any-model', action='store_true',
                        help='answer an unknown model name with 200, as llama.cpp does')
    parser.add_argument('--fault', action='append', default=[],
                        help='KIND[:SHARE[:MODEL[:START-STOP]]]; kinds: ' + ', '.join(KINDS))
    return parser.parse_args()


async def serve(o):
    async with FaultServer(o.models.split(','), o.latency, o.sigma, o.slots, o.reject, o.words, o.fault,
                           os.environ.get(o.key_env, ''), o.trickle,
                           strict=not o.any_model, port=o.port) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == '__main__':
    with contextlib.suppress(ImportError):
        import uvloop
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with contextlib.suppress(KeyboardInterrupt): asyncio.run(serve(options()))
