"""Every panel, and a saved page, as axe-core sees them in Chromium, in the light and in the dark theme: no serious or critical fault.

axe-core comes from the npm registry, into a temporary folder; nothing of it is kept. `AXE` names a file `axe.min.js` that is there already.
"""
import asyncio
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browser import journey
from test_browser_views import NASTY, stored
from test_panels_views import fill

from toa_nb.panels.trees import TreePanel

pytestmark = pytest.mark.slow
BAD = 'serious', 'critical'
models = '''
from toa_nb import *
from toa_nb.panels import *
def reply(messages, seed): return 'x'*(seed % 50)
models = [FakeModel(n, reply) for n in 'ab']
reward = FunctionReward(lambda prompt, response: len(response)/100, name='length')
'''
plan = [dict(name='gone', url='http://127.0.0.1:1/v1')]
PANELS = dict(
    servers=f"panel = ServerPanel({plan}, every=60)\npanel.folds.selected_index = 0\npanel",
    new_run="RunPanel('new.db', prompts_from(['Why?', 'How?']), models, [reward])",
    stored_run="panel = RunPanel('access.db')\npanel.settings.selected_index = 1\npanel",
    curves="CurvePanel('access.db', x='tokens', held_out='gold', against='later', by='run')",
    tree="TreePanel('access.db', 'toa', 'sky')",
    samples="panel = SampleBrowser('access.db', 'toa')\npanel.choose(0, 1)\npanel",
    compare="ComparePanel('access.db')",
    empty="CurvePanel('empty.db')")


@pytest.fixture(scope='module')
def axe(tmp_path_factory):
    "The text of axe-core."
    if path := os.environ.get('AXE'): return Path(path).read_text(encoding='utf-8')
    if not shutil.which('npm'): pytest.skip('there is no npm: apt-get install npm, or set AXE')
    folder = tmp_path_factory.mktemp('axe')
    done = subprocess.run(['npm', 'install', '--no-save', '--ignore-scripts', 'axe-core@4'], cwd=folder, capture_output=True, text=True)
    if done.returncode: pytest.skip(f'npm brings no axe-core: {done.stderr[-200:]}')
    return (folder/'node_modules/axe-core/axe.min.js').read_text(encoding='utf-8')


def faults(lab, axe, selector):
    "What axe finds wrong inside of `selector`, in a line each."
    lab.page.evaluate(axe)
    found = lab.page.evaluate('async s => (await axe.run(s, {resultTypes: ["violations"]})).violations', selector)
    return [f'{v["impact"]} {v["id"]}: {n["html"][:160]} | {n["failureSummary"][:200]}'
            for v in found if v['impact'] in BAD for n in v['nodes']]


def two_runs(lab):
    "A store with two runs, and one without any."
    if (lab.notebooks/'access.db').exists(): return
    stored(lab, 'access.db', text=NASTY)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, fill(lab.notebooks/'access.db', 'later', text='**better** `{n}` $x^2$')).result()


@journey
def test_the_panels_have_no_serious_fault(lab, axe):
    two_runs(lab)
    lab.notebook(models, "RunStore('empty.db').close()", *PANELS.values())
    for theme in 'JupyterLab Light', 'JupyterLab Dark':
        lab.theme(theme)
        lab.until(f'() => document.querySelectorAll(".toa-panel").length >= {len(PANELS)}', 'not every panel is there')
        lab.page.wait_for_selector('.toa-busy', state='detached')
        assert (theme, faults(lab, axe, '.toa-panel')) == (theme, [])


@journey
def test_a_saved_page_has_no_serious_fault(lab, axe):
    two_runs(lab)
    def saved(): return TreePanel(lab.notebooks/'access.db', 'toa', 'sky').save(lab.notebooks/'page.html').read_text()
    with ThreadPoolExecutor(1) as thread: page = thread.submit(saved).result()
    lab.page.goto('about:blank')
    lab.page.set_content(page)
    lab.page.wait_for_selector('.toa-answer')
    assert faults(lab, axe, 'html') == []
