"""Server panel and run panel through their traits, without a browser."""
import asyncio
from html import unescape

import pytest

from toa_nb.cells import safe
from toa_nb.cli.config import run_from
from toa_nb.core import CallTimeout, GenerationError, InputError, Prompt
from toa_nb.models.fakes import FakeModel
from toa_nb.panels.base import with_imports
from toa_nb.panels.live_run import LiveRun
from toa_nb.panels.runs import RunPanel
from toa_nb.panels.server_tables import from_toml, to_toml
from toa_nb.panels.servers import ServerPanel
from toa_nb.rewards.base import FunctionReward
from toa_nb.run.run import Run
from toa_nb.search.methods import METHODS
from toa_nb.search.samplers import BestOfN
from toa_nb.store.journal import RunStore

tasks = [Prompt(f'p{i}', f'What is {i} + {i}?') for i in range(4)]
length = FunctionReward(lambda prompt, response: len(response)/100, name='length')
short = FunctionReward(lambda prompt, response: -len(response)/100, name='short')


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TOA_STATE', str(tmp_path/'state'))


def pair(**options): return [FakeModel(n, **options) for n in 'ab']


def panel(**options): return RunPanel('runs.db', tasks, pair(**options), [length, short], every=.01)


async def ended(p):
    await p.run
    await p.following


@pytest.mark.parametrize('method', [name for name in METHODS if name != 'ab_mcts_m'])  # it needs packages of its own
def test_every_method_runs_from_its_form(method):
    async def main():
        p = panel().set(method=method, n=6, take=2, reward='length', held_out=('short',))
        p.buttons['Start'].click()
        await ended(p)
        assert p.run.progress.samples == 12 and f'{METHODS[method].__name__}(n=6)' in p.code_line.value
    asyncio.run(main())


def test_the_line_of_code_makes_the_same_run():
    p = panel().set(n=4, take=2, reward='length', held_out=('short',), budget=dict(samples=3, tokens='1e4'),
                    per_run=dict(samples=20), seed=7, concurrency=3)
    run = p.build()
    scope = dict(panel=p)
    exec(with_imports(f'again = {p.form.code(run)}'), scope)
    again = scope['again']
    assert again.config() == run.config() and again.concurrency == run.concurrency == 3
    assert [q.id for q in again.prompts] == [q.id for q in run.prompts] == ['p0', 'p2']


@pytest.mark.parametrize('values, said', [
    (dict(take='few'), "'few' is not a whole number"), (dict(take='0'), 'Take at least 1'),
    (dict(prompts='missing.jsonl'), 'there is no such file'),
    (dict(models=()), 'there are no models'), (dict(method='toa', tau='-1'), 'TOA.tau'),
    (dict(budget=dict(tokens='0')), 'is not above 0'),
    (dict(reward='length', held_out=('length',)), "two rewards are called 'length'"),
    (dict(models_file='missing.toml'), "can't be read")])
def test_what_is_wrong_is_said_and_nothing_starts(values, said):
    async def main():
        p = panel()
        p.set(**values)
        p.buttons['Start'].click()
        assert said in p.message.value.replace('&#x27;', "'") and p.run is None
    asyncio.run(main())


def test_a_failure_of_the_run_is_said():
    class Wrong(FakeModel):
        async def check(self): raise CallTimeout('is the <server> up?')

    async def main():
        p = RunPanel('runs.db', tasks, [Wrong('a')], [length], every=.01).set(reward='length')
        p.start()
        await p.following
        assert 'is the &lt;server&gt; up?' in p.message.value and 'failed' in p.status.value
    asyncio.run(main())


def test_pause_lets_calls_finish_and_cancel_does_not():
    models = pair(latency=.02, capacity=2)

    def lost():
        with RunStore('runs.db', 'r') as store: return sum(m.calls for m in models) - store.count('toa')

    async def main():
        p = RunPanel('runs.db', tasks, models, [length], every=.01).set(method='toa', n=10, reward='length')
        run = p.start()
        while run.progress.samples < 5: await asyncio.sleep(.001)
        p.pause()
        await ended(p)
        assert lost() == 0 and run.progress.state == 'stopped'
        p.resume()
        while run.progress.in_flight < 4: await asyncio.sleep(.001)
        p.cancel()
        await ended(p)
        assert lost() == 4
        p.resume()
        await ended(p)
        assert run.progress.samples == 40 and '40 of 40' in p.status.value
    asyncio.run(main())


def test_a_panel_on_a_run_from_a_cell_follows_it():
    async def main():
        run = Run(tasks, BestOfN(n=5), pair(latency=.005), length, store='cell.db').start()
        p = RunPanel(run, every=.01)
        await ended(p)
        assert '20 of 20 samples' in p.status.value and not p.buttons['Extend'].disabled
        p.more.value = 2
        p.buttons['Extend'].click()
        await ended(p)
        assert '28 of 28 samples' in p.status.value
    asyncio.run(main())


