"""Executes the tutorials by replay and keeps their text and PNG outputs: `python tools/tutorials.py`. `make export` leaves outputs as they are."""
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

folder = Path(__file__).parent.parent/'nbs/tutorials'
kept = ('text/plain', 'image/png')


def plain(output):
    "The output without widgets, HTML and whatever else is no text and no picture; None if nothing is left."
    if output.output_type == 'stream': return output if output.name == 'stdout' else None
    output.data = {k: v for k, v in output.data.items() if k in kept and not (k == 'text/plain' and 'image/png' in output.data)}
    output.metadata = {}
    if 'execution_count' in output: output.execution_count = None
    return output if output.data else None


def main():
    os.environ['TOA_REPLAY'] = '1'
    for name in ('01_first_run', '02_methods', '03_rewards'):
        notebook = nbformat.read(folder/f'{name}.ipynb', as_version=4)
        with tempfile.TemporaryDirectory() as place:
            for data in folder.glob('*.jsonl'): (Path(place)/data.name).symlink_to(data)
            (Path(place)/'data').symlink_to(folder.parent.parent/'data')
            NotebookClient(notebook, timeout=300, kernel_name='python3', resources={'metadata': {'path': place}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop('execution', None)
            if cell.cell_type == 'code': cell.execution_count, cell.outputs = None, [o for o in map(plain, cell.outputs) if o]
        notebook.metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
        nbformat.write(notebook, folder/f'{name}.ipynb')


if __name__ == '__main__': main()
