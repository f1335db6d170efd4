"""Malformed configurations, templates and stores: each is refused with one line that says where, what and what to do, before anything is called.

Broken prompt files have a table of their own in test_bad_prompts.py."""
import json
import os
import re
import socket
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from toa_nb.cli.commands import main
from toa_nb.cli.config import run_from
from toa_nb.core import InputError, Prompt
from toa_nb.models.fakes import FakeModel
from toa_nb.run.run import Run
from toa_nb.search.samplers import BestOfN
from toa_nb.store.journal import RunStore

TASK = {'id': 'p', 'instruction': 'Name a prime.', 'category': 'sums', 'constraints': [{'kind': 'no_commas'}]}
LINE = re.compile(r'\S.*: .+\. [A-Z`].*[.?)]')                                   # place: what is wrong. Remedy.


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A working directory with prompts and a server that nobody may call."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TOA_SET_KEY', 'k')
    Path('prompts.jsonl').write_text(json.dumps(TASK))
    Path('words.toml').write_text('refine = "Better: {question}"')
    Path('notes.txt').write_text('Buy milk. ' * 100)
    Path('templates').mkdir()
    os.mkfifo('pipe')
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.setblocking(False)
        yield f'http://127.0.0.1:{server.getsockname()[1]}/v1'
        with pytest.raises(BlockingIOError): server.accept()


def config(url):
    models = [{'name': 'a', 'endpoints': [url]}]
    return {'prompts': 'prompts.jsonl', 'method': {'name': 'toa', 'n': 4}, 'models': models, 'reward': 'constraints',
            'store': 'runs.db'}


def refused(capsys, *argv):
    "What a command that is refused says, line by line."
    capsys.readouterr()
    code = main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert code == 2 and out == '' and 'Traceback' not in err
    return err.splitlines()


# the changed field, its value (URL is the address of the server), where the report points, words of what and remedy
def model(**fields): return 'models', [{'name': 'a', 'endpoints': ['URL']} | fields]
def spec(**fields): return model(spec={'name': 'x', 'active_params': 8e9} | fields)
def method(**fields): return 'method', {'name': 'toa', 'n': 4} | fields
def reward(**fields): return 'reward', {'kind': 'constraints'} | fields
def http(**fields): return 'reward', {'kind': 'http', 'url': 'URL'} | fields
def judge(**fields): return 'reward', {'kind': 'judge', 'model': {'name': 'j', 'endpoints': ['URL']} | fields}
def budget(**fields): return 'budget', fields
def templates(**fields): return 'templates', fields
def prompts(**fields): return 'prompts', {'file': 'prompts.jsonl'} | fields


