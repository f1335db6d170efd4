"""What a run does when its guide, a model or its store fails for good, and what it makes of likely mistakes; each in several ways."""
import asyncio
import warnings
from functools import partial

import pytest
from clocks import HANG

from toa_nb.analysis.curves import reward_curve
from toa_nb.analysis.summary import summarize
from toa_nb.cells import printable
from toa_nb.compute import Budget
from toa_nb.core import Completion, ConnectionFailed, InputError, Prompt, RequestRefused, RewardError, RewardTimeout, ServerFailed, StoreError, Usage
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import FunctionReward, GroupReward
from toa_nb.rewards.queue import RewardOut, RewardQueue
from toa_nb.run import session
from toa_nb.run.forecast import Rate, project, projected
from toa_nb.run.progress import progress_of
from toa_nb.run.rescoring import rescore
from toa_nb.run.run import Run
from toa_nb.search.methods import METHODS
from toa_nb.search.samplers import BestOfN, ParallelEnsemble, SequentialRefine
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore
from toa_nb.store.sources import samples_of

TASKS = [Prompt(f'p{i}', f'Write about the number {i}.') for i in range(3)]


def length(prompt, response): return len(response)/100


# A guide that fails

def raises(): raise RuntimeError('CUDA out of memory')
def times_out(): raise RewardTimeout('no answer within 60 s')


WAYS = dict(raises=raises, none=lambda: None, nan=lambda: float('nan'), text=lambda: 'good', times_out=times_out,
            http_500=lambda: RewardError('HTTP 500: CUDA out of memory'))


class Failing(GroupReward):
    "A guide that scores some answers and then fails in one way, or for some answers only."
    name, version = 'length', ''
    def __init__(self, how, fails): self.how, self.fails, self.asked = how, fails, 0
    async def score_groups(self, groups): return [[self.one(r) for r in responses] for _, responses in groups]
    def one(self, response):
        self.asked += 1
        return self.how() if self.fails(self.asked) else length(None, response)


def guided(path, reward, model, **settings):
    settings = dict(method=BestOfN(n=60), max_unguided=5) | settings
    return Run(TASKS, settings.pop('method'), [model], reward, store=path, name='r', **settings)


@pytest.mark.parametrize('method', [BestOfN(n=60), TOA(n=60)])
@pytest.mark.parametrize('how', WAYS)
def test_a_guide_that_fails_for_every_answer_ends_the_run(how, method, tmp_path):
    "Whatever the kind; the next run scores what is unscored, and pays for the rest only."
    path, model = tmp_path/'runs.db', FakeModel('a', latency=.001, capacity=4)
    dead = RewardQueue(Failing(WAYS[how], lambda n: n > 20), max_batch=1, retries=0, wait=0)
    run = guided(path, dead, model, method=method)
    with pytest.raises(RewardOut, match='length'): asyncio.run(run._finish())
    assert (run.progress.state, run.ok) == ('failed', False) and 20 < model.calls < 80
    paid = model.calls
    again = asyncio.run(guided(path, FunctionReward(length), model, method=method)._finish())
    assert (again.ok, again.progress.samples, again.progress.scored,
            model.calls) == (True, 180, 180, 180) and paid < 180
    assert all(s.value('length') is not None for s in again.samples())


def test_what_is_unscored_is_scored_before_another_call(tmp_path):
    path, model, log = tmp_path/'runs.db', FakeModel('a', capacity=4), []
    dead = RewardQueue(Failing(raises, lambda n: n > 20), max_batch=1, retries=0, wait=0)
    with pytest.raises(RewardOut): asyncio.run(guided(path, dead, model)._finish())
    unscored = {s.completion.text for s in samples_of(path) if s.completion and s.value('length') is None}
    class Logged(FakeModel):
        async def generate(self, messages, *, seed):
            log.append('call')
            return await super().generate(messages, seed=seed)
    def score(prompt, response):
        log.append(response)
        return length(prompt, response)
    asyncio.run(guided(path, FunctionReward(score, 'length'), Logged('a'))._finish())
    assert unscored and set(log[:log.index('call')]) == unscored


