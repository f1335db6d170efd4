"""Pictures of every panel: small, middle, wide, dark, empty and failing. Run: python tools/pictures.py [--panel NAME] [--out DIR]

The panels show recorded answers, which are replayed into a store first; JupyterLab and Chromium are needed as for the tests.
`_pictures` is the default folder. The pictures of README and tutorials are those of `python tools/screenshots.py`, which need `make demo SMALL=1`.
"""
import argparse
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parent.parent
sys.path[:0] = [str(root), str(root/'tests')]
from browser import Lab, missing  # noqa: E402

WIDTHS = dict(small=480, middle=900, wide=1500)  # pixels of the panel itself
made = f'''
import asyncio, os, shutil
from toa_nb import *
from toa_nb.core import ConnectionFailed
from toa_nb.panels import *
recorded = load_samples({str(root/'nbs/tutorials/rewards.jsonl')!r})
asked = {{s.prompt_id for s in recorded}}
prompts = [p for p in load_prompts({str(root/'data/instructions.jsonl')!r}) if p.id in asked]
def different_words(prompt, response): return len({{word.strip('.,:;!?*"').lower() for word in response.split()}})
def replay(**options):
    return [ReplayModel(n, recorded, prompts, spec='SmolLM2-135M-Instruct', **options) for n in ('plain', 'bold', 'careful')]
class Slow(ReplayModel):
    async def generate(self, messages, *, seed):
        await asyncio.sleep(.3 + seed % 100/200)
        return await super().generate(messages, seed=seed)
def unreachable(n): return ConnectionFailed('http://gpu-node-17.cluster.example:8000/v1: connection refused. Is the server running?')
models, held_out = replay(), FunctionReward(different_words)
'''
stored = '''
if not os.path.exists('runs.db'):
    for method in (BestOfN(n=16), PRS(n=16), ParallelEnsemble(n=16), MoA(n=16), TOA(n=16), Rounds(n=16)):
        await Run(prompts, method, models, Constraints(), held_out=[held_out], store='runs.db', concurrency=24)
    await Run(prompts, BestOfN(n=4), [FakeModel('qwen2.5-7b-instruct', fail=unreachable)], Constraints(), store='failed.db')
    RunStore('empty.db').close()
def vanished(panel, act):
    """A panel whose store was deleted, after `act`."""
    shutil.copy('runs.db', 'gone.db')
    panel = panel('gone.db')
    os.remove('gone.db')
    panel.attempt(lambda: act(panel))
    return panel
'''
SERVERS = '''ServerPanel([dict(engine='llama_cpp', name='smollm2-135m', parallel=4, spec='SmolLM2-135M-Instruct'),
    dict(engine='vllm', name='qwen', model='Qwen/Qwen3-8B', gpus=[0, 1], replicas=2),
    dict(name='gpt-4o-mini', url='https://api.openai.com/v1', api_key_env='OPENAI_API_KEY')], every=60)'''
