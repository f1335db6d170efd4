"""Rewards under fault: servers that fail, judges that ramble, queues whose callers or loops go away."""
import asyncio
import gc
import inspect
import json
import math
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from clocks import HANG
from hypothesis import given, settings
from hypothesis import strategies as st

from toa_nb.compute import ModelSpec, call_flops, reward_flops, scoring_spent
from toa_nb.core import (
    Completion,
    GenerationError,
    InputError,
    Prompt,
    ResponseTooLong,
    RewardError,
    RewardRaised,
    RewardTimeout,
    Score,
    ScoreNotFinite,
    Usage,
    WrongScoreCount,
)
from toa_nb.models.client import ChatModel
from toa_nb.models.fakes import FakeModel
from toa_nb.reward_models.registry import REWARDS as rewards
from toa_nb.reward_models.registry import get_reward
from toa_nb.reward_models.server import serve_reward
from toa_nb.rewards import base
from toa_nb.rewards.base import FunctionReward, GroupReward, RewardUnreachable, as_score, evaluate
from toa_nb.rewards.combinations import Gate, Minimum, Weighted
from toa_nb.rewards.constraints import CONSTRAINTS, constraint_text, obeys_constraint
from toa_nb.rewards.http_servers import HttpReward, MetricServerReward
from toa_nb.rewards.judges import Judge, PairJudge
from toa_nb.rewards.model_servers import ControlToken, ScoresSquashed, SglangReward, VllmReward
from toa_nb.rewards.queue import RewardOut, RewardQueue
from toa_nb.rewards.remote import MalformedScores, RewardRefused
from toa_nb.rewards.verifiers import Exact, JsonSchema, MathVerify, Regex, math_equal
from toa_nb.run.rescoring import rescore
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN
from toa_nb.store.journal import RunStore
from toa_nb.store.tables import to_frame

SKY = Prompt('sky', 'Why is the sky blue?')
SMALL = ModelSpec('small', 1_000, 1_000, 1, 8, 1, 1, 8, 16, 32, head_rows=32, source='test')
LARGE = ModelSpec('large', 9_000, 9_000, 3, 16, 2, 2, 8, 32, 32, head_rows=0, source='test')
HALF = Prompt('half', 'What is half of one?', reference='1/2')


# --- constraints ---

@pytest.mark.parametrize('constraint, yes, no', [
    ({'kind': 'words', 'relation': 'at most', 'count': 3}, "It's well-known: 2!", 'one two three four'),
    ({'kind': 'sentences', 'relation': 'exactly', 'count': 2}, 'He said "Stop!" Then 3.5 came.', 'One. Two. Three.'),
    ({'kind': 'paragraphs', 'relation': 'exactly', 'count': 2}, 'a\n \n\nb\nc', 'a\nb'),
    ({'kind': 'lines', 'relation': 'exactly', 'count': 2}, 'a\n\nb\n', 'a'),
    ({'kind': 'bullets', 'relation': 'exactly', 'count': 2}, '- a\n  • b', '**a**\n-b'),
    ({'kind': 'numbered', 'relation': 'at least', 'count': 2}, '1. a\n2) b', '1 a\n2.5 b'),
    ({'kind': 'placeholders', 'relation': 'exactly', 'count': 1}, 'Dear [name]', 'Dear [] name'),
    ({'kind': 'highlights', 'relation': 'exactly', 'count': 2}, 'a *b* and **c**', '* a\n* b'),
    ({'kind': 'capitals', 'relation': 'at least', 'count': 1}, 'I say NO', 'I say No'),
    ({'kind': 'questions', 'relation': 'exactly', 'count': 0}, 'No.', 'No?'),
    ({'kind': 'exclamations', 'relation': 'at least', 'count': 1}, 'No!', 'No.'),
    ({'kind': 'include', 'words': ['art', 'c++']}, 'Art in C++.', 'party c++'),
    ({'kind': 'exclude', 'words': ['art']}, 'party', 'ART'),
    ({'kind': 'keyword', 'word': 'is', 'relation': 'exactly', 'count': 2}, 'Is it? It is this.', 'It is this.'),
    ({'kind': 'letter', 'letter': 'z', 'relation': 'at least', 'count': 2}, 'Zaza', 'za'),
    ({'kind': 'one_of', 'options': ['yes', 'no']}, 'Yes, yes!', 'Yes and no'),
    ({'kind': 'start', 'phrase': 'Dear'}, '  "dear Sir"', 'My dear'),
    ({'kind': 'end', 'phrase': 'Bye.'}, 'So: bye."\n', 'Bye. Now'),
    ({'kind': 'quoted'}, ' "Yes." ', '"Yes." he said'),
    ({'kind': 'title'}, '<<A b>>\ntext', '<< >> text'),
    ({'kind': 'postscript'}, 'Hi\nP.S. Bye', 'Hi P.S. bye'),
    ({'kind': 'json', 'keys': ['a']}, '```json\n{"a": 1, "b": 2}\n```', '[{"a": 1}]'),
    ({'kind': 'json', 'keys': ['a']}, '{"a": null}', 'Here: {"a": 1}'),
    ({'kind': 'lower'}, 'a 1 ü', 'A'),
    ({'kind': 'upper'}, 'A 1 Ü', 'Aa'),
    ({'kind': 'no_commas'}, 'a', 'a,'),
    ({'kind': 'no_digits'}, 'four', '4'),
], ids=lambda v: v['kind'] if isinstance(v, dict) else '')
def test_constraint(constraint, yes, no):
    assert obeys_constraint(constraint, yes) and not obeys_constraint(constraint, no)
    assert constraint_text(constraint) and '{' not in constraint_text(constraint)