def test_failures_now_and_then_end_nothing(tmp_path):
    model = FakeModel('a')
    shy = RewardQueue(Failing(raises, lambda n: n % 5), max_batch=1, retries=0, wait=0)
    run = asyncio.run(guided(tmp_path/'runs.db', shy, model)._finish())
    assert (run.progress.state, run.progress.samples, run.progress.scored) == ('finished', 180, 36)


def test_a_guide_that_fails_again_does_not_pay_for_more(tmp_path):
    path, model = tmp_path/'runs.db', FakeModel('a', capacity=4)
    paid = []
    for _ in range(2):
        dead = RewardQueue(Failing(raises, lambda n: True), max_batch=1, retries=0, wait=0)
        with pytest.raises(RewardOut): asyncio.run(guided(path, dead, model)._finish())
        paid.append(model.calls)
    assert paid[0] == paid[1] > 0


# The check

class Served(FakeModel):
    "A model whose check can make a call of the run."
    timeout = 60.
    async def check(self, timeout=20., messages=None):
        return [await self.generate(messages, seed=0)] if messages else []


@pytest.mark.parametrize('how', WAYS)
def test_a_guide_that_fails_in_the_check_ends_the_run_before_anything_is_paid_for(how, tmp_path):
    model = Served('a')
    run = guided(tmp_path/'runs.db', RewardQueue(Failing(WAYS[how], lambda n: True), retries=0), model)
    with pytest.raises(RewardError, match='length can not score an answer of the check'): asyncio.run(run._finish())
    assert model.calls == 1 and run.samples() == []


def test_the_check_sends_the_longest_kind_of_messages(tmp_path):
    def refuse(messages, seed):
        if len(messages) > 1 or 'answer' in messages[-1].content.lower():
            raise RequestRefused('HTTP 400: System role not supported')
        return 'fine'
    for method, refused in ((BestOfN(n=2), False), (ParallelEnsemble(n=2), False), (TOA(n=2), True),
                            (SequentialRefine(n=2), True)):
        path = tmp_path/f'{type(method).__name__}.db'
        run = Run(TASKS, method, [model := Served('a', refuse)], length, store=path)
        if not refused: assert asyncio.run(run._finish()).ok
        else:
            with pytest.raises(RequestRefused): asyncio.run(run._finish())
            assert model.calls == 1


ANEW = dict(settings=dict(method=TOA(n=4), seed=7), models=dict(models=[FakeModel('c'), FakeModel('d')]),
            prompts=dict(prompts=[Prompt('p0', 'Write about zero.')]), ids=dict(prompts=[Prompt('q', 'Write.')]),
            reward=dict(reward=FunctionReward(lambda prompt, response: 1., 'one')))


@pytest.mark.parametrize('change', ANEW)
@pytest.mark.parametrize('left', ['failures', 'calls in flight', 'nothing'])
def test_a_run_without_one_answer_may_change(left, change, tmp_path):
    "Whatever is stored of it, and whatever changes; failures of other settings are not counted, but mentioned."
    def refuse(messages, seed): raise RequestRefused('HTTP 400: no such field')
    class Silent(FakeModel):
        async def generate(self, messages, *, seed): await asyncio.sleep(HANG)
    class Refused(FakeModel):
        async def check(self): raise ConnectionFailed('no connection')
    path = tmp_path/'runs.db'
    given = dict(prompts=TASKS, method=BestOfN(n=2), reward=FunctionReward(length, 'length'), store=path, name='r')
    first = {'failures': FakeModel('a', refuse), 'calls in flight': Silent('a'), 'nothing': Refused('a')}[left]
    async def begin():
        run = Run(models=[first], **given).start()
        while left == 'calls in flight' and not run.progress.in_flight: await asyncio.sleep(.001)
        if left == 'calls in flight':
            run.cancel()
            run.cancel()
        await run
    if left == 'nothing':
        with pytest.raises(ConnectionFailed): asyncio.run(begin())
    else: asyncio.run(begin())
    now = dict(models=[FakeModel('b')]) | given | ANEW[change]
    run = asyncio.run(Run(**now)._finish())
    assert (run.ok, run.progress.samples, run.progress.failures) == (True, run.method.n*len(run.prompts), {})
    assert ('all without an answer: dropped' in run.report()) == (left == 'failures')
    again = Run.from_store(path, models=run.models.values(), rewards=[run.reward])
    assert again.config() == run.config() and [p.id for p in again.prompts] == [p.id for p in run.prompts]
    with pytest.raises(InputError): asyncio.run(Run(**now | dict(seed=99))._finish())


