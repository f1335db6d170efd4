"""The `toa` command against a server of its own process: what it does, what it prints, and the codes it ends with."""
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from clocks import HANG
from fault_server import running

from toa_nb.analysis.plot import plot_curve
from toa_nb.cli.commands import main
from toa_nb.cli.config import run_from
from toa_nb.core import InputError, Prompt
from toa_nb.models.fakes import FakeModel
from toa_nb.reward_models.registry import register
from toa_nb.rewards.base import FunctionReward
from toa_nb.rewards.http_servers import HttpReward
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN
from toa_nb.store.journal import RunStore

root = Path(__file__).parent.parent
LETTERS = [{'kind': 'letter', 'letter': letter, 'relation': 'at least', 'count': 5} for letter in 'aeiou']
COMMANDS = [['run'], ['resume'], ['check'], ['status'], ['curve'], ['export'], ['prompts', 'check'],
            ['store', 'backup'], ['serve'], ['serve-reward'], ['servers']]


@pytest.fixture
def url():
    with running() as address: yield address


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with prompts, which is the working directory."
    monkeypatch.chdir(tmp_path)
    rows = [{'id': f'p{i}', 'instruction': f'Write about {i}.', 'category': 'even odd'.split()[i % 2],
             'constraints': LETTERS} for i in range(4)]
    Path('prompts.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return tmp_path


def configure(url, more='', models='ab', n=6, name='run.toml', above=''):
    tables = '\n'.join(f'[[models]]\nname = "{m}"\nendpoints = ["{url}"]\nretries = 0\nspec = "smollm2-135m-instruct"'
                       for m in models)
    top = f'prompts = "prompts.jsonl"\nreward = "constraints"\nstore = "runs.db"\nmethod = {{name = "toa", n = {n}}}'
    Path(name).write_text('\n'.join([above, top, tables, more]))


def control(url, **changes):
    request = Request(url.removesuffix('/v1') + '/control', json.dumps(changes).encode() if changes else None)
    with urlopen(request) as answer: return json.load(answer)


def toa(capsys, *argv):
    capsys.readouterr()
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, json.loads(out) if '--json' in argv else out, err


def process(*argv, **options):
    "The command in a process of its own."
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, '-m', 'toa_nb', *argv], text=True,
                            env=os.environ | {'PYTHONPATH': str(root)}, **pipes)


def test_a_run_its_store_and_what_comes_out(here, url, capsys):
    configure(url)
    code, result, err = toa(capsys, 'run', 'run.toml', '--json')
    assert (code, result['exit'], result['state'], result['samples'], result['done']) == (0, 0, 'finished', 24, 4)
    assert result['failures'] == [] and result['mean_best'] > 0
    assert '\r' not in err and 'toa: 4/4 prompts, 24/24 samples' in err.splitlines()[-1]
    [row] = toa(capsys, 'status', 'runs.db', '--json')[1]
    assert (row['run'], row['method'], row['status'], row['done'], row['samples']) == ('toa', 'toa', 'finished', 4, 24)
    assert row['best'] == pytest.approx(result['mean_best'])
    assert 'finished' in toa(capsys, 'status', 'runs.db')[1]


def test_a_complete_run_costs_nothing_and_more_goes_on(here, url, capsys):
    configure(url)
    assert toa(capsys, 'run', 'run.toml', '--quiet')[0] == 0
    calls = control(url)['calls']
    code, again, err = toa(capsys, 'run', 'run.toml', '--quiet', '--json')
    assert (code, again['resumed'], err) == (0, 24, '')
    assert control(url)['calls'] == calls
    code, more, _ = toa(capsys, 'run', 'run.toml', '--more', '2', '--quiet', '--json')
    assert (code, more['resumed'], more['samples'], more['target']) == (0, 24, 32, 32)
    code, more, _ = toa(capsys, 'resume', 'runs.db', '--more', '1', '--quiet', '--json')
    assert (code, more['resumed'], more['samples']) == (0, 32, 36)
    # each time a check of both endpoints, and the samples
    assert control(url)['calls'] == calls + 2 + 8 + 2 + 4