FIELDS = {
    'unknown table': (('modles', []), '', "unknown field 'modles'", 'Known fields: name, prompts, method'),
    'key at the top': (('api_key', 'sk-1'), '', "unknown field 'api_key'", 'Put the key into an environment variable'),
    'number as name': (('name', 7), 'name', 'a whole number instead of a text', 'Correct'),
    'blank name': (('name', ' '), 'name', "' ' is not a valid name", 'Use letters'),
    'newline in the name': (('name', 'a\nb'), 'name', 'is not a valid name', 'Use letters'),
    'text as seed': (('seed', 'zero'), 'seed', 'a text instead of a whole number', 'Correct'),
    'fraction as seed': (('seed', .5), 'seed', 'a number instead of a whole number', 'Correct'),
    'true as seed': (('seed', True), 'seed', 'true or false instead of a whole number', 'Correct'),
    'no concurrency': (('concurrency', 0), 'concurrency', '0 is not a whole number from 1 up', 'Correct'),
    'negative grace': (('grace', -1), 'grace', '-1 is not a number from 0 up', 'Correct'),
    'table as store': (('store', {'path': 'runs.db'}), 'store', 'a table instead of a text', 'Correct'),
    'store in no folder': (('store', 'none/runs.db'), 'store', 'there is no folder none', 'Create it first'),
    'store that is a folder': (('store', 'templates'), 'store', 'this is a folder', 'Give the path of a file in it'),
    'store that is a pipe': (('store', 'pipe'), 'store', 'this is neither a file nor a folder',
                             'Give the path of a file'),
    'store that is a device': (('store', '/dev/null'), 'store', 'this is neither a file nor a folder',
                               'Give the path of a file'),
    'zero character in a store': (('store', 'a\0.db'), 'store', "this can't be a path", 'Correct it'),
    'store with too long a name': (('store', 'a' * 300), 'store', "this can't be a path", 'Correct it'),
    'store that is a text': (('store', 'notes.txt'), 'store', 'this file is not a run store',
                             'Give the path of a store'),
    # prompts
    'no file of prompts': (('prompts', {'limit': 3}), 'prompts.file', 'missing', 'Name a file'),
    'number as prompts': (('prompts', 3), 'prompts', 'a whole number instead of a text or a table', 'Correct'),
    'folder of prompts': (('prompts', 'templates'), None, 'templates: this is a folder', 'Name a file in it'),
    'pipe of prompts': (('prompts', 'pipe'), 'prompts.file', 'this is neither a file nor a folder',
                        'Give the path of a file'),
    'prompts of nobody': (('prompts', '~nosuchuser/x.jsonl'), 'prompts.file', "this can't be a path", 'Correct it'),
    'zero character in prompts': (('prompts', 'a\0.jsonl'), 'prompts.file', "this can't be a path", 'Correct it'),
    'misspelt file': (('prompts', 'prompt.jsonl'), None, 'prompt.jsonl: there is no such file',
                      "Is it 'prompts.jsonl'?"),
    'unknown field of prompts': (prompts(some=3), 'prompts', "unknown field 'some'", 'Known fields: file, limit'),
    'no limit': (prompts(limit=0), 'prompts.limit', '0 is not a whole number from 1 up', 'Correct'),
    'text as limit': (prompts(limit='3'), 'prompts.limit', 'a text instead of a whole number', 'Correct'),
    'unknown category': (prompts(category='poems'), 'prompts.category', "no prompt has the category 'poems'",
                         'There are: sums'),
    'list of lists of categories': (prompts(category=[['sums']]), 'prompts.category',
                                    "no prompt has the category ['sums']", 'There are: sums'),
    'text as skip_bad': (prompts(skip_bad='yes'), 'prompts.skip_bad', 'a text instead of true or false', 'Correct'),
    # methods
    'unknown method': (method(name='mcts'), 'method', "unknown method 'mcts'", 'Use one of best_of_n, prs'),
    'list as method name': (method(name=['toa']), 'method.name', 'a list instead of a text', 'Correct'),
    'list as method': (('method', ['toa']), 'method', 'a list instead of a text or a table', 'Correct'),
    'unknown setting': (method(aplha=1.), 'method', "unknown field 'aplha'", 'Known fields: n, alpha'),
    'setting of another method': (('method', {'name': 'prs', 'alpha': 1.}), 'method', "unknown field 'alpha'",
                                  'Known fields: n, model'),
    'no samples': (method(n=0), 'method.n', 'n = 0 samples per prompt', 'Ask for at least 1'),
    'text as n': (method(n='4'), 'method.n', 'a text instead of a whole number', 'Correct'),
    'fraction as n': (method(n=4.5), 'method.n', 'a number instead of a whole number', 'Correct'),
    'negative alpha': (method(alpha=-1), 'method.alpha', 'alpha = -1', 'at least 0'),
    'no temperature': (method(tau=0), 'method.tau', 'tau = 0', 'above 0'),
    'no width': (method(width=0), 'method.width', 'width = 0', 'at least 1'),
    'nothing in parallel': (method(parallel=0), 'method.parallel', 'parallel = 0', 'at least 1'),
    'no layers': (('method', {'name': 'moa', 'n_iter': 0}), 'method.n_iter', 'n_iter = 0', 'at least 1'),
    'model that is not there': (('method', {'name': 'prs', 'model': 'b'}), 'method.model', "unknown model 'b'",
                                'Use one of a'),
    # models
    'no models': (('models', []), 'models', 'there are no models', 'Add a [[models]] table'),
    'one table instead of a list': (('models', {'name': 'a'}), 'models', 'a table instead of a list', 'Correct'),
    'text as a model': (('models', ['a']), 'models[0]', 'not a table', 'Write a [[models]] table'),
    'no name': (('models', [{'endpoints': ['http://a/v1']}]), 'models[0]', "'name' is missing", 'Add it'),
    'newline in the name of a model': (model(name='a\nb'), 'models[0].name', 'is not a name', 'Use letters'),
    'escape in the name of a model': (model(name='\x1b[31mred'), 'models[0].name', 'is not a name', 'Use letters'),
    'half a character in the name of a model': (model(name='a\ud800'), 'models[0].name', 'is not a name',
                                                'Use letters'),
    'no endpoints': (('models', [{'name': 'a'}]), 'models[0]', "'endpoints' is missing", 'Add it'),
    'empty endpoints': (model(endpoints=[]), 'models[0].endpoints', 'no endpoints', 'List at least one address'),
    'number as endpoint': (model(endpoints=[8000]), 'models[0].endpoints[0].url', 'not the address of a server',
                           'Write it like http://'),
    'endpoint without scheme': (model(endpoints=['127.0.0.1:8000/v1']), 'models[0].endpoints[0].url',
                                'not the address of a server', 'Write it like'),
    'endpoint with a password': (model(endpoints=['http://me:word@host/v1']), 'models[0].endpoints[0].url',
                                 'carries credentials', 'Leave them out'),
    'endpoint with a query': (model(endpoints=['URL', 'http://host/v1?key=word']), 'models[0].endpoints[1].url',
                              'credentials or a query', 'Leave them'),
    'endpoint for nobody': (model(endpoints=[{'url': 'http://a/v1', 'concurrency': 0}]),
                            'models[0].endpoints[0].concurrency', '0 is not a whole', 'Correct'),
    'unknown field of an endpoint': (model(endpoints=['URL', {'port': 1}]), 'models[0].endpoints[1]',
                                     "unknown field 'port'", 'Known fields: url, api_key_env'),
    'endpoint without address': (model(endpoints=[{'concurrency': 8}]), 'models[0].endpoints[0]',
                                 "the field 'url' is missing", 'Add it'),
    'a key in an endpoint': (model(endpoints=[{'url': 'URL', 'api_key': 'k'}]), 'models[0].endpoints[0]',
                             "unknown field 'api_key'", 'Put the key into an env'),
    'unknown field of a model': (model(temprature=1), 'models[0]', "unknown field 'temprature'",
                                 'Known fields: name, endpoints'),
    'a key in the file': (model(api_key='sk-1'), 'models[0]', "unknown field 'api_key'",
                          'Put the key into an environment variable'),
    'a key as variable': (model(api_key_env='sk-abc-123'), 'models[0].api_key_env',
                          'not the name of an environment variable', 'Put the key into a variable'),
    'a variable that is not set': (model(api_key_env='TOA_UNSET_KEY'), 'models[0].api_key_env',
                                   'TOA_UNSET_KEY is not set', 'Set it before starting'),
    'too hot': (model(temperature=9), 'models[0].temperature', '9 is not a number from 0 to 5', 'Correct'),
    'text as temperature': (model(temperature='hot'), 'models[0].temperature', "'hot' is not a number", 'Correct'),
    'top_p above 1': (model(top_p=2), 'models[0].top_p', '2 is not a number from 0 to 1', 'Correct'),
    'no tokens': (model(max_tokens=0), 'models[0].max_tokens', '0 is not a whole number from 1 up', 'Correct'),
    'number as system text': (model(system=3), 'models[0].system', 'this is not a text', 'Correct'),
    'endless timeout': (model(timeout=float('inf')), 'models[0].timeout', 'inf is not a number from 0.001', 'Correct'),
    'NaN for the server': (model(extra={'top_k': float('nan')}), 'models[0].extra', 'no form in JSON',
                           'Use texts, finite numbers'),
    'n of the server': (model(extra={'n': 4}), 'models[0].extra', "'n' can't be set here", 'Leave it out'),
    'unknown spec': (model(spec='gpt-9'), 'models[0].spec', "no spec for 'gpt-9'", 'Use `spec_from_config`'),
    'unknown field of a spec': (model(spec={'nme': 'x'}), 'models[0].spec', "unknown field 'nme'",
                                'Known fields: name, params'),
    'spec that counts nothing': (model(spec={'name': 'x'}), 'models[0].spec.active_params',
                                 "the cost of 'x' can't be computed", 'Give its shape'),
    'spec with half a shape': (model(spec={'name': 'x', 'layers': 8}), 'models[0].spec.hidden',
                               "the cost of 'x' can't be computed", 'Give its shape'),
    'list as spec': (model(spec=[1]), 'models[0].spec', '[1] is not a spec', 'Give the name of a spec'),
    'number as spec': (model(spec=3), 'models[0].spec', '3 is not a spec', 'Give the name of a spec'),
    'text as price': (spec(price_in='3 USD'), 'models[0].spec.price_in', "'3 USD' is not a number from 0", 'Correct'),
    'negative price': (spec(price_out=-1), 'models[0].spec.price_out', '-1 is not a number from 0', 'Correct'),
    'text as window': (spec(window='big'), 'models[0].spec.window', "'big' is not a whole number from 1 up", 'Correct'),
    'true as size': (spec(active_params=True), 'models[0].spec.active_params', 'True is not a whole number', 'Correct'),
    'infinite size': (spec(active_params=float('inf')), 'models[0].spec.active_params', 'inf is not a whole number',
                      'Correct'),
    'half a layer': (spec(layers=1.5), 'models[0].spec.layers', '1.5 is not a whole number', 'Correct'),
    'number as name of a spec': (spec(name=3), 'models[0].spec.name', '3 is not a text', 'Correct'),
    'text as port': (model(endpoints=['http://host:abc/v1']), 'models[0].endpoints[0].url',
                     'not the address of a server', 'Write it like'),
    'port out of range': (model(endpoints=['http://host:99999/v1']), 'models[0].endpoints[0].url',
                          'not the address of a server', 'Write it like'),
    'half a character in a host': (model(endpoints=['http://h\ud800st/v1']), 'models[0].endpoints[0].url',
                                   'not the address of a server', 'Write it like'),
    'two of a name': (('models', model()[1] * 2), 'models', "two models are called 'a'", 'Give each a name of its own'),
    # rewards
    'unknown reward': (('reward', 'goodness'), 'reward', "unknown reward 'goodness'", 'Use one of armorm, constraints'),
    'number as reward': (('reward', 7), 'reward', 'a whole number instead of a text or a table', 'Correct'),
    'reward without kind': (('reward', {'url': 'http://a'}), 'reward.kind', 'no kind', 'Name it'),
    'unknown setting of a reward': (reward(threshold=.5), 'reward', "unknown field 'threshold'", 'Known fields'),
    'reward that lacks a setting': (('reward', 'regex'), 'reward', "the field 'pattern' is missing", 'Add it'),
    'reward at no address': (http(url='host:8000'), 'reward.url', 'not the address of a server',
                             'Write it like http://'),
    'reward at no port': (http(url='http://host:abc'), 'reward.url', 'not the address of a server',
                          'Write it like http://'),
    'reward with a password': (http(url='http://me:word@host'), 'reward.url', 'carries credentials', 'Leave them out'),
    'a key as variable of a reward': (http(api_key_env='sk-abc-123'), 'reward.api_key_env',
                                      'not the name of an environment variable', 'Put the key into'),
    'unknown spec of a reward': (http(spec='gpt-9'), 'reward.spec', "no spec for 'gpt-9'", 'Use `spec_from_config`'),
    'judge without an endpoint': (judge(endpoints=[]), 'reward.model.endpoints', 'no endpoints',
                                  'List at least one address'),
    'judge without a key': (judge(api_key_env='TOA_UNSET_KEY'), 'reward.model.api_key_env', 'TOA_UNSET_KEY is not set',
                            'Set it before starting'),
    'reward that these prompts have nothing for': (('reward', 'exact'), 'reward', "prompt 'p'", ''),
    'table as held_out': (('held_out', {'kind': 'constraints'}), 'held_out', 'a table instead of a list', 'Correct'),
    'unknown held_out': (('held_out', ['goodness']), 'held_out[0]', "unknown reward 'goodness'", 'Use one of'),
    'held_out under the name of the guide': (('held_out', ['constraints']), 'held_out',
                                             "two rewards are called 'constraints'",
                                             'Give every reward a name of its own'),
    # budgets
    'no budget': (budget(samples=0), 'budget.samples', '0 is not above 0', 'Give a number above 0'),
    'old name of a limit': (budget(money=5), 'budget', '`money` is now `cost`', 'Write the new name'),
    'old name of a held-out reward': (('watch', ['constraints']), '', '`watch` is now `held_out`',
                                      'Write the new name'),
    'negative budget': (budget(cost=-5), 'budget.cost', '-5 is not above 0', 'Give a number above 0'),
    'text as budget': (budget(tokens='many'), 'budget.tokens', 'a text instead of a whole number', 'Correct'),
    'unknown limit': (budget(hours=2), 'budget', "unknown field 'hours'", 'Known fields: samples, tokens'),
    'number as budget': (('budget', 160), 'budget', 'a whole number instead of a table', 'Correct'),
    'unknown limit per run': (budget(per_run={'hours': 2}), 'budget.per_run', "unknown field 'hours'",
                              'Known fields: samples, tokens'),
    'no budget per run': (budget(per_run={'seconds': 0}), 'budget.per_run.seconds', '0 is not above 0',
                          'Give a number above 0'),
    'budget in a budget in a budget': (budget(per_run={'per_run': {}}), 'budget.per_run', "unknown field 'per_run'",
                                       'Known fields'),
    'FLOPs of a model without a spec': (budget(flops=1e15), 'budget.flops', 'what a costs is unknown',
                                        'Give every model a spec'),
    'cost for a model without a spec': (budget(per_run={'cost': 5}), 'budget.per_run.cost', 'what a costs is unknown',
                                        'Give every model a spec'),
    # templates
    'no file of templates': (('templates', 'none.toml'), None, 'none.toml: the file can\'t be read', 'Check the path'),
    'pipe of templates': (('templates', 'pipe'), 'templates', 'this is neither a file nor a folder',
                          'Give the path of a file'),
    'templates of another kind': (('templates', 'notes.txt'), None, "notes.txt: unknown kind of file '.txt'",
                                  'Give a TOML or JSON file'),
    'folder without templates': (('templates', 'templates'), None, 'templates: no templates',
                                 'Give at least one of: refine'),
    'placeholder missing in a file': (('templates', 'words.toml'), None,
                                      'words.toml: refine: the placeholder {answer} is missing', 'Write it where'),
    'placeholder missing': (templates(refine='Better: {question}'), 'templates.refine', '{answer} is missing',
                            'Write it where'),
    'placeholder misspelt': (templates(refine='{question} {answer} {anwser}'), 'templates.refine',
                             '{anwser} is unknown', 'Allowed here'),
    'blank template': (templates(aggregator=' '), 'templates.aggregator', "the template is ' '", 'Write its text'),
    'number as template': (templates(aggregator=3), 'templates.aggregator', 'a whole number instead of a text',
                           'Correct'),
    'unknown template': (templates(refin='{question}{answer}'), 'templates', "unknown field 'refin'",
                         'Known fields: refine'),
}


