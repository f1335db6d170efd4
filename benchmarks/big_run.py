"""A run of 20,000 prompts x 40 samples on in-process fake models: samples per second, memory, size of the store, time to resume.

Run: python benchmarks/big_run.py [--prompts 20000] [--samples 40] [--method TOA]

The run, its resumption and a run of a tenth of the prompts each get a process of their own, so that the peaks of memory are theirs alone. Memory is flat if the
small run needs as much as the large one, apart from the prompts themselves, and if the second half of the large run needs no more than the first.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time

METHODS = ('TOA', 'ParallelEnsemble')
WORDS = 'amber brook cedar delta ember fable grove harbor island jasper kettle lantern meadow nectar orchard pebble'.split()


def memory():
    "Resident memory now, in MB."
    with open('/proc/self/statm') as f: return int(f.read().split()[1])*os.sysconf('SC_PAGE_SIZE')/1e6


def answer(messages, seed):
    "Forty words that depend on the seed, about 240 characters."
    return ' '.join(WORDS[(seed >> k % 27) & 15] for k in range(40))


def watch(readings, progress, end):
    "Note samples and memory every tenth of a second."
    while not end.wait(.1): readings.append((progress().samples, memory()))


def work(path, method, prompts, samples):
    "Run, or resume, in this process; prints what it took."
    import toa_nb
    from toa_nb import FakeModel, FunctionReward, Prompt, Run
    start = time.perf_counter()
    tasks = [Prompt(f'p{i}', f'Describe place {i} to somebody who was never there, in fifty words.')
             for i in range(prompts)]
    run = Run(tasks, getattr(toa_nb, method)(n=samples), [FakeModel(m, answer) for m in 'abcd'],
              FunctionReward(lambda prompt, response: len(set(response))/64, 'variety'), store=path, concurrency=200)
    readings, end, before = [], threading.Event(), memory()
    watcher = threading.Thread(target=watch, args=(readings, lambda: run.progress, end))
    watcher.start()
    cpu = time.process_time()
    run.wait(show=False)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    end.set()
    watcher.join()
    p = run.progress
    assert p.samples == prompts*samples and p.done == prompts, run.report()
    half = max((mb for n, mb in readings if n <= p.samples/2), default=0)
    print(json.dumps(dict(seconds=seconds, cpu=cpu, new=p.samples - p.resumed, before=before, half=half,
                          peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3)))


def apart(path, *arguments):
    "What `work` prints, in a process of its own."
    done = subprocess.run([sys.executable, __file__, '--work', path, *map(str, arguments)], check=True,
                          stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def report(folder, method, prompts, samples):
    "One run and its resumption, as a line of the table."
    path = f'{folder}/{method}{prompts}.db'
    first = apart(path, method, prompts, samples)
    size = sum(os.path.getsize(f'{folder}/{f}') for f in os.listdir(folder) if f.startswith(os.path.basename(path)))/1e6
    again = apart(path, method, prompts, samples)
    assert first['new'] == prompts*samples and again['new'] == 0
    print(f'| {method} | {prompts:,} x {samples} | {first["seconds"]:.0f} | {first["new"]/first["seconds"]:.0f} | '
          f'{first["cpu"]/first["new"]*1e3:.2f} '
          f'| {first["before"]:.0f} | {first["half"]:.0f} | {first["peak"]:.0f} | {size:.0f} | '
          f'{size*1e6/first["new"]:.0f} '
          f'| {again["seconds"]:.1f} | {again["peak"]:.0f} |', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--prompts', type=int, default=20000)
    parser.add_argument('--samples', type=int, default=40)
    parser.add_argument('--method', choices=METHODS, default='TOA')
    o = parser.parse_args()
    print('| method | samples | s | samples/s | CPU ms per sample | MB before | MB at most, first half | MB at most | '
          'store MB | bytes per sample '
          '| resume s | resume MB |\n|---|---|---|---|---|---|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:
        for n in (max(1, o.prompts//10), o.prompts): report(folder, o.method, n, o.samples)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--work']: work(*sys.argv[2:4], *map(int, sys.argv[4:]))
    else: main()
