"""How long the panels take to open, and to answer, on a run of 1,000 prompts x 160 samples. `python benchmarks/panels.py [--prompts N] [--samples N] [--keep FILE]`.

The store is filled with made-up answers of about 800 characters by four models with cards, in trees, 1 % of them failed.
"""
import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from toa_nb import Completion, Prompt, RunStore, Usage
from toa_nb.core import Score, Trial

MODELS = ['Llama-3.1-8B-Instruct', 'Qwen2-7B-Instruct', 'Mistral-7B-Instruct-v0.2', 'Yi-1.5-9B-Chat-16K']
WORDS = 'air light sky blue wave scatters short long because every answer says that the sun is low at dusk and red then'.split()


async def fill(path, prompts, samples, seed=0):
    "Write a run of made-up samples."
    rng = random.Random(seed)
    tasks = [Prompt(f'p{i:04}', f'Question {i}: why is the sky blue?', meta={'category': ['science', 'writing', 'coding'][i % 3]}) for i in range(prompts)]
    with RunStore(path) as store:
        store.create_run('toa', dict(method='toa', reward='rm', watch=['judge'], models=[dict(name=m) for m in MODELS]), tasks)

        async def search(p):
            for n in range(samples):
                above = rng.randrange(n) if n > 3 and rng.random() < .8 else None
                store.asked('toa', p.id, Trial(n, rng.choice(MODELS), (), () if above is None else (above,), 'fresh' if above is None else 'refine',
                                               tree_parent=above, seed=n))
                if rng.random() < .01: await store.finished('toa', p.id, n, error='CallTimeout: no answer within 60 s')
                else:
                    text = ' '.join(rng.choices(WORDS, k=160))
                    await store.finished('toa', p.id, n, Completion(text, Usage(rng.randrange(50, 500), rng.randrange(50, 900), rng.randrange(50)), latency=2.),
                                         scores=[Score('rm', rng.gauss(n / 400, .1), tokens=600), Score('judge', rng.random())])
                store.told('toa', p.id, n)
            store.event('toa', p.id, 'done', dict(cost=dict(samples=samples), scored=samples, best=.5))

        for start in range(0, prompts, 100): await asyncio.gather(*map(search, tasks[start:start + 100]))
        store.set_status('toa', 'finished', 3600.)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--prompts', type=int, default=1000)
    parser.add_argument('--samples', type=int, default=160)
    parser.add_argument('--keep', type=Path, help='use this store, and make it where it is missing')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder)/'runs.db'
        if not path.exists(): asyncio.run(fill(path, args.prompts, args.samples))

if __name__ == '__main__': main()
