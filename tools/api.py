"""The house and the public API as text, from the tables of `help()`, for the site and for llms-ctx.txt."""
import html
import inspect
import json
import pkgutil
import re
import sys
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

root = Path(__file__).parent.parent
sys.path.insert(0, str(root))
import toa_nb  # noqa: E402
from toa_nb.public import docstring, help_text, parameters, public_methods, sections, signature_of  # noqa: E402


class Room(NamedTuple):
    "A library notebook and its module."
    path: Path
    module: str
    about: str

    @property
    def wing(self):
        "The sub-package; empty on the ground floor."
        parts = self.module.split('.')
        return parts[1] if len(parts) > 2 else ''

    @property
    def title(self): return self.module.rpartition('.')[2].replace('_', ' ')


def cells(path):
    "The cells of a notebook as (kind, source, outputs)."
    notebook = json.loads(path.read_text(encoding='utf-8'))
    return [(c['cell_type'], ''.join(c['source']), c.get('outputs', [])) for c in notebook['cells']]


def rooms():
    "All library notebooks, in house order."
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        if any(part.startswith('.') for part in path.relative_to(root).parts): continue
        text = '\n'.join(source for _, source, _ in cells(path))
        module = re.search(r'^#\| default_exp ([\w.]+)', text, re.M)
        about = re.search(r'^> (.+)', text, re.M)
        if module: yield Room(path, f'toa_nb.{module[1]}', about[1] if about else '')


def by_wing(items):
    "The values of a dict by room, grouped: wing -> room -> value, in house order."
    found = {}
    for room, item in items.items(): found.setdefault(room.wing, {})[room] = item
    return found


def wing_title(wing): return wing.replace('_', ' ') or 'ground floor'


class Name(NamedTuple):
    "A public name."
    name: str
    value: object
    package: str  # The outermost package that offers it


def offered():
    "Every public name once."
    found = {}
    for package in ['toa_nb', *sorted(m.name for m in pkgutil.walk_packages(toa_nb.__path__, 'toa_nb.') if m.ispkg)]:
        home = import_module(package)
        for name in getattr(home, '__all__', ()):
            value = getattr(home, name)
            found.setdefault((name, id(value)), Name(name, value, package))
    return list(found.values())


def public_api():
    "The public names by the room that defines them, in house order."
    found, left = {}, offered()
    for room in rooms():
        defined = vars(import_module(room.module))
        here = [n for n in left if defined.get(n.name) is n.value]
        if here: found[room] = sorted(here, key=lambda n: list(defined).index(n.name))
        left = [n for n in left if n not in here]
    return found


def signature(value, name):
    "One line, or several of at most 88 columns: names and defaults."
    if not callable(value) or signature_of(value) is None: return name
    listed = ', '.join(f'{p.name}={p.default}' if p.default else p.name for p in parameters(value))
    mark = 'await ' if inspect.iscoroutinefunction(value) else ''
    return fill(f'{mark}{name}({listed})', 88, subsequent_indent='    ', break_on_hyphens=False)


def below(value):
    "The public methods of a class, by name; nothing else has any."
    return public_methods(value) if inspect.isclass(value) else {}


def listed(value):
    "A value that is no function and no class, in a sentence."
    about = '' if value.__doc__ == type(value).__doc__ else f'{value.__doc__}\n\n'
    kind = type(value).__name__
    if not isinstance(value, (dict, list, tuple, set)): return f'{about}An instance of `{kind}`.'
    return f'{about}A {kind} with ' + ', '.join(f'`{key}`' for key in value)


def inline(text):
    "Text with code in backticks, as HTML."
    parts = [html.escape(part, quote=False) for part in text.split('`')]
    return ''.join(f'<code>{part}</code>' if i % 2 else part for i, part in enumerate(parts))


def html_table(heading, rows):
    "The rows of one section as an HTML table."
    used = [i for i in range(4) if any(row[i] for row in rows)]
    heads = ('Name', 'Type', 'Value' if heading == 'Members' else 'Default', 'Meaning')
    lines = [''.join(f'<th>{heads[i]}</th>' for i in used)]
    for row in rows:
        shown = [row[i] if i == 3 or not row[i] else f'`{row[i]}`' for i in used]
        lines.append(''.join(f'<td>{inline(text)}</td>' for text in shown))
    table = '\n'.join(f'<tr>{line}</tr>' for line in lines)
    title = f'<p class="section">{heading}</p>'
    return f'{title}\n<div class="table-wrapper"><table class="docutils">\n{table}\n</table></div>'


def entry(title, value, depth):
    "What a page says about one name."
    head = f'{"#"*depth} {title}'
    if not (callable(value) or isinstance(value, property)): return f'{head}\n\n{listed(value)}'
    tables = [html_table(heading, rows) for heading, rows in sections(value).items()]
    text = f'<p>{inline(docstring(value))}</p>'
    return '\n\n'.join([head, f'```python\n{signature(value, title)}\n```', text, *tables])


def import_line(package, names):
    "An import, in several lines where it is long."
    line = f'from {package} import {", ".join(names)}'
    if len(line) <= 88: return line
    return f'from {package} import (\n{fill(", ".join(names), 84, initial_indent="    ", subsequent_indent="    ")})'


def page(title, found):
    "The page of a wing: rooms, names, methods."
    out = [f'# API: {title}']
    for room, names in found.items():
        out.append(f'## {room.module}\n\n{room.about}')
        for package in sorted({n.package for n in names}):
            out.append(f'```python\n{import_line(package, [n.name for n in names if n.package == package])}\n```')
        for n in names:
            out.append(entry(n.name, n.value, 3))
            out += [entry(f'{n.name}.{name}', method, 4) for name, method in below(n.value).items()]
    return '\n\n'.join(out) + '\n'


def plain(found):
    "The same for an assistant, as text."
    out = []
    for room, names in found.items():
        out.append(f'## {room.module}: {room.about}')
        for n in names:
            text = help_text(n.value) if callable(n.value) else listed(n.value)
            out.append(f'### {signature(n.value, n.name)}\nfrom {n.package} import {n.name}\n{text}')
            for name, method in below(n.value).items():
                out.append(f'#### {signature(method, f"{n.name}.{name}")}\n{help_text(method)}')
    return '\n\n'.join(out)
