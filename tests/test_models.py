"""`ChatModel` against a server that misbehaves: one test per fault, and what endpoints, limits and breakers make of faults that come and go."""
import asyncio
import json
import logging
import traceback

import pytest
from clocks import HANG, Clock, time_out_in_silence
from fault_server import SILENT, Fault, FaultServer, digest, text_of

from toa_nb import core
from toa_nb.core import Message
from toa_nb.models.client import ChatModel
from toa_nb.models.connection import Connection
from toa_nb.models.endpoints import Endpoint
from toa_nb.models.file import models_from
from toa_nb.models.http import HttpClient, trusted

ASK = (Message('user', 'Why is the sky blue?'),)
TEXT = text_of(digest('a', [{'role': 'user', 'content': 'Why is the sky blue?'}], 3), 12)


async def no_wait(seconds): await asyncio.sleep(0)


def model_for(*urls, name='a', **settings):
    "A model that doesn't wait between attempts."
    model = ChatModel(name, list(urls), **{'timeout': HANG, **settings})
    model.sleep = no_wait
    return model


def short(kind):
    "A limit on the time of a call, short where the server gives no answer to any call."
    return {'timeout': .1} if kind in SILENT else {}


async def call(fault=(), settings=None, seed=3, patient=False, **server):
    "What one call gives under a fault: the completion or the failure, and the calls that the server saw."
    async with FaultServer(faults=fault, **server) as s:
        model = model_for(s.url, **(settings or {}))
        if patient: time_out_in_silence(model, s)
        try: result = await model.generate(ASK, seed=seed)
        except core.GenerationError as e: result = e
        await model.close()
        return result, s.state()['calls']


def test_an_answer_with_all_that_is_recorded():
    async def run():
        async with FaultServer() as s:
            model = model_for(s.url, logprobs=True)
            c = await model.generate(ASK, seed=3)
            await model.close()
            return c, s.url
    c, url = asyncio.run(run())
    assert (c.text, c.usage, c.finish_reason, c.endpoint, c.served_model) == (TEXT, core.Usage(5, 12, 2), 'stop', url,
        'a')
    assert (c.seed, c.attempts, c.logprob) == (3, 1, -.5) and c.latency > 0


def test_log_probabilities_come_beside_the_same_answer():
    async def run():
        async with FaultServer(faults=[Fault('error500', stop=1)]) as s:
            model = model_for(s.url)
            c, options = await model.generate_logprobs(ASK, seed=3)
            await model.close()
            return c, options
    c, options = asyncio.run(run())
    assert (c.text, c.attempts, c.logprob) == (TEXT, 2, -.5) and options == [{w: -.5} for w in TEXT.split()]


def test_log_probabilities_fail_like_any_call():
    async def run():
        async with FaultServer(faults=[Fault('rate_limit')]) as s:
            model = model_for(s.url, retries=2)
            with pytest.raises(core.RateLimited) as e: await model.generate_logprobs(ASK, seed=3)
            await model.close()
            return e.value, s.calls
    e, calls = asyncio.run(run())
    assert (e.attempts, calls, e.model) == (3, 3, 'a')


@pytest.mark.parametrize('kind, settings', [('error500', {'retries': 2}), ('auth', {}), ('none_content', {}),
                                            ('hang', {'retries': 1, 'timeout': .1})])
def test_a_failure_tells_how_many_calls_it_cost(kind, settings):
    e, calls = asyncio.run(call([Fault(kind)], settings))
    assert e.attempts == calls
    if e.completion: assert e.completion.attempts == calls


PASSING = ['error500', 'error503', 'rate_limit', 'hang', 'reset', 'cut', 'trickle', 'no_choices', 'truncated', 'html',
           'error200', 'quota', 'login']


@pytest.mark.parametrize('kind', PASSING)
def test_a_fault_that_passes_costs_one_more_attempt(kind):
    c, calls = asyncio.run(call([Fault(kind, stop=1)], patient=True))
    assert isinstance(c, core.Completion) and c.text == TEXT
    assert (c.attempts, calls) == (2, 2)