EXAMPLES = {'words': ['a'], 'options': ['a'], 'keys': ['a'], 'word': 'a', 'letter': 'a', 'phrase': 'a',
            'relation': 'at most', 'count': 9}


@pytest.mark.parametrize('name', sorted(CONSTRAINTS))
def test_every_kind_refuses_silence_and_unknown_parameters(name):
    constraint = {'kind': name} | {p: EXAMPLES[p]
                                   for p in list(inspect.signature(CONSTRAINTS[name].obeys).parameters)[1:]}
    assert not obeys_constraint(constraint, ' \n')
    with pytest.raises(InputError, match="parameter 'colour' is unknown"):
        obeys_constraint(constraint | {'colour': 'red'}, 'text')


@pytest.mark.parametrize('constraint, says', [
    ({}, 'unknown kind None'), ({'kind': ['words']}, 'unknown kind'),
    ({'kind': 'words', 'relation': 'at most'}, "'count' is missing"),
    ({'kind': 'words', 'relation': ['at most'], 'count': 3}, "'relation' is not a text"),
    ({'kind': 'include', 'words': 'art'}, "'words' is not a list"),
    ({'kind': 'include', 'words': [1]}, "'words' holds something that is not a text"),
    ({'kind': 'words', 'relation': 'at most', 'count': True}, "'count' is not a whole number"),
    ('words', 'it is not a dict'),
])
def test_bad_constraint(constraint, says):
    with pytest.raises(InputError, match=says): obeys_constraint(constraint, 'text')


# --- the queue ---

class Lengths(GroupReward):
    name, version = 'length', '1'
    def __init__(self, delay=0.): self.calls, self.delay = [], delay
    async def score_groups(self, groups):
        self.calls.append(sum(len(rs) for _, rs in groups))
        await asyncio.sleep(self.delay)
        return [[len(r) for r in rs] for _, rs in groups]


def test_a_cancelled_caller_takes_no_one_with_it():
    async def main():
        queue = RewardQueue(Lengths(), wait=.001)
        one, two = (asyncio.ensure_future(queue.score(SKY, 'air')) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        assert (await two).value == 3. and one.cancelled()
    asyncio.run(main())


@pytest.mark.parametrize('calls', [0, 1])
def test_a_queue_outlives_a_loop_that_was_stopped_in_the_middle(calls):
    queue = RewardQueue(reward := Lengths(delay=10.), wait=.001)
    async def cut_short():
        asyncio.ensure_future(queue.score(SKY, 'air'))
        await asyncio.sleep(0)
        while len(reward.calls) < calls: await asyncio.sleep(.001)
    asyncio.run(cut_short())
    assert (queue.waiting, queue.promised, queue.workers) == ({}, {}, set())
    reward.delay, before = 0., len(reward.calls)
    assert asyncio.run(queue.score(SKY, 'air')).value == 3.
    assert asyncio.run(queue.score(SKY, 'air')).value == 3. and len(reward.calls) == before + 1


def test_a_retry_that_a_loop_did_not_live_to_see_is_no_obstacle():
    moods, asked = iter([OSError('x'), 2.]), []
    def fn(prompt, response):
        asked.append(response)
        if isinstance(mood := next(moods), Exception): raise mood
        return mood
    queue = RewardQueue(FunctionReward(fn), wait=0., pause=10.)
    async def cut_short():
        asyncio.ensure_future(queue.score(SKY, 'air'))
        while not asked or queue.workers: await asyncio.sleep(.001)
    asyncio.run(cut_short())
    assert asyncio.run(queue.score(SKY, 'air')).value == 2.


def test_while_a_batch_is_scored_the_next_one_gathers():
    async def main():
        queue = RewardQueue(reward := Lengths(delay=.01), wait=0.)
        first = asyncio.ensure_future(queue.score(SKY, 'a'))
        while not reward.calls: await asyncio.sleep(0)
        await asyncio.gather(first, *(queue.score(SKY, 'b' * n) for n in range(2, 12)))
        assert reward.calls == [1, 10]
    asyncio.run(main())


def test_a_queue_speaks_for_its_reward():
    queue = RewardQueue(Exact())
    assert (queue.name, queue.version, queue.spec) == ('exact', '2', None)
    queue.validate(HALF)
    with pytest.raises(InputError, match='has no reference'): queue.validate(SKY)


def test_how_long_a_batch_may_take_depends_on_the_reward():
    remote, judge = HttpReward('http://x', timeout=30.), Judge(Fixed('5'))
    assert [RewardQueue(r).timeout for r in (Exact(), remote, judge,
                                             Gate(remote, judge, rejected=0.))] == [60., 120., 600., 720.]
    assert RewardQueue(judge, timeout=5.).timeout == 5.


def test_memory_is_bounded():
    async def main():
        queue = RewardQueue(reward := Lengths(), wait=0., cache=3)
        for n in (1, 2, 3, 1, 4): await queue.score(SKY, 'x' * n)
        assert len(queue.known) == 3 and len(reward.calls) == 4
        await queue.score(SKY, 'x')
        assert len(reward.calls) == 4
        await queue.score(SKY, 'xx')
        assert len(reward.calls) == 5
    asyncio.run(main())


def test_prompts_that_differ_in_anything_do_not_share_scores():
    def fn(prompt, response): return float(prompt.meta['x'])
    async def main():
        queue = RewardQueue(FunctionReward(fn), wait=0.)
        return [(await queue.score(Prompt('p', 'i', meta={'x': x}), 'same')).value for x in (1, 2)]
    assert asyncio.run(main()) == [1., 2.]


def test_a_function_that_blocks_for_ever_delays_neither_the_others_nor_the_exit(monkeypatch):
    stuck, inner = threading.Event(), base._ask
    def limited(reward, groups, timeout):
        return inner(reward, groups, timeout if any('hang' in responses for _, responses in groups) else HANG)
    monkeypatch.setattr(base, '_ask', limited)
    def fn(prompt, response): return stuck.wait() if response == 'hang' else len(response)
    async def main():
        queue = RewardQueue(FunctionReward(fn), wait=.001, timeout=.05)
        return await asyncio.gather(*(queue.score(SKY, r) for r in ('hang', 'air', 'light')))
    hang, air, light = asyncio.run(main())
    assert hang.error.startswith('RewardTimeout') and (air.value, light.value) == (3., 5.)
    assert all(t.daemon for t in threading.enumerate() if t.name == 'toa-reward')
    stuck.set()


def test_a_reward_that_ignores_being_cancelled_is_given_up():
    class Stubborn:
        name, version, spec = 'stubborn', '', None
        async def score(self, prompt, responses):
            try: await asyncio.Event().wait()
            except asyncio.CancelledError: await release.wait()
            return [1.]
    async def main():
        global release
        release = asyncio.Event()
        score = await RewardQueue(Stubborn(), wait=0., timeout=.01).score(SKY, 'x')
        release.set()
        return score
    assert asyncio.run(main()).error == 'RewardTimeout: no score within 0.01 s'


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from('ab'),
                          st.sampled_from(['ok', 'fine', 'raise', 'nan', 'lose', 'text', 'fatal'])), max_size=12),
       st.integers(1, 5), st.integers(0, 2))