def test_a_run_that_goes_on_can_not_be_left_or_doubled():
    async def main():
        p = panel(latency=.01).set(reward='length')
        run = p.start()
        while not run.progress.in_flight: await asyncio.sleep(.001)
        with pytest.raises(InputError, match='is going on'): p.start()
        with pytest.raises(InputError, match='is going on'): p.show('')
        p.cancel()
        await ended(p)
    asyncio.run(main())


def test_without_an_event_loop_the_stored_run_is_shown():
    asyncio.run(Run(tasks, BestOfN(n=3), pair(), length, store='runs.db')._finish())
    p = RunPanel('runs.db', every=.01)
    assert '12 of 12 samples' in p.status.value and len(p.curves.box.children[0].series[0]['x']) > 1


def test_a_run_that_was_killed_is_shown_as_cut_off():
    asyncio.run(Run(tasks, BestOfN(n=3), pair(), length, store='runs.db')._finish())
    with RunStore('runs.db') as store: store.set_status('best_of_n', 'running')
    assert 'cut off' in RunPanel('runs.db').status.value


def test_hostile_names_and_answers_stay_text():
    evil = '<img src=x onerror=alert(1)>'

    async def main():
        p = (RunPanel('runs.db', [Prompt(evil, evil)],
                      [FakeModel(evil, fail=lambda n: CallTimeout(evil) if n % 2 else None)], [length], every=.01))
        p.set(n=4, reward='length', name=evil).start()
        await ended(p)
        shown = ''.join([p.status.value, p.lists.value, p.costs.value, p.message.value, p.code_line.value, p.forecast.value])
        assert '<img' not in shown and safe(evil) in shown
    asyncio.run(main())


def test_a_large_run_is_drawn_from_some_prompts():
    many = [Prompt(f'p{i}', 'Say something.') for i in range(50)]
    asyncio.run(Run(many, BestOfN(n=4), pair(), length, store='runs.db')._finish())
    look = LiveRun('runs.db', 'best_of_n', most=40)
    look.update()
    assert len(look.known) == 10 and '10 of 50 prompts' in look.figure().get_suptitle()
    look.close()


def test_stored_run_keeps_every_setting():
    run = Run(tasks, METHODS['moa'](n=6, n_iter=2), pair(), length, store='runs.db', held_out=[short], seed=3)
    asyncio.run(run._finish())
    assert Run.from_store('runs.db', models=pair(), rewards=[length, short]).config() == run.config()


def test_the_panel_goes_on_with_a_run_of_the_command_line():
    async def main():
        digit = {'kind': 'regex', 'name': 'digit', 'pattern': '[02468]'}
        made = run_from({'reward': digit, 'method': {'name': 'best_of_n', 'n': 2}}, prompts=tasks,
                        models=[FakeModel('a')], store='runs.db')
        await made._finish()
        p = RunPanel('runs.db', models=[FakeModel('a')], every=.01)
        await p.following
        run = await p.extend(1)
        assert (run.progress.resumed, run.progress.samples, run.reward.name,
                run.reward.pattern.pattern) == (8, 12, 'digit', '[02468]')
        assert ("Run.from_store('runs.db', 'best_of_n', models=panel.form.source).extend(1)" in unescape(
            p.code_line.value))
        await p.following
    asyncio.run(main())


def texts(widget):
    "Everything that a widget and those inside it hold."
    yield repr(widget.get_state())
    for w in getattr(widget, 'children', ()): yield from texts(w)


key = 'sk-proj-abcdef0123456789'


def test_a_key_is_in_no_widget():
    p = ServerPanel()
    for name, value in dict(name='x', url='https://me:hunter2@host/v1', api_key_env=key).items():
        p.form.entries[name].value = value
    p.buttons['Add'].click()
    assert p.rows == [] and key not in ''.join(texts(p.box))
    assert 'hunter2' not in p.message.value and 'credentials' in p.message.value


def test_file_round_trip_keeps_everything(tmp_path):
    tables = [dict(engine='hosted', name='a b"c', url='http://127.0.0.1:1/v1', stop=['</s>', 'né\n'], temperature=.2,
                   system='Be "brief"\x7f'),
              dict(engine='llama_cpp', name='local', threads=2, detach=True, max_tokens=64,
                   spec='SmolLM2-135M-Instruct')]
    (tmp_path/'servers.toml').write_text(to_toml(tables), encoding='utf-8')
    assert from_toml(tmp_path/'servers.toml') == tables
    p = ServerPanel(tmp_path/'servers.toml')
    assert [r.label for r in p.rows] == ['a b"c', 'local'] and p.tables == tables