LASTING = {
    'error500': (core.ServerFailed, 'HTTP 500: internal error', 3),
    'error503': (core.ServerFailed, 'HTTP 503: overloaded', 3),
    'rate_limit': (core.RateLimited, 'HTTP 429', 3), 'auth': (core.AuthFailed, 'HTTP 401', 1),
    'unknown_model': (core.UnknownModel, 'does not exist', 1),
    'too_long': (core.ContextOverflow, 'HTTP 400: the prompt is longer', 1),
    'hang': (core.CallTimeout, 'no whole answer within 0.1 s', 3),
    'trickle': (core.CallTimeout, 'no whole answer within 0.1 s', 3), 'reset': (core.ConnectionFailed, '', 3),
    'cut': (core.ConnectionFailed, '', 3),
    'none_content': (core.EmptyAnswer, 'missing', 1), 'empty_text': (core.EmptyAnswer, 'blank', 1),
    'no_choices': (core.NoChoices, 'empty', 3),
    'no_usage': (core.MissingUsage, 'no token counts', 1), 'truncated': (core.MalformedAnswer, 'not JSON', 3),
    'html': (core.MalformedAnswer, '<html>', 3),
    'error200': (core.MalformedAnswer, 'worker lost', 3), 'quota': (core.MalformedAnswer, 'Quota of key none exceeded',
        3),
    'login': (core.MalformedAnswer, 'No login for none', 3),
}


@pytest.mark.parametrize('kind', LASTING)
def test_a_fault_that_lasts_becomes_its_typed_failure(kind):
    cls, message, attempts = LASTING[kind]
    e, calls = asyncio.run(call([Fault(kind)], short(kind) | {'retries': 2}, trickle=.02))
    assert type(e) is cls and message in str(e)
    assert calls == attempts
    assert e.model == 'a' and e.endpoint.startswith('http://127.0.0.1')


def test_every_fault_of_the_server_is_tested():
    from fault_server import KINDS
    assert set(KINDS) == set(LASTING) | {'rate_limit_after', 'other_model'}


@pytest.mark.parametrize('kind', ['none_content', 'empty_text', 'no_usage'])
def test_an_answer_that_was_paid_for_comes_along(kind):
    e, _ = asyncio.run(call([Fault(kind)]))
    assert e.completion.text == {'no_usage': TEXT, 'empty_text': ' \n', 'none_content': ''}[kind]
    assert (e.completion.usage is None) == (kind == 'no_usage')


def test_the_model_that_answered_is_recorded():
    c, _ = asyncio.run(call([Fault('other_model')]))
    assert c.served_model == 'another-model'


def test_retry_after_is_honoured():
    async def run():
        async with FaultServer(faults=[Fault('rate_limit_after', stop=1, retry_after=.2)]) as s:
            model, loop = model_for(s.url), asyncio.get_running_loop()
            started = loop.time()
            c = await model.generate(ASK, seed=3)
            await model.close()
            return c, loop.time() - started
    c, seconds = asyncio.run(run())
    assert c.attempts == 2 and seconds >= .2, 'not before'


def test_a_tenth_of_calls_failing_in_every_way_costs_no_answer():
    faults = [Fault(k, .1 / len(PASSING)) for k in PASSING]
    async def run():
        async with FaultServer(faults=faults, latency=.001) as s:
            model = model_for(s.url, retries=8)
            time_out_in_silence(model, s)
            got = await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(400)))
            await model.close()
            return got, s.state()
    got, state = asyncio.run(run())
    assert len(got) == 400 and len({c.text for c in got}) == 400
    assert sum(c.attempts for c in got) == state['calls'] > 420
    assert state['in_flight'] == 0