@pytest.mark.parametrize('name', FIELDS)
def test_a_bad_field_is_one_line(place, capsys, name):
    (field, value), where, what, fix = FIELDS[name]
    Path('run.json').write_text(json.dumps(config(place) | {field: value}).replace('URL', place))
    for command in ('run', 'check'):
        [line] = refused(capsys, command, 'run.json')
        if where is not None: assert line.startswith(f'run.json: {where}: ' if where else 'run.json: ')
        assert what in line and fix in line and LINE.fullmatch(line), line
    assert not Path('runs.db').exists()


# whole files: name, content, words of the report
FILES = {
    'empty': ('run.toml', '', 'run.toml: '),
    'no table': ('run.json', '[]', 'run.json: the file is not a table of settings'),
    'half a line': ('run.toml', 'name = "a"\nseed = \n', 'run.toml:2: this is not valid TOML'),
    'field twice': ('run.toml', 'seed = 1\nseed = 2\n', 'run.toml:2: this is not valid TOML'),
    'JSON cut short': ('run.json', '{"name": "a",\n', 'run.json:2: this is not valid JSON'),
    'field twice in JSON': ('run.json', '{"budget": {"samples": 1, "samples": 2}}',
                            'run.json: samples: the field is given twice. Keep one'),
    'nested JSON': ('run.json', '{"a":' * 100_000, 'run.json: the file is nested too deeply. Flatten it.'),
    'nested TOML': ('run.toml', 'a = ' + '[' * 100_000, 'run.toml: the file is nested too deeply. Flatten it.'),
    'JSON in TOML': ('run.toml', '{"name": "a"}', 'run.toml:1: this is not valid TOML'),
    'YAML': ('run.yaml', 'name: a\nmodels:\n - b\n', "run.yaml: unknown kind of file '.yaml'"),
    'Latin-1': ('run.toml', b'name = "caf\xe9"', "run.toml: the file can't be read"),
}


