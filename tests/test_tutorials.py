"""The tutorials run from top to bottom in a kernel of their own: by replay always, on the real local models with the slow tests."""
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

folder = Path(__file__).parent.parent/'nbs/tutorials'
replayed = ['01_first_run', '02_methods', '03_rewards', '05_cockpit', '06_data', '08_search']


def run(name, tmp_path, monkeypatch, replay):
    for data in folder.glob('*.jsonl'): (tmp_path/data.name).symlink_to(data)
    (tmp_path/'data').symlink_to(folder.parent.parent/'data')
    monkeypatch.setenv('TOA_REPLAY', '1') if replay else monkeypatch.delenv('TOA_REPLAY', raising=False)
    notebook = nbformat.read(folder/f'{name}.ipynb', as_version=4)
    NotebookClient(notebook, timeout=1500, kernel_name='python3',
                   resources={'metadata': {'path': str(tmp_path)}}).execute()
    return notebook


def pictures(notebook):
    return sum('image/png' in out.get('data', {}) for cell in notebook.cells for out in cell.get('outputs', []))


@pytest.mark.parametrize('name', replayed)
def test_by_replay(name, tmp_path, monkeypatch):
    assert pictures(run(name, tmp_path, monkeypatch, replay=True)) == {'01_first_run': 2, '02_methods': 6,
        '03_rewards': 3, '05_cockpit': 0, '06_data': 3, '08_search': 5}[name]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['01_first_run', '04_servers', '07_paper'])
def test_on_real_models(name, tmp_path, monkeypatch):
    run(name, tmp_path, monkeypatch, replay=False)
