"""CPU seconds of one process per generation, beside a bare aiohttp client, with and without what a run sets for its process.

Run: python benchmarks/one_process.py [--slots 512,2048] [--repeats 3] [--samples 8]

As many prompts as slots, one model, 250 ms latency, answers of 360 words, the test server in a process of its own. `usual` is a run whose
garbage collector is left as Python has it; `relaxed` is a run as it is. The three take turns, and the table gives medians of CPU seconds of this
process (user and system, the store's thread included), which other programs on the machine change little. The bare client sends the same number of
first messages over one session, and reads the answers.
"""
import argparse
import asyncio
import gc
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from unittest.mock import patch

import aiohttp

from toa_nb import TOA, ChatModel, FunctionReward, Prompt, Run
from toa_nb.run.resources import raised_limit

sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from fault_server import running  # noqa: E402


async def ours(url, slots, samples):
    "Our run of TOA with one trial of each prompt out at a time; the preflight is left out, as the bare client has none."
    prompts = [Prompt(f'p{i}', f'Describe place {i}.') for i in range(slots)]
    model = ChatModel('a', url, concurrency=slots)
    reward = FunctionReward(lambda prompt, response: len(set(response))/64)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(prompts, TOA(n=samples, parallel=1), model, reward, store=f'{folder}/runs.db', check=False)
        await run
    await model.close()
    assert run.progress.samples == slots*samples and not run.progress.failures, run.report()


async def bare(url, slots, samples):
    "As many calls with aiohttp alone."
    left = iter(range(slots*samples))
    async def work(session):
        for i in left:
            body = dict(model='a', messages=[dict(role='user', content=f'Describe place {i}.')], seed=i)
            async with session.post(f'{url}/chat/completions', json=body) as r: await r.json()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(slots)))


def cpu(client, url, slots, samples, usual=False):
    "CPU milliseconds per generation."
    gc.collect()
    with patch('toa_nb.run.run.relaxed_gc', nullcontext) if usual else nullcontext():
        began = time.process_time()
        asyncio.run(client(url, slots, samples))
        return (time.process_time() - began)*1000/(slots*samples)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--slots', default='512,2048')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--samples', type=int, default=8)
    args = parser.parse_args()
    raised_limit()
    print('| slots | bare | usual | relaxed | usual / bare | relaxed / bare | relaxed / usual |\n|---|---|---|---|---|---|---|')
    with running('--latency', '.25', '--words', '360', '--models', 'a') as url:
        asyncio.run(ours(url, 32, 2))
        for slots in map(int, args.slots.split(',')):
            turns = [[cpu(client, url, slots, args.samples, usual) for client, usual in
                      ((bare, False), (ours, True), (ours, False))] for _ in range(args.repeats)]
            b, u, r = (median(column) for column in zip(*turns))
            print(f'| {slots} | {b:.3f} | {u:.3f} | {r:.3f} | {u/b:.2f} | {r/b:.2f} | {r/u:.2f} |', flush=True)


if __name__ == '__main__': main()