@pytest.mark.parametrize('name', FILES)
def test_a_bad_file_is_named_with_its_line(place, capsys, name):
    file, content, words = FILES[name]
    Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())
    lines = refused(capsys, 'run', file)
    assert len(lines) == (3 if name == 'empty' else 1) and all(LINE.fullmatch(line) for line in lines), lines
    assert lines[0].startswith(words)


def test_the_mark_of_an_editor_is_no_mistake(place):
    Path('run.json').write_text(json.dumps(config(place)), encoding='utf-8-sig')
    assert run_from('run.json').name == 'toa'


def test_a_missing_file_or_a_folder(place, capsys):
    for file in ('none.toml', 'templates'):
        [line] = refused(capsys, 'run', file)
        assert line.startswith(f'{file}: the file can\'t be read') and line.endswith('Check the path.')


def test_all_problems_are_said_at_once(place, capsys):
    bad = config(place) | {'seed': 'x', 'method': {'n': 0}, 'reward': 'goodness', 'budget': {'samples': 0},
                           'prompt': 'x'}
    Path('run.json').write_text(json.dumps(bad))
    starts = ['seed: ', "unknown field 'prompt'", 'method.n: ', 'reward: ', 'budget.samples: ']
    assert [line.removeprefix('run.json: ').startswith(s) for line, s in zip(refused(capsys, 'run', 'run.json'), starts,
        strict=True)] == [True] * 5


