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
# What is over a limit today, and by how much, as `python tools/figures.py` ends. A room may get better; none joins.
OVER = {
}


@pytest.mark.parametrize('module', ROOMS)
def test_a_room_keeps_the_limits(module):
    known = OVER.get(module, {})
    assert {name: value for name, value in figures.over(ROOMS[module]).items() if value > known.get(name, 0)} == {}


@pytest.mark.parametrize('module', OVER)
def test_a_room_that_got_better_is_no_longer_listed(module):
    assert module in ROOMS and set(OVER[module]) == set(figures.over(ROOMS[module]))


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
