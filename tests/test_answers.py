"""What real servers send and refuse: thoughts, finish reasons, token counts, fields, templates, proxies and sizes."""
import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from toa_nb import TOA, BestOfN, ChatModel, FunctionReward, Message, MoA, Prompt, Run, RunStore, Usage, models_from, to_dpo, to_sft
from toa_nb.core import AnswerTooLarge, AuthFailed, ContextOverflow, EmptyAnswer, MalformedAnswer, MissingUsage, RequestRefused, ServerFailed
from toa_nb.models.thoughts import FAMILIES

HI = (Message('user', 'Hi'),)


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_): pass

    def reply(self, status, value):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self): self.reply(200, {'data': [{'id': m} for m in self.server.listed]})

    def do_POST(self):
        self.server.body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.calls.append((self.path, dict(self.headers), self.server.body))
        self.reply(*self.server.answer(self.server.body))


@pytest.fixture
def serve():
    "Starts servers whose answer to a chat call is that of a function from the body to status and value."
    started = []

    def start(answer, listed=('m',)):
        server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        server.daemon_threads, server.answer, server.listed, server.calls = True, answer, listed, []
        server.url = f'http://127.0.0.1:{server.server_port}/v1'
        threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
        started.append(server)
        return server
    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def completion(text, finish='stop', usage=None, message=None, **choice):
    message = {'role': 'assistant', 'content': text} | (message or {})
    usage = usage or {'prompt_tokens': 10, 'completion_tokens': 20, 'total_tokens': 30}
    return 200, {'model': 'm', 'choices': [{'message': message, 'finish_reason': finish, **choice}], 'usage': usage}


def refusal(text, status=400): return status, {'error': {'message': text}}


LENGTH = FunctionReward(lambda prompt, response: float(len(response)), name='length')


def run_of(model, folder, method=None, reward=LENGTH):
    "A finished run with its store, and what it raised."
    run = Run([Prompt('p', 'How much is 2+2?')], method or BestOfN(2), [model], reward, store=str(folder/'runs.db'),
              name='r')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: run.wait(show=False)
        except Exception as e: return run, e
    return run, None


def stored(folder):
    with RunStore(folder/'runs.db', 'r') as store: return list(store.samples('r'))


async def once(model, messages=None):
    "One call and its failure, if it fails."
    try: return await model.generate(messages or HI, seed=3)
    except Exception as e: return e
    finally: await model.close()


def ask(model, messages=None):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return asyncio.run(once(model, messages))


def model_at(server, **settings): return ChatModel('m', server.url, **{'retries': 0, 'outage_timeout': 1., **settings})


# Thoughts

TAGGED = ['<think>\nSECRET\n</think>\n\n4', 'SECRET\n</think>\n\n4', '<thinking>SECRET</thinking>4',
          '[THINK]SECRET[/THINK]4', '<seed:think>SECRET</seed:think>4',
          '<|begin_of_thought|>SECRET<|end_of_thought|><|begin_of_solution|>4<|end_of_solution|>',
          '◁think▷SECRET◁/think▷4',
          '<|channel|>analysis<|message|>SECRET<|end|><|start|>assistant<|channel|>final<|message|>4',
          '<THINK lang="en">SECRET</THINK>\n4', '\ufeff<think>SECRET</think>4', '< think >SECRET</ think >4',
          '<|think|>SECRET<|/think|>4', '[REASONING]SECRET[/REASONING]4', '<inner_thoughts>SECRET</inner_thoughts>4',
          '<thought_process>\nSECRET\n</thought_process>\n4<|im_end|>',
          '<|START_THINKING|>SECRET<|END_THINKING|><|START_RESPONSE|>4<|END_RESPONSE|>',
          '<think>SECRET</think><|begin_of_box|>4<|end_of_box|>']
PARTS = [[{'type': 'thinking', 'thinking': [{'type': 'text', 'text': 'SECRET'}]}, {'type': 'text', 'text': '4'}],
         [{'type': 'reasoning', 'text': 'SECRET'}, {'type': 'output_text', 'text': '4'}]]