def test_the_store_alone_is_enough_to_go_on(here, url, capsys):
    configure(url, '[budget.per_run]\nsamples = 10\n')
    code, stopped, err = toa(capsys, 'run', 'run.toml')
    assert (code == 3 and '(samples)' in stopped
            and err.rstrip().endswith('is reached: raise it, and run the file again'))
    for name in ('run.toml', 'prompts.jsonl'): Path(name).unlink()
    code, result, _ = toa(capsys, 'resume', 'runs.db', 'toa', '--quiet', '--json')
    assert (code, result['stopped_by'], result['resumed']) == (3, 'samples', 10)  # the budget is still what it was
    run = Run.from_store('runs.db', budget=None)
    asyncio.run(run._finish())
    assert (run.progress.state, run.progress.samples) == ('finished', 24)


def test_the_file_and_the_notebook_give_the_same_run(here, url, capsys):
    configure(url)
    assert toa(capsys, 'run', 'run.toml', '--quiet', '--store', 'shell.db')[0] == 0
    asyncio.run(run_from('run.toml', store='notebook.db')._finish())
    with RunStore('shell.db', 'r') as a, RunStore('notebook.db', 'r') as b:
        assert a.config('toa') == b.config('toa') and a.config('toa')['file']['models'][0]['endpoints'] == [url]
        assert a.prompts('toa') == b.prompts('toa')
        assert a.count('toa') == b.count('toa') == 24


def test_json_and_toml_say_the_same(here, url):
    configure(url)
    run = run_from('run.toml')
    Path('run.json').write_text(json.dumps(run.recipe | {'store': 'runs.db'}))
    assert run_from('run.json').config() == run.config() == run_from(run.recipe).config()


def test_paths_are_relative_to_the_file(here, url, monkeypatch):
    configure(url)
    (here/'elsewhere').mkdir()
    monkeypatch.chdir(here/'elsewhere')
    run = run_from('../run.toml')
    assert len(run.prompts) == 4 and Path(run.store_at).resolve() == (here/'runs.db').resolve()


def test_figures_and_files(here, url, capsys):
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    code, points, _ = toa(capsys, 'curve', 'runs.db', '-o', 'curve.png', '--json')
    assert code == 0 and Path('curve.png').read_bytes()[:4] == b'\x89PNG'
    assert points[0]['method'] == 'toa' and points[0]['x'] > 1e6 and points[-1]['mean'] >= points[0]['mean']
    assert toa(capsys, 'curve', 'runs.db', '--x', 'tokens', '-o', 'curve.csv')[0] == 0
    assert Path('curve.csv').read_text().startswith('method,x,mean,low,high,n\ntoa,')
    for form, ending, rows in (('sft', 'jsonl', 4), ('published', 'jsonl', 4), ('alpaca_eval', 'json', 4),
                               ('sft', 'parquet', 4)):
        code, result, _ = toa(capsys, 'export', 'runs.db', '--format', form, '-o', f'{form}.{ending}', '--json')
        assert (code, result['rows']) == (0, rows) and Path(f'{form}.{ending}').stat().st_size > 100
    code, result, _ = toa(capsys, 'export', 'runs.db', '--format', 'dpo', '--rejected', 'min', '-o', 'dpo.jsonl',
                          '--json')
    assert code == 0 and result['rows'] + sum(result['dropped'].values()) == 4
    assert all({'prompt', 'chosen', 'rejected'} <= set(json.loads(line))
               for line in Path('dpo.jsonl').read_text().splitlines())


def test_a_store_of_two_runs(here, url, capsys):
    configure(url, above='name = "one"')
    configure(url, above='name = "two"', name='two.toml', n=4)
    for name in ('run.toml', 'two.toml'): assert toa(capsys, 'run', name, '--quiet')[0] == 0
    assert [r['run'] for r in toa(capsys, 'status', 'runs.db', '--json')[1]] == ['one', 'two']
    assert (toa(capsys, 'resume', 'runs.db')[::2] == (2,
                                                      f'{here}/runs.db: no run is named, and 0 of 2 runs are unfinished. '
                                                      f'Name one of one, two.\n'))
    assert toa(capsys, 'samples', 'runs.db', '--prompt', 'p999')[2].endswith('Name one of one, two.\n')
    assert toa(capsys, 'export', 'runs.db', '--format', 'published', '-o', 'x.jsonl')[0] == 2
    assert toa(capsys, 'export', 'runs.db', '--format', 'published', '--run', 'two', '-o', 'x.jsonl')[0] == 0
    assert len(json.loads(Path('x.jsonl').read_text().splitlines()[0])['responses']) == 4


