"""Memory and time of exports from a synthetic store of 20,000 prompts x 160 answers: each export in a process of its own.

Run: python benchmarks/export_memory.py [--prompts 20000] [--samples 160] [--keep runs.db] [--formats sft dpo] [--endings .parquet]

The store is written row by row with SQL: no model, no reward. Memory is flat if a tenth of the prompts needs as much, apart from the prompts themselves.
"""
import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = 'amber brook cedar delta ember fable grove harbor island jasper kettle lantern meadow nectar orchard pebble'.split()
FORMATS = ('sft', 'dpo', 'kto', 'ultrafeedback')
LIMIT = 500  # MB that an export may need


def answer(i, n): return ' '.join(WORDS[(i * 7919 + n * 104729 >> k % 17) & 15] for k in range(40))


def make(path, prompts, samples):
    "A store as a run of `best_of_n` leaves it."
    from toa_nb import Prompt, RunStore
    from toa_nb.store.schema import INSERT
    config = dict(method='best_of_n', settings={}, seed=0, reward='variety', held_out=[], versions={'variety': 'v1'},
                  models=[dict(name='a', spec=dict(name='small', active_params=1000))], templates={}, budget={})
    with RunStore(path) as store: store.create_run('first', config, [Prompt(f'p{i}', f'Task {i}.') for i in range(prompts)])
    db = sqlite3.connect(path)
    db.execute('PRAGMA synchronous = OFF')
    keys = dict(db.execute('SELECT name, id FROM prompt'))
    for start in range(0, prompts, 200):
        rows = [(1 + i * samples + n, keys[f'p{i}'], i, n) for i in range(start, min(start + 200, prompts)) for n in range(samples)]
        score = lambda i, n: (i * 31 + n * 17) % 997 / 997
        db.executemany(INSERT['trial'], ((seq, key, n, 'a', 'fresh', 0, 'a', '', None, n, 0, 'x' * 16)
                                         for seq, key, i, n in rows))
        db.executemany(INSERT['answer'], ((seq, answer(i, n)) for seq, key, i, n in rows))
        db.executemany(INSERT['sample'], ((seq, len(answer(i, n)), 20, 60, 0, 'stop', .5, '', 'a', n, 1, None, None)
                                          for seq, key, i, n in rows))
        db.executemany(INSERT['score'], ((seq, seq, 'variety', score(i, n), None, 'v1', 0, None) for seq, key, i, n in rows))
        db.commit()
    db.execute('UPDATE clock SET seq = ?', (prompts * samples + 1,))
    db.commit()
    db.close()


def one(path, form, out):
    "One export in this process; prints what it took."
    from toa_nb.data.writing import export
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, time.perf_counter()
    done = export(path, out, form)
    print(json.dumps(dict(rows=done.rows, seconds=time.perf_counter() - start, cpu=time.process_time(), before=before,
                          peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, mb=os.path.getsize(out) / 1e6)))


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--prompts', type=int, default=20000)
    p.add_argument('--samples', type=int, default=160)
    p.add_argument('--keep', help='write the store here, or take the one that is there')
    p.add_argument('--formats', nargs='+', default=FORMATS)
    p.add_argument('--endings', nargs='+', default=('.jsonl', '.parquet'))
    p.add_argument('--one', nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one: return one(*args.one)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(args.keep or f'{folder}/runs.db')
        if not path.exists(): make(path, args.prompts, args.samples)
        print(f'store of {path.stat().st_size / 1e6:,.0f} MB, {args.prompts:,} prompts x {args.samples}')
        print('format         ending     rows  seconds  CPU s  file MB  memory: start   peak')
        worst = 0
        for form in args.formats:
            for ending in args.endings:
                out = f'{folder}/{form}{ending}'
                made = subprocess.run([sys.executable, __file__, '--one', str(path), form, out], check=True, capture_output=True)
                r = json.loads(made.stdout)
                os.unlink(out)
                print(f'{form:14} {ending:8} {r["rows"]:6,} {r["seconds"]:8.0f} {r["cpu"]:6.0f} {r["mb"]:8.0f} {r["before"]:14.0f} '
                      f'{r["peak"]:6.0f}', flush=True)
                worst = max(worst, r['peak'])
    print(f'most memory: {worst:.0f} MB (limit {LIMIT})')
    if worst > LIMIT: sys.exit(1)


if __name__ == '__main__': main()