BESIDE = [{'reasoning_content': 'SECRET'}, {'reasoning': 'SECRET'},
          {'reasoning_details': [{'type': 'reasoning.text', 'text': 'SECRET'}]},
          {'thinking_blocks': [{'type': 'thinking', 'thinking': 'SECRET'}]}]


@pytest.mark.parametrize('form',
                         [*((t, None) for t in TAGGED), *((p, None) for p in PARTS), *(('4', b) for b in BESIDE)],
                         ids=lambda f: json.dumps(f)[:40])
def test_thoughts_are_beside_the_answer_in_every_form(serve, form):
    c = ask(model_at(serve(lambda body: completion(form[0], message=form[1]))))
    assert (c.text, c.thoughts, c.usage) == ('4', 'SECRET', Usage(10, 20))


def test_thoughts_reach_neither_reward_nor_refinement_nor_training_data_and_are_stored(serve, tmp_path):
    server, seen = serve(lambda body: completion(TAGGED[len(server.calls) % len(TAGGED)])), []
    reward = FunctionReward(lambda prompt, response: seen.append(response) or float(len(seen)), name='length')
    run, error = run_of(model_at(server), tmp_path, TOA(n=8), reward)
    assert error is None and set(seen) == {'4'}
    assert not any('SECRET' in json.dumps(body['messages']) for _, _, body in server.calls)
    assert [s.completion.thoughts for s in stored(tmp_path)] == ['SECRET'] * 8
    with RunStore(tmp_path/'runs.db', 'r') as store: assert 'SECRET' not in json.dumps([*to_sft(store), *to_dpo(store)])


@pytest.mark.parametrize('text',
                         ['Write `<think>` first.', 'So "</think>" ends it.', '```\n<think>\n```\nis a tag.',
                          '<b>bold</b>', 'I <think> so'])
def test_an_answer_that_mentions_tags_is_left_alone(serve, text):
    c = ask(model_at(serve(lambda body: completion(text))))
    assert (c.text, c.thoughts) == (text, None)


@pytest.mark.parametrize('text, message',
                         [('<think>SECRET', None), (None, {'reasoning_content': 'SECRET'}),
                          ('', {'reasoning': 'SECRET'})])
def test_a_budget_used_up_by_thinking_is_a_failure_that_says_what_to_set(serve, text, message):
    e = ask(model_at(serve(lambda body: completion(text, 'length', {'prompt_tokens': 10, 'completion_tokens': 2048},
                                                   message))))
    assert type(e) is EmptyAnswer
    assert 'used up all 2048 tokens for thinking' in str(e) and 'Set a larger max_tokens' in str(e)
    assert (e.completion.text, e.completion.thoughts, e.completion.usage.completion_tokens) == ('', 'SECRET', 2048)


def test_every_family_has_an_opening_and_a_closing_tag(): assert all(len(pair) == 2 for pair in FAMILIES)


def test_the_words_of_a_refusal_are_kept(serve):
    e = ask(model_at(serve(lambda body: completion(None, message={'refusal': "I can't help with that."}))))
    assert type(e) is EmptyAnswer and "I can't help with that." in str(e)


# Finish reasons and token counts

@pytest.mark.parametrize('reason',
                         ['content_filter', 'model_length', 'model_context_window_exceeded', 'max_tokens', 'MAX_TOKENS',
                          'length', 'tool_calls', None, 'odd'])
def test_only_known_reasons_make_a_whole_answer(serve, tmp_path, reason):
    texts = iter([('Short.', 'stop'), ('A longer answer that breaks off in the mid', reason)] * 9)
    def answer(body): return completion('yes') if body.get('max_tokens') == 1 else completion(*next(texts))
    run_of(model_at(serve(answer)), tmp_path)
    with RunStore(tmp_path/'runs.db', 'r') as store: rows = json.dumps([*to_sft(store), *to_dpo(store, rejected='min')])
    assert 'breaks off' not in rows and 'Short.' in rows