def test_other_settings_under_the_same_name_are_refused(here, url, capsys):
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    calls = control(url)['calls']
    configure(url, n=7)
    for command in ('run', 'check'):
        code, _, err = toa(capsys, command, 'run.toml')
        assert code == 2 and "n of the method was 6 and is now 7" in err and control(url)['calls'] == calls


def test_check_names_every_endpoint_and_remedy(here, url, capsys):
    configure(url, f'[[models]]\nname = "zeta"\nendpoints = ["{url}", "http://127.0.0.1:9/v1"]', models='a')
    code, rows, _ = toa(capsys, 'check', 'run.toml', '--json')
    assert code == 1 and [r['ok'] for r in rows] == [True, True, False, False, True]
    assert rows[0]['says'].startswith('4 prompts, TOA(n=6')
    assert 'This server lists a, b, c, d. Set `model` to an id that this server serves' in rows[2]['says']
    assert rows[3]['says'].endswith('127.0.0.1:9 refuses connections. Start the server there, or correct the address.')
    configure(url)
    code, text, _ = toa(capsys, 'check', 'run.toml')
    assert code == 0 and [line[:2] for line in text.splitlines()] == ['ok'] * 4
    assert not Path('runs.db').exists()


def test_a_run_begins_with_one_replica_of_two(here, url, capsys):
    configure(url, models='a')
    # a probe of the dead endpoint is not a failed call
    text = Path('run.toml').read_text().replace('retries = 0', 'retries = 9')
    Path('run.toml').write_text(text.replace(f'["{url}"]', f'["http://127.0.0.1:9/v1", "{url}"]'))
    code, rows, _ = toa(capsys, 'check', 'run.toml', '--json')
    assert code == 1 and [r['ok'] for r in rows] == [True, False, True, True]
    code, result, err = toa(capsys, 'run', 'run.toml', '--quiet', '--json')
    assert (code, result['samples'], result['failures']) == (0, 24, [])
    assert (err.startswith('warning: a: http://127.0.0.1:9/v1: ') and 'The run goes on without this endpoint' in err
            and len(err.splitlines()) == 1)
    Path('run.toml').write_text(Path('run.toml').read_text().replace(f', "{url}"', '').replace('runs.db',
        'dead.db').replace('retries = 9', 'retries = 0'))
    code, _, err = toa(capsys, 'run', 'run.toml', '--quiet')
    assert (code == 1 and err.startswith('ConnectionFailed: a: http://127.0.0.1:9/v1: ')
            and 'Start the server there, or correct the address.' in err)


@pytest.mark.parametrize('fault, words', [('auth', 'AuthFailed: a: '), ('unknown_model', 'UnknownModel: a: ')])
def test_what_fails_for_good_fails_before_prompts_are_spent(here, url, capsys, fault, words):
    configure(url, models='a')
    control(url, faults=[fault])
    code, text, err = toa(capsys, 'run', 'run.toml', '--quiet')
    assert (code, text) == (1, '') and err.startswith(words) and len(err.splitlines()) == 1
    assert control(url)['calls'] == 1


def test_a_model_that_never_answers_is_a_failure(here, url, capsys):
    configure(url, models='a')
    control(url, faults=['none_content:1::1-'])                                 # the check's call passes
    code, result, _ = toa(capsys, 'run', 'run.toml', '--quiet', '--json')
    assert (code, result['samples'], result['failures'][0]['kind']) == (1, 0, 'EmptyAnswer')
    [row] = toa(capsys, 'status', 'runs.db', '--json')[1]
    assert (row['status'], row['prompts'], row['done'], row['given_up'], row['samples']) == ('given up', 4, 4, 4, 0)
    assert row['failed'] == result['failures'][0]['count'] > 0


def test_prompts_that_a_budget_ended_are_not_given_up(here, url, capsys):
    for name, budget in (('prompt', 'samples = 4'), ('run', 'per_run = {samples = 10}')):
        configure(url, f'[budget]\n{budget}\n', above=f'name = "{name}"')
        toa(capsys, 'run', 'run.toml', '--quiet')
    rows = {r['run']: r for r in toa(capsys, 'status', 'runs.db', '--json')[1]}
    assert [rows['prompt'][k] for k in ('status', 'done', 'given_up', 'samples', 'failed')] == ['finished', 4, 0, 16, 0]
    assert [rows['run'][k] for k in ('status', 'given_up', 'samples', 'failed')] == ['stopped', 0, 10, 0]


