"""Notebooks keep text and pictures where a figure or a table is the point: no widget state, no HTML, no path of a machine."""
import json
import re
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'tools'))
import outputs  # noqa: E402


def stream(text, name='stdout'): return dict(output_type='stream', name=name, text=[text])


def result(**data): return dict(output_type='execute_result', execution_count=3, metadata={'a': 1}, data=data)


def test_an_output_is_kept_as_a_picture_or_as_text():
    both = {'image/png': 'abc', 'text/plain': '<Figure>', 'text/html': '<b>'}
    kept = dict(output_type='execute_result', execution_count=None, metadata={}, data={'image/png': 'abc'})
    assert outputs.plain(result(**both)) == kept
    assert outputs.plain(result(**{'text/plain': '1', 'text/html': '<b>1</b>'}))['data'] == {'text/plain': '1'}
    assert outputs.plain(stream('said')) == stream('said')
    assert outputs.plain(stream('warning', 'stderr')) is None
    assert outputs.plain(result(**{'application/vnd.jupyter.widget-view+json': {}})) is None


@pytest.mark.parametrize('keep, left', [(True, [stream('1')]), (False, [])])
def test_tidy_leaves_no_trace_of_an_execution(keep, left):
    cell = dict(cell_type='code', execution_count=7, metadata=dict(execution={}, hide_input=True), source=[],
                outputs=[stream('1'), stream('2', 'stderr')])
    notebook = dict(cells=[cell, dict(cell_type='markdown', metadata={}, source=[])], metadata=dict(widgets={}))
    outputs.tidy(notebook, keep)
    assert notebook['metadata'] == {}
    assert cell == dict(cell_type='code', execution_count=None, metadata=dict(hide_input=True), source=[], outputs=left)


@pytest.mark.parametrize('path', outputs.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_is_tidy(path):
    notebook = outputs.read(path)
    before = json.dumps(notebook, sort_keys=True)
    outputs.tidy(notebook, outputs.keeps(path))
    assert json.dumps(notebook, sort_keys=True) == before
    texts = [''.join(o.get('text', o.get('data', {}).get('text/plain', ''))) for c in notebook['cells']
             for o in c.get('outputs', [])]
    assert not re.search(r'(?<![\w.:/])/(home|root|tmp|work|Users|var)/', '\n'.join(texts))


def test_a_path_of_this_machine_is_found(tmp_path):
    notebook = dict(cells=[dict(outputs=[stream(f'written to {tmp_path}/x.db')])])
    assert str(tmp_path) in outputs.private(notebook, tmp_path)
    assert outputs.private(dict(cells=[dict(outputs=[stream('written to x.db')])]), tmp_path) == []


def test_cells_that_are_not_tested_are_not_executed():
    assert re.search(outputs.SKIPPED, '#| eval: false\n1/0')
    assert re.search(outputs.SKIPPED, '#|slow\n1/0')
    assert not re.search(outputs.SKIPPED, '#| export\ndef slow(): ...')
