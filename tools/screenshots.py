"""Pictures of the panels, for README and tutorials: `python tools/screenshots.py [NAME ...]` writes them to nbs/images.

They show the runs of `make demo SMALL=1`, so that has to come first; JupyterLab and Chromium are needed as for the tests.
Each picture is a function here, which opens a notebook, does what the reader would do, and takes it.
"""
import shutil
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parent.parent
sys.path[:0] = [str(root), str(root/'tests')]
from browser import Lab, missing  # noqa: E402

demo = root/'runs/demo-small/demo.db'
replay = '''
from toa_nb import *
from toa_nb.panels import *
from toa_nb.rewards import Constraints
with RunStore('demo.db', 'r') as store:
    samples, prompts = [s for r in store.runs() for s in store.samples(r['name'])], store.prompts('toa')
class Slow(ReplayModel):
    async def generate(self, messages, *, seed):
        await asyncio.sleep(.3 + seed % 100/200)
        return await super().generate(messages, seed=seed)
import asyncio
models = [Slow(n, samples, prompts, spec='SmolLM2-135M-Instruct') for n in ('plain', 'bold', 'careful')]
'''


def run_settings(lab, out):
    "The run panel before a start, with the projection."
    lab.notebook(replay, "panel = RunPanel('new.db', prompts, models)\npanel")
    lab.press('.toa-RunPanel', 'Estimate')
    lab.see('.toa-RunPanel', '96 samples')
    lab.shot('.toa-RunPanel', out/'run_settings.png')


def run_going(lab, out):
    "The run panel while a run goes on."
    lab.notebook(replay, "panel = RunPanel('going.db', prompts, models)\npanel.set(n=96).start()\npanel")
    lab.page.wait_for_timeout(4000)
    lab.shot('.toa-RunPanel', out/'run_going.png')


def run_stored(lab, out):
    "The run panel on a stored run."
    lab.notebook('from toa_nb.panels import *', "RunPanel('demo.db')")
    lab.see('.toa-RunPanel', 'finished')
    lab.page.wait_for_timeout(1500)
    lab.shot('.toa-RunPanel', out/'run_stored.png')


def servers(lab, out):
    "The server panel with a real local server, a test prompt, and an endpoint that has no key."
    lab.notebook('from toa_nb.panels import *', """panel = ServerPanel([
    dict(engine='llama_cpp', name='smollm2-135m', parallel=4, spec='SmolLM2-135M-Instruct', max_tokens=112),
    dict(name='gpt-4o-mini', url='https://api.openai.com/v1', api_key_env='OPENAI_API_KEY')])
panel.folds.selected_index = 1
panel""")
    lab.press('.toa-ServerPanel', 'Start')
    lab.see('.toa-ServerPanel', 'ready')
    lab.press('.toa-ServerPanel', 'Ask')
    lab.see('.toa-ServerPanel', 'tokens read')
    lab.shot('.toa-ServerPanel', out/'servers.png')


def curves(lab, out):
    "All methods overlaid, and their differences to best-of-n."
    lab.notebook('from toa_nb.panels import *', "CurvePanel('demo.db', x='tokens', against='best_of_n')")
    lab.page.set_viewport_size(dict(width=1500, height=1400))
    lab.page.wait_for_selector('.toa-curve .end >> nth=8')
    lab.page.wait_for_timeout(500)
    lab.shot('.toa-CurvePanel', out/'curves.png')


def tree(lab, out):
    "A search tree, at a refined answer and what it changed."
    lab.notebook('from toa_nb.panels import *', "panel = TreePanel('demo.db', 'toa')\npanel",
                 "panel.select(next(n for n, s in panel.samples.items() if s.trial.parents))\npanel.view.value = "
                 "'difference'")
    lab.see('.toa-TreePanel', 'compared with')
    lab.shot('.toa-TreePanel', out/'tree.png')


def samples(lab, out):
    "Two samples beside each other."
    lab.notebook('from toa_nb.panels import *',
                 "browser = SampleBrowser('demo.db', 'toa', sort='best')\nbrowser", 'browser.choose(0, 1)')
    lab.page.wait_for_selector('.toa-SampleBrowser .toa-answer >> nth=1')
    lab.shot('.toa-SampleBrowser', out/'samples.png')


def compare(lab, out):
    "Two methods prompt by prompt."
    lab.notebook('from toa_nb.panels import *', "ComparePanel('demo.db', 'rounds', 'best_of_n')")
    lab.page.wait_for_selector('.toa-ComparePanel .toa-answer >> nth=1')
    lab.shot('.toa-ComparePanel', out/'compare.png')


SHOTS = [servers, run_settings, run_going, run_stored, curves, tree, samples, compare]


def main(names, out=root/'nbs/images'):
    if why := missing(): sys.exit(why)
    if not demo.exists(): sys.exit(f'{demo.relative_to(root)} is missing: run `make demo SMALL=1` first.')
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lab = Lab(folder)
        shutil.copy(demo, lab.notebooks)
        try:
            for shot in [s for s in SHOTS if not names or s.__name__ in names]:
                lab.thread.submit(lab.page.set_viewport_size, dict(width=1280, height=1800)).result() # no panel is cut off
                lab.thread.submit(shot, lab, out).result()
                lab.thread.submit(lab.settle).result()
                print(f'{out.relative_to(root)}/{shot.__name__}.png')
        finally: lab.close()


if __name__ == '__main__': main(sys.argv[1:])