def test_every_caller_gets_the_score_or_the_failure_of_its_own_response(asked, max_batch, retries):
    class Mixed:
        name, version, spec = 'mixed', '', None
        async def score(self, prompt, responses):
            if 'raise' in responses: raise OSError('raise')
            if 'fatal' in responses: raise RewardRefused('fatal')
            if 'lose' in responses: return [1.] * (len(responses) + 1)
            return [{'nan': math.nan, 'text': '7'}.get(r, len(r) + 100. * (prompt.id == 'b')) for r in responses]
    async def main():
        queue = RewardQueue(Mixed(), max_batch=max_batch, wait=0., retries=retries, pause=0.)
        scores = await asyncio.gather(*(queue.score(Prompt(p, 'i'), r) for p, r in asked))
        assert (queue.waiting, queue.promised) == ({}, {})
        return scores
    errors = dict(zip(['raise', 'nan', 'lose', 'text', 'fatal'],
                      ['RewardRaised', 'ScoreNotFinite', 'WrongScoreCount', 'ScoreNotFinite', 'RewardRefused']))
    for (p, r), s in zip(asked, asyncio.run(main())):
        if r in errors: assert s.value is None and s.error.startswith(errors[r] + ': ')
        else: assert s == Score('mixed', len(r) + 100. * (p == 'b'))


def test_numpy_and_torch_numbers_are_numbers():
    import numpy as np
    torch = pytest.importorskip('torch')
    reward = Lengths()
    assert [as_score(reward, v).value for v in (np.float32(.5), np.int64(2), torch.tensor(.25),
                                                True)] == [.5, 2., .25, 1.]
    assert all(isinstance(as_score(reward, v), ScoreNotFinite) for v in (np.array([1., 2.]), 1j, {}, Exception('x')))


# --- verifiers ---

@pytest.mark.parametrize('reference, response, right', [
    ('She has 4 + 3 = 7 apples.\n#### 7', 'So she has **7** apples.', True),
    ('#### 1,000', '$\\boxed{1000}$', True),
    ('#### 12.5', 'It costs 12.50 euros', True),
    ('Then $x = \\boxed{\\frac{3}{4}}$.', '0.75', True),
    ('\\boxed{(3, \\frac{\\pi}{2})}', 'It is \\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.', True),
    ('\\text{Evelyn}', '\\boxed{\\text{Evelyn}}', True),
    ('5/12', '$\\frac{10}{24}$', True),
    ('7', 'We get \\boxed{7}, after 3 steps.', True),
    ('7', 'First I thought \\boxed{8}', False),
    ('7', '', False),
    ('7', '#### Solution\nIt is 8', False),
    ('7', 'Seventy: 70', False),
])
def test_math_answers(reference, response, right): assert math_equal(reference, response) is right


def only_limits(reward, what):
    "Let the time of a reward pass only while it checks a response that holds `what`."
    def timer(line):
        return threading.Timer(.1 if what in line else HANG, reward.process.kill)
    reward._timer = timer
    return reward


def test_an_answer_that_takes_for_ever_fails_alone():
    verifier = only_limits(MathVerify(), '9^{')
    got = asyncio.run(verifier.score(HALF, ['\\boxed{0.5}', '\\boxed{9^{9^{9^{9}}}}', '\\boxed{.5}', '2']))
    verifier.close()
    assert (got[0], got[2], got[3]) == (1., 1., 0.)
    assert repr(got[1]) == "CheckTooLong('no end within 5 s')"


def test_many_endless_checks_fail_alone_and_cost_nobody_else_its_score():
    reward = only_limits(Regex('^(a+)+$'), '!')
    async def scores():
        queue = RewardQueue(reward, pause=.001, max_lost=1)
        return await asyncio.gather(*(queue.score(SKY, r) for i in range(8)
                                      for r in ('a'*(i + 1), f'{"a"*40}{i}!'))), queue.out
    got, queue_out = asyncio.run(scores())
    reward.close()
    assert [s.value for s in got] == [1., None]*8
    assert queue_out is None and {s.error for s in got[1::2]} == {'CheckTooLong: no end within 5 s'}


