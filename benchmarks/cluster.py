"""CPU per sample of a run on Ray: of the engines, of the process with the store, of the scorers, and of the one that drives, beside a run in one process.

Run: python benchmarks/cluster.py [--workers 1,2,4] [--scorers 0] [--prompts 200] [--samples 40] [--slots 256] [--address local] [--flood 2,4]

Answers of 360 words (2.3 kB) from the test server, 250 ms, TOA with eight trials of a prompt out at a time. Processor time (user and system, threads
included) is read from the system when a tenth of the samples is there, and when six tenths are: starting processes does not count, all engines are still
at work, and what else the machine does changes little. The run in one process is measured in the same way, before and after those on Ray. Compare the
ratios within one table.

With `--flood 2,4`, what limits the process with the store: so many processes without models send it finished samples of 2.3 kB, 256 at once each, as fast
as it takes them. The more it gets, the more samples share a commit, and the less each of them costs.
"""
import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import psutil

from toa_nb import TOA, ChatModel, Prompt, Run
from toa_nb.compute import Spent
from toa_nb.core import Completion, Score, Trial, Usage
from toa_nb.run.on_ray import RayCluster
from toa_nb.run.resources import raised_limit
from toa_nb.store.far import FarPart, FarStore

TESTS = Path(__file__).parents[1]/'tests'
sys.path.insert(0, str(TESTS))
from fault_server import running  # noqa: E402

KINDS = {'engines': 'ray::Engine', 'host': 'ray::RunHost', 'scorers': 'ray::Scorer'}


def cpu(process):
    "Processor seconds of a process."
    times = process.cpu_times()
    return times.user + times.system


def reading(run):
    "Samples so far, processor seconds by kind of process, and the processes."
    found = dict(samples=run.progress.samples, driver=cpu(psutil.Process()), engines=0., host=0., scorers=0., processes=set())
    for p in psutil.process_iter(['cmdline']):
        for kind, name in KINDS.items():
            if not (p.info['cmdline'] or [''])[0].startswith(name): continue
            found[kind] += cpu(p)
            found['processes'].add(p.pid)
    return found


async def measured(run):
    "Milliseconds per sample, by kind of process."
    run.start()
    marks = []
    for share in (.1, .6):
        while run.progress.samples < share*run.progress.target and not run.task.done(): await asyncio.wait([run.task], timeout=.02)
        marks.append(reading(run))
    await run
    assert run.progress.samples == run.progress.target and not run.progress.failures, run.report()
    first, last = marks
    assert first['processes'] == last['processes'], 'an engine ended before the second reading: give more prompts'
    return {kind: (last[kind] - first[kind])*1000/(last['samples'] - first['samples']) for kind in ('engines', 'host', 'scorers', 'driver')}


def make(url, args, store, **more):
    prompts = [Prompt(f'p{i}', f'Describe place {i}.') for i in range(args.prompts)]
    model = ChatModel('a', url, concurrency=args.slots)
    return Run(prompts, TOA(n=args.samples, parallel=8), model, 'crash_run:Letters', store=store, check=False, **more)


class Flood:
    "Sends finished samples of a part to the process with the store."
    async def send(self, link, part, block, keys, names, samples):
        store, gate, text = FarPart(link, part, block, keys), asyncio.Semaphore(256), 'lorem ipsum dolor sit amet '*85
        async def one(name, k):
            async with gate:
                store.add_trial('toa', name, Trial(k, 'a', ()))
                store.add_completion('toa', name, k, Completion(f'{k} {text}', Usage(100, 500)))
                await store.add_scores('toa', name, k, [Score('x', k/samples)])
                store.mark_told('toa', name, k)
        await asyncio.gather(*(one(name, k) for k in range(samples) for name in names))
        await store.flush()
        store.close()


async def flooded(senders, path, address, prompts=100, samples=40):
    "Samples per second, and milliseconds of the process with the store per sample."
    import ray
    cluster = RayCluster(address, senders)
    await cluster.open()
    host = cluster.host()
    await host.ask('open', path)
    store = FarStore(host, 'run')
    store.create_run('toa', {}, [Prompt(f'p{i}', 'Why?') for i in range(senders*prompts)])
    await store.flush()
    await host.ask('keep', 'toa', None, Spent(), senders)
    names, keys = list(known := store.prompt_keys('toa')), list(known.values())
    parts = [(n, await host.ask('attempt', n), (keys[n*prompts], keys[(n + 1)*prompts - 1]), names[n*prompts:(n + 1)*prompts]) for n in range(senders)]
    actors = [ray.remote(num_cpus=1)(Flood).remote() for _ in parts]
    process, = (p for p in psutil.process_iter(['cmdline']) if (p.info['cmdline'] or [''])[0].startswith(KINDS['host']))
    before, began = cpu(process), time.monotonic()
    await asyncio.gather(*(a.send.remote(host, *part, samples) for a, part in zip(actors, parts)))
    seconds, done = time.monotonic() - began, senders*prompts*samples
    spent = cpu(process) - before
    store.close()
    await host.ask('close')
    cluster.close()
    return done/seconds, spent*1000/done


def flood(args):
    print('| senders | samples/s | host, ms |\n|---|---|---|')
    for n in map(int, args.flood.split(',')):
        with tempfile.TemporaryDirectory() as folder: rate, spent = asyncio.run(flooded(n, f'{folder}/runs.db', args.address))
        print(f'| {n} | {rate:.0f} | {spent:.3f} |')


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--workers', default='1,2,4')
    parser.add_argument('--scorers', type=int, default=0, help='processes of the reward; 0: it is scored in the engines')
    parser.add_argument('--prompts', type=int, default=200)
    parser.add_argument('--samples', type=int, default=40)
    parser.add_argument('--slots', type=int, default=256)
    parser.add_argument('--address', default='local')
    parser.add_argument('--flood', default='', help='processes that only send samples to the store, such as 2,4')
    args = parser.parse_args()
    raised_limit()
    os.chdir(TESTS)  # where the reward is found
    os.environ['PYTHONPATH'] = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get('PYTHONPATH', '')])
    if args.flood: return flood(args)
    single = []
    print('| engines | engines, ms | host, ms | scorers, ms | driver, ms | all / one process |\n|---|---|---|---|---|---|')
    with running('--latency', '.25', '--words', '360', '--models', 'a') as url, tempfile.TemporaryDirectory() as folder:
        def one(name, **more): return asyncio.run(measured(make(url, args, f'{folder}/{name}.db', **more)))
        single.append(one('before')['driver'])
        pool = dict(scorers={'letters': dict(actors=args.scorers)}) if args.scorers else {}
        rows = [(n, one(n, ray=args.address, workers=n, **pool)) for n in map(int, args.workers.split(','))]
        single.append(one('after')['driver'])
    alone = mean(single)
    print(f'| one process | {alone:.3f} ({single[0]:.3f}, {single[1]:.3f}) | | | | 1 |')
    for n, row in rows:
        print(f'| {n} | {row["engines"]:.3f} | {row["host"]:.3f} | {row["scorers"]:.3f} | {row["driver"]:.3f} | {sum(row.values())/alone:.2f} |')


if __name__ == '__main__': main()