STATES = {  # code of a cell by panel and state
    ('servers', 'full'): f'panel = {SERVERS}\npanel.folds.selected_index = 0\npanel',
    ('servers', 'empty'): 'ServerPanel()',
    ('servers', 'failing'): "panel = ServerPanel([dict(name='gone', url='http://127.0.0.1:1/v1')], every=60)\nawait panel.look()\n"
                            "panel.folds.selected_index = 1\npanel.attempt(lambda: panel.ask('Hello?'))\npanel",
    ('run', 'new'): "panel = RunPanel('new.db', prompts, models)\npanel.estimate()\npanel",
    ('run', 'stored'): "panel = RunPanel('runs.db')\npanel.settings.selected_index = 1\npanel",
    ('run', 'going'): "panel = RunPanel('going.db', prompts[:8], [Slow(n, recorded, prompts, spec='SmolLM2-135M-Instruct') for n in "
                      "('plain', 'bold')])\npanel.set(n=96).start()\npanel",
    ('run', 'empty'): "RunPanel('empty.db')",
    ('run', 'failing'): "RunPanel('failed.db')",
    ('run', 'vanished'): "vanished(RunPanel, lambda panel: panel.refresh())",
    ('curves', 'full'): "CurvePanel('runs.db', against='best_of_n')",
    ('curves', 'two'): "CurvePanel('runs.db', runs=['best_of_n', 'rounds'], held_out='different_words', log=True)",
    ('curves', 'empty'): "CurvePanel('empty.db')",
    ('curves', 'failing'): "CurvePanel('failed.db')",
    ('curves', 'vanished'): 'vanished(CurvePanel, lambda panel: panel.reread())',
    ('tree', 'full'): "panel = TreePanel('runs.db', 'toa')\npanel.select(next(n for n, s in panel.samples.items() if s.trial.parents))\n"
                      "panel.view.value = 'difference'\npanel",
    ('tree', 'known'): "TreePanel('runs.db', 'rounds')",
    ('tree', 'empty'): "TreePanel('empty.db')",
    ('tree', 'failing'): "TreePanel('failed.db')",
    ('tree', 'vanished'): 'vanished(TreePanel, lambda panel: panel.reread())',
    ('samples', 'full'): "panel = SampleBrowser('runs.db', 'toa', sort='best')\npanel.choose(0, 1)\npanel",
    ('samples', 'one'): "SampleBrowser('runs.db', 'toa')",
    ('samples', 'empty'): "SampleBrowser('empty.db')",
    ('samples', 'failing'): "SampleBrowser('failed.db')",
    ('samples', 'vanished'): "vanished(SampleBrowser, lambda panel: panel.set(text='the'))",
    ('compare', 'full'): "ComparePanel('runs.db', 'rounds', 'best_of_n')",
    ('compare', 'empty'): "ComparePanel('empty.db')",
    ('compare', 'failing'): "ComparePanel('failed.db')",
    ('compare', 'vanished'): "vanished(ComparePanel, lambda panel: panel.set(sort='best'))",
}
FULL = 'full', 'new', 'stored', 'going'  # states that are shown in every width and in the dark theme


def sizes(state):
    "The looks of a state: a name, the width of the panel, and the theme."
    light = list(WIDTHS.items()) if state in FULL else [('small', 480), ('middle', 900)]
    return [(name, width, 'JupyterLab Light') for name, width in light] + [('dark', 900, 'JupyterLab Dark')]*(state in FULL or state == 'failing')


def fit(lab, width):
    "Make the panels so many pixels wide."
    lab.page.evaluate("""width => {
        const style = document.getElementById('width') || document.head.appendChild(Object.assign(document.createElement('style'), {id: 'width'}))
        style.textContent = `.toa-panel { width: ${width}px !important; flex: none !important }`
    }""", width)
    lab.page.wait_for_function('w => document.querySelector(".toa-panel").offsetWidth === w', arg=width)


def panel_pictures(lab, name, out):
    "All pictures of a panel."
    states = {state: code for (panel, state), code in STATES.items() if panel == name}
    lab.notebook(made, stored, *states.values())
    lab.page.set_viewport_size(dict(width=2000, height=2800))
    lab.until(f'() => document.querySelectorAll(".toa-panel").length >= {len(states)}', 'not every panel is there')
    lab.page.wait_for_selector('.toa-busy', state='detached')
    for theme in 'JupyterLab Light', 'JupyterLab Dark':
        lab.theme(theme)
        for look, width in dict.fromkeys((look, width) for s in states for look, width, t in sizes(s) if t == theme):
            fit(lab, width)
            lab.page.wait_for_timeout(600)
            for i, state in enumerate(states):
                if (look, width, theme) not in sizes(state): continue
                path = out/f'{name}-{state}-{look}.png'
                lab.page.mouse.move(0, 0)
                lab.page.locator('.toa-panel').nth(i).screenshot(path=str(path), animations='disabled')
                print(path, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--panel', choices=sorted({panel for panel, _ in STATES}), help='only this one')
    parser.add_argument('--out', type=Path, default=root/'_pictures', help='folder of the pictures')
    args = parser.parse_args()
    if why := missing(): sys.exit(why)
    args.out.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lab = Lab(folder)
        try:
            for name in dict.fromkeys(panel for panel, _ in STATES):
                if args.panel in (None, name): lab.thread.submit(panel_pictures, lab, name, args.out).result()
        finally: lab.close()


if __name__ == '__main__': main()
