"""What the tables and figures of a large store take: CPU seconds and peak memory of each, on a synthetic store.

Run: python benchmarks/analysis.py [--prompts 6250] [--samples 160] [--text 400] [--store FILE]

The store is written by SQL, two runs of half the prompts' samples each: TOA-like, with refinements, and an ensemble. Every step gets a process of its own, so
that its peak of memory is its own. The column `over the table` is what the step takes besides reading the samples. The aim: a million samples in under
10 s and 1 GB.
"""
import argparse
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time

STEPS = ('import', 'table', 'summary', 'winners', 'compare', 'curve', 'reach', 'lineage', 'signs', 'prompts', 'sql')


def make(path, prompts, samples, length):
    "A store of two runs, each with all prompts and half the samples."
    from dataclasses import asdict

    from toa_nb import Prompt, RunStore, get_spec
    models = [dict(name=n, spec=asdict(get_spec(s))) for n, s in (('llama', 'Llama-3.1-8B-Instruct'), ('qwen', 'Qwen2-7B-Instruct'),
        ('mistral', 'Mistral-7B-Instruct-v0.2'), ('yi', 'Yi-1.5-9B-Chat-16K'))]
    config = dict(settings={}, seed=0, models=models, reward='rm', held_out=['gold'], versions={}, budget={}, templates={},
                  reward_specs=dict(rm=asdict(get_spec('ArmoRM-Llama3-8B-v0.1')), gold=None))
    with RunStore(path) as store:
        for name, method in (('toa', 'toa'), ('ensemble', 'parallel_ensemble')):
            store.create_run(name, config | dict(method=method), [Prompt(f'p{i}', f'Question {i}') for i in range(prompts)])
    db, rng, seq = sqlite3.connect(path), random.Random(0), 0
    text = 'word '*(length//5)
    for key in range(1, 2*prompts + 1):
        rows = []
        for number in range(samples//2):
            refined = key <= prompts and number > 8 and rng.random() < .5
            parent = rng.randrange(number) if refined else None
            kind, model = 'refine' if refined else 'fresh', models[rng.randrange(4)]['name']
            rows.append((seq := seq + 1, key, number, model, kind, 1 + 2*refined, f'{model}_layer_1', '' if parent is None else str(parent),
                         parent, rng.getrandbits(31), 0, 'd'))
        db.executemany(f'INSERT INTO trial VALUES ({",".join("?"*12)})', rows)
        ids = [row[0] for row in rows]
        db.executemany(f'INSERT INTO sample VALUES ({",".join("?"*13)})',
            [(i, text[rng.randrange(len(text)//2):], 100 + i % 50, 200 + i % 97, 0, 'stop', 1.5, 'u', 'm', 1, 1, None, None) for i in ids])
        db.executemany('INSERT INTO score VALUES (?,?,?,?,?,?,?,?)',
            [(i, 2*i + j, reward, rng.random(), None, '1', 300, None) for i in ids for j, reward in enumerate(('rm', 'gold'))])
        db.executemany('INSERT INTO tell VALUES (?,?)', [(i, i) for i in ids])
    db.commit()
    db.close()


def work(path, step):
    "One step in this process; prints what it took."
    import matplotlib.figure  # noqa: F401  not what is measured

    import toa_nb.analysis as a
    from toa_nb.store import to_frame
    begin = time.process_time()
    if step != 'import': df = to_frame(path)
    if step == 'summary': a.summarize(df, held_out='gold')
    elif step == 'winners':
        for what in ('model', 'action', 'kind', 'layer'): a.winners(df, what)
    elif step == 'compare': a.compare_all(df)
    elif step == 'curve': a.reward_curve(df, y='top')
    elif step == 'reach': a.compute_to_reach(df, .9)
    elif step == 'lineage':
        a.leave_out(df)
        a.mixing(a.winning_paths(df))
    elif step == 'signs': a.reward_signs(df)
    elif step == 'prompts': a.prompts_by_method(df)
    elif step == 'sql': a.sql(df, 'SELECT method, model, count(*), avg(reward) FROM samples GROUP BY ALL')
    seconds = time.process_time() - begin
    print(json.dumps(dict(seconds=seconds, mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3)))


def main():
    parser = argparse.ArgumentParser()
    for name, default in (('prompts', 6250), ('samples', 160), ('text', 400)): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--store', default='')
    parser.add_argument('--step', default='')
    args = parser.parse_args()
    if args.step: return work(args.store, args.step)
    with tempfile.TemporaryDirectory() as folder:
        path = args.store or f'{folder}/runs.db'
        if not os.path.exists(path): make(path, args.prompts, args.samples, args.text)
        print(f'{args.prompts*args.samples:,} samples, {os.path.getsize(path)/1e6:,.0f} MB\n')
        print('| step | CPU s | over the table | peak MB |\n|---|---|---|---|')
        table = 0.
        for step in STEPS:
            out = subprocess.run([sys.executable, __file__, '--store', path, '--step', step], capture_output=True, text=True)
            if out.returncode: sys.exit(out.stderr)
            took = json.loads(out.stdout.splitlines()[-1])
            if step == 'table': table = took['seconds']
            over = f'{took["seconds"] - table:.1f}' if table else ''
            print(f'| {step} | {took["seconds"]:.1f} | {over} | {took["mb"]:.0f} |', flush=True)


if __name__ == '__main__': main()