def test_a_dict_is_checked_like_a_file(place):
    with pytest.raises(InputError, match=r'configuration: method\.n: n = 0'):
        run_from(config(place) | {'method': {'n': 0}})


def test_a_bad_line_of_prompts_is_refused_and_can_be_skipped(place, capsys):
    Path('prompts.jsonl').write_text(json.dumps(TASK) + '\n{"id": "q"}\n')
    Path('run.json').write_text(json.dumps(config(place)))
    [line] = refused(capsys, 'run', 'run.json')
    assert line.startswith('prompts.jsonl:2: instruction: the field is missing')
    with pytest.warns(UserWarning, match=r'prompts\.jsonl:2: instruction'):
        assert ([p.id for p in run_from(config(place)
                                        | {'prompts': {'file': 'prompts.jsonl', 'skip_bad': True}}).prompts] == ['p'])


@pytest.mark.parametrize('prompts, models, words', [
    (pd.DataFrame({'prompt': ['a', 'b'], 'id': ['x', 'y']}), None, 'Run.prompts: this is of the type DataFrame'),
    ([1, 2], None, 'Run.prompts[0]: this is of the type int'),
    ([{'prompt': 'a'}], None, 'Run.prompts[0]: this is of the type dict'),
    ('prompts.jsonl', None, "Run.prompts: 'prompts.jsonl' is the path of a file"),
    ('Why?', ['qwen'], "Run.models[0]: 'qwen' is a text, not a model")])