def test_replicas_are_rows_and_unknown_endpoints_are_refused():
    p = ServerPanel([dict(engine='llama_cpp', name='m', replicas=2)])
    assert [r.label for r in p.rows] == ['m', 'm (2)']
    with pytest.raises(InputError, match='there is no endpoint'): p.row('n')
    p.remove('m (2)')
    assert p.rows == []


def test_run_panel_takes_the_models_of_a_server_panel():
    servers = ServerPanel([dict(name='a', url='http://127.0.0.1:1/v1')])
    p = RunPanel('runs.db', tasks, servers)
    assert p.form.fields['models'].value == ('a',)
    servers.add(name='b', url='http://127.0.0.1:2/v1')
    assert p.form.fields['models'].value == ('a', 'b')
    assert p.form.all_models()[0] is servers.models()[0]


def test_the_code_under_a_run_panel_runs_as_it_stands():
    async def main():
        p = panel().set(method='toa', n=2, take=2, reward='length', held_out=('short',))
        p.build()
        scope = dict(panel=p)
        exec(p.code_text, scope)
        await scope['run']
        assert scope['run'].progress.samples == 4
        p.show('toa')
        await p.following
        await p.resume() if not p.buttons['Resume'].disabled else await p.extend(1)
        again = dict(panel=p)
        exec(p.code_text.replace('.start()', ''), again)
        assert again['run'].name == 'toa'
    asyncio.run(main())


def test_a_stored_run_leaves_plain_text_and_its_settings():
    asyncio.run(Run(tasks, BestOfN(n=3), pair(), length, store='runs.db', held_out=[short], seed=5)._finish())
    p = RunPanel('runs.db')
    text = p._repr_mimebundle_()['text/plain']
    assert 'best_of_n: finished, 12/12 samples, 4/4 prompts done' in text and 'VBox(' not in text
    assert all(word in p.facts.value for word in ('best_of_n(n=3', 'a, b', 'length', 'short', '5'))


def test_an_idle_panel_follows_what_others_write():
    async def main():
        p = RunPanel('runs.db', every=.01)
        assert p.shown == ''
        await Run(tasks[:1], BestOfN(n=2), pair(), length, store='runs.db')
        while '2 of 2 samples' not in p.status.value: await asyncio.sleep(.01)
        p.choose('best_of_n')
        await Run(tasks[:1], BestOfN(n=2), pair(), length, store='runs.db', name='second')
        while 'second' not in [name for _, name in p.choice.options]: await asyncio.sleep(.01)
        assert p.shown == 'best_of_n'
        p.pinned = False
        p.refresh()
        assert p.shown == 'second'
    asyncio.run(main())


def test_a_paused_run_is_paused_in_every_line():
    async def main():
        p = RunPanel('runs.db', tasks, pair(latency=.01), [length], every=.01).set(method='toa', n=10, reward='length')
        run = p.start()
        while run.progress.samples < 5: await asyncio.sleep(.001)
        p.pause()
        await ended(p)
        later = RunPanel('runs.db', every=.01)
        await later.following
        for shown in (p, later):
            assert 'paused' in shown.status.value and f'{run.progress.samples:,} of 40 samples' in shown.status.value
            assert f'toa: paused, {run.progress.samples}/40 samples' in shown.as_text()
        assert p.message_text.startswith('paused') and later.progress.done == run.progress.done
    asyncio.run(main())


def test_the_line_and_the_figure_end_at_the_same_number():
    run = Run(tasks, BestOfN(n=6), pair(), length, store='runs.db')
    asyncio.run(run._finish())
    p = RunPanel('runs.db')
    star = p.look.figure(p.progress).axes[0].lines[-1].get_xydata().tolist()
    here = [run.progress.spent.tokens/4, run.progress.mean_best]
    assert star == [here] and p.curves.box.children[0].now == here
    assert f'mean best {run.progress.mean_best:.4g}' in p.status.value


def test_a_light_is_no_greener_than_what_was_found():
    async def main():
        p = ServerPanel([dict(name='gone', url='http://127.0.0.1:1/v1'),
                         dict(name='keyless', url='http://127.0.0.1:1/v1', api_key_env='TOA_NO_KEY')], every=60)
        assert [r.state for r in p.rows] == ['not asked', 'no key'] and '#2e9e44' not in p.listing.value
        await p.look()
        assert [r.state for r in p.rows] == ['down', 'no key'] and '#2e9e44' not in p.listing.value
        p.row('gone').found('ready')
        with pytest.raises(GenerationError): await p.ask('Hello?', 'gone')
        assert p.row('gone').state == 'down' and p.row('gone').error and '#2e9e44' not in p.listing.value
        for job in list(p.jobs): job.cancel()
    asyncio.run(main())