def test_a_reference_without_an_answer_is_a_failure():
    verifier = MathVerify()
    got, = asyncio.run(verifier.score(Prompt('p', 'i', reference='}'), ['7']))
    verifier.close()
    assert isinstance(got, RewardError) and 'no answer can be read from the reference' in str(got)


def test_a_schema_is_never_fetched():
    schema = {'$id': 'http://127.0.0.1:9/', '$ref': 'schema.json'}
    reward = JsonSchema(schema)
    got, = asyncio.run(evaluate(reward, [(SKY, ['{}'])]))
    reward.close()
    assert isinstance(got[0], RewardRaised) and 'Unresolvable' in str(got[0])


def test_gate_keeps_failures_apart():
    def verdict(prompt, response): return {'yes': 1, 'no': 0}[response]
    def fails(prompt, response): raise OSError('no memory')
    gate = Gate(FunctionReward(verdict), FunctionReward(fails), rejected=-1)
    got, = asyncio.run(evaluate(gate, [(SKY, ['no', 'yes', 'maybe'])]))
    assert got[0].value == -1. and [str(g) for g in got[1:]] == ['OSError: no memory', "KeyError: 'maybe'"]


# --- servers ---

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self): self.do_POST()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get('Content-Length', 0))) or 'null')
        self.server.asked.append((self.path, asked, self.headers.get('Authorization')))
        status, body = self.server.answer(self.path, asked)
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass


@contextmanager
def serving(answer):
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads, server.answer, server.asked = True, answer, []
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': .01}, daemon=True).start()
    server.url = f'http://127.0.0.1:{server.server_port}'
    try: yield server
    finally: server.shutdown(); server.server_close()


def ask(reward, *responses, prompt=SKY):
    async def main():
        try: return (await evaluate(reward, [(prompt, list(responses))]))[0]
        finally: await reward.close()
    return asyncio.run(main())


def vllm(value):
    return {'id': 'classify-1', 'object': 'list', 'created': 1, 'model': 'rm',
            'data': [{'index': 0, 'label': 'LABEL_0', 'probs': [value], 'num_classes': 1}],
            'usage': {'prompt_tokens': 25, 'total_tokens': 25, 'completion_tokens': 0, 'prompt_tokens_details': None}}


def test_vllm_is_asked_for_raw_scores_of_the_whole_conversation():
    with serving(lambda path, asked: (200, vllm(-6.0791))) as server:
        reward = VllmReward(server.url + '/v1', 'rm')
        assert ask(reward, 'Air.') == [Score('rm', -6.0791, version='vllm classify rm', tokens=25)]
    assert len(server.asked) == 3
    assert server.asked[-1][:2] == ('/classify', {'model': 'rm', 'use_activation': False,
                                                  'chat_template_kwargs': {'date_string': '26 Jul 2024'}, 'messages': [
        {'role': 'user', 'content': 'Why is the sky blue?'}, {'role': 'assistant', 'content': 'Air.'}]})


def test_squashed_scores_are_refused_once_and_for_all_unless_they_are_meant():
    with serving(lambda path, asked: (200, vllm(.00229))) as server:
        reward = VllmReward(server.url, 'rm')
        got = ask(reward, 'Air.', 'Light.')
        assert {type(g) for g in got} == {ScoresSquashed} and not got[0].retryable
        assert len(server.asked) == 2
        assert ask(VllmReward(server.url, 'rm', unit_scores=True), 'Air.')[0].value == .00229


FAULTS = [
    (500, {'error': 'x'}, RewardRaised, True), (503, b'<html>busy</html>', RewardUnreachable, True),
    (429, {}, RewardUnreachable, True),
    (401, {'error': 'bad key'}, RewardRefused, False), (404, {'error': 'no such model'}, RewardRefused, False),
    (400, {'message': "This model's maximum context length is 16384 tokens"}, RewardRefused, False),
    (200, b'<html>hello</html>', MalformedScores, True), (200, b'{"data": [', MalformedScores, True),
    (200, {'data': []}, MalformedScores, True),
    (200, [], MalformedScores, True), (200, None, MalformedScores, True), (200, vllm(None), ScoreNotFinite, False),
    (200, vllm('7'), ScoreNotFinite, False),
    (200, vllm(math.nan), ScoreNotFinite, False), (200, {'data': [{'probs': [.1, .9]}]}, MalformedScores, True),
]


@pytest.mark.parametrize('status, body, kind, retryable', FAULTS)
def test_faults_of_a_server_have_types(status, body, kind, retryable):
    with serving(lambda path, asked: (status, body)) as server:
        got, = ask(VllmReward(server.url, 'rm', unit_scores=True), 'Air.')
    assert (type(got), got.retryable) == (kind, retryable), got


def test_no_server_and_a_silent_server():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        got, = ask(HttpReward(f'http://127.0.0.1:{s.getsockname()[1]}'), 'Air.')
        assert type(got) is RewardUnreachable and 'refuses connections' in str(got)
        s.listen()
        got, = ask(HttpReward(f'http://127.0.0.1:{s.getsockname()[1]}', timeout=.05), 'Air.')
        assert type(got) is RewardTimeout


@pytest.mark.parametrize('scores, kinds', [
    ([1.], {WrongScoreCount}), ([1., 2., 3.], {WrongScoreCount}), ('ab', {WrongScoreCount}),
    ({'a': 1}, {WrongScoreCount}),
    ([None, math.inf], {ScoreNotFinite}),
])
def test_a_plain_server_must_return_one_number_per_response(scores, kinds):
    def answer(path, asked): return 200, {'scores': scores if len(asked['items']) == 2 else []}
    with serving(answer) as server: assert {type(g) for g in ask(HttpReward(server.url), 'a', 'b')} == kinds