def test_a_run_of_what_is_no_prompt_or_no_model_is_one_line(place, prompts, models, words):
    with pytest.raises(InputError) as e: Run(prompts, BestOfN(n=1), models or [FakeModel('a')], lambda p, r: 1.)
    assert LINE.fullmatch(str(e.value)) and str(e.value).startswith(words)
    assert not Path('runs.db').exists()


# stores
def write_store(path='runs.db'):
    settings = {'method': 'prs', 'reward': 'r', 'models': [], 'templates': {}}
    with RunStore(path) as store: store.create_run('first', settings, [Prompt(f'p{i}', 'x' * 500) for i in range(200)])
    return Path(path)


def cut(path): path.write_bytes(path.read_bytes()[:5000])
def overwrite(path): path.write_bytes(path.read_bytes()[:8192] + bytes(8192) + path.read_bytes()[16384:])
def sql(*commands):
    def damage(path):
        with sqlite3.connect(path) as db:
            for command in commands: db.execute(command)
        db.close()
    return damage


STORES = {
    'cut short': (cut, 'the store is damaged', 'Restore a copy'),
    'with a hole': (overwrite, 'the store is damaged', 'Restore a copy'),
    'of a newer version': (sql('PRAGMA user_version = 99'), 'written by a newer toa_nb (tables of version 99',
                           'Update toa_nb'),
    'of another program': (sql('PRAGMA application_id = 7'), 'this file is not a run store',
                           'Give the path of a store'),
    'a text': (lambda path: path.write_text('Buy milk. ' * 500), 'this file is not a run store',
               'Give the path of a store'),
    'a folder': (lambda path: (path.unlink(), path.mkdir()), 'this is a folder', 'Give the path of a file in it'),
    'a pipe': (lambda path: (path.unlink(), os.mkfifo(path)), 'this is neither a file nor a folder',
               'Give the path of a file'),
    'missing': (lambda path: path.unlink(), 'there is no store here', 'Correct the path'),
}
READERS = [('status', 'runs.db'), ('resume', 'runs.db'), ('curve', 'runs.db'),
           ('export', 'runs.db', '--format', 'sft', '-o', 'x.jsonl')]


