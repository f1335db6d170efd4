"""Wall time of one prompt with 160 samples, beside one call at a time.

Run: python benchmarks/one_prompt.py [--samples 160] [--latency 0.05] [--sigma 0.7]

Latency is log-normal and depends on the call alone. Four models, the test server in a process of its own. 'One at a time' is the same method with one
call in flight (for TOA also `parallel=1`). 'Longest chain' is the largest number of calls in our run of which each had to wait for the one before:
samples / chain is how much faster the method can possibly get, if all calls took equally long and any number ran at once (TOA: `parallel`).
"""
import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from toa_nb import PRS, TOA, BestOfN, ChatModel, FunctionReward, MoA, ParallelEnsemble, Prompt, Run, RunStore, SequentialRefine

sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from fault_server import running  # noqa: E402

METHODS = [BestOfN, PRS, ParallelEnsemble, SequentialRefine, MoA, TOA]


async def seconds(url, method, concurrency):
    "Seconds of the run, and its longest chain of calls."
    models = [ChatModel(m, url) for m in 'abcd']
    with tempfile.TemporaryDirectory() as folder:
        run = Run([Prompt('p', 'Describe a place to somebody who was never there.')], method, models,
                  FunctionReward(lambda prompt, response: len(set(response))/64, 'variety'),
                  store=f'{folder}/runs.db', name='run', concurrency=concurrency, check=False)
        start = time.perf_counter()
        await run
        wall, depth = time.perf_counter() - start, {}
        assert run.progress.samples == method.n, run.report()
        with RunStore(f'{folder}/runs.db', 'r') as store:
            for s in store.samples('run'):
                depth[s.trial.number] = 1 + max((depth[p] for p in s.trial.parents), default=0)
    for m in models: await m.close()
    return wall, max(depth.values())


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--samples', type=int, default=160)
    parser.add_argument('--latency', type=float, default=.05, help='median seconds per answer')
    parser.add_argument('--sigma', type=float, default=.7, help='spread of its logarithm')
    parser.add_argument('--methods', default=','.join(m.__name__ for m in METHODS))
    return parser.parse_args()


def main():
    o = options()
    print('| method | one at a time, s | ours, s | times faster | longest chain of calls |\n|---|---|---|---|---|')
    with running('--latency', str(o.latency), '--sigma', str(o.sigma)) as url:
        for kind in METHODS:
            if kind.__name__ not in o.methods.split(','): continue
            method = kind(n=o.samples)
            slow, _ = asyncio.run(seconds(url, replace(method, parallel=1) if kind is TOA else method, 1))
            fast, chain = asyncio.run(seconds(url, method, None))
            print(f'| {kind.__name__} | {slow:.2f} | {fast:.2f} | {slow/fast:.1f} | {chain} |', flush=True)


if __name__ == '__main__': main()