def test_a_locked_store_is_a_failure(here, url, capsys):
    configure(url)
    with RunStore('runs.db'): code, _, err = toa(capsys, 'run', 'run.toml', '--quiet')
    assert code == 1 and err.startswith('StoreLocked: ') and f'process {os.getpid()}' in err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_with_3_and_the_run_goes_on(here, url, capsys, number):
    control(url, latency=.05)
    configure(url, n=50, above='grace = 5\nconcurrency = 4')
    # as in a terminal, also below nohup
    heard = (lambda: signal.signal(number, signal.SIG_DFL)) if number == signal.SIGHUP else None
    child = process('run', 'run.toml', '--json', preexec_fn=heard)
    while control(url)['calls'] < 12: time.sleep(.02)
    child.send_signal(number)
    out, err = child.communicate(timeout=HANG)
    result = json.loads(out)
    assert (child.returncode, result['state'],
            result['stopped_by']) == (3, 'stopped', 'cancelled') and 'Traceback' not in err
    assert re.search(r'stopping: (1 call in flight has|[2-4] calls in flight have) up to 5 s; Ctrl-C again stops now', err)
    assert 8 <= result['samples'] < 200
    control(url, latency=0.)
    code, rest, _ = toa(capsys, 'resume', 'runs.db', '--quiet', '--json')
    assert (code, rest['resumed'], rest['samples']) == (0, result['samples'], 200)


def test_a_terminal_that_goes_away_changes_nothing(here, url, capsys):
    configure(url)
    left, end = os.pipe()
    os.close(left)
    child = process('run', 'run.toml', '--json', stderr=end)
    os.close(end)
    out, _ = child.communicate(timeout=HANG)
    assert (child.returncode, json.loads(out)['samples']) == (0, 24)
    child = process('run', 'none.toml', stderr=subprocess.DEVNULL, preexec_fn=lambda: os.close(2))
    assert (child.communicate(timeout=HANG)[0], child.returncode) == ('', 2)


def test_a_model_leaves_and_another_joins(here, url, capsys):
    configure(url)
    assert toa(capsys, 'run', 'run.toml', '--quiet')[0] == 0
    configure(url, models='ac')
    code, _, err = toa(capsys, 'run', 'run.toml', '--more', '2', '--quiet')
    assert code == 2 and '--without' in err and '--with' in err
    code, more, _ = toa(capsys, 'run', 'run.toml', '--more', '2', '--without', 'b', '--with', 'c', '--quiet', '--json')
    assert (code, more['resumed'], more['samples']) == (0, 24, 32)
    with RunStore('runs.db', 'r') as store:
        assert [store.config('toa')[k] for k in ('without', 'added')] == [['b'], ['c']]
        new = [s for s in store.samples('toa') if s.trial.number >= 6]
    assert all(s.error for s in new if s.trial.model == 'b') and sum(not s.error for s in new) == 8
    code, more, _ = toa(capsys, 'resume', 'runs.db', '--more', '2', '--without', 'c', '--without', 'b', '--quiet',
                        '--json')
    assert (code, more['samples']) == (0, 40)


def test_a_method_for_one_model_names_the_one_that_it_takes(here, url, capsys):
    configure(url)
    Path('run.toml').write_text(Path('run.toml').read_text().replace('name = "toa"', 'name = "prs"'))
    code, _, err = toa(capsys, 'run', 'run.toml', '--quiet', '--json')
    assert (code == 0 and err == "warning: prs samples one model: it takes 'a', not 'b'; set `model` of the method to "
                                 "choose\n")


def test_fields_that_nothing_reads_are_reported(here, url, capsys):
    with Path('prompts.jsonl').open('a') as f:
        f.write('\n' + json.dumps({'id': 'x', 'prompt': 'Why?', 'output': 'So.', 'constraints': LETTERS}))
    configure(url)
    assert (toa(capsys, 'prompts', 'check',
                'prompts.jsonl')[1].splitlines()[-1] == 'fields that nothing reads: output (in 1)')
    rows = toa(capsys, 'check', 'run.toml', '--json')[1]
    assert rows[0]['says'].endswith('; fields that nothing reads: output') and rows[0]['unread'] == {'output': 1}


