"""The path is the layer: a module imports only what sorts before it, and at its top only the packages that its wing allows (DESIGN: the house)."""
import ast
import json
import re
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
everywhere = {'fastcore', 'toa_nb'} | set(sys.stdlib_module_names)
allowed = {'store.tables': {'pandas', 'numpy'}, 'store.columns': {'numpy'}, 'analysis': {'pandas', 'numpy'}, 'evaluate': {'pandas', 'numpy'},
           'analysis.plot': {'matplotlib'}, 'analysis.flow': {'matplotlib'},
           'analysis.differences': {'matplotlib'},
           'panels': {'ipywidgets', 'anywidget', 'traitlets'}}


def notebooks():
    "The library's notebooks by path, each with the module it exports to."
    for path in sorted((root/'nbs').rglob('[0-9][0-9]_*.ipynb')):
        if 'tutorials' in path.parts or '.ipynb_checkpoints' in path.parts: continue
        source = ''.join(''.join(c['source']) + '\n' for c in json.loads(path.read_text(encoding='utf-8'))['cells'])
        yield path.relative_to(root/'nbs').as_posix(), re.search(r'^#\| default_exp ([\w.]+)', source, re.M)[1]


paths = {module: path for path, module in notebooks()}


def file_of(module): return root/'toa_nb'/(module.replace('.', '/') + '.py')


def imported(module, top_only=False):
    "What a module imports, by full name: inside the library without `toa_nb.`, names included where a package is imported from."
    package = ['toa_nb', *module.split('.')[:-1]]
    tree = ast.parse(file_of(module).read_text(encoding='utf-8'))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = '.'.join(package[:len(package) - node.level + 1]) if node.level else ''
            full = '.'.join(filter(None, [start, node.module]))
            yield full
            yield from (f'{full}.{a.name}' for a in node.names)


def rooms_of(module):
    "The rooms that a module imports; a wing or the whole library counts as one, because it is more than a room."
    for name in imported(module):
        if name == 'toa_nb' or not name.startswith('toa_nb.'): continue
        inner = name.removeprefix('toa_nb.')
        if inner in paths: yield inner


@pytest.mark.parametrize('module', paths)
def test_module_imports_only_what_sorts_before_it(module):
    assert {m for m in rooms_of(module) if paths[m] >= paths[module]} == set()


@pytest.mark.parametrize('module', paths)
def test_module_imports_from_rooms_not_from_wings(module):
    wings = {m.split('.')[0] for m in paths if '.' in m}
    from_wings = {n for n in imported(module) if n.startswith('toa_nb.') and n.count('.') == 1
                  and n.split('.')[1] in wings}
    assert from_wings == set()


@pytest.mark.parametrize('module', paths)
def test_module_takes_a_name_from_the_room_that_defines_it(module):
    tree = ast.parse(file_of(module).read_text(encoding='utf-8'))
    package = ['toa_nb', *module.split('.')[:-1]]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level: continue
        source = '.'.join([*package[1:len(package) - node.level + 1], node.module or '']).strip('.')
        if source in paths: assert {a.name for a in node.names} <= defined(source), source


def defined(module):
    "Names that a module binds at its top level other than by import."
    names = set()
    for node in ast.parse(file_of(module).read_text(encoding='utf-8')).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): names.add(node.name)
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            names |= {n.name for n in ast.walk(node) if isinstance(n, ast.ClassDef)}
    return names


@pytest.mark.parametrize('module', paths)
def test_module_imports_only_the_packages_of_its_wing(module):
    packages = {name.split('.')[0] for name in imported(module, top_only=True)}
    assert packages <= everywhere | allowed.get(module.split('.')[0], set()) | allowed.get(module, set())


@pytest.mark.parametrize('module', paths)
def test_methods_join_their_class_in_its_own_room(module):
    tree, here = ast.parse(file_of(module).read_text(encoding='utf-8')), defined(module)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and any('patch' in ast.unparse(d)
            for d in node.decorator_list):
            assert ast.unparse(node.args.args[0].annotation) in here, node.name


def test_every_module_has_a_notebook_in_the_folder_of_its_wing():
    files = {p.relative_to(root/'toa_nb').with_suffix('').as_posix().replace('/', '.')
             for p in (root/'toa_nb').rglob('*.py')}
    assert {f for f in files if not f.endswith('__init__') and f != '_modidx'} - {'__main__'} == set(paths)
    for module, path in paths.items():
        folder = path.split('/')[0] if '/' in path else ''
        assert folder[3:] == ('.'.join(module.split(
            '.')[:-1])) and path.split('/')[-1][3:-6] == module.split('.')[-1], path


def lines_of(module):
    "Lines of code, docstrings and comments, without the marks of nbdev and empty lines."
    lines = file_of(module).read_text(encoding='utf-8').splitlines()
    return sum(bool(line.strip()) and not line.startswith('# %%') for line in lines)


def test_no_room_holds_more_than_about_600_lines():
    assert {m: n for m in paths if (n := lines_of(m)) > 620} == {}