@pytest.mark.parametrize('name', STORES)
def test_a_store_that_is_none(place, capsys, name):
    damage, what, fix = STORES[name]
    damage(write_store())
    for argv in READERS:
        [line] = refused(capsys, *argv)
        assert re.search("runs.db'?: ", line) and what in line and fix in line
    Path('run.json').write_text(json.dumps(config(place)))
    if name != 'missing': assert what in refused(capsys, 'run', 'run.json')[0]


# options: command line, words of the report
OPTIONS = {
    'unknown run': (('resume', 'runs.db', 'second'), "runs.db: there is no run 'second'. Name one of first."),
    'unknown run to export': (('export', 'runs.db', '--run', 'second', '--format', 'sft', '-o', 'x.jsonl'),
                              "there is no run 'second'. Name one of first."),
    'unknown axis': (('curve', 'runs.db', '--x', 'hours'), "x: unknown axis 'hours'. Use one of flops"),
    'unknown statistic': (('curve', 'runs.db', '--y', 'median'),
                          "y: unknown statistic 'median'. Use one of best, top, different, mean."),
    'curve as a text': (('curve', 'runs.db', '-o', 'curve.doc'),
                        "--output: 'curve.doc' is not a kind of file for a curve. Use .png"),
    'rows as a table': (('export', 'runs.db', '--format', 'sft', '-o', 'x.csv'),
                        "--output: 'x.csv' is not a kind of file for sft. Use .parquet, .jsonl"),
    'figure in no folder': (('curve', 'runs.db', '-o', 'none/x.png'),
                            '--output: there is no folder none. Create it first'),
    'numbers in no folder': (('curve', 'runs.db', '-o', 'none/x.csv'),
                             '--output: there is no folder none. Create it first'),
    'curve over a folder': (('curve', 'runs.db', '-o', 'folder.csv'),
                            "--output: 'folder.csv' is a folder. Name a file in it."),
    'rows in no folder': (('export', 'runs.db', '--format', 'sft', '-o', 'none/x.parquet'),
                          '--output: there is no folder none. Create it first'),
    'rows over a folder': (('export', 'runs.db', '--format', 'sft', '-o', 'folder.jsonl'),
                           "--output: 'folder.jsonl' is a folder. Name a file in it."),
    'unknown reward of a curve': (('curve', 'runs.db', '--reward', 'zz'),
                                  "--reward: no answer is scored by 'zz'. There are scores of: nothing."),
    'unknown reward to export': (('export', 'runs.db', '--format', 'sft', '--reward', 'zz', '-o', 'x.jsonl'),
                                 "--reward: no answer is scored by 'zz'. There"),
    'no time to check': (('check', 'run.json', '--timeout', 'nan'),
                         '--timeout: nan is not a number from 0.001 to 1000000.0. Correct'),
    'pipe as configuration': (('run', 'pipe'), "'pipe': this is neither a file nor a folder. Give the path"),
    'pipe of prompts to check': (('prompts', 'check', 'pipe'),
                                 "'pipe': this is neither a file nor a folder. Give the path"),
    'policy for nothing': (('export', 'runs.db', '--format', 'sft', '--rejected', 'min', '-o', 'x.jsonl'),
                           '--rejected: sft rejects nothing. Leave it out.'),
    'unknown policy': (('export', 'runs.db', '--format', 'dpo', '--rejected', 'worst', '-o', 'x.jsonl'),
                       "rejected: unknown policy 'worst'. Use rank:k"),
    'no more': (('run', 'run.json', '--more', '0'), '--more: 0 is not a whole number from 1 up. Correct the value.'),
    'no such shard': (('run', 'run.json', '--shard', '2/2'),
                      "--shard: '2/2' is not a shard. Write 0/4 to 3/4 for the parts of four, or slurm."),
    'store in no folder': (('run', 'run.json', '--store', 'none/x.db'),
                           '--store: there is no folder none. Create it first'),
    'prompts that are not valid': (('prompts', 'check', 'notes.txt'), 'notes.txt: this holds no records in JSON; JSON Lines, a JSON list'),
    'reward for prompts that is not valid': (('prompts', 'check', 'prompts.jsonl', '--reward', 'goodness'),
                                        "--reward: unknown reward 'goodness'. Use one of"),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_a_bad_option_is_one_line(place, capsys, name):
    argv, words = OPTIONS[name]
    write_store()
    for folder in ('folder.csv', 'folder.jsonl'): Path(folder).mkdir()
    Path('run.json').write_text(json.dumps(config(place)))
    [line] = refused(capsys, *argv)
    assert words in line