def test_a_server_that_rejects_finds_its_limit():
    "With 8 slots and 429 for the rest, calls in flight settle near 8 and everything gets done."
    async def run():
        async with FaultServer(slots=8, reject=True, latency=.005) as s:
            model = ChatModel('a', s.url, retries=30)
            model.sleep = lambda seconds: asyncio.sleep(.01)
            got = await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(300)))
            limit = model.balancer.endpoints[0].limit.value
            await model.close()
            return got, limit, s.state()
    got, limit, state = asyncio.run(run())
    assert len(got) == 300 and 2 <= limit < 16
    assert state['by_fault']['rate_limit'] < 300


def test_a_free_server_gets_more_and_more_calls():
    async def run():
        async with FaultServer(latency=.01) as s:
            model = ChatModel('a', s.url, concurrency=64)
            await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(600)))
            capacity = model.capacity
            await model.close()
            return capacity, s.state()['peak']
    capacity, peak = asyncio.run(run())
    assert 16 < peak <= capacity <= 64


def test_the_concurrency_given_is_never_exceeded():
    async def run():
        async with FaultServer(latency=.005) as s:
            model = ChatModel('a', Endpoint(s.url, concurrency=3))
            await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(40)))
            await model.close()
            return s.state()['peak']
    assert asyncio.run(run()) == 3


def test_replicas_share_the_load():
    async def run():
        async with FaultServer(latency=.005) as one, FaultServer(latency=.005) as two:
            model = ChatModel('a', [one.url, two.url])
            await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(100)))
            await model.close()
            return one.calls, two.calls
    one, two = asyncio.run(run())
    assert one + two == 100 and abs(one - two) <= 20


@pytest.mark.parametrize('kind', ['error500', 'reset', 'html', 'auth', 'unknown_model', 'rate_limit'])
def test_a_broken_replica_is_left_alone(kind):
    async def run():
        async with FaultServer(latency=.002) as good, FaultServer(faults=[Fault(kind)]) as bad:
            model = model_for(bad.url, good.url, retries=6, concurrency=8)
            got = await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(200)))
            await model.close()
            return got, good, bad
    got, good, bad = asyncio.run(run())
    assert {c.endpoint for c in got} == {good.url}
    assert 1 <= bad.calls <= 40


def test_an_endpoint_comes_back():
    "The server fails, is left alone, recovers; a probe finds that out and calls pass again."
    async def run():
        async with FaultServer(faults=[Fault('error500')]) as s:
            model = model_for(s.url, retries=20)
            breaker = model.ready().endpoints[0].breaker
            breaker.pause = .05
            calls = [asyncio.ensure_future(model.generate(ASK, seed=n)) for n in range(10)]
            while not breaker.is_open: await asyncio.sleep(.005)
            seen = s.calls
            s.change(faults=[])
            got = await asyncio.gather(*calls)
            await model.close()
            return seen, got, breaker
    seen, got, breaker = asyncio.run(run())
    assert seen <= 30 and len(got) == 10 and not breaker.is_open


def test_a_model_that_stays_out_fails_fast_and_says_why():
    async def run():
        async with FaultServer(faults=[Fault('error500')]) as s:
            model = model_for(s.url, retries=3, outage_timeout=.15)
            balancer = model.ready()
            balancer.clock = clock = Clock()
            failures = asyncio.gather(*(model.generate(ASK, seed=n) for n in range(30)), return_exceptions=True)
            while not failures.done():
                await asyncio.sleep(.005)
                if not s.busy:
                    clock.pass_by(.01)
                    balancer.serve()
            before = s.calls
            late = await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(50)), return_exceptions=True)
            await model.close()
            return failures.result(), late, s.calls - before
    failures, late, calls = asyncio.run(asyncio.wait_for(run(), HANG))
    assert {type(e) for e in failures} <= {core.ServerFailed, core.ModelOut}
    assert {type(e) for e in late} == {core.ModelOut} and calls == 0, 'while no time passes'
    assert 'the last failure: ServerFailed: HTTP 500: internal error' in str(late[0])


