"""What a large store takes in all versions of its tables: bytes per sample, `toa status`, the table of its numbers with a curve, and an upgrade.

Run: python benchmarks/store.py [--samples 160000] [--folder DIR] [--versions 2 3 1] [--upgrade | --commits]

`--commits` is another table: what runs of so many prompts, with so many calls of each in flight, write per sample with pages
of 16 and of 4 KiB, at 50 ms per call.

Version 3 is version 2 with compressed texts. A run of 160 samples per prompt, a third of them refinements, with answers of 1.4 to 3 kB (2.2 kB on average, cut
from what SmolLM2-135M wrote for data/pool_mod.jsonl.gz) and one reward, is written by SQL. Each figure is
of a process of its own. The stores are deleted at the end: 2 million samples take 5 GB in version 2 and 7 in version 1, and an upgrade as much again.
The aims for 2 million: status under 3 s, table and curve under 10 s of CPU and 500 MB, at most 2.6 kB per sample.
"""
import argparse
import gzip
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

PER_PROMPT, MODELS = 160, 'abcd'


def create(path, prompts, version):
    "An empty run in a store of one version."
    from toa_nb import Prompt, RunStore
    from toa_nb.store.schema import APPLICATION_ID, SCHEMA
    if version == 1:
        answers = 'CREATE TABLE answer (trial INTEGER PRIMARY KEY, text TEXT NOT NULL);\n'
        tables = SCHEMA.replace(answers, '').replace('length INTEGER', 'text TEXT')
        header = f'PRAGMA page_size = 4096; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;'
        with closing(sqlite3.connect(path)) as db: db.executescript(header + tables)
    config = dict(method='toa', settings=dict(n=PER_PROMPT), seed=0, reward='rm', held_out=[], versions={}, templates={}, budget={},
                  reward_specs=dict(rm=None), models=[dict(name=name, spec=dict(name=name, active_params=1000)) for name in MODELS])
    with RunStore(path, compress=version == 3) as store:
        store.create_run('toa', config, [Prompt(f'p{i}', f'Task {i}.') for i in range(prompts)])
        store.set_status('toa', 'finished', 1.)


def fill(path, prompts):
    "All samples of the run, and the note of each prompt that it is done."
    from toa_nb.store.files import connect
    from toa_nb.store.schema import INSERT, version_of, write_of
    rng, seq = random.Random(0), 1
    with gzip.open(Path(__file__).parents[1]/'data'/'pool_mod.jsonl.gz', 'rt', encoding='utf-8') as lines:
        words = ' '.join(json.loads(line)['text'] for line in lines)
    with closing(connect(path, 'rw')) as db:
        put = write_of(version_of(db))
        db.execute('PRAGMA synchronous = OFF')
        for key in range(1, prompts + 1):
            rows = {table: [] for table in ('trial', 'sample', 'answer', 'score', 'tell')}
            for number in range(PER_PROMPT):
                trial, scored, told = seq + 1, seq + 2, seq + 3
                parent = rng.randrange(number) if number % 3 == 2 else None
                place = ('fresh', 1, 'a_layer_1', '', None) if parent is None else ('refine', 2, 'a_layer_2', str(parent), parent)
                text = words[(start := rng.randrange(len(words) - 3000)):start + rng.randrange(1400, 3000)]
                rows['trial'].append((trial, key, number, MODELS[number % 4], *place, number, 0, 'd'*16))
                rows['sample'].append((trial, len(text), 120, 500, 0, 'stop', 3.5, 'http://127.0.0.1:8000/v1', 'model', number, 1, None, None))
                rows['answer'].append((trial, text))
                rows['score'].append((trial, scored, 'rm', rng.random(), None, '1', 620, None))
                rows['tell'].append((trial, told))
                seq = told
            seq += 1
            done = dict(cost=dict(samples=PER_PROMPT, calls=PER_PROMPT), told=PER_PROMPT, samples=PER_PROMPT, scored=PER_PROMPT, best=1.)
            db.execute('BEGIN')
            for table, found in rows.items(): db.executemany(put[table], found)
            db.execute(INSERT['event'], (seq, 1, key, 'done', json.dumps(done | dict(seconds=1., failures=[], remarks=[], limit=None))))
            db.execute('UPDATE clock SET seq = ?', (seq,))
            db.execute('COMMIT')


def status(path):
    from toa_nb.cli.running import status
    row, = status(path)
    assert row['status'] == 'finished'


def table_and_curve(path):
    from toa_nb.analysis.curves import reward_curve
    from toa_nb.store.tables import to_frame
    reward_curve(to_frame(path))