def test_sglang_gets_templated_text_and_must_return_all():
    def template(messages): return '|'.join(f"{m['role']}:{m['content']}" for m in messages)
    with serving(lambda path, asked: (200, [{'embedding': [23.125], 'meta_info': {'prompt_tokens': 9}}
                                            for _ in asked['text']])) as server:
        got = ask(SglangReward(server.url, 'rm', template), 'Air.', 'x<|eot_id|>', 'Light.')
    assert [g.value for g in got[::2]] == [23.125] * 2 and type(got[1]) is ControlToken and got[0].tokens == 9
    assert server.asked[0][1]['text'] == ['user:Why is the sky blue?|assistant:Air.',
                                          'user:Why is the sky blue?|assistant:Light.']
    with serving(lambda path, asked: (200, [])) as server:
        assert {type(g) for g in ask(SglangReward(server.url, 'rm', template), 'a', 'b')} == {WrongScoreCount}
    with serving(lambda path, asked: (200, [{'embedding': [.1] * 8}] * len(asked['text']))) as server:
        assert {type(g) for g in ask(SglangReward(server.url, 'rm', template), 'a', 'b')} == {MalformedScores}


def test_metric_server_contract():
    prompt = Prompt('p', 'Translate.', source='Ahoj', reference='Hello')
    with serving(lambda path, asked: (200, {'scores': [.25] * len(asked['inputs']['data'])})) as server:
        assert [g.value for g in ask(MetricServerReward(server.url + '/', batch_size=4, workers=1, reference=True),
                                     'Hi', prompt=prompt)] == [.25]
    assert (server.asked == [('/predict/',
                              {'inputs': {'batch_size': 4, 'workers': 1,
                                          'data': [{'src': 'Ahoj', 'mt': 'Hi', 'ref': 'Hello'}]}}, None)])


def test_a_key_is_sent_and_shown_nowhere(monkeypatch):
    monkeypatch.setenv('RM_KEY', 'sk-planted-secret')
    def answer(path, asked): return 401, {'error': 'Incorrect API key provided: sk-planted-secret'}
    with serving(answer) as server:
        reward = HttpReward(server.url, api_key_env='RM_KEY')
        got, = ask(reward, 'Air.')
        score = asyncio.run(RewardQueue(reward, wait=0.).score(SKY, 'Air.'))
    assert server.asked[0][2] == 'Bearer sk-planted-secret'
    assert 'sk-planted' not in f'{got} {got!r} {score} {reward!r} {vars(reward)}' and '***' in str(got)
    with serving(lambda path, asked: (401, b'.' * 170 + b'sk-planted-secret')) as server:
        assert 'sk-p' not in str(ask(HttpReward(server.url, api_key_env='RM_KEY'), 'Air.'))
    with serving(lambda path, asked: (200, {'scores': [None], 'errors': ['bad sk-planted-secret']})) as server:
        assert 'sk-p' not in str(ask(HttpReward(server.url, api_key_env='RM_KEY'), 'Air.'))
    with pytest.raises(InputError, match='NO_SUCH_KEY is not set'): HttpReward('http://x', api_key_env='NO_SUCH_KEY')
    with pytest.raises(InputError) as e: HttpReward('http://me:hush@x/')
    assert 'hush' not in str(e.value)


def test_a_remote_reward_works_in_one_loop_after_another():
    with serving(lambda path, asked: (200, {'scores': [1.] * len(asked['items'])})) as server:
        reward = HttpReward(server.url)
        for _ in range(2): assert asyncio.run(reward.score(SKY, ['a']))[0].value == 1.
    gc.collect()


# --- judges ---

class Fixed:
    name, spec, capacity = 'fixed', None, 1
    def __init__(self, reply): self.reply, self.asked = reply, []
    async def generate(self, messages, *, seed):
        self.asked.append((messages[0].content, seed))
        if isinstance(self.reply, Exception): raise self.reply
        return Completion(self.reply, Usage(10, 2))


def test_a_judge_is_not_fooled_by_placeholders_and_repeats_its_seed():
    model = Fixed('5')
    judge = Judge(model)
    for _ in range(2): assert asyncio.run(judge.score(SKY, ['{answer} {x} {{']))[0].value == 5.
    assert model.asked[0] == model.asked[1] and '{answer} {x} {{' in model.asked[0][0]


def test_a_judge_that_fails_is_a_failure():
    got, = asyncio.run(Judge(Fixed(GenerationError('down'))).score(SKY, ['a']))
    assert repr(got) == "RewardRaised('GenerationError: down')"
    for reply in ('0', '5 and 6', '-5', '1.5', ''):
        got, = asyncio.run(Judge(Fixed(reply)).score(SKY, ['a']))
        assert got.error.startswith('VerdictUnclear: ') and got.tokens == 12, reply


def test_a_comparison_needs_both_verdicts_and_counts_what_both_cost():
    class Half(Fixed):
        async def generate(self, messages, *, seed):
            return Completion('A' if '<answer_A>\nmine' in messages[0].content else 'neither', Usage(10, 2))
    for model in (Fixed('neither'), Half('')):
        score = asyncio.run(RewardQueue(PairJudge(model, rival=lambda p: 'x'), wait=0.).score(SKY, 'mine'))
        assert score.value is None and score.error.startswith('VerdictUnclear: ') and score.tokens == 24