def test_a_run_that_has_asked_for_nothing_may_change_its_settings(tmp_path):
    "Its servers failed the check; the remedy may be another setting."
    class Down(FakeModel):
        async def check(self): raise ConnectionFailed('no connection')
    path = tmp_path/'runs.db'
    with pytest.raises(ConnectionFailed):
        asyncio.run(Run(TASKS, BestOfN(n=2), [Down('a')], length, store=path, name='r')._finish())
    run = asyncio.run(Run(TASKS, TOA(n=4), [FakeModel('b'), FakeModel('c')], length, store=path, name='r',
                          seed=7)._finish())
    assert (run.ok, run.progress.samples) == (True, 12)
    again = Run.from_store(path, models=run.models.values(), rewards=[FunctionReward(length)])
    assert again.config() == run.config() and again.progress.state == 'finished'
    with pytest.raises(InputError, match='seed was 7 and is now 0'):
        asyncio.run(Run(TASKS, TOA(n=4), [FakeModel('b'), FakeModel('c')], length, store=path, name='r')._finish())


# Models that are gone or new

class Down(FakeModel):
    async def check(self): raise ConnectionFailed('no connection')


def half_done(path, method=None):
    models = [FakeModel(name) for name in 'abc']
    return asyncio.run(Run(TASKS, method or TOA(n=12), models, length, store=path, name='r', concurrency=2,
                           budget=Budget(per_run=Budget(samples=14)))._finish())


def test_a_model_that_fails_its_check_does_not_block_a_run_with_answers(tmp_path):
    half_done(tmp_path/'runs.db')
    run = Run.from_store(tmp_path/'runs.db', models=[FakeModel('a'), FakeModel('b'), gone := Down('c')],
                         rewards=[FunctionReward(length)], budget=None)
    with pytest.warns(UserWarning, match="the run goes on without the model 'c': no connection"):
        asyncio.run(run._finish())
    assert (run.ok, run.progress.samples, gone.calls) == (True, 36, 0)


def test_all_models_gone_is_an_error(tmp_path):
    half_done(tmp_path/'runs.db')
    run = Run.from_store(tmp_path/'runs.db', models=[Down(name) for name in 'abc'], rewards=[FunctionReward(length)],
                         budget=None)
    with pytest.raises(ConnectionFailed): asyncio.run(run._finish())


@pytest.mark.parametrize('method',
                         [METHODS[name](n=12) for name in ('toa', 'parallel_ensemble', 'sequential_refine', 'moa')],
                         ids=lambda m: type(m).__name__)
def test_models_are_left_out_and_added_on_purpose(method, tmp_path):
    "The stored run is replayed with the models that it had, and a later session remembers."
    path, names = tmp_path/'runs.db', 'abc'
    half_done(path, method)
    def run(names, **more):
        return Run(TASKS, method, [FakeModel(n) for n in names], length, store=path, name='r', concurrency=2, **more)
    for wrong, more in (('ab', {}), ('abcd', {}), ('ab', dict(without=['a'])), ('abd', dict(without=['c'])),
                        ('abc', dict(without=['x']))):
        with pytest.raises(InputError): asyncio.run(run(wrong, **more)._finish())
    one = asyncio.run(run('abd', without=['c'], added=['d'], budget=Budget(per_run=Budget(samples=20)))._finish())
    assert one.progress.samples == 20
    again = Run.from_store(path, models=[FakeModel(n) for n in 'abd'], rewards=[FunctionReward(length)], budget=None)
    assert list(again.models) == ['a', 'b', 'd'] and again.without == ('c',)
    asyncio.run(again._finish())
    assert (again.ok, again.progress.samples) == (True, 36)
    with RunStore(path, 'r') as store: assert progress_of(store, 'r').samples == 36
    asyncio.run(run(names + 'd', budget=None).extend(2)._finish())