@pytest.mark.parametrize('reason', ['error', 'insufficient_system_resource', 'network_error'])
def test_a_call_that_failed_behind_the_server_is_made_again(serve, reason):
    replies = iter([completion('Half', reason, error={'message': 'upstream died'}), completion('Whole')])
    assert ask(model_at(serve(lambda body: next(replies)), retries=1)).text == 'Whole'
    e = ask(model_at(serve(lambda body: completion('Half', reason))))
    assert type(e) is ServerFailed and e.completion.text == 'Half'


USAGES = [({'prompt_tokens': 10, 'completion_tokens': 5, 'total_tokens': 215,
            'completion_tokens_details': {'reasoning_tokens': 200}}, Usage(10, 205)),
          ({'prompt_tokens': 10, 'completion_tokens': 5, 'completion_tokens_details': {'reasoning_tokens': 200}},
           Usage(10, 205)),
          ({'prompt_tokens': 10, 'completion_tokens': 205, 'total_tokens': 215,
            'completion_tokens_details': {'reasoning_tokens': 200}}, Usage(10, 205)),
          ({'prompt_tokens': 10, 'completion_tokens': 5, 'prompt_cache_hit_tokens': 8, 'prompt_cache_miss_tokens': 2},
           Usage(10, 5, 8)),
          ({'input_tokens': 10, 'output_tokens': 5, 'input_tokens_details': {'cached_tokens': 8}}, Usage(10, 5, 8)),
          ({'prompt_tokens': 10, 'completion_tokens': 5, 'cached_tokens': 8}, Usage(10, 5, 8))]


@pytest.mark.parametrize('usage, counted', USAGES)
def test_token_counts_in_every_spelling(serve, usage, counted):
    assert ask(model_at(serve(lambda body: completion('Lovely.', usage=usage)))).usage == counted


@pytest.mark.parametrize('usage',
                         [{'prompt_tokens': 0, 'completion_tokens': 0, 'total_tokens': 0},
                          {'prompt_tokens': 10, 'completion_tokens': 0},
                          {'prompt_tokens': 2**64 - 1, 'completion_tokens': 5},
                          {'prompt_tokens': -1, 'completion_tokens': 5}])
def test_counts_that_can_not_be_true_are_unknown(serve, usage):
    e = ask(model_at(serve(lambda body: completion('Lovely.', usage=usage))))
    assert type(e) is MissingUsage and e.completion.usage is None


# Fields, headers, templates

FIELDS = {'seed': 'seed: Extra inputs are not permitted',
          'max_tokens': "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
          'temperature': "Unsupported value: 'temperature' does not support 0.7 with this model.",
          'top_p': "Unknown parameter: 'top_p'.",
          'stop': "Unsupported parameter: 'stop' is not supported with this model."}


@pytest.mark.parametrize('field', FIELDS)
def test_a_refused_field_is_named_with_the_line_that_leaves_it_out(serve, tmp_path, field):
    server = serve(lambda body: refusal(FIELDS[field], 422) if field in body else completion('Lovely.'))
    e = ask(model_at(server, stop=('###',)))
    assert type(e) is RequestRefused and f'omit = ["{field}"]' in str(e)
    run, error = run_of(model_at(server, stop=('###',), omit=(field,)), tmp_path)
    assert error is None and run.progress.samples == 2


def test_fields_headers_and_query_from_toml(serve, tmp_path, monkeypatch):
    monkeypatch.setenv('ROUTE_KEY', 'sk-route-4711')
    server = serve(lambda body: completion('Lovely.'))
    path = tmp_path/'run.toml'
    path.write_text(f"""
[[models]]
name = "m"
endpoints = ["{server.url}"]
omit = ["seed", "max_tokens"]
extra = {{max_completion_tokens = 99}}
headers = {{x-route = "a", api-key = "${{ROUTE_KEY}}"}}
query = {{api-version = "2024-06-01"}}
""")
    [model] = models_from(path)
    assert ask(model).text == 'Lovely.' and 'sk-route' not in repr(model) + json.dumps(model.settings())
    address, headers, body = server.calls[0]
    assert parse_qs(urlsplit(address).query) == {'api-version': ['2024-06-01']}
    assert headers['x-route'] == 'a' and headers['api-key'] == 'sk-route-4711'
    assert body['max_completion_tokens'] == 99 and not {'seed', 'max_tokens'} & set(body)


