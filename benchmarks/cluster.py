"""CPU per sample of a run on Ray: of the engines, of the process with the store, of the scorers, and of the one that drives, beside a run in one process.

Run: python benchmarks/cluster.py [--workers 1,2,4] [--scorers 0] [--prompts 200] [--samples 40] [--slots 256] [--address local]

Answers of 360 words (2.3 kB) from the test server, 250 ms, TOA with eight trials of a prompt out at a time. Processor time (user and system, threads
included) is read from the system when a tenth of the samples is there, and when six tenths are: starting processes does not count, all engines are still
at work, and what else the machine does changes little. The run in one process is measured in the same way, before and after those on Ray. Compare the
ratios within one table.
"""
import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from statistics import mean

import psutil

from toa_nb import TOA, ChatModel, Prompt, Run
from toa_nb.run.resources import raised_limit

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--workers', default='1,2,4')
    parser.add_argument('--scorers', type=int, default=0, help='processes of the reward; 0: it is scored in the engines')
    parser.add_argument('--prompts', type=int, default=200)
    parser.add_argument('--samples', type=int, default=40)
    parser.add_argument('--slots', type=int, default=256)
    parser.add_argument('--address', default='local')
    args = parser.parse_args()
    raised_limit()
    os.chdir(TESTS)  # where the reward is found
    os.environ['PYTHONPATH'] = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get('PYTHONPATH', '')])
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
