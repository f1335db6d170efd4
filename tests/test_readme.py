"""The README keeps its word: its code runs, its links and commands exist."""
import ast
import asyncio
import inspect
import json
import re
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
readme = (root/'README.md').read_text(encoding='utf-8')


def test_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for source in re.findall(r'```python\n(.*?)```', readme, re.S):
        code = compile(source, 'README.md', 'exec', flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, {'__name__': 'readme'})
        if inspect.iscoroutine(result): asyncio.run(result)
    assert 'finished 64' in capsys.readouterr().out


@pytest.mark.parametrize('link', re.findall(r'\]\((?!http|#)([^)]+)\)', readme))
def test_link_leads_somewhere(link): assert (root/link).exists()


@pytest.mark.parametrize('target', sorted(set(re.findall(r'^make (\S+)', readme, re.M))))
def test_make_target_exists(target): assert re.search(rf'^{target}:', (root/'Makefile').read_text(), re.M)


def links(path):
    "Relative links in the prose of a notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    prose = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    return [link.split('#')[0] for link in re.findall(r'\]\((?!http|#|attachment)([^)\s]+)\)', prose)]


@pytest.mark.parametrize('path', sorted((root/'nbs').rglob('*.ipynb')), ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    assert [link for link in links(path) if not (path.parent/link).exists()] == []