def test_a_cancelled_call_leaves_nothing_behind():
    async def run():
        async with FaultServer(faults=[Fault('hang')]) as s:
            model = model_for(s.url, concurrency=2)
            calls = [asyncio.ensure_future(model.generate(ASK, seed=n)) for n in range(5)]
            while s.state()['in_flight'] < 2: await asyncio.sleep(.005)
            for c in calls: c.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            endpoint = model.balancer.endpoints[0]
            s.change(faults=[])
            after = await model.generate(ASK, seed=3)
            await model.close()
            return results, endpoint, after
    results, endpoint, after = asyncio.run(run())
    assert {type(r) for r in results} == {asyncio.CancelledError}
    assert endpoint.busy == 0 and endpoint.breaker.failures == 0 and after.text == TEXT


def test_a_cancelled_probe_lets_the_next_one_through():
    async def run():
        async with FaultServer(faults=[Fault('hang')]) as s:
            model = model_for(s.url)
            breaker = model.ready().endpoints[0].breaker
            breaker.failures = breaker.threshold
            probe = asyncio.ensure_future(model.generate(ASK, seed=3))
            while not s.calls: await asyncio.sleep(.005)
            assert breaker.probing
            waiting = asyncio.ensure_future(model.generate(ASK, seed=3))
            for _ in range(100): await asyncio.sleep(0)
            assert not waiting.done()
            s.change(faults=[])
            probe.cancel()
            result = await waiting
            await model.close()
            return result
    assert asyncio.run(run()).text == TEXT


def test_a_model_can_be_used_in_one_event_loop_after_another():
    async def one(model, url):
        result = await model.generate(ASK, seed=3)
        await model.close()
        return result
    async def run():
        async with FaultServer() as s:
            model = model_for(s.url)
            return [await asyncio.to_thread(lambda: asyncio.run(one(model, s.url))) for _ in range(2)]
    assert [c.text for c in asyncio.run(run())] == [TEXT, TEXT]


def test_it_works_without_the_aiohttp_transport(monkeypatch):
    monkeypatch.setattr(HttpClient, '_aiohttp', lambda self: None)
    for kind, cls in ('reset', core.ConnectionFailed), ('hang', core.CallTimeout), ('html', core.MalformedAnswer):
        e, _ = asyncio.run(call([Fault(kind)], short(kind) | {'retries': 1}))
        assert type(e) is cls
    assert asyncio.run(call())[0].text == TEXT


def no_proxies(monkeypatch):
    for name in ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_certificates_are_read_only_where_they_are_needed(monkeypatch):
    no_proxies(monkeypatch)
    asked, context = [], trusted(False)
    monkeypatch.setattr('toa_nb.models.http.trusted', lambda secure: asked.append(secure) or context)

    async def open_and_close(url):
        connection = Connection(Endpoint(url))
        connection.http._open()
        await connection.close()
    for url in ('http://a/v1', 'https://a/v1'): asyncio.run(open_and_close(url))
    monkeypatch.setenv('HTTP_PROXY', 'https://proxy:3128')
    asyncio.run(open_and_close('http://a/v1'))
    assert asked == [False, True, True]


# The check before a run

async def check(settings=None, timeout=HANG, **server):
    async with FaultServer(**server) as s:
        model = model_for(s.url, **(settings or {}))
        try: return await model.check(timeout=timeout)
        except core.GenerationError as e: return e
        finally: await model.close()


def test_check_passes_and_tells_the_latency():
    [c] = asyncio.run(check())
    assert c.usage.completion_tokens == 1 and c.latency > 0


def test_check_warns_of_a_name_that_is_answered_and_not_listed():
    with pytest.warns(UserWarning, match="answers to 'tpyo' and does not list it; it lists a, b, c, d"):
        [c] = asyncio.run(check({'name': 'tpyo'}, strict=False))
    assert c.usage.completion_tokens == 1


def test_check_names_what_is_listed_where_a_model_is_unknown():
    e = asyncio.run(check({'name': 'tpyo'}))
    assert type(e) is core.UnknownModel and 'This server lists a, b, c, d' in str(e) and 'Set `model`' in str(e)