def test_a_secret_in_a_header_is_not_shown_when_a_server_quotes_it(serve, monkeypatch):
    monkeypatch.setenv('ROUTE_KEY', 'sk-route-4711')
    e = ask(model_at(serve(lambda body: refusal('bad key sk-route-4711', 401)), headers={'api-key': '${ROUTE_KEY}'}))
    assert type(e) is AuthFailed and '4711' not in str(e) and '***' in str(e)


@pytest.mark.parametrize('words, status',
                         [('Conversation roles must alternate user/assistant/user/assistant/...', 400),
                          ('System role not supported', 400),
                          ('Developer instruction is not enabled for models/gemma-3-27b-it', 400),
                          ('System role not supported', 500)])
def test_a_template_without_a_system_role_serves_every_layer(serve, tmp_path, words, status):
    texts = iter(range(99))

    def answer(body):
        if body['messages'][0]['role'] == 'system': return refusal(words, status)
        return completion(f'Answer {next(texts)}.')
    server = serve(answer)
    run, error = run_of(model_at(server), tmp_path, MoA(n=8))
    assert error is None and run.progress.samples == 8


def test_a_prompt_that_does_not_fit_is_a_failure_of_its_own(serve):
    words = "This model's maximum context length is 60 tokens. However, your prompt contains at least 71 input tokens."
    e = ask(model_at(serve(lambda body: refusal(words))))
    assert type(e) is ContextOverflow


@pytest.mark.parametrize('listed, asked',
                         [('models/gemini-2.5-flash', 'gemini-2.5-flash'), ('qwen3:latest', 'qwen3'),
                          ('openai/*', 'openai/gpt-4o'), ('gpt-4o', 'mine')])
def test_what_is_listed_is_advice(serve, tmp_path, listed, asked):
    run, error = run_of(model_at(serve(lambda body: completion('Lovely.'), [listed]), model=asked), tmp_path)
    assert error is None and run.progress.samples == 2


@pytest.mark.parametrize('status, words',
                         [(402, 'Insufficient credits: 3 left'), (400, 'Unknown parameter: frobnicate'),
                          (400, 'maximum context length is 60 tokens')])
def test_the_same_refusal_from_every_call_takes_the_model_out_after_a_few(serve, status, words):
    server = serve(lambda body: refusal(words, status))

    async def many():
        model = model_at(server, outage_timeout=0.)
        for _ in range(20): await asyncio.gather(model.generate(HI, seed=1), return_exceptions=True)
        out = model.out
        await model.close()
        return out
    assert isinstance(asyncio.run(many()), RequestRefused) and len(server.calls) == 5


# Networks

CALL = """
import asyncio, sys
from toa_nb import ChatModel, Message
async def main():
    model = ChatModel('m', sys.argv[1], retries=0)
    try: print((await model.generate((Message('user', 'Hi'),), seed=1)).text)
    except Exception as e: print(type(e).__name__, e)
    await model.close()
asyncio.run(main())
"""


@pytest.mark.parametrize('url, says',
                         [('', 'Lovely.'), ('http://models.invalid/v1', 'the call went through the proxy 127.0.0.1')])
def test_a_proxy_is_used_for_other_machines_only_and_named_in_failures(serve, url, says):
    server, proxy = serve(lambda body: completion('Lovely.')), serve(lambda body: (502, b'Bad Gateway'))
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith('_proxy')}
    env |= {name: proxy.url.removesuffix('/v1') for name in ('HTTP_PROXY', 'http_proxy')}
    out = subprocess.run([sys.executable, '-c', CALL, url or server.url], env=env, capture_output=True,
                         text=True).stdout
    assert says in out, out


