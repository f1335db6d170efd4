"""Stopping a run: once lets calls in flight finish, twice gives them up; by signal, in a kernel, and by a second process that finds the store taken."""
import asyncio
import os
import re
import signal
import subprocess
import sys

import pytest
from clocks import HANG
from jupyter_client.manager import KernelManager

from toa_nb.core import Prompt, StoreLocked
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import Rule
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN
from toa_nb.search.tree import TOA
from toa_nb.store.journal import RunStore

SCRIPT = '''
import asyncio, sys
from toa_nb.core import Prompt
from toa_nb.models import FakeModel
from toa_nb.rewards import FunctionReward
from toa_nb.run import Run
from toa_nb.search import BestOfN

answers, grace, store = sys.argv[1], float(sys.argv[2]), sys.argv[3]
length = FunctionReward(lambda prompt, response: float(len(response)), name='length')

class Held(FakeModel):
    "Answers at once, when the run is stopped, or never; a line is printed when eight calls are in flight."
    held, stopped = 0, None
    async def generate(self, messages, *, seed):
        self.stopped = self.stopped or asyncio.Event()
        self.held += 1
        if self.held == 8: print('calling', flush=True)
        if answers == 'when stopped': await self.stopped.wait()
        if answers == 'never': await asyncio.Event().wait()
        return await super().generate(messages, seed=seed)

class Noted(Run):
    "Prints a line when it is asked to stop."
    def cancel(self):
        super().cancel()
        if model.stopped: model.stopped.set()
        print('stopping', flush=True)

model = Held('a', capacity=8)
run = Noted([Prompt(str(i), 'Say something.') for i in range(50)], BestOfN(n=4), [model], length, store=store, name='r', grace=grace)
'''


class Length(Rule):
    name, version = 'length', ''
    def score_one(self, prompt, response): return float(len(response))


def script(answers, grace, store):
    "A script with a run; returns when eight calls are in flight."
    p = subprocess.Popen([sys.executable, '-c', SCRIPT + 'print(run.wait(show=False).report())', answers, str(grace),
                          str(store)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'calling\n'
    return p


def interrupt(p, sig):
    "Send a signal, and wait until the script has noticed it: two signals of a kind at once count as one."
    p.send_signal(sig)
    assert p.stdout.readline() == 'stopping\n'


def end_of(p):
    "What a script prints at its end."
    out, err = p.communicate(timeout=HANG)
    assert (p.returncode, err) == (0, ''), err
    return out


def stored(store):
    with RunStore(store, 'r') as s:
        return list(s.samples('r')), s.runs()[0]['status'], [n for p in s.prompts('r') for n in s.pending('r', p.id)]


@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGTERM])
def test_one_signal_lets_calls_in_flight_finish(sig, tmp_path):
    p = script('when stopped', HANG, tmp_path/'runs.db')
    interrupt(p, sig)
    out = end_of(p)
    samples, status, pending = stored(tmp_path/'runs.db')
    assert re.match(r'r: 0/50 prompts, 8/200 samples, .*, stopped in .* \(cancelled\)', out)
    assert len(samples) == 8 and all(s.value('length') == 8. for s in samples) and (status, pending) == ('stopped', [])


@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGTERM])
def test_two_signals_stop_now(sig, tmp_path):
    "The calls would never end, and the grace time is longer than the test: only the second signal can end the run."
    p = script('never', 2*HANG, tmp_path/'runs.db')
    interrupt(p, sig)
    assert p.poll() is None
    interrupt(p, sig)
    out = end_of(p)
    samples, status, pending = stored(tmp_path/'runs.db')
    assert '0/200 samples' in out
    assert samples == [] and status == 'stopped' and len(pending) == 8


def test_the_grace_time_ends_by_itself(tmp_path):
    p = script('never', .2, tmp_path/'runs.db')
    interrupt(p, signal.SIGINT)
    assert 'stopped' in end_of(p)


BEFORE_THE_FIRST_CALL = '''
import os, signal, sys
from toa_nb.core import Prompt
from toa_nb.models import FakeModel
from toa_nb.run import Run
from toa_nb.search import BestOfN
from toa_nb.store import writer

written, keep = [], writer.write_prompt
def noted(prompt):
    written.append(prompt.id)
    if len(written) == 3: os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return keep(prompt)
writer.write_prompt = noted

prompts = [Prompt(str(i), 'Say something.') for i in range(1000)]
def run(): return Run(prompts, BestOfN(n=1), [FakeModel('a')], lambda p, r: 1., store=sys.argv[2], name='r')
first = run().wait()
print(first.progress.state, first.progress.stopped_by, first.progress.samples, len(written) < 10)
print(run().wait(show=False).progress.state)
'''


@pytest.mark.parametrize('sig', ['SIGINT', 'SIGTERM'])
def test_a_signal_stops_at_once_while_prompts_are_written(sig, tmp_path):
    p = subprocess.run([sys.executable, '-c', BEFORE_THE_FIRST_CALL, sig, str(tmp_path/'runs.db')], capture_output=True,
                       text=True, timeout=HANG)
    assert (p.returncode, p.stdout) == (0, 'stopped cancelled 0 True\nfinished\n'), p.stderr
    assert 'Traceback' not in p.stderr and 'in flight' not in p.stderr


