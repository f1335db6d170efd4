"""Generations per second and client CPU per generation, beside a bare aiohttp client.

Run: python benchmarks/throughput.py [--slots 8,32,50,200] [--repeats 3] [--samples 40] [--uvloop]

50 prompts, 4 models, 50 ms latency, the test server in a process of its own. TOA(parallel=1) has one trial of each prompt out, so at most 50. The bare client sends the same requests over one aiohttp session and
reads the answers; it has no SDK, store, reward or search. Its calls depend on each other as ours do: for TOA each call quotes the newest answer of
its prompt, and the prompts take turns, so that as many calls of a prompt are in flight as in our run; for ParallelEnsemble they are independent.
The two clients take turns, and the table gives medians over the repeats of ratios within one turn.
"""
import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import aiohttp

from toa_nb import TOA, ChatModel, FunctionReward, ParallelEnsemble, Prompt, Run, Templates

sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from fault_server import running  # noqa: E402

MODELS, N_PROMPTS = 'abcd', 50
METHODS = {'TOA': TOA, 'TOA(parallel=1)': partial(TOA, parallel=1), 'ParallelEnsemble': ParallelEnsemble}


def make_prompts():
    return [Prompt(f'p{i}', f'Describe place {i} to somebody who was never there, in fifty words.')
            for i in range(N_PROMPTS)]


def variety(prompt, response):
    "A reward that costs next to nothing: the share of distinct letters."
    return len(set(response))/64


async def ours(url, method, slots, samples):
    "Our run; the preflight is left out, as the bare client has none."
    models = [ChatModel(m, url) for m in MODELS]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(make_prompts(), METHODS[method](n=samples), models, FunctionReward(variety),
                  store=f'{folder}/runs.db', concurrency=slots, check=False)
        await run
    for m in models: await m.close()
    assert run.progress.samples == N_PROMPTS*samples and not run.progress.failures, run.report()


async def bare(url, method, slots, samples):
    "The same calls with aiohttp alone."
    templates, newest, prompts, numbers, done = Templates(), {}, make_prompts(), count(), []
    async def work(session):
        while (i := next(numbers)) < N_PROMPTS*samples:
            prompt, seed = prompts[i % N_PROMPTS], i
            quoted = newest.get(prompt.id) if method.startswith('TOA') else None
            messages = templates.fresh(prompt) if quoted is None else templates.refined(prompt, quoted)
            body = dict(model=MODELS[i % len(MODELS)], messages=[dict(role=m.role, content=m.content)
                for m in messages],
                        temperature=.7, top_p=1., seed=seed, max_tokens=2048)
            async with session.post(f'{url}/chat/completions', json=body) as response: answer = await response.json()
            newest[prompt.id] = answer['choices'][0]['message']['content']
            done.append(answer['usage'])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(slots)))
    assert len(done) == N_PROMPTS*samples


def measure(runner, client, url, method, slots, samples):
    "Generations per second, and client CPU in ms per generation, all threads together."
    wall, cpu, n = time.perf_counter(), time.process_time(), N_PROMPTS*samples
    runner(client(url, method, slots, samples))
    return n/(time.perf_counter() - wall), (time.process_time() - cpu)/n*1e3


def turns(runner, url, method, slots, samples, repeats):
    "The two clients in turn: medians of (our rate, its rate, ratio, our CPU, its CPU, ratio)."
    rows = []
    for _ in range(repeats):
        (r, c), (r0, c0) = (measure(runner, client, url, method, slots, samples) for client in (ours, bare))
        rows.append((r, r0, r/r0, c, c0, c/c0))
    return [median(column) for column in zip(*rows)]


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--slots', default='8,32,50,200', help='calls in flight, separated by commas')
    parser.add_argument('--methods', default=','.join(METHODS))
    parser.add_argument('--latency', type=float, default=.05, help='seconds per answer')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--samples', type=int, default=40,
                        help='samples per prompt; a quarter of them at fewer than 20 slots')
    parser.add_argument('--uvloop', action='store_true', help='both clients on uvloop')
    return parser.parse_args()


def main():
    o = options()
    runner = asyncio.run
    if o.uvloop:
        import uvloop
        runner = uvloop.run
    print('| method | slots | samples | generations/s: ours | bare | ratio (target 0.9) | CPU ms per generation: ours '
          '| bare | ratio (target 3) |')
    print('|---|---|---|---|---|---|---|---|---|')
    with running('--latency', str(o.latency), '--models', ','.join(MODELS)) as url:
        for client in (ours, bare): runner(client(url, 'TOA', 32, 4))
        for method in o.methods.split(','):
            for slots in map(int, o.slots.split(',')):
                samples = o.samples
                r, r0, ratio, c, c0, ratio_c = turns(runner, url, method, slots, samples, o.repeats)
                print(f'| {method} | {slots} | {N_PROMPTS} x {samples} | {r:.0f} | {r0:.0f} | {ratio:.2f} | {c:.2f} | '
                      f'{c0:.2f} | {ratio_c:.2f} |', flush=True)


if __name__ == '__main__': main()