def test_a_certificate_that_is_not_trusted_is_named_with_the_variable_that_helps(tmp_path):
    if not shutil.which('openssl'): pytest.skip('openssl makes the certificate')
    command = 'openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 1 -subj /CN=localhost'
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path/'cert', tmp_path/'key')

    async def main():
        async with await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0, ssl=context) as s:
            return await once(ChatModel('m', f'https://127.0.0.1:{s.sockets[0].getsockname()[1]}/v1', retries=0))
    e = asyncio.run(main())
    assert 'the certificate of 127.0.0.1 is not trusted' in str(e) and 'SSL_CERT_FILE' in str(e)


def test_an_answer_without_end_is_cut_off(serve):
    body = completion('x')[1]
    body['choices'][0]['message']['content'] = 'x' * (65 * 2**20)
    data = json.dumps(body).encode()
    e = ask(model_at(serve(lambda body: (200, data))))
    assert type(e) is AnswerTooLarge and 'larger than 64 MiB' in str(e)


WORDINGS = {
    'omit = ["seed"]': ['Unrecognized request argument supplied: seed', 'seed: not implemented', 'seed not accepted',
        "Additional properties are not allowed ('seed' was unexpected)", 'xai does not support parameters: ["seed"]',
        'The parameter `seed` specified in the request is not valid'],
    'omit = ["temperature"]': ["'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
        '`temperature` and `top_p` cannot both be specified for this model', "Parameter 'temperature' must be 1",
        'invalid temperature: only 1 is allowed for this model'],
    'omit = ["top_p"]': ["Parameter 'top_p' cannot be used with this model", '`top_p` is deprecated for this model.'],
    'max_completion_tokens = 2048': ["'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."],
    'Set max_tokens = 2048 or less': ['max_tokens is too large: 4096. This model supports at most 2048 completion tokens',
        "'max_tokens' must be less than or equal to `2048`, the maximum value for `max_tokens` is less than the "
        '`context_window` for this model', 'Invalid max_tokens value, the valid range of max_tokens is [1, 2048]']}


@pytest.mark.parametrize('line, words', [(line, words) for line, known in WORDINGS.items() for words in known])
def test_a_refusal_that_names_a_field_says_the_line_to_write(serve, line, words):
    e = ask(model_at(serve(lambda body: (400, {'error': {'message': words}}))))
    assert type(e) is RequestRefused and line in str(e)


@pytest.mark.parametrize('words', ['`inputs` tokens + `max_new_tokens` must be <= 4096', 'Input length 5000 exceeds the maximum',
    'The input token count (40000) exceeds the maximum number of tokens allowed (32768).',
    "'max_tokens' is too large: 5000. This model's maximum context length is 4096 tokens and your request has 300"])
def test_messages_that_do_not_fit_are_known_in_many_words(serve, words):
    assert type(ask(model_at(serve(lambda body: (400, {'error': {'message': words}}))))) is ContextOverflow


# Hosts that are busy, and failures in odd places

@pytest.mark.parametrize('words, wait', [('Quota exceeded. Please retry in 7.5s.', 7.5), ('Please retry after 9 seconds.', 9.),
                                         ('Rate limit reached. Please try again in 1m2s.', 62.)])
@pytest.mark.parametrize('status', [429, 503, 200])
def test_the_wait_that_a_host_asks_for_in_words_is_kept(serve, words, wait, status):
    error = {'error': {'code': 429 if status == 200 else status, 'message': words}}
    replies, waits = iter([(status, error), completion('Lovely.')]), []
    model = model_at(serve(lambda body: next(replies)), retries=1, outage_timeout=90.)
    async def sleep(seconds):
        waits.append(seconds)
        model.balancer.endpoints[0].breaker.until = 0.
    model.sleep = sleep
    assert ask(model).text == 'Lovely.' and waits == [wait]


@pytest.mark.parametrize('data', [b'', b'['*100_000, b'{"choices":' + b'['*100_000, b'data: {}\n\ndata: [DONE]\n\n'],
                         ids=['empty', 'deep', 'deep choices', 'stream'])
def test_what_is_no_answer_is_a_failure_that_may_pass(serve, data):
    e = ask(model_at(serve(lambda body: (200, data))))
    assert type(e) is MalformedAnswer and len(str(e)) < 200