def test_compute_is_counted_in_tokens_where_a_model_has_no_spec(here, url, capsys):
    configure(url)
    Path('run.toml').write_text(Path('run.toml').read_text().replace('spec = "smollm2-135m-instruct"', ''))
    toa(capsys, 'run', 'run.toml', '--quiet')
    code, _, err = toa(capsys, 'curve', 'runs.db', '-o', 'curve.png')
    assert (code == 0 and err == 'warning: the FLOPs of a, b are unknown, so compute is counted in tokens: give the '
                                 'models a spec for FLOPs\n')
    assert toa(capsys, 'compare', 'runs.db')[2].count('the FLOPs of a, b are unknown') == 1
    with pytest.warns(UserWarning, match='FLOPs of a, b') as seen: plot_curve('runs.db')
    assert [w.filename for w in seen] == [__file__]
    assert toa(capsys, 'curve', 'runs.db', '--x', 'flops')[0] == 2


def test_the_code_of_status_tells_whether_all_is_well(here, url, capsys):
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    assert toa(capsys, 'status', 'runs.db')[0] == 0
    configure(url, '[budget.per_run]\nsamples = 10\n', above='name = "small"')
    toa(capsys, 'run', 'run.toml', '--quiet')
    assert toa(capsys, 'status', 'runs.db')[0] == 3
    control(url, faults=['none_content:1::1-'])
    configure(url, above='name = "silent"')
    toa(capsys, 'run', 'run.toml', '--quiet')
    assert toa(capsys, 'status', 'runs.db')[0] == 1


def test_a_copy_of_a_store(here, url, capsys):
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    assert toa(capsys, 'store', 'backup', 'runs.db', 'copy.db')[:2] == (0, 'copy.db: 1 run\n')
    assert toa(capsys, 'status', 'copy.db', '--json')[1] == toa(capsys, 'status', 'runs.db', '--json')[1]
    assert toa(capsys, 'store', 'backup', 'runs.db', 'copy.db')[0] == 2


def test_ids_keep_their_type_in_the_published_form(here, url, capsys):
    Path('prompts.jsonl').write_text('\n'.join(json.dumps({'id': i, 'instruction': 'Say 1.', 'constraints': LETTERS})
                                               for i in (7, '8')))
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    assert toa(capsys, 'export', 'runs.db', '--format', 'published', '-o', 'x.jsonl')[0] == 0
    rows = [json.loads(line) for line in Path('x.jsonl').read_text().splitlines()]
    assert [r['id'] for r in rows] == [7, '8'] and not any('meta' in r for r in rows)


def test_the_folder_of_a_reward_is_relative_to_the_file(here, url, monkeypatch):
    (here/'tiny').mkdir()
    configure(url)
    text = Path('run.toml').read_text().replace('reward = "constraints"', 'reward = {kind = "own", source = "tiny"}')
    Path('run.toml').write_text(text)
    sources = []
    register('own', lambda source: sources.append(source) or FunctionReward(lambda prompt, response: 1., 'own'))
    (here/'elsewhere').mkdir()
    monkeypatch.chdir(here/'elsewhere')
    run = run_from('../run.toml')
    assert Path(sources[0]).resolve() == here/'tiny' and run.recipe['reward']['source'] == sources[0]


def test_a_reward_of_your_own_beside_the_file(here, url):
    configure(url, models='a')
    Path('run.toml').write_text(Path('run.toml').read_text().replace('"constraints"', '"quality_here:vowels"'))
    Path('quality_here.py').write_text('def vowels(prompt, response): return float(sum(c in "aeiou" for c in '
                                       'response))\n')
    (here/'elsewhere').mkdir()
    for argv in (['run', '../run.toml', '--quiet', '--json'],
                 ['resume', '../runs.db', '--more', '2', '--quiet', '--json']):
        child = process(*argv, cwd=here/'elsewhere')
        out, err = child.communicate(timeout=HANG)
        assert child.returncode == 0, err
    assert json.loads(out)['samples'] == 32
    Path('quality_here.py').unlink()
    child = process('run', 'run.toml', '--quiet')
    assert "there is no module 'quality_here'" in child.communicate(timeout=HANG)[1] and child.returncode == 2


def test_a_run_made_in_python_goes_on_in_python(here, capsys):
    reward = FunctionReward(lambda prompt, response: 1., 'one')
    prompts = run_from({'prompts': 'prompts.jsonl'}, models=[FakeModel('a')], reward=reward).prompts
    asyncio.run(Run(prompts, BestOfN(n=2), [FakeModel('a')], reward, store='runs.db')._finish())
    code, _, err = toa(capsys, 'resume', 'runs.db')
    assert (code == 2 and err.startswith("runs.db (run 'best_of_n'): models: the store does not say how to reach the "
                                         "model 'a'. It was made in Python"))
    assert len(err.splitlines()) == 1
    again = Run.from_store('runs.db', models=[FakeModel('a')], rewards=[reward]).extend(1)
    asyncio.run(again._finish())
    assert (again.progress.resumed, again.progress.samples) == (8, 12)
    with pytest.raises(InputError, match="there is no run 'x'"): Run.from_store('runs.db', 'x')


