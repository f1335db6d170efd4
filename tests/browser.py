"""JupyterLab in a real browser, once per test session: the fixture `lab`, and the decorator `journey` for tests that use it.

Playwright's synchronous interface keeps an event loop running in its thread, in which `asyncio.run` of other tests would fail;
therefore browser, page and the bodies of the journeys live in one thread of their own.
"""
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

root = Path(__file__).parent.parent
PATIENCE = 180.  # seconds; ends what would never end, and measures nothing
chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
quiet = {'fetchNews': 'false', 'checkForUpdates': False, 'doNotDisturbMode': True}
ready = """async () => {
    const session = window.jupyterapp?.shell.currentWidget?.sessionContext
    if (!session?.isReady) return false
    const kernel = session.session?.kernel
    return kernel?.connectionStatus === 'connected' && !!(await kernel.info)
}"""
done = """() => {
    const cells = window.jupyterapp.shell.currentWidget?.content?.widgets?.filter(c => c.model.type === 'code' && c.model.sharedModel.source)
    return !!cells?.length && cells.every(c => c.model.executionCount !== null && c.model.executionState !== 'running')
}"""

raised = """() => {
    const cells = window.jupyterapp.shell.currentWidget?.content?.widgets?.filter(c => c.model.type === 'code') || []
    const outputs = cells.flatMap(c => c.model.sharedModel.getOutputs()).filter(o => o.output_type === 'error')
    return outputs.map(o => `${o.ename}: ${o.evalue}`).join(', ')
}"""

replace = """sources => {
    const notebook = window.jupyterapp.shell.currentWidget.content.model.sharedModel
    notebook.deleteCellRange(0, notebook.cells.length)
    notebook.insertCells(0, sources.map(source => ({cell_type: 'code', source, metadata: {}, outputs: [], execution_count: null})))
}"""


class Lab:
    "A JupyterLab server and a page that shows it."
    def __init__(self, folder):
        self.folder, self.port = Path(folder), free_port()
        self.url, self.errors, self.outside = f'http://127.0.0.1:{self.port}', [], []
        self.notebooks = self.folder/'notebooks'
        self.notebooks.mkdir()
        self.server = subprocess.Popen(command(self.port, self.notebooks), env=environment(self.folder),
                                       cwd=self.notebooks,
                                       stdout=open(self.folder/'log', 'wb'), stderr=subprocess.STDOUT)
        self.thread = ThreadPoolExecutor(1)
        self.thread.submit(self.open).result()

    def open(self):
        "Start the browser and wait for the server."
        from playwright.sync_api import sync_playwright
        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=chromium,
                                                       args=['--no-sandbox', '--disable-dev-shm-usage',
                                                             '--disable-gpu'])
        self.page = self.browser.new_page(viewport=dict(width=1280, height=1000))
        self.page.set_default_timeout(1000*PATIENCE)
        self.page.on('console', lambda m: self.errors.append(m.text) if m.type == 'error' else None)
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))
        self.page.on('request', lambda r: self.outside.append(r.url)
                     if not r.url.startswith((self.url, 'data:', 'blob:', 'about:')) else None)
        wait_for(self.answers, lambda: (self.folder/'log').read_text(errors='replace')[-2000:])

    def answers(self):
        "Does the server answer?"
        try: return urlopen(f'{self.url}/api/status', timeout=2).status == 200
        except (URLError, OSError): return False

    def notebook(self, *sources):
        "Run these code cells to their end, in the notebook that is open, or in a new one."
        if self.page.url.startswith(f'{self.url}/lab/'): self.page.evaluate(replace, sources)
        else: self.open_notebook(sources)
        self.until(ready, 'the kernel does not get ready')
        self.run_all()

    def open_notebook(self, sources):
        "A notebook with a kernel of its own."
        path = self.notebooks/'journey.ipynb'
        rows = [dict(cell_type='code', id=f'c{i}', metadata={}, execution_count=None, outputs=[], source=s)
                for i, s in enumerate(sources)]
        kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
        path.write_text(json.dumps(dict(cells=rows, metadata=kernel, nbformat=4, nbformat_minor=5)))
        self.page.goto(f'{self.url}/lab/tree/{path.name}?reset')

    def until(self, script, why):
        "Wait until a script in the page says yes."
        wait_for(lambda: self.page.evaluate(script), lambda: why, self.page)

    def run_all(self):
        "Run all cells of the open notebook, to the end."
        self.command('notebook:run-all-cells')
        def ended():
            assert not (error := self.page.evaluate(raised)), error
            return self.page.evaluate(done)
        wait_for(ended, lambda: 'the cells do not come to an end', self.page)

    def restart(self):
        "Start the kernel anew, as somebody does who comes back tomorrow, and run all cells again."
        self.command('notebook:clear-all-cell-outputs')
        self.page.evaluate('() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()')
        self.until(ready, 'the kernel does not get ready')
        self.run_all()

    def command(self, name, **args):
        "Execute a command of JupyterLab, without waiting for its promise."
        self.page.evaluate('([name, args]) => { window.jupyterapp.commands.execute(name, args) }', [name, args])

    def theme(self, name):
        "Switch to a theme, such as `JupyterLab Dark`."
        self.command('apputils:change-theme', theme=name)
        self.page.wait_for_selector(f'body[data-jp-theme-name="{name}"]', state='attached')
        self.page.wait_for_selector('#jupyterlab-splash', state='detached')

    def text(self, selector):
        "The text that a reader sees at the first match."
        return self.page.locator(selector).first.inner_text()

    def see(self, selector, text):
        "Wait until the first match shows `text`."
        wait_for(lambda: text in (self.text(selector) if self.page.locator(selector).count() else ''),
                 lambda: f'{text!r} is not in '
                         f'{self.text(selector) if self.page.locator(selector).count() else "nothing: no " + selector!r}', self.page)

    def press(self, selector, label):
        "Click the button that says `label`."
        self.page.locator(selector).get_by_role('button', name=label, exact=True).first.click()

    def shot(self, selector, path):
        "A picture of what `selector` matches."
        self.page.mouse.move(0, 0)
        self.page.locator(selector).first.screenshot(path=str(path), animations='disabled')

    def settle(self, again=True):
        "Put the page back as it was, and forget what it saw. Notebook and kernel stay for the next journey, unless not `again`."
        if self.page.locator('body[data-jp-theme-light="false"]').count(): self.theme('JupyterLab Light')
        if not again:
            for session in json.load(urlopen(f'{self.url}/api/sessions')):
                urlopen(Request(f'{self.url}/api/sessions/{session["id"]}', method='DELETE'))
            self.page.goto('about:blank')
        self.page.set_viewport_size(dict(width=1280, height=1000))
        self.errors.clear()
        self.outside.clear()

    def close(self):
        "End browser and server."
        def end():
            self.browser.close()
            self.playwright.stop()
        self.thread.submit(end).result()
        self.thread.shutdown()
        self.server.terminate()
        self.server.wait(20)


