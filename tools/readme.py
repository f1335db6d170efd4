"""Makes README.md from nbs/index.ipynb: prose with its links seen from the root, code fenced, text output below it."""
import json
import re
from pathlib import Path
from posixpath import normpath

root = Path(__file__).parent.parent


def cell_text(cell):
    source = ''.join(cell['source']).strip()
    if cell['cell_type'] == 'markdown': return re.sub(r'\]\((?!http|#)([^)]+)\)', lambda m: f"]({normpath('nbs/' + m[1])})", source)
    lines = [line for line in source.split('\n') if not line.startswith('#|')]
    printed = ''.join(''.join(o.get('text', o.get('data', {}).get('text/plain', ''))) for o in cell.get('outputs', []))
    return '```python\n' + '\n'.join(lines).strip() + '\n```' + (f'\n\n```\n{printed.rstrip()}\n```' if printed else '')


cells = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
(root/'README.md').write_text('\n\n'.join(t for c in cells if (t := cell_text(c))) + '\n', encoding='utf-8')