def test_check_finds_an_unknown_model_without_a_list():
    e = asyncio.run(check({'name': 'tpyo'}, list_models=False))
    assert type(e) is core.UnknownModel and 'does not exist' in str(e)


def test_check_of_a_host_that_is_not_there():
    async def run():
        async with FaultServer() as s: url = s.url
        model, waits = model_for(url), []
        async def sleep(seconds): waits.append(seconds)
        model.sleep = sleep
        with pytest.raises(core.ConnectionFailed, match='Start the server there'): await model.check()
        await model.close()
        return waits
    assert sum(asyncio.run(run())) < 5, 'a user who starts a run is not kept waiting'


def test_one_replica_in_order_is_enough_and_the_other_is_taken_back():
    async def run():
        async with FaultServer() as good, FaultServer(faults=[Fault('auth')]) as bad:
            model = model_for(good.url, bad.url, concurrency=8)
            with pytest.warns(UserWarning, match=f'a: {bad.url}: HTTP 401.* takes it back when it answers'):
                [c] = await model.check(timeout=HANG)
            breaker = model.balancer.endpoints[1].breaker
            assert c.endpoint == good.url and breaker.is_open
            bad.change(faults=[], reset=True)
            breaker.until = 0
            got = await asyncio.gather(*(model.generate(ASK, seed=n) for n in range(40)))
            await model.close()
            return got, good, bad
    got, good, bad = asyncio.run(run())
    assert {c.attempts for c in got} == {1} and {c.endpoint for c in got} == {good.url, bad.url}


def test_no_replica_in_order_is_an_error():
    async def run():
        async with FaultServer(faults=[Fault('auth')]) as one, FaultServer(faults=[Fault('unknown_model')]) as two:
            model = model_for(one.url, two.url)
            with pytest.raises(core.AuthFailed, match=one.url): await model.check(timeout=HANG)
            await model.close()
    asyncio.run(run())


WRONG = [('hang', core.CallTimeout, 'within 0.5 s'), ('html', core.MalformedAnswer, '<html>'),
         ('no_usage', core.MissingUsage, 'a server that reports usage'),
         ('error500', core.ServerFailed, 'log of the server')]


@pytest.mark.parametrize('kind, cls, words', WRONG)
def test_check_names_what_is_wrong(kind, cls, words):
    e = asyncio.run(check(faults=[Fault(kind)], timeout=.5 if kind in SILENT else HANG))
    assert type(e) is cls and words in str(e)


def test_check_forgives_a_passing_fault_and_an_empty_answer():
    assert len(asyncio.run(check(faults=[Fault('error500', stop=2), Fault('none_content')]))) == 1


# Keys

KEY = 'sk-planted-4711-do-not-leak'


@pytest.mark.parametrize('where', ['generate', 'check'])
def test_a_wrong_key_fails_at_once_and_is_never_shown(monkeypatch, caplog, where):
    monkeypatch.setenv('TOA_TEST_KEY', KEY)
    caplog.set_level(logging.DEBUG)
    async def run():
        async with FaultServer(key='right') as s:
            model = model_for(s.url, api_key_env='TOA_TEST_KEY')
            try: await (model.check() if where == 'check' else model.generate(ASK, seed=3))
            except core.AuthFailed as e:
                shown = [str(e), repr(e), repr(vars(e)), ''.join(traceback.format_exception(e))]
            shown += [repr(model), repr(model.ready().endpoints), json.dumps(model.settings())]
            await model.close()
            return shown
    shown = asyncio.run(run()) + [caplog.text]
    assert 'HTTP 401: Incorrect API key provided: ***' in shown[0]
    assert not any(KEY in text for text in shown)


def test_the_right_key_is_sent(monkeypatch):
    monkeypatch.setenv('TOA_TEST_KEY', KEY)
    c, _ = asyncio.run(call(settings={'api_key_env': 'TOA_TEST_KEY'}, key=KEY))
    assert c.text == TEXT