def test_a_run_that_was_stopped_goes_on(tmp_path):
    p = script('when stopped', HANG, tmp_path/'runs.db')
    interrupt(p, signal.SIGTERM)
    end_of(p)
    before, _, _ = stored(tmp_path/'runs.db')
    out = end_of(script('at once', HANG, tmp_path/'runs.db'))
    samples, status, _ = stored(tmp_path/'runs.db')
    assert ('200/200 samples' in out and status == 'finished' and before == samples[:len(before)]
            or set(before) <= set(samples))


def test_a_second_process_is_told_who_has_the_store(tmp_path):
    p = script('never', HANG, tmp_path/'runs.db')
    async def second():
        await Run([Prompt('x', 'Say something.')], BestOfN(n=1), [FakeModel('a')], Length(), store=tmp_path/'runs.db',
                  name='r')
    with pytest.raises(StoreLocked, match=f'process {p.pid} on .* is writing this store'): asyncio.run(second())
    for _ in range(2): p.send_signal(signal.SIGINT)
    p.kill()
    p.communicate()


# In one event loop

class Gated(FakeModel):
    "A model whose calls end when the gate opens; a call that is cancelled says so."
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.gate, self.cancelled = asyncio.Event(), 0

    async def generate(self, messages, *, seed):
        try: await self.gate.wait()
        except asyncio.CancelledError: self.cancelled += 1; raise
        return await super().generate(messages, seed=seed)


async def turns():
    "Give everything in this loop that could go on the chance to do so."
    for _ in range(100): await asyncio.sleep(0)


async def started(tmp, reward=None, **settings):
    "A run with four calls in flight."
    model = Gated('a', capacity=4)
    run = Run([Prompt(str(i), 'Say something.') for i in range(9)], TOA(n=3), [model], reward or Length(),
              store=tmp/'runs.db', name='r', **settings).start()
    while run.progress.in_flight < 4: await asyncio.sleep(.001)
    return run, model


def test_cancel_once_and_twice(tmp_path):
    async def check():
        run, model = await started(tmp_path)
        run.cancel()
        await turns()
        assert (run.progress.state, run.progress.in_flight) == ('stopping', 4)
        model.gate.set()
        await run
        assert (run.progress.state, run.progress.samples, run.progress.scored, model.cancelled) == ('stopped', 4, 4, 0)
        run.cancel()
        run, model = await started(tmp_path)
        run.cancel(), run.cancel(), run.cancel()
        await run
        assert (run.progress.state, run.progress.samples, model.cancelled) == ('stopped', 4, 4)
    asyncio.run(check())


def test_answers_without_a_score_are_kept_when_a_run_is_given_up(tmp_path):
    "Calls are done, the reward hangs: the answers stay, and the next session scores them without calling again."
    class Hanging(Rule):
        name, version = 'length', ''
        async def score_groups(self, groups): await asyncio.Event().wait()
    async def check():
        run, model = await started(tmp_path, Hanging())
        model.gate.set()
        while run.progress.in_flight or model.calls < 4: await asyncio.sleep(.001)
        run.cancel(), run.cancel()
        await run
        calls = model.calls
        run, model = await Run(run.prompts, run.method, [FakeModel('a')], Length(), store=tmp_path/'runs.db',
                               name='r'), run.models['a']
        assert run.progress.state == 'finished' and run.progress.samples == run.progress.scored == 27
        assert run.models['a'].calls == 27 - calls
    asyncio.run(check())


def test_the_first_interrupt_after_a_budget_ran_out_is_gentle_too(tmp_path):
    async def check():
        run, model = await started(tmp_path)
        run.session.stop('tokens')
        run.cancel()
        await turns()
        assert run.progress.in_flight == 4
        model.gate.set()
        await run
        assert (run.progress.samples, run.progress.stopped_by) == (4, 'tokens')
    asyncio.run(check())


def test_an_interrupt_stops_a_preflight_that_hangs(tmp_path):
    class Mute(FakeModel):
        asked = False
        async def check(self):
            self.asked = True
            await asyncio.Event().wait()
    async def check():
        mute = Mute('a')
        run = Run([Prompt('x', 'Say something.')], BestOfN(n=1), [mute], Length(), store=tmp_path/'runs.db',
                  name='r').start()
        while not mute.asked: await asyncio.sleep(.001)
        run.cancel()
        await run
        assert (run.progress.state, run.progress.stopped_by) == ('stopped',
            'cancelled') and stored(tmp_path/'runs.db')[1] == 'stopped'
    asyncio.run(check())


def test_a_run_in_the_background_of_a_script_that_ends_is_closed(tmp_path):
    "asyncio.run cancels what is left over; the store is closed and says that the run was stopped."
    async def leave(): return await started(tmp_path)
    run, model = asyncio.run(leave())
    assert (run.progress.state, model.cancelled) == ('stopped', 4) and stored(tmp_path/'runs.db')[1] == 'stopped'


