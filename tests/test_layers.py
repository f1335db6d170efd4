"""A module imports only modules with smaller numbers, and at its top only the packages that its layer allows (DESIGN: the layers)."""
import ast
import json
import re
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
everywhere = {'fastcore', 'toa_nb'} | set(sys.stdlib_module_names)
allowed = {'models': {'openai'}, 'data': {'pandas'}, 'analysis': {'pandas', 'numpy'}, 'plot': {'matplotlib', 'pandas', 'numpy'},
           'panels': {'ipywidgets', 'anywidget'}}


def notebooks():
    for path in sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb')):
        source = ''.join(''.join(c['source']) + '\n' for c in json.loads(path.read_text())['cells'])
        yield re.search(r'^#\| default_exp (\w+)', source, re.M)[1], int(path.name[:2])


layers = dict(notebooks())


def imports(tree, top_only):
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module: yield '.' * node.level + node.module


@pytest.mark.parametrize('module', layers)
def test_module_imports_only_lower_layers(module):
    tree = ast.parse((root/f'toa_nb/{module}.py').read_text())
    inside = {name.split('.')[1] for name in imports(tree, False) if name.startswith(('.', 'toa_nb.'))}
    assert {m for m in inside if layers[m] >= layers[module]} <= {module}


@pytest.mark.parametrize('module', layers)
def test_module_imports_only_the_packages_of_its_layer(module):
    tree = ast.parse((root/f'toa_nb/{module}.py').read_text())
    assert {name.split('.')[0] for name in imports(tree, True) if not name.startswith('.')} <= everywhere | allowed.get(module, set())


def test_every_module_has_a_notebook():
    assert {p.stem for p in (root/'toa_nb').glob('*.py')} == set(layers) | {'__init__', '_modidx'}
