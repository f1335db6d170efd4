"""Makes README.md from nbs/index.ipynb: prose with its links seen from the root, code fenced, text output below it.

The table of the library's rooms in nbs/index.ipynb is made from the folders of nbs/ first."""
import json
import re
from pathlib import Path
from posixpath import normpath

root = Path(__file__).parent.parent
nbs = root/'nbs'
LIBRARY = 'The library, from the bottom up.'


def rooms(folder):
    "Links to the notebooks of a folder, in their order."
    return ', '.join(f'[{p.stem[3:].replace("_", " ")}]({p.relative_to(nbs).as_posix()})'
                     for p in sorted(folder.glob('[0-9][0-9]_*.ipynb')))


def library():
    "The wings and their rooms, as a Markdown table."
    wings = [f'| `toa_nb.{folder.name[3:]}` | {rooms(folder)} |' for folder in sorted(nbs.glob('[0-9][0-9]_*/'))]
    lines = [f'{LIBRARY} A room imports only what stands before it.', '', '| wing | rooms |', '|---|---|',
             f'| `toa_nb` | {rooms(nbs)} |', *wings]
    return '\n'.join(lines)


def cell_text(cell):
    source = ''.join(cell['source']).strip()
    if cell['cell_type'] == 'markdown':
        return re.sub(r'\]\((?!http|#)([^)]+)\)', lambda m: f"]({normpath('nbs/' + m[1])})", source)
    lines = [line for line in source.split('\n') if not line.startswith('#|')]
    printed = ''.join(''.join(o.get('text', o.get('data', {}).get('text/plain', ''))) for o in cell.get('outputs', []))
    return '```python\n' + '\n'.join(lines).strip() + '\n```' + (f'\n\n```\n{printed.rstrip()}\n```' if printed else '')


def main():
    index = nbs/'index.ipynb'
    book = json.loads(index.read_text(encoding='utf-8'))
    for cell in book['cells']:
        if ''.join(cell['source']).startswith(LIBRARY): cell['source'] = library().splitlines(True)
    index.write_text(json.dumps(book, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    (root/'README.md').write_text('\n\n'.join(t for c in book['cells'] if (t := cell_text(c))) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
