"""The outputs that notebooks keep: text and PNG pictures, in the tutorials and where a figure or a table is the point.

    python tools/outputs.py [NOTEBOOK ...]   execute these, or all that keep outputs, and keep what they show
    python tools/outputs.py --tidy           execute nothing; remove what is not to be kept, as `make export` does
"""
import fnmatch
import json
import os
import re
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parent.parent
nbs = root/'nbs'
KEPT = ('tutorials/*', '*compute.ipynb', '*tree.ipynb', '*analysis*', '*plot.ipynb')  # paths below nbs/
UNPLAYED = ('04_servers.ipynb', '05_cockpit.ipynb', '07_paper.ipynb')  # tutorials that show real servers and widgets
SKIPPED = r'#\|\s*(eval:\s*false|gpu|net|slow)\b'
SHOWN = ('image/png', 'text/plain')  # the first that an output has is kept


def keeps(path): return any(fnmatch.fnmatch(path.relative_to(nbs).as_posix(), pattern) for pattern in KEPT)


def notebooks(): return [path for path in sorted(nbs.rglob('*.ipynb')) if '.ipynb_checkpoints' not in path.parts]


def plain(output):
    "An output as text or as a picture, and nothing else; None if nothing is left."
    if output['output_type'] == 'stream': return dict(output) if output['name'] == 'stdout' else None
    kind = next((kind for kind in SHOWN if kind in output.get('data', {})), None)
    if kind is None: return None
    kept = dict(output_type=output['output_type'], metadata={}, data={kind: output['data'][kind]})
    return kept | ({'execution_count': None} if output['output_type'] == 'execute_result' else {})


def tidy(notebook, keep):
    "Leave the outputs that are kept, if `keep`, and no traces of an execution."
    for cell in notebook['cells']:
        if cell['cell_type'] != 'code': continue
        cell['metadata'].pop('execution', None)
        cell['execution_count'] = None
        cell['outputs'] = [kept for kept in map(plain, cell['outputs']) if kept] if keep else []
    notebook['metadata'].pop('widgets', None)


def read(path): return json.loads(path.read_text(encoding='utf-8'))


def write(notebook, path):
    "Write a notebook as nbdev does, if that changes it."
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + '\n'
    if text != path.read_text(encoding='utf-8'): path.write_text(text, encoding='utf-8')


def execute(path, place):
    "The outputs of each cell, by replay; cells that nbdev does not test are left out."
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == 'code' and re.search(SKIPPED, cell.source): cell.source = ''
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(place)}}).execute()
    return json.loads(nbformat.writes(notebook))


def private(notebook, place):
    "The paths of this machine that the outputs show."
    text = json.dumps([cell.get('outputs', []) for cell in notebook['cells']])
    paths = {str(root), str(place), str(Path.home()), tempfile.gettempdir()}
    return sorted(path for path in paths if re.search(re.escape(path) + r'\b', text))


def refresh(path):
    "Execute a notebook and keep its outputs: a tutorial in a folder of its own with its data, others where they are."
    with tempfile.TemporaryDirectory() as folder:
        place = path.parent
        if place.name == 'tutorials':
            for data in place.glob('*.jsonl'): (Path(folder)/data.name).symlink_to(data)
            (Path(folder)/'data').symlink_to(root/'data')
            place = Path(folder)
        executed = execute(path, place)
    notebook = read(path)
    for cell, ran in zip(notebook['cells'], executed['cells'], strict=True):
        if cell['cell_type'] == 'code': cell['outputs'] = ran['outputs']
    tidy(notebook, keep=True)
    if shown := private(notebook, folder): sys.exit(f'{path}: outputs show {", ".join(shown)}. Nothing is written.')
    write(notebook, path)


def main(names):
    if '--tidy' in names:
        for path in notebooks():
            notebook = read(path)
            tidy(notebook, keeps(path))
            write(notebook, path)
        return
    paths = [Path(name).resolve() for name in names] or [p for p in notebooks() if keeps(p) and p.name not in UNPLAYED]
    others = [path.name for path in paths if not keeps(path)]
    if others: sys.exit(f'KEPT in tools/outputs.py lacks {", ".join(others)}')
    os.environ |= dict(TOA_REPLAY='1', PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]))
    for path in paths:
        refresh(path)
        print(path.relative_to(root))


if __name__ == '__main__': main(sys.argv[1:])
