"""Figures about the library notebooks, to hold against the house rules: `python tools/figures.py [CHECKOUT]`.

A star marks what is outside of them: export cells with a median under 10 lines and none above 40, at most three export
cells in a row without a test, about 600 exported lines per module, lines of at most 120 columns. `file` counts the
lines of the module with what nbdev adds.
"""
import json
import re
import sys
from pathlib import Path
from statistics import median

LIMITS = dict(median=9.5, longest=40, untested=3, lines=600, columns=120)


def code_cells(path):
    "Each code cell as (is exported, lines without directives)."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code': continue
        source = ''.join(cell['source'])
        lines = [line for line in source.split('\n') if not line.startswith('#|')]
        yield re.match(r'#\|\s*exports?i?\s*$', source, re.M) is not None, '\n'.join(lines).strip().split('\n')


def is_test(lines):
    "A cell that checks something; imports alone do not count."
    code = [line for line in lines if not re.match(r'(from|import) ', line)]
    return any(re.search(r'\b(test_\w+|test|assert)\b', line) for line in code)


def untested(cells):
    "The longest stretch of export cells without a test in between. The imports at the start do not count."
    longest = run = 0
    for exported, lines in cells:
        if exported and not all(re.match(r'(from|import) |[ )]|$', line) for line in lines): run += 1
        elif not exported and is_test(lines): run = 0
        longest = max(longest, run)
    return longest


def figures(path, root):
    "One row, or None for a notebook without a module."
    module = re.search(r'#\| default_exp ([\w.]+)', path.read_text(encoding='utf-8'))
    cells = list(code_cells(path))
    exported = [lines for out, lines in cells if out]
    if module is None or not exported: return None
    sizes = [len(lines) for lines in exported]
    file = (root/'toa_nb'/module[1].replace('.', '/')).with_suffix('.py')
    return dict(module=module[1], exports=len(sizes), median=median(sizes), longest=max(sizes),
                untested=untested(cells), lines=sum(sizes), file=len(file.read_text(encoding='utf-8').splitlines()),
                columns=max(len(line) for lines in exported for line in lines))


def notebooks(root): return [p for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]


def rows(root):
    "The figures of every notebook with a module."
    return [row for path in notebooks(root) if (row := figures(path, root))]


def over(row):
    "The figures of a room that are above a limit. The median is a goal for the whole house, not for each room."
    return {name: row[name] for name, limit in LIMITS.items() if name != 'median' and row[name] > limit}


def main(root):
    found = rows(root)
    print(f'{"module":32}' + ''.join(f'{name:>10}' for name in list(found[0])[1:]))
    for row in found:
        values = list(row.items())[1:]
        marked = [f'{value:g}{"*" if value > LIMITS.get(name, value) else " "}' for name, value in values]
        print(f'{row["module"]:32}' + ''.join(f'{text:>10}' for text in marked))
    total = {name: sum(row[name] for row in found) for name in ('exports', 'lines')}
    for row in found:
        if over(row): print(f"    '{row['module']}': dict({', '.join(f'{name}={value}' for name, value in over(row).items())}),")
    print(f'\n{len(found)} modules, {total["exports"]} export cells, {total["lines"]} exported lines')


if __name__ == '__main__': main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent)