def test_a_model_that_failed_its_check_is_taken_back_when_it_answers(tmp_path, monkeypatch):
    half_done(tmp_path/'runs.db')
    back = asyncio.Event()
    class Late(FakeModel):
        tried = 0
        async def check(self):
            self.tried += 1
            if self.tried < 3: raise ConnectionFailed('no connection')
            back.set()
    class Waits(FakeModel):
        async def generate(self, messages, *, seed):
            await back.wait()
            return await super().generate(messages, seed=seed)
    monkeypatch.setattr(session, 'answers_again', partial(session.answers_again, pause=0.))
    late = Late('c')
    run = Run.from_store(tmp_path/'runs.db', models=[Waits('a'), Waits('b'), late], rewards=[FunctionReward(length)],
                         budget=None)
    with pytest.warns(UserWarning, match="the model 'c' answers again"): asyncio.run(run.extend(40)._finish())
    assert run.ok and late.tried == 3 and late.calls > 0


# A slow guide

def test_generation_does_not_run_ahead_of_a_slow_guide(tmp_path):
    async def check():
        gate = asyncio.Event()
        async def slow(prompt, response):
            await gate.wait()
            return 1.
        model = FakeModel('a', capacity=4)
        queue = RewardQueue(FunctionReward(slow), max_batch=5)
        run = Run(TASKS, BestOfN(n=300), [model], queue, store=tmp_path/'runs.db').start()
        while run.progress.waiting < 16: await asyncio.sleep(.001)
        for _ in range(50): await asyncio.sleep(0)
        assert run.progress.waiting == model.calls == 16 and '16 waiting for a score' in str(run.progress)
        gate.set()
        await run
        assert run.ok and (run.progress.samples, run.progress.waiting) == (900, 0)
    asyncio.run(check())


# A store that fails

@pytest.mark.parametrize('method', ['add_trial', 'add_completion', 'add_scores', 'mark_told', 'event'])
def test_a_store_that_fails_ends_the_run_with_its_error(method, tmp_path, monkeypatch):
    count = iter(range(10**6))
    real = getattr(RunStore, method)
    def fails(self, *args, **more):
        if next(count) >= 5: raise StoreError('the disk is full')
        return real(self, *args, **more)
    monkeypatch.setattr(RunStore, method, fails)
    tasks = [Prompt(f'p{i}', 'Why?') for i in range(9)]
    run = Run(tasks, BestOfN(n=4), [FakeModel('a')], length, store=tmp_path/'runs.db')
    with pytest.raises(StoreError, match='disk is full'): asyncio.run(run._finish())
    assert (run.progress.state, run.ok) == ('failed', False)


# Rescoring

def test_a_reward_that_is_no_function_of_what_is_stored_is_refused(tmp_path):
    asyncio.run(guided(tmp_path/'runs.db', FunctionReward(length), FakeModel('a'), method=BestOfN(n=2))._finish())
    reward = FunctionReward(length, 'rank')
    reward.pure = False
    with pytest.raises(InputError, match="the scores of 'rank' do not follow from prompt and answer alone"):
        asyncio.run(rescore(tmp_path/'runs.db', 'r', reward, every=0))
    assert asyncio.run(rescore(tmp_path/'runs.db', 'r', lambda prompt, response: 1., every=0)).scored == 6


# Likely mistakes

@pytest.mark.parametrize('given', [
    dict(prompts=TASKS[0]), dict(prompts='Why?'), dict(prompts=['Why?', 'How?']), dict(models=FakeModel('a')),
    dict(method=TOA), dict(method='toa'),
    dict(reward=length), dict(reward=lambda prompt, response: 1.)])
def test_likely_forms_work(given, tmp_path):
    parts = dict(prompts=TASKS, method=BestOfN(n=2), models=[FakeModel('a')], reward=FunctionReward(length)) | given
    if 'method' in given: parts['prompts'] = TASKS[:1]
    assert asyncio.run(Run(**parts, store=tmp_path/'runs.db')._finish()).ok


