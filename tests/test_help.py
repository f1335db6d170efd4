"""Help that teaches: every public name of every package has a docstring, and every parameter its meaning."""
import inspect
import pkgutil
import pydoc
from importlib import import_module

import pytest

import toa_nb
from toa_nb.public import docstring, parameters, public_methods

packages = ['toa_nb', *(m.name for m in pkgutil.walk_packages(toa_nb.__path__, 'toa_nb.') if m.ispkg)]
offered = {package: getattr(import_module(package), '__all__', ()) for package in packages}
public = {f'{package}.{name}': (package, name) for package, names in offered.items() for name in names}


def described(value):
    "The object and its public methods, by name."
    yield '', value
    if inspect.isclass(value): yield from ((f'.{name}', method) for name, method in public_methods(value).items())


def gaps(value, name):
    "What lacks a docstring, and the parameters that lack a comment."
    for below, thing in described(value):
        made_by_dataclass = inspect.isclass(thing) and docstring(thing).startswith(f'{thing.__name__}(')
        if not docstring(thing) or made_by_dataclass: yield name + below
        if isinstance(thing, property): continue
        yield from (f'{name}{below}({row.name})' for row in parameters(thing) if not row.meaning)


@pytest.mark.parametrize('name', public)
def test_help_shows_every_parameter(name):
    package, short = public[name]
    value = getattr(import_module(package), short)
    text = ' '.join(pydoc.render_doc(value, renderer=pydoc.plaintext).split())
    assert docstring(value).splitlines()[0] in text
    for row in parameters(value):
        assert row.name in text
        assert row.meaning.split(' ')[0] in text


def all_gaps():
    "What every public name lacks, sorted."
    found = set()
    for package, name in public.values(): found |= {*gaps(getattr(import_module(package), name), name)}
    return sorted(found)


def test_everything_public_is_described():
    assert all_gaps() == []


@pytest.mark.parametrize('package', packages)
def test_a_public_name_is_not_also_a_module(package):
    modules = {module.name for module in pkgutil.iter_modules(import_module(package).__path__)}
    assert modules & {*offered[package]} == set()