def command(port, notebooks):
    "JupyterLab for tests: this machine only, no token."
    return [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}',
            '--ServerApp.port_retries=0',
            '--IdentityProvider.token=', '--ServerApp.password=', '--ServerApp.disable_check_xsrf=True',
            f'--ServerApp.root_dir={notebooks}',
            '--LabApp.expose_app_in_browser=True', '--ServerApp.terminals_enabled=False']


def environment(folder):
    "An environment in which JupyterLab keeps everything in `folder`, and toa_nb is the checkout."
    settings = folder/'settings'/'@jupyterlab'/'apputils-extension'
    settings.mkdir(parents=True)
    (settings/'notification.jupyterlab-settings').write_text(json.dumps(quiet))
    places = dict(HOME='home', JUPYTER_CONFIG_DIR='config', JUPYTER_DATA_DIR='data', JUPYTER_RUNTIME_DIR='runtime',
                  IPYTHONDIR='ipython',
                  JUPYTERLAB_WORKSPACES_DIR='workspaces', JUPYTERLAB_SETTINGS_DIR='settings', TOA_STATE='state')
    for name in places.values(): (folder/name).mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')]))
    return os.environ | {k: str(folder/v) for k, v in places.items()} | {'PYTHONPATH': path}


def free_port():
    "A port that is free now."
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


def wait_for(true, why, page=None):
    "Wait until `true()`, and fail with `why()` where that takes too long even for a busy machine."
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, why()
        if page: page.wait_for_timeout(50)
        else: time.sleep(.1)


def missing():
    "Why there can be no journey on this machine; empty if there can."
    if not chromium: return 'there is no chromium: apt-get install chromium fonts-liberation'
    for package in ('playwright', 'jupyterlab', 'anywidget'):
        try: __import__(package)
        except ImportError: return f"{package} is not installed: pip install -e '.[dev]'"
    return ''


@pytest.fixture(scope='session')
def lab():
    "One server and one page for all journeys."
    if why := missing(): pytest.skip(why)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lab = Lab(folder)
        yield lab
        lab.close()


def journey(test):
    "A test in the thread of the browser; afterwards the console must hold no error, and no request may have left the machine."
    @functools.wraps(test)
    def run(lab, **others):
        def body():
            good = False
            try:
                test(lab, **others)
                assert not lab.errors, lab.errors
                assert not lab.outside, lab.outside
                good = True
            finally: lab.settle(again=good)
        lab.thread.submit(body).result()
    return run