def test_no_key_of_the_environment_is_sent_unasked(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    e, _ = asyncio.run(call(key='right'))
    assert type(e) is core.AuthFailed and str(e).endswith('provided: none')


def test_a_key_that_is_not_set_is_found_before_any_call(monkeypatch):
    monkeypatch.delenv('TOA_TEST_KEY', raising=False)
    async def run():
        async with FaultServer() as s:
            with pytest.raises(core.InputError, match='TOA_TEST_KEY is not set'):
                await model_for(s.url, api_key_env='TOA_TEST_KEY').check()
            return s.calls
    assert asyncio.run(run()) == 0


# Configuration

GOOD = {'name': 'q', 'endpoints': ['http://127.0.0.1:8000/v1']}
BAD = [
    ({'models': []}, 'models: there are no models'), ({}, 'models: there are no models'),
    ({'models': {'name': 'q'}}, 'models: there are no models'),
    ({'models': ['q']}, 'models[0]: this is not a table'), ({'models': [GOOD, GOOD]}, "two models are called 'q'"),
]
BAD_FIELDS = [
    ({'name': ''}, 'name: the model has no name'), ({'name': 3}, 'name: the model has no name'),
    ({'endpoints': []}, 'endpoints: the model has no endpoints'),
    ({'endpoints': ['localhost:8000']}, 'url: this is not the address'),
    ({'endpoints': ['ftp://a']}, 'url: this is not the address'),
    ({'endpoints': [{'url': 'http://a/v1', 'weight': 2}]}, "[0].endpoints[0]: unknown field 'weight'"),
    ({'endpoints': ['http://u:p@a/v1']}, 'credentials'),
    ({'endpoints': ['http://a/v1?api_key=x']}, 'credentials or a query'),
    ({'endpoints': [7]}, 'url: this is not the address'),
    ({'temperature': 'hot'}, 'temperature'), ({'temperature': -1}, 'temperature'),
    ({'temperature': float('nan')}, 'temperature'), ({'top_p': 2}, 'top_p'),
    ({'max_tokens': 0}, 'max_tokens'), ({'max_tokens': 1.5}, 'max_tokens'), ({'retries': -1}, 'retries'),
    ({'retries': True}, 'retries'),
    ({'timeout': 0}, 'timeout'), ({'outage_timeout': -1}, 'outage_timeout'), ({'concurrency': 0}, 'concurrency'),
    ({'stop': [1]}, 'stop'),
    ({'stop': 3}, 'stop'),
    ({'system': 3}, 'system'), ({'extra': []}, 'extra'), ({'extra': {'stream': True}}, 'stream'),
    ({'api_key_env': 'sk-1234'}, 'api_key_env'),
    ({'api_key': 'x'}, 'environment variable'), ({'temprature': 1}, 'Known fields'), ({'spec': 'no-such-spec'}, 'spec'),
    ({'spec': {'layers': 3}}, "spec.hidden: the cost of 'q' can't be computed"),
]


@pytest.mark.parametrize('config, words', BAD + [({'models': [GOOD | f]}, w) for f, w in BAD_FIELDS])
def test_a_bad_configuration_is_refused_in_one_line(config, words):
    with pytest.raises(core.InputError) as e: models_from(config)
    assert words in str(e.value) and '\n' not in str(e.value)


def test_a_spec_comes_by_name_and_goes_into_the_settings():
    [m] = models_from({'models': [GOOD | {'spec': 'Qwen2-7B-Instruct'}]})
    assert m.spec.layers == 28
    assert models_from({'models': [m.settings()]})[0].spec == m.spec


BROKEN = [('a.json', '{"models": [}', 'a.json:1: this is not valid JSON'),
          ('a.toml', '[[models]]\nname', 'a.toml:2: this is not'),
          ('a.json', '[1]', 'not a table of settings'), ('a.toml', 'x = 1', 'a.toml: models: there are no models')]


@pytest.mark.parametrize('name, text, words', BROKEN)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(core.InputError) as e: models_from(tmp_path / name)
    assert words in str(e.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(core.InputError, match='no.toml: the file can.t be read'): models_from(tmp_path / 'no.toml')