def test_prompts_check(here, capsys):
    assert toa(capsys, 'prompts', 'check', 'prompts.jsonl', '--reward', 'constraints', '--json')[:2] == (
        0, {'file': 'prompts.jsonl', 'prompts': 4, 'categories': {'even': 2, 'odd': 2}, 'unread': {}, 'left_out': []})
    Path('bad.jsonl').write_text('{"id": 1, "instruction": "x"}\n{"id": 1, "instruction": ""}\n{')
    code, _, err = toa(capsys, 'prompts', 'check', 'bad.jsonl')
    assert code == 2 and [line.partition(': ')[0] for line in err.splitlines()] == ['bad.jsonl:2', 'bad.jsonl:3']
    code, result, _ = toa(capsys, 'prompts', 'check', 'bad.jsonl', '--skip-bad', '--json')
    assert (code, result['prompts']) == (0, 1) and [line.partition(': ')[0]
                                                    for line in result['left_out']] == ['bad.jsonl:2', 'bad.jsonl:3']
    text = toa(capsys, 'prompts', 'check', 'bad.jsonl', '--skip-bad')[1]
    assert text.splitlines()[:3] == ['bad.jsonl: 1 prompt', '1 is read as:', '  user: x']
    assert (text.splitlines()[3:5][0] == '2 reports on lines that are left out:'
            and text.splitlines()[4].startswith('bad.jsonl:2: ') and len(text.splitlines()) == 6)
    Path('plain.jsonl').write_text('{"id": 1, "instruction": "x"}')
    assert toa(capsys, 'prompts', 'check', 'plain.jsonl', '--reward', 'constraints')[0] == 2


def test_all_that_is_left_out_is_reported(here, url, capsys):
    configure(url)
    text = Path('run.toml').read_text().replace('"prompts.jsonl"', '{file = "prompts.jsonl", skip_bad = true}')
    Path('run.toml').write_text(text)
    with Path('prompts.jsonl').open('a') as f: f.write('\noops\n{"id": "p0"}' + '\n{}'*60)
    for command in ('check', 'run'):
        code, result, err = toa(capsys, command, 'run.toml', '--json')
        left_out = (result[0] if command == 'check' else result)['left_out']
        assert code == 0 and [line.partition(': ')[0] for line in left_out[:3]] == ['prompts.jsonl', 'prompts.jsonl:5',
            'prompts.jsonl:6']
        assert left_out[0].startswith('prompts.jsonl: id: 60 records have no id, the first on line 7. Number them with')
        assert f'warning: {len(left_out)} reports on lines that are left out:\nprompts.jsonl: id: ' in err
        assert len(left_out) == 63 and err.count('prompts.jsonl:') == 63


def test_a_reader_that_leaves_changes_nothing(here, url, capsys):
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    for argv, code in ((['status', 'runs.db'], 0), (['status', 'runs.db', '--json'], 0),
                       (['status', 'none.db', '--json'], 2)):
        left, end = os.pipe()
        os.close(left)
        child = process(*argv, stdout=end)
        os.close(end)
        assert len(child.communicate()[1].splitlines()) == (code > 0) and child.returncode == code


def test_a_failure_of_the_machine_is_one_line(here, url, capsys):
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    code, _, err = toa(capsys, 'export', 'runs.db', '--format', 'sft', '-o', 'x'*248 + '.jsonl')
    assert code == 1 and err.startswith('OSError: ') and 'File name too long' in err and len(err.splitlines()) == 1


def test_an_unknown_reward_leaves_the_old_file_alone(here, url, capsys):
    configure(url)
    toa(capsys, 'run', 'run.toml', '--quiet')
    Path('old.jsonl').write_text('rows')
    code, _, err = toa(capsys, 'export', 'runs.db', '--format', 'dpo', '--reward', 'zz', '-o', 'old.jsonl')
    assert (code, err) == (2, "--reward: no answer is scored by 'zz'. There are scores of: constraints.\n")
    assert Path('old.jsonl').read_text() == 'rows'