def completion(text, *places, cached=0):
    "A chat completion, with what could stand in the place of each of its tokens."
    content = [{'token': next(iter(p)), 'logprob': math.log(next(iter(p.values()))), 'bytes': None,
                'top_logprobs': [{'token': t, 'logprob': math.log(q), 'bytes': None} for t, q in p.items()]}
                for p in places]
    return {'id': 'c', 'object': 'chat.completion', 'created': 1, 'model': 'judge', 'usage': {
                'prompt_tokens': 90, 'completion_tokens': 2, 'total_tokens': 92,
                'prompt_tokens_details': {'cached_tokens': cached}},
            'choices': [{'index': 0, 'message': {'role': 'assistant', 'content': text}, 'finish_reason': 'stop',
                         'logprobs': {'content': content} if places else None}]}


@contextmanager
def judging(answer, spec=None):
    "A judge behind a server that answers chat completions."
    def route(path, asked):
        return (200, {'object': 'list', 'data': [{'id': 'judge'}]}) if path.endswith('/models') else answer(asked)
    with serving(route) as server:
        yield server, ChatModel('judge', server.url + '/v1', temperature=0., retries=0, outage_timeout=0., spec=spec)


def judge_all(judge, *responses, prompt=SKY):
    async def main():
        try: return (await evaluate(judge, [(prompt, list(responses))]))[0]
        finally: await judge.model.close()
    return asyncio.run(main())


def test_a_judge_weighs_the_probabilities_that_a_server_gives():
    reply = completion('Rating: 7', {'Rating': 1.}, {':': .9, '7': .1}, {' 7': .6, ' 3': .2, ' well': .2}, cached=64)
    with judging(lambda asked: (200, reply), SMALL) as (server, model): score, = judge_all(Judge(model), 'Air.')
    assert (server.asked[0][1]['logprobs'], server.asked[0][1]['top_logprobs']) == (True, 5)
    assert (score.value, score.details['mass'], score.tokens) == (pytest.approx(.75 * 7 + .25 * 3), pytest.approx(.8),
        28)
    assert (score.details['cached_tokens'], score.details['flops']) == (64, call_flops(SMALL, 90, 2, 64).total)


def test_digits_of_a_judge_that_thinks_aloud_are_no_ratings():
    reply = completion('It has 7 flaws.\nRating:7', {'It has ': 1.}, {'7': 1.}, {' flaws.\n': 1.}, {'Rating': 1.},
                       {':7': .5, ':3': .5})
    with judging(lambda asked: (200, reply)) as (_, model): score, = judge_all(Judge(model), 'Air.')
    assert (score.value, score.details) == (7., {})


def test_a_judge_reads_the_text_of_a_server_without_probabilities():
    with judging(lambda asked: (200, completion('Rating: 7'))) as (_, model): score, = judge_all(Judge(model), 'Air.')
    assert (score.value, score.tokens, score.details) == (7., 92, {})


@pytest.mark.parametrize('status, message', [
    (403, 'You are not allowed to request logprobs from this model'),
    (400, '`logprobs` is not supported with this model'),
    (400, "Unknown name 'top_logprobs': Cannot find field."), (422, 'Unprocessable: logprobs')])
def test_a_judge_whose_server_refuses_probabilities_is_read_from_the_text(status, message):
    def answer(asked):
        return (status, {'error': {'message': message}}) if 'logprobs' in asked else (200, completion('Rating: 7'))
    with judging(answer) as (server, model): scores = judge_all(Judge(model), 'Air.', 'Water.')
    assert [(s.value, s.details) for s in scores] == [(7., {})] * 2


def test_a_rating_that_is_hardly_one_is_unclear_and_paid_for():
    reply = completion('7', {'7': .1, 'I': .5, 'No': .4})
    with judging(lambda asked: (200, reply)) as (_, model): score, = judge_all(Judge(model), 'Air.')
    assert (score.error, score.tokens) == ('VerdictUnclear: only 10% of the probability is on verdicts', 92)


def test_a_comparison_weighs_both_places():
    def answer(asked):
        mine_first = '<answer_A>\nmine' in asked['messages'][0]['content']
        return 200, completion('A', {'A': .8, 'B': .2} if mine_first else {'A': .5, 'B': .4})
    with judging(answer, SMALL) as (_, model): score, = judge_all(PairJudge(model, rival=lambda p: 'x'), 'mine')
    assert (score.value, score.tokens) == (pytest.approx((.8 + 4 / 9) / 2), 184)
    assert score.details == pytest.approx({'first': .8, 'second': 4 / 9, 'mass': .9,
                                           'flops': 2. * call_flops(SMALL, 90, 2).total})


@pytest.mark.parametrize('status, body, says', [
    (401, {'error': {'message': 'no'}}, 'RewardRefused: AuthFailed'), (503, {}, 'RewardUnreachable: ServerFailed'),
    (200, {'choices': []}, 'RewardRaised: NoChoices'), (200, completion(' '), 'VerdictUnclear: EmptyAnswer')])
def test_what_goes_wrong_with_a_judge_is_told_in_the_words_of_rewards(status, body, says):
    with judging(lambda asked: (status, body)) as (_, model): got, = judge_all(Judge(model), 'Air.')
    assert (got.error if isinstance(got, Score) else f'{type(got).__name__}: {got}').startswith(says)


def test_what_a_judge_cost_is_in_the_books_of_a_run_and_in_its_table(tmp_path):
    reply = completion('7', {'7': 1.}, cached=64)
    async def main(judge, model):
        run = await Run([SKY], BestOfN(n=3), [FakeModel('a', spec=SMALL)], judge, store=tmp_path/'r.db', name='r')
        await model.close()
        with RunStore(tmp_path/'r.db', 'r') as store: return run.progress.spent.reward_flops, to_frame(store)
    with judging(lambda asked: (200, reply), SMALL) as (_, model): spent, df = asyncio.run(main(Judge(model), model))
    assert df['reward'].tolist() == [7.] * 3
    assert spent == df['guide_flops'].sum() == 3. * call_flops(SMALL, 90, 2, 64).total


