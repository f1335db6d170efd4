"""How long the panels on stored runs take to open and to answer on a run of 1,000 prompts x 160 samples.

Run: python benchmarks/panels.py. The store is filled with made-up answers of about 800 characters by four models, in trees, 1 % of them failed.
Opening is from the call until the panel holds all that it shows; what the browser adds is in tests/test_browser_views.py.
"""
import argparse
import asyncio
import random
import tempfile
from pathlib import Path
from time import perf_counter

from toa_nb import Completion, Prompt, RunStore, Usage, to_frame
from toa_nb.core import Score, Trial

MODELS = ['Llama-3.1-8B-Instruct', 'Qwen2-7B-Instruct', 'Mistral-7B-Instruct-v0.2', 'Yi-1.5-9B-Chat-16K']
WORDS = ('air light sky blue wave scatters short long because every answer says that the sun is low at dusk and red '
         'then'.split())


async def fill(path, prompts, samples, seed=0):
    "Write a run of made-up samples."
    rng = random.Random(seed)
    tasks = [Prompt(f'p{i:04}', f'Question {i}: why is the sky blue?',
                    meta={'category': ['science', 'writing', 'coding'][i % 3]}) for i in range(prompts)]
    with RunStore(path) as store:
        store.create_run('toa', dict(method='toa', reward='rm', held_out=['gold'],
                                     models=[dict(name=m) for m in MODELS]), tasks)

        async def search(p):
            for n in range(samples):
                above = rng.randrange(n) if n > 3 and rng.random() < .8 else None
                kind, parents = ('fresh', ()) if above is None else ('refine', (above,))
                store.add_trial('toa', p.id, Trial(n, rng.choice(MODELS), (), parents, kind, tree_parent=above, seed=n))
                if rng.random() < .01: await store.finish('toa', p.id, n, error='CallTimeout: no answer within 60 s')
                else:
                    usage = Usage(rng.randrange(50, 500), rng.randrange(50, 900), rng.randrange(50))
                    scores = [Score('rm', rng.gauss(n / 400, .1), tokens=600), Score('gold', rng.random())]
                    await store.finish('toa', p.id, n, Completion(' '.join(rng.choices(WORDS, k=160)), usage,
                        latency=2.), scores=scores)
                store.mark_told('toa', p.id, n)
            store.event('toa', p.id, 'done', dict(cost=dict(samples=samples), scored=samples, best=.5))

        for start in range(0, prompts, 100): await asyncio.gather(*map(search, tasks[start:start + 100]))
        store.set_status('toa', 'finished', 3600.)


def timed(what, act):
    "Do something and print how long it took."
    start = perf_counter()
    result = act()
    print(f'| {what} | {perf_counter() - start:.2f} |', flush=True)
    return result


def measure(path):
    "Open each panel and use it."
    from toa_nb.panels.curves import CurvePanel
    from toa_nb.panels.samples import SampleBrowser
    from toa_nb.panels.trees import TreePanel
    print('| | seconds |\n|---|---|')
    with RunStore(path, 'r') as store: timed('`frame` alone', lambda: to_frame(store))
    curves = timed('CurvePanel: open', lambda: CurvePanel(path))
    timed('CurvePanel: another statistic', lambda: curves.set(y='top'))
    timed('CurvePanel: three categories, held-out reward', lambda: curves.set(facets=True, held_out='gold'))
    tree = timed('TreePanel: open', lambda: TreePanel(path))
    timed('TreePanel: next prompt', lambda: tree.next_prompt(1))
    timed('TreePanel: another node', lambda: tree.select(5))
    samples = timed('SampleBrowser: open', lambda: SampleBrowser(path))
    for search in dict(sort='best'), dict(text='dusk and'), dict(text='', model=MODELS[1]), dict(outcome='failed',
        model=''), dict(outcome='', low=.5):
        timed(f'SampleBrowser: {search}', lambda search=search: samples.set(**search))
    timed('SampleBrowser: next page', lambda: samples.turn(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--prompts', type=int, default=1000)
    parser.add_argument('--samples', type=int, default=160)
    parser.add_argument('--keep', type=Path, help='use this store, and make it where it is missing')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder)/'runs.db'
        if not path.exists(): asyncio.run(fill(path, args.prompts, args.samples))
        measure(path)


if __name__ == '__main__': main()