def test_errors_are_json_too(here, capsys):
    code, said, err = toa(capsys, 'run', 'none.toml', '--json')
    assert code == 2 and said['kind'] == 'InputError' and said['error'] == err.strip() and err.startswith('none.toml: ')


class Served:
    "A server that is not there."
    name, url, api_key_env, state, stopped = 'small', 'http://127.0.0.1:1/v1', 'TOA_KEY_SMALL', 'ready', 0

    def __enter__(self): return self
    def __exit__(self, *_): Served.stopped += 1


def test_serve_stays_until_an_interrupt_and_stops_its_server(here, capsys, monkeypatch):
    def interrupt(seconds): raise KeyboardInterrupt
    asked = []
    monkeypatch.setattr('toa_nb.servers.local.local_model', lambda **options: Path('model.gguf'))
    monkeypatch.setattr('toa_nb.servers.engines.llama_cpp',
                        lambda *args, **options: asked.append((args, options['port'])) or Served())
    monkeypatch.setattr('toa_nb.cli.serving.time.sleep', interrupt)
    code, rows, _ = toa(capsys, 'serve', '--name', 'small', '--port', '8011', '--json')
    assert (code, rows[0]['url'], asked, Served.stopped) == (0, Served.url, [((Path('model.gguf'), 'small'), 8011)], 1)


def test_servers_that_run(here, capsys, monkeypatch):
    monkeypatch.setenv('TOA_STATE', str(here/'state'))
    assert toa(capsys, 'servers', '--json')[:2] == (0, [])
    assert toa(capsys, 'servers')[1] == 'nothing\n'
    assert toa(capsys, 'servers', '--stop', 'qwen')[::2] == (1,
                                                             "ServeError: no server 'qwen' is running; running are []\n")


@pytest.fixture
def reward_server(here):
    "Starts `toa serve-reward` as a process of its own; gives what it prints. Each must end well, at SIGTERM and Ctrl-C by turns."
    started = []
    def start(*argv):
        # A terminal's processes hear Ctrl-C; those of a script in the background, such as these tests may be, are started deaf to it.
        hear = ('import signal, sys; from toa_nb.cli import main; signal.signal(signal.SIGINT, '
                'signal.default_int_handler); sys.exit(main())')
        env = os.environ | {'PYTHONPATH': str(root), 'HF_HUB_OFFLINE': '1'}
        started.append(subprocess.Popen([sys.executable, '-c', hear, 'serve-reward', *map(str, argv), '--json'],
                                        stdout=subprocess.PIPE, text=True, env=env))
        return json.loads(started[-1].stdout.readline())
    yield start
    for process, number in zip(started, cycle([signal.SIGTERM, signal.SIGINT])):
        process.send_signal(number)
        assert process.wait(60) == 0


def scored(url, prompt, responses):
    return [s.value for s in asyncio.run(HttpReward(f'{url}/score').score(prompt, responses))]


def test_a_reward_is_served_by_name_and_from_a_configuration(reward_server, here):
    prompt = Prompt('p', 'Write a word.', meta={'constraints': LETTERS[:1]})
    Path('rewards.toml').write_text('[reward]\nkind = "regex"\nname = "vowels"\npattern = "^[aeiou]+$"\n')
    by_name, by_file = reward_server('constraints'), reward_server('rewards.toml')
    assert (by_name['reward'], by_file['reward']) == ('constraints', 'vowels')
    assert scored(by_name['url'], prompt, ['banana', 'aardvark-banana']) == [0., 1.]
    assert scored(by_file['url'], prompt, ['aeo', 'xyz']) == [1., 0.]


def test_a_reward_model_in_a_folder_is_served(reward_server, tmp_path):
    pytest.importorskip('torch')
    from rm_oracles import build

    from toa_nb.reward_models.load import load_reward_model
    build('linear', tmp_path/'tiny')
    prompt, answers = Prompt('sky', 'Why is the sky blue?'), ['Air scatters blue light.', 'x']
    served = reward_server(tmp_path/'tiny', '--device', 'cpu', '--dtype', 'float32')
    here = load_reward_model(str(tmp_path/'tiny'), device='cpu')
    assert (served['reward'], served['version']) == (here.name, here.version)
    assert scored(served['url'], prompt, answers) == pytest.approx([s.value
        for s in here.score_pairs([(prompt, a) for a in answers])], abs=1e-4)