def test_a_judge_is_checked_through_its_model():
    async def checked(judge):
        try: await judge.check()
        except RewardError as e: return f'{type(e).__name__}: {e}'
        finally: await judge.model.close()
    def answer(asked):
        return (200, completion('7')) if asked['model'] == 'judge' else (404,
            {'error': {'message': 'there is no model other'}})
    with judging(answer) as (server, model):
        assert asyncio.run(checked(Judge(model))) is None
        other = ChatModel('other', server.url + '/v1', retries=0, outage_timeout=0.)
        assert asyncio.run(checked(Judge(other))).startswith('RewardRefused: UnknownModel: other')


@pytest.mark.parametrize('low, high', [(a, b) for a in range(1, 9) for b in range(a + 1, 10)])
@pytest.mark.parametrize('form', ['{}-{}', '{}–{}', '{}—{}', '{} - {}', '{}/{}/9', '{}..{}', '{}~{}', '{}→{}',
                                  '{} to {}', 'between {} and {}', '{},{}', '{}.{}'])
def test_a_range_is_no_rating(form, low, high):
    got, = asyncio.run(Judge(Fixed(form.format(low, high))).score(SKY, ['a']))
    assert got.value is None and got.error.startswith('VerdictUnclear: ')


# --- what scores cost ---

class Reading(GroupReward):
    "Reads a number of tokens per response, some of them cached; fails for some responses."
    def __init__(self, name, tokens, cached=0, spec=None, fail=()):
        self.name, self.tokens, self.cached, self.spec, self.fail = name, tokens, cached, spec, fail
    async def score_groups(self, groups):
        score = Score('', 1., tokens=self.tokens, details={'cached_tokens': self.cached} if self.cached else None)
        return [[ResponseTooLong('too long') if r in self.fail else score for r in rs] for _, rs in groups]


FIRST, SECOND = float(reward_flops(SMALL, 24, 16)), float(reward_flops(LARGE, 30))


def parts(**kw): return Reading('first', 8, 16, SMALL), Reading('second', 30, 0, LARGE, **kw)


@pytest.mark.parametrize('made, tokens, flops', [
    (lambda a, b: Weighted([(a, 1.), (b, 2.)]), 38, FIRST + SECOND),
    (lambda a, b: Minimum([a, b]), 38, FIRST + SECOND),
    (lambda a, b: Gate(a, b, rejected=0., at_least=1.), 38, FIRST + SECOND),
    (lambda a, b: Gate(a, b, rejected=0., at_least=2.), 8, FIRST),
    (lambda a, b: Minimum([Weighted([(a, 1.), (FunctionReward(lambda p, r: 1., 'one'), 1.)], name='inner'), b]), 38,
     FIRST + SECOND),
    (lambda a, b: Minimum([a, b, Reading('third', 5)]), 43, None),
], ids=['weighted', 'minimum', 'passed', 'rejected', 'nested', 'plain'])
def test_a_combination_costs_what_its_parts_cost(made, tokens, flops):
    [[score]] = asyncio.run(evaluate(made(*parts()), [(SKY, ['Air.'])]))
    assert (score.tokens, score.details['flops'], score.details['tokens']['first' if 'first' in score.details
        else 'inner']) == (tokens, flops, 8)
    assert scoring_spent([score], {}).reward_flops == flops


def test_a_final_failure_keeps_what_the_other_parts_cost():
    queue = RewardQueue(Minimum(parts(fail=['x'])), wait=0.)
    score = asyncio.run(queue.score(SKY, 'x'))
    assert (score.error, score.tokens,
            scoring_spent([score], {}).reward_flops) == ('ResponseTooLong: too long', 8, FIRST)


def test_a_score_that_is_remembered_costs_nothing():
    queue = RewardQueue(Minimum(parts()), wait=0.)
    async def main(): return [await queue.score(SKY, 'x') for _ in range(2)]
    assert [scoring_spent([s], {}).reward_flops for s in asyncio.run(main())] == [FIRST + SECOND, 0.]


def test_a_reward_that_is_added_later_does_not_move_the_curve(tmp_path):
    path = tmp_path/'r.db'
    async def main():
        await Run([SKY], BestOfN(n=2), [FakeModel('a', spec=SMALL)], Weighted(list(zip(parts(), (1., 2.))), 'guide'),
                  store=path, name='r',
                  held_out=[Reading('held_out', 30, 0, LARGE)])
        await rescore(path, 'r', Reading('held', 30, 0, LARGE), every=0)
        with RunStore(path, 'r') as store:
            return to_frame(store), to_frame(list(store.samples('r')), specs={'a': SMALL}, reward='guide',
                                             reward_specs={
            'held_out': LARGE, 'held': LARGE})
    for df in asyncio.run(main()):
        assert df['guide_flops'].tolist() == [FIRST + SECOND] * 2
        assert df['reward_flops'].tolist() == [FIRST + 3 * SECOND] * 2
        assert (df['flops_with_reward'] - df['flops']).tolist() == [FIRST + SECOND] * 2


def test_names_that_mean_something_in_the_details_are_no_names_of_parts():
    with pytest.raises(InputError, match='other than cached_tokens, flops, parts, tokens'):
        Minimum([Reading('flops', 1)])


