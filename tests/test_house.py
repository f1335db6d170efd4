"""The rules of the house that a figure can hold: how long cells, lines and rooms are, how far a test is, and that none of them waits for a clock."""
import ast
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'tools'))
import figures  # noqa: E402

ROOMS = {row['module']: row for row in figures.rows(root)}
LIBRARY = [path for path in figures.notebooks(root) if 'tutorials' not in path.parts]
# What is over a limit today, and by how much. A room may get better, and none joins.
OVER = {
    'search.moves': dict(columns=124),
    'search.samplers': dict(untested=4),
    'models.client': dict(longest=43, columns=130),
    'store.queries': dict(columns=122),
    'store.writer': dict(columns=126),
    'analysis.comparisons': dict(longest=41, columns=122),
    'analysis.equal_compute': dict(columns=123),
    'analysis.lineage': dict(columns=128),
    'analysis.prompt_table': dict(columns=121),
    'analysis.signs': dict(columns=121),
    'analysis.flow': dict(columns=128),
    'analysis.what_if': dict(longest=41),
    'evaluate.pairs': dict(columns=128),
    'evaluate.length_control': dict(untested=4, columns=121),
    'evaluate.arena': dict(columns=128),
    'evaluate.translation': dict(columns=126),
    'evaluate.harness': dict(columns=134),
    'evaluate.scoreboard': dict(columns=138),
    'train.options': dict(columns=126),
    'train.rows': dict(columns=133),
    'train.gguf': dict(columns=137),
    'train.merging': dict(columns=126),
    'train.cards': dict(columns=155),
    'train.jobs': dict(untested=6, columns=129),
    'cli.evaluating': dict(columns=134),
    'cli.training': dict(columns=129),
    'cli.commands': dict(untested=5, columns=128),
}


def over(row):
    "The figures of a room that are above a limit. The median is a goal for the whole house, not for each room."
    return {name: row[name] for name, limit in figures.LIMITS.items() if name != 'median' and row[name] > limit}


@pytest.mark.parametrize('module', ROOMS)
def test_a_room_keeps_the_limits(module):
    known = OVER.get(module, {})
    assert {name: value for name, value in over(ROOMS[module]).items() if value > known.get(name, 0)} == {}


@pytest.mark.parametrize('module', OVER)
def test_a_room_that_got_better_is_no_longer_listed(module):
    assert module in ROOMS and set(OVER[module]) == set(over(ROOMS[module]))


def sleeps(source):
    "Where a test waits for a time to pass. A loop with a condition does not, and `sleep(0)` only gives way to others."
    todo = [compile(source, 'source', 'exec', ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.While | ast.Lambda): continue
        todo += ast.iter_child_nodes(node)
        if not isinstance(node, ast.Call) or ast.unparse(node.func).split('.')[-1] != 'sleep': continue
        if node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value: yield ast.unparse(node)


def test_sleeps_are_found():
    assert [*sleeps('await asyncio.sleep(.1)')] == ['asyncio.sleep(0.1)']
    assert [*sleeps('while not done: await asyncio.sleep(.1)\nawait asyncio.sleep(0)')] == []


@pytest.mark.parametrize('path', LIBRARY, ids=lambda path: path.stem)
def test_no_test_in_a_notebook_waits_for_a_clock(path):
    sources = ['\n'.join(lines) for exported, lines in figures.code_cells(path) if not exported]
    assert [call for source in sources for call in sleeps(source)] == []


@pytest.mark.parametrize('path', sorted((root/'tests').glob('test_*.py')), ids=lambda path: path.stem)
def test_no_test_waits_for_a_clock(path): assert [*sleeps(path.read_text(encoding='utf-8'))] == []