def upgrade(path):
    from toa_nb.store.upkeep import upgrade_store
    before, after = upgrade_store(path)
    assert before != after


def texts(path):
    "Every sample with its text, as an export reads them."
    from toa_nb.store.journal import RunStore
    with RunStore(path, 'r') as store:
        for _ in store.samples('toa'): pass


def best(path):
    "The first page of a list of samples."
    from toa_nb.store.journal import RunStore
    with RunStore(path, 'r') as store:
        keys, _ = store.find_keys('toa', sort='best', limit=20)
        assert len(store.found_rows(keys, 'rm')) == 20


STEPS = dict(status=status, table_and_curve=table_and_curve, best=best, texts=texts, upgrade=upgrade)


def commits(page):
    "Per sample, for each shape of a run: kB written by this process, and its CPU in ms; the smaller of two turns."
    from unittest.mock import patch

    from toa_nb import TOA, FakeModel, FunctionReward, Run
    def written(): return int(Path('/proc/self/io').read_text().split('wchar:')[1].split()[0])
    reward, rows = FunctionReward(lambda prompt, response: len(response)/1000, 'length'), {}
    for prompts, parallel in ((1, 1), (1, 8), (50, 1), (50, 8)):
        n = 100 if prompts == 1 else 20
        model = FakeModel('m', lambda messages, seed: f'{seed} ' + 'words of an answer '*60, latency=.05, capacity=400)
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder, patch('toa_nb.store.files.PAGE_SIZE', page):
                run = Run([f'Task {i}.' for i in range(prompts)], TOA(n=n, parallel=parallel), model, reward,
                          store=f'{folder}/runs.db', check=False)
                before, cpu = written(), time.process_time()
                run.wait(show=False)
                found = (written() - before)/prompts/n/1e3, (time.process_time() - cpu)/prompts/n*1e3
            rows[prompts, parallel] = tuple(map(min, found, rows.get((prompts, parallel), found)))
    return rows


def measure(step, path):
    "A step in this process, without its imports; prints what it took."
    import matplotlib.figure  # noqa: F401

    import toa_nb.analysis.curves  # noqa: F401
    import toa_nb.cli.running  # noqa: F401
    import toa_nb.store.tables  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3
    cpu, wall = time.process_time(), time.perf_counter()
    STEPS[step](path)
    print(json.dumps(dict(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall, before=before,
                          peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3)))


def measured(step, path):
    out = subprocess.run([sys.executable, __file__, '--step', step, '--store', str(path)], capture_output=True, text=True)
    if out.returncode: sys.exit(out.stderr)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--samples', type=int, default=160_000)
    parser.add_argument('--folder', help='where the stores are written; a temporary folder by default')
    parser.add_argument('--versions', type=int, nargs='+', default=[2, 3, 1])
    parser.add_argument('--upgrade', action='store_true', help='upgrade the store of version 1 at the end')
    parser.add_argument('--commits', action='store_true', help='what commits write, instead')
    parser.add_argument('--step', help=argparse.SUPPRESS)
    parser.add_argument('--store', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step: return measure(args.step, args.store)
    if args.commits:
        large, small = commits(16384), commits(4096)
        print('| prompts x parallel | kB written per sample, 16 / 4 KiB | CPU ms per sample |\n|---|---|---|')
        for (prompts, parallel), (kb, cpu) in large.items():
            kb4, cpu4 = small[prompts, parallel]
            print(f'| {prompts} x {parallel} | {kb:.1f} / {kb4:.1f} | {cpu:.2f} / {cpu4:.2f} |')
        return
    prompts = args.samples//PER_PROMPT
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(f'{prompts*PER_PROMPT:,} samples of {prompts:,} prompts\n')
        print('| version | step | CPU s | wall s | peak MB | of them imports |\n|---|---|---|---|---|---|')
        for version in args.versions:
            path = Path(folder, f'version{version}.db')
            cpu, wall = time.process_time(), time.perf_counter()
            create(path, prompts, version)
            fill(path, prompts)
            print(f'| {version} | write | {time.process_time() - cpu:.1f} | {time.perf_counter() - wall:.0f} | | |')
            print(f'| {version} | {os.path.getsize(path)/prompts/PER_PROMPT:,.0f} bytes per sample | | | | |', flush=True)
            steps = [s for s in STEPS if s != 'upgrade' or args.upgrade and version == 1]
            for step in steps:
                row = measured(step, path)
                print(f'| {version} | {step} | {row["cpu"]:.1f} | {row["wall"]:.1f} | {row["peak"]:.0f} | {row["before"]:.0f} |', flush=True)
            path.unlink()


if __name__ == '__main__': main()