@pytest.mark.parametrize('given, says', [
    (dict(budget=100), 'Run.budget: 100 is not a budget. Write Budget(samples=100)'),
    (dict(budget={'samples': 3}), 'is not a budget'),
    (dict(method=7), 'Run.method: 7 is not a method'), (dict(method='tao'), 'tao'),
    (dict(reward=7), 'Run.reward: 7 is not a reward'),
    (dict(reward=FunctionReward), 'FunctionReward is a class')])
def test_likely_mistakes_get_one_line(given, says):
    parts = dict(prompts=TASKS, method=BestOfN(n=2), models=[FakeModel('a')], reward=FunctionReward(length)) | given
    with warnings.catch_warnings(), pytest.raises(InputError) as e: Run(**parts)
    assert says in str(e.value) and '\n' not in str(e.value)


# Forecasts

class Counted(FakeModel):
    "A model whose answers are as long as its number of words, and that counts what it was asked and has written."
    def __init__(self, name, words):
        super().__init__(name)
        self.words, self.written = words, 0

    async def generate(self, messages, *, seed):
        self.calls, self.written = self.calls + 1, self.written + self.words
        return Completion(f'{seed} ' + 'word '*self.words, Usage(20, self.words))


@pytest.mark.parametrize('n', [1, 7])
@pytest.mark.parametrize('name', METHODS)
def test_forecasts_count_what_they_project(name, n, tmp_path):
    "Before a run its calls, and its tokens where models write alike; at its end, extended or not, what it took."
    try: method = METHODS[name](n=n)
    except InputError as e: pytest.skip(str(e))
    for words in ((20, 20, 20), (5, 50, 200)):
        models = [Counted(m, w) for m, w in zip('abc', words)]
        run = Run(TASKS, method, models, lambda prompt, response: len(set(response))/10, store=tmp_path/f'{words}.db',
                  name='r')
        before = project(run, {m.name: Rate(20, m.words, 1., 9) for m in models}).spent
        asyncio.run(run._finish())
        calls, written = sum(m.calls for m in models), sum(m.written for m in models)
        assert before.samples == calls == 3*n
        if len(set(words)) == 1: assert before.completion_tokens == written
        else: assert before.completion_tokens <= max(words)*calls
        asyncio.run(run.extend(n)._finish())
        assert run.progress.target == run.progress.samples == sum(m.calls for m in models) == 6*n
        assert projected(run.progress) == run.progress.spent
        assert run.progress.spent.completion_tokens == sum(m.written for m in models)


HOSTILE = '\x1b]0;owned\x07\x1b[2J \ud800 \u202eevil \x00 \x9b31m\r\n' + 'x'*1_000_000


def test_texts_of_any_kind_are_bounded_in_failures_and_shown_by_their_codes(tmp_path):
    "Errors of a model and of a reward, answers, a task and its category: the report, tables, figures and JSON hold."
    def score(prompt, response):
        if response.endswith('1'): raise ValueError(HOSTILE)
        return float(len(response))
    count = iter(range(100))
    model = FakeModel('a', lambda messages, seed: HOSTILE[:60] + str(next(count) % 3),
                      fail=lambda number: ServerFailed(HOSTILE) if number % 3 == 1 else None)
    prompts = [Prompt('p', 'Say' + HOSTILE[:60], meta={'category': HOSTILE[:60]})]
    run = Run(prompts, BestOfN(n=6), [model], score, store=tmp_path/'runs.db', name='r', max_unguided=100)
    run.wait(show=False)
    report, errors = run.report(), [s.error or s.scores[0].error or '' for s in run.samples()]
    assert report == printable(report) and len(report) < 4000 and 'ServerFailed: \\x1b]0;owned' in report
    assert any('ValueError' in e for e in errors) and max(map(len, errors)) < 4100
    assert (tmp_path/'runs.db').stat().st_size < 1_000_000
    assert str(summarize(tmp_path/'runs.db')).encode()
    assert len(reward_curve(tmp_path/'runs.db')) and run.to_frame(texts=True, instructions=True)['text'].notna().any()
