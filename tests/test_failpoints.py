"""A process that dies right before or right after anything that a run writes or pays for, at every single place, and resumes to the same search."""
import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import failpoint_run
import pytest

from toa_nb.store import RunStore
from toa_nb.store.schema import COLUMNS

root = Path(__file__).parent.parent

# Every kind of commit, and what a run does between commits, with the scenario in which the process dies there.
FAILPOINTS = {
    'run': 'fresh', 'trial': 'fresh', 'sample': 'fresh', 'answer': 'fresh', 'score': 'fresh', 'tell': 'fresh', 'event status': 'fresh',
    'event done': 'fresh',
    'call': 'fresh', 'judge': 'fresh', 'listen': 'fresh',
    'prefix': 'continued', 'event cannot': 'continued', 'thoughts': 'odd', 'event remark': 'odd',
    'event prefixes': 'cached', 'event stopped_by': 'stopped', 'event config': 'goes_on',
    'event retry': 'retried', 'event extend': 'extended',
    'event reward': 'rescored', 'event models': 'shrunk'}
ENGINE = {'call', 'judge', 'listen'}  # no commits
# what happened before
BASES = dict(fresh=[], odd=[], continued=[], cached=[], stopped=[], goes_on=['stopped'], shrunk=['begins'], retried=['fails'],
             extended=['fresh'], rescored=['fresh'])
ENDS = dict(stopped='goes_on')  # with what a scenario is resumed, where that is not itself


def event_kinds(path):
    "The kinds of the events that a module writes."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute): continue
        if node.func.attr in ('event', '_event_row') and len(node.args) > 2 and isinstance(node.args[2], ast.Constant):
            yield node.args[2].value


def written_kinds():
    "The kinds of rows that the library writes into a store."
    events = {kind for path in (root/'toa_nb').rglob('*.py') for kind in event_kinds(path)}
    return {*COLUMNS} - {'prompt', 'event'} | {f'event {kind}' for kind in events}


@pytest.fixture(scope='module')
def forks():
    "The process that forks the lives."
    with subprocess.Popen([sys.executable, failpoint_run.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        yield process
        process.stdin.close()


def live(forks, scenario, store, at=None):
    "A life, which dies at `at`; returns its exit code, its failpoints in order, and the seeds of its calls."
    log = store.with_suffix('.log')
    forks.stdin.write(json.dumps([scenario, str(store), str(log), at]) + '\n')
    forks.stdin.flush()
    code = int(forks.stdout.readline())
    lines = [line.split('|') for line in log.read_text().splitlines()]
    return code, [(name, when, int(n)) for name, when, n in lines if name != 'seed'], {int(seed)
        for name, seed, _ in lines if name == 'seed'}


def after(forks, scenarios, folder):
    "A store in which these scenarios have happened."
    store = folder/('-'.join(scenarios) + '.db')
    for scenario in scenarios: assert live(forks, scenario, store)[0] == 0
    return store


def look(path):
    "The seeds of all stored answers, and the search: trials, texts and rewards by prompt. The store is a prefix of what happened."
    with RunStore(path, 'r') as store:
        assert store.check() == []
        clock, = store.query('SELECT seq FROM clock')[0]
        tables = ('SELECT seq FROM trial UNION ALL SELECT seq FROM tell UNION ALL SELECT seq FROM event UNION ALL '
                  'SELECT seq FROM score')
        assert sorted(seq for seq, in store.query(tables)) == list(range(1, clock + 1))
        found = list(store.samples('r')) if store.runs() else []
        search = [(s.prompt_id, s.trial, s.completion and s.completion.text, s.error, s.value('letters'),
                   s.value('second')) for s in found]
        return {s.trial.seed for s in found}, search


def chosen(scenario, points):
    "The first and the last moment of everything in a fresh run; elsewhere of what only happens there, and of its states."
    here = {kind for kind, place in FAILPOINTS.items() if place == scenario} | {'event status', 'event done'}
    mine = [p for p in points if here & set(p[0].split('+'))]
    last = {(name, when): n for name, when, n in mine}
    return [p for p in mine if p[2] in (1, last[p[:2]])]


def test_the_list_of_failpoints_is_complete():
    assert written_kinds() <= set(FAILPOINTS)


@pytest.mark.parametrize('scenario', BASES)
def test_a_process_that_dies_at_a_failpoint_resumes_to_the_same_search(forks, tmp_path, scenario, choose=chosen):
    base = after(forks, BASES[scenario], tmp_path) if BASES[scenario] else None
    whole, store, end = tmp_path/'whole.db', tmp_path/'killed.db', ENDS.get(scenario, scenario)
    if base: shutil.copy(base, whole)
    code, points, _ = live(forks, scenario, whole)
    assert code == 0
    assert {kind for kind, place in FAILPOINTS.items()
            if place == scenario} & (written_kinds() | ENGINE) <= {k for p in points for k in p[0].split('+')}
    if end != scenario: assert live(forks, end, whole)[0] == 0
    expected = look(whole)[1]
    for at in choose(scenario, points):
        for path in tmp_path.glob('killed*'): path.unlink()
        if base: shutil.copy(base, store)
        assert live(forks, scenario, store, at)[0] == -9, at
        kept = look(store)[0]
        code, _, paid = live(forks, end, store)
        assert code == 0 and not paid & kept, f'{at}: an answer that was stored was generated again'
        assert look(store)[1] == expected, at
        with RunStore(store, 'r') as again: assert again.runs()[0]['status'] == 'finished', at


@pytest.mark.slow
@pytest.mark.parametrize('scenario', BASES)
def test_at_every_single_moment(forks, tmp_path, scenario):
    test_a_process_that_dies_at_a_failpoint_resumes_to_the_same_search(forks, tmp_path, scenario,
        lambda scenario, points: points)