def test_tokens_that_a_server_had_cached_are_no_work():
    cached = vllm(1.) | {'usage': {'prompt_tokens': 25, 'prompt_tokens_details': {'cached_tokens': 16}}}
    with serving(lambda path, asked: (200, cached)) as server:
        score, = ask(VllmReward(server.url, 'rm', unit_scores=True), 'Air.')
    assert (score.tokens, score.details) == (9, {'cached_tokens': 16})
    with serving(lambda path, asked: (200,
                                      [{'embedding': [1.],
                                        'meta_info': {'prompt_tokens': 25, 'cached_tokens': 16}}])) as server:
        score, = ask(SglangReward(server.url, 'rm', lambda messages: 'x'), 'Air.')
    assert (score.tokens, score.details) == (9, {'cached_tokens': 16})


def test_what_a_served_reward_knows_about_its_scores_comes_through_http():
    with serve_reward(Minimum(parts())) as server:
        score, = ask(HttpReward(server.url + '/score', name='far', version='1'), 'Air.')
    details = {'first': 1., 'second': 1., 'tokens': {'first': 8, 'second': 30}, 'flops': FIRST + SECOND}
    assert score == Score('far', 1., version='1', tokens=38, details=details)
    with serve_reward(Reading('rm', 3, fail='x')) as server:
        score, = ask(HttpReward(server.url + '/score', name='far'), 'x')
    assert score == Score('far', error='RewardRefused: ResponseTooLong: too long')


# --- servers that are out ---

def test_a_server_that_dies_is_out_until_it_answers_again():
    def answer(path, asked): return 200, {'scores': [1.] * len(asked['items']), 'tokens': [0] * len(asked['items'])}
    async def main(server):
        queue = RewardQueue(HttpReward(server.url, name='rm'), wait=0., retries=0, max_lost=3, cache=False,
                            outage_timeout=0.)
        outs = []
        for status in (200, 503, 503, 503, 200):
            server.answer = answer if status == 200 else lambda path, asked: (503, {})
            await queue.score(SKY, 'x')
            outs.append(queue.out)
        await queue.reward.close()
        return outs
    with serving(answer) as server: outs = asyncio.run(main(server))
    assert [type(o) for o in outs] == [type(None)] * 3 + [RewardOut, type(None)]
    assert (str(outs[3]).startswith('rm is out: 3 responses in a row got no answer, the last one because of '
                                    'RewardUnreachable: http'))


def test_a_response_that_is_at_fault_itself_says_nothing_about_the_server():
    queue = RewardQueue(Reading('rm', 1, fail='abc'), wait=0., max_lost=2)
    async def main(): return [await queue.score(SKY, r) for r in 'abc']
    assert all(s.error for s in asyncio.run(main())) and queue.out is None


def test_an_overloaded_server_is_not_asked_about_every_response_by_itself():
    with serving(lambda path, asked: (429, {})) as server:
        assert {type(g) for g in ask(HttpReward(server.url), 'a', 'b', 'c')} == {RewardUnreachable}
    assert len(server.asked) == 1


def test_a_failed_whole_call_is_repeated_response_by_response():
    def answer(path, asked):
        return (500, {}) if any(i['response'] == 'bad'
                                for i in asked['items']) else (200, {'scores': [1.] * len(asked['items'])})
    with serving(answer) as server: got = ask(HttpReward(server.url), 'a', 'bad', 'c')
    assert [getattr(g, 'value', type(g)) for g in got] == [1., RewardRaised, 1.] and len(server.asked) == 4


def test_judge_templates_are_checked():
    with pytest.raises(InputError, match='the placeholder {answer} is missing'):
        Judge(Fixed('5'), template='Rate {question}')


# --- names ---

def test_registry():
    assert {'constraints', 'exact', 'regex', 'json_schema', 'math_verify', 'vllm', 'sglang', 'http', 'metric_server',
            'judge', 'win_rate'} <= set(rewards)
    with pytest.raises(InputError, match="the field 'url' is missing. Add it."): get_reward('http', adress='x')
    assert get_reward('HTTP', url='http://x').name == 'http'
    assert get_reward('HTTP', url='http://x', name='mine').name == 'mine'


@pytest.mark.parametrize('written, kw', [('"{}:quality"', {}),
                                         ('{{kind = "{}:quality", name = "mine"}}', {'name': 'mine'}),
                                         ('{{kind = "{}:Longer", than = 2}}', {'name': 'longer'})])
def test_a_configuration_names_a_reward_of_its_own_folder(written, kw, tmp_path, monkeypatch):
    from toa_nb.cli.config import read_reward
    from toa_nb.inputs import read_config
    module = f'own_{tmp_path.name}'.replace('-', '_')
    (tmp_path/f'{module}.py').write_text('''
from toa_nb.rewards.base import Rule
def quality(prompt, response): return len(response)
class Longer(Rule):
    name = 'longer'
    def __init__(self, than): self.than = than
    def score_one(self, prompt, response): return len(response)
''')
    (tmp_path/'run.toml').write_text('reward = ' + written.format(module))
    monkeypatch.chdir('/')
    reward = read_reward(read_config(tmp_path/'run.toml')['reward'], tmp_path, 'run.toml: reward')
    assert reward.name == kw.get('name', 'quality') and asyncio.run(reward.score(SKY, ['four'])) == [4]
    with pytest.raises(InputError, match='run.toml: reward.*has no .quantity'):
        read_reward(f'{module}:quantity', tmp_path, 'run.toml: reward')


def test_a_reward_that_is_not_pure_says_so_through_queue_and_combination():
    impure = FunctionReward(lambda prompt, response: 1., 'changing', pure=False)
    assert not RewardQueue(Minimum([impure, Exact()])).pure and RewardQueue(Minimum([Exact()])).pure