def test_what_can_not_be_served_is_said_in_a_line(here, capsys, url):
    taken = url.rpartition(':')[2].partition('/')[0]
    for argv, says in ((['no-such'], "no-such: unknown reward 'no-such'. Use one of "),
                       (['missing.toml'], 'missing.toml: '),
                       (['constraints', '--port', taken], f"--port: 127.0.0.1:{taken} can't be used")):
        code, _, err = toa(capsys, 'serve-reward', *argv)
        assert code == 2 and err.startswith(says) and err.count('\n') == 1


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as e: main([*command, '--help'])
    out = capsys.readouterr().out
    assert e.value.code == 0 and 'exit codes:' in out and '--json' in out and len(out.splitlines()) > 12


@pytest.mark.parametrize('argv', [[], ['run'], ['export', 'runs.db', '-o', 'x.jsonl'],
                                  ['run', 'x.toml', '--more', 'many']], ids=' '.join)
def test_wrong_usage_is_2(argv, capsys):
    with pytest.raises(SystemExit) as e: main(argv)
    assert e.value.code == 2 and 'usage: toa' in capsys.readouterr().err


@pytest.mark.parametrize('argv, line', [
    (['exprot'], "toa: COMMAND: there is no 'exprot'. Did you mean export?"),
    (['rn', 'run.toml'], "toa: COMMAND: there is no 'rn'. Did you mean run?"),
    (['store', 'chek'], "toa store: COMMAND: there is no 'chek'. Did you mean check?"),
    (['export', 'r.db', '--format', 'dpoo'], "toa export: --format: there is no 'dpoo'. Did you mean dpo?")])
def test_an_unknown_name_is_one_line_with_the_nearest(argv, line, capsys):
    with pytest.raises(SystemExit) as e: main(argv)
    assert (e.value.code, capsys.readouterr().err) == (2, line + '\n')


def test_the_file_of_init_passes_its_check(here, url, capsys):
    Path('prompts.jsonl').unlink()
    code, text, _ = toa(capsys, 'init', url)
    assert code == 0 and 'prompts.jsonl: 3 example prompts; put your own in their place' in text
    code, text, _ = toa(capsys, 'check', 'run.toml')
    assert code == 0 and text.startswith('ok      run.toml: 3 prompts, ')
    assert toa(capsys, 'init', 'http://127.0.0.1:9/v1', '-o', 'other.toml')[::2] == (
        1, 'ConnectionFailed: http://127.0.0.1:9/v1: 127.0.0.1:9 refuses connections. Start the server there, or correct '
           'the address.\n')


def test_several_stores_are_shown_as_one(here, url, capsys):
    configure(url)
    for part in ('0/2', '1/2'): assert toa(capsys, 'run', 'run.toml', '--shard', part, '--quiet')[0] == 0
    shards = 'runs.0-of-2.db', 'runs.1-of-2.db'
    assert toa(capsys, 'panel', *shards, '-o', 'page.html')[0] == 0 and 'Search tree' in Path('page.html').read_text()
    for run in ((), ('toa',), ('--run', 'toa')):
        assert toa(capsys, 'samples', *shards, *run)[1].splitlines()[-1] == '10 of 24 samples'
    for command in (('panel', '-o', 'page.html'), ('samples',)):
        code, _, err = toa(capsys, command[0], *shards, 'lama', *command[1:])
        assert code == 2 and err == f"{here}/runs.0-of-2.db and 1 more: there is no run 'lama'. Name one of toa.\n"
    code, _, err = toa(capsys, 'samples', *shards, '--model', 'lama')
    assert (code, err) == (2, "--model: there is no 'lama' in this run. There are: a, b.\n")


def test_help_imports_nothing_heavy():
    code = '''import sys
from toa_nb.cli import main
try: main(["--help"])
except SystemExit: print("heavy:", sorted({"openai", "pandas", "numpy", "matplotlib", "torch"} & set(sys.modules)))'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert out.splitlines()[-1] == 'heavy: []' and 'toa check run.toml' in out


def test_the_example_is_a_configuration(monkeypatch):
    monkeypatch.setenv('TOA_KEY_SMOLLM2_135M', 'k')
    run = run_from(root/'data/example.toml')
    assert (run.name, len(run.prompts), list(run.models), run.reward.name, run.method.n) == ('example', 6,
        ['smollm2-135m'], 'constraints', 16)