def test_a_run_refused_leaves_the_store_open_for_others(tmp_path):
    async def check():
        run = Run([Prompt('x', 'Say something.')], BestOfN(n=1), [FakeModel('a')], Length(), store=tmp_path/'runs.db',
                  name='r')
        await run
        other = Run([Prompt('y', 'Say something.')], BestOfN(n=1), [FakeModel('a')], Length(), store=tmp_path/'runs.db',
                    name='r')
        with pytest.raises(Exception, match='its prompts were others'): await other
        await run.extend(1)
        assert run.progress.samples == 2
    asyncio.run(check())


class Impatient(Run):
    "Is interrupted again in the very moment in which it is asked to stop."
    asked = 0
    def cancel(self):
        super().cancel()
        self.asked += 1
        if self.asked == 1: signal.raise_signal(signal.SIGINT)


def test_a_second_interrupt_is_never_too_early(tmp_path):
    class Never(FakeModel):
        async def generate(self, messages, *, seed):
            begun.set()
            await asyncio.Event().wait()
    async def check():
        run = Impatient([Prompt('x', 'Say something.')], BestOfN(n=2), [Never('a')], Length(), store=tmp_path/'runs.db',
                        name='r', check=False, grace=HANG)
        cell = asyncio.ensure_future(run)
        await begun.wait()
        cell.cancel()
        await cell
        assert (run.asked, run.progress.state, run.progress.stopped_by) == (2, 'stopped', 'cancelled')
    begun = asyncio.Event()
    asyncio.run(asyncio.wait_for(check(), HANG))


# In a kernel

@pytest.fixture
def kernel(tmp_path):
    km = KernelManager(kernel_name='python3')
    km.start_kernel(cwd=str(tmp_path), env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
    kc = km.client()
    kc.start_channels()
    kc.wait_for_ready(timeout=HANG)
    yield km, kc
    kc.stop_channels()
    km.shutdown_kernel(now=True)


def execute(kc, code, until=None):
    "Run a cell; returns what it prints and how it ended. With `until`, returns as soon as that is printed."
    kc.execute(code)
    text = ''
    while True:
        message = kc.get_iopub_msg(timeout=HANG)
        kind, content = message['msg_type'], message['content']
        if kind == 'stream': text += content['text']
        if kind == 'error': text += content['ename']
        if until and until in text or kind == 'status' and content['execution_state'] == 'idle' and not until:
            return text


def idle(kc, until=None):
    "The rest of what a cell prints until it has ended, or until something is printed."
    text = ''
    while True:
        if until and until in text: return text
        message = kc.get_iopub_msg(timeout=HANG)
        if message['msg_type'] == 'stream': text += message['content']['text']
        if message['msg_type'] == 'error': text += message['content']['ename']
        if message['msg_type'] == 'status' and message['content']['execution_state'] == 'idle': return text


def test_interrupting_a_cell_that_awaits_a_run(kernel, tmp_path):
    "The stop button once: calls in flight finish. Twice: stop now. The run goes on in the next cell, and in the background beside others."
    km, kc = kernel
    execute(kc, f"import sys; sys.argv = ['x', 'when stopped', '{HANG}', 'runs.db']\n" + SCRIPT)
    execute(kc, 'await run; print(run.report())', until='calling')
    km.interrupt_kernel()
    assert re.search(r'8/200 samples, .* stopped in .* \(cancelled\)', idle(kc))
    execute(kc, "answers, model.held = 'never', 0")
    execute(kc, 'await run; print(run.report())', until='calling')
    km.interrupt_kernel()
    idle(kc, until='stopping')
    km.interrupt_kernel()
    assert re.search(r'8/200 samples, .* stopped in .* \(cancelled\)', idle(kc))
    execute(kc, "answers = 'at once'; run.start()")
    assert execute(kc, 'print(6*7)') == '42\n'
    assert '200/200 samples' in execute(kc, 'await run; print(run.report())')
    assert len(stored(tmp_path/'runs.db')[0]) == 200


def test_a_cell_that_awaits_a_run_shows_how_far_it_is_and_how_to_go_on(kernel):
    "A display below the cell is updated while the run goes on."
    km, kc = kernel
    execute(kc, f"import sys; sys.argv = ['x', 'when stopped', '{HANG}', 'runs.db']\n" + SCRIPT)
    shown, stopped = [], False
    kc.execute('await run;')
    while True:
        message = kc.get_iopub_msg(timeout=HANG)
        kind, content = message['msg_type'], message['content']
        if kind in ('display_data', 'update_display_data'): shown.append((kind, content['data']['text/plain']))
        if shown and not stopped:
            km.interrupt_kernel()
            stopped = True
        if kind == 'status' and content['execution_state'] == 'idle': break
    assert shown[0][0] == 'display_data' and re.match(r'r: 0/50 prompts, 0/200 samples', shown[0][1])
    assert {kind for kind, _ in shown[1:]} == {'update_display_data'}
    assert shown[-1][1].endswith('Everything so far is stored: await the run again, or call start(), to go on.')
