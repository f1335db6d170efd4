"""What the tables and figures of a large store take: CPU seconds and peak memory of each, on a synthetic store.

Run: python benchmarks/analysis.py [--prompts 6250] [--samples 160] [--text 400] [--store FILE] [--steps curve summary ...]

The store is written by SQL, two runs of half the samples each: one with refinements, as of a tree search, and an ensemble. Each step is one call on the path
of the store, in a process of its own: it reads the columns that it needs. `table` is the whole table. The last column is the time on a table that is there.
The aim for a million samples: 10 CPU seconds and 1 GB for each.

`pandas` is what the others are compared with: the columns of trials, answers and scores by `read_sql`, joined by `merge`, and one `groupby` with best, mean,
median and standard deviation by search. Ratios of one run can be compared where other programs take most of a machine; seconds cannot.
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
from contextlib import closing

STEPS = ('curve', 'compare', 'reach', 'held_out', 'summary', 'winners', 'prompts', 'leave_out', 'paths', 'signs', 'sql')


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
        answers = [(i, text[rng.randrange(len(text)//2):]) for i in ids]
        db.executemany('INSERT INTO answer VALUES (?,?)', answers)
        db.executemany(f'INSERT INTO sample VALUES ({",".join("?"*13)})',
            [(i, len(answer), 100 + i % 50, 200 + i % 97, 0, 'stop', 1.5, 'u', 'm', 1, 1, None, None) for i, answer in answers])
        db.executemany('INSERT INTO score VALUES (?,?,?,?,?,?,?,?)',
            [(i, 2*i + j, reward, rng.random(), None, '1', 300, None) for i in ids for j, reward in enumerate(('rm', 'gold'))])
        db.executemany('INSERT INTO tell VALUES (?,?)', [(i, i) for i in ids])
    db.commit()
    db.close()


def steps():
    "What is measured, by name; each takes the table, or the path of the store."
    import toa_nb.analysis as a
    return dict(
        curve=lambda df: a.reward_curve(df, y='top'), compare=lambda df: a.compare_all(df),
        reach=lambda df: a.compute_to_reach(df, .9), held_out=lambda df: a.overoptimization(df, 'gold'),
        summary=lambda df: a.summarize(df, held_out='gold'), winners=lambda df: a.winners(df),
        prompts=lambda df: a.prompts_by_method(df), leave_out=lambda df: a.leave_out(df), paths=lambda df: a.mixing(a.winning_paths(df)),
        signs=lambda df: a.reward_signs(df),
        sql=lambda df: a.sql(df, 'SELECT method, model, count(*), avg(reward) FROM samples GROUP BY ALL'))


def plain_read(path):
    "The table as one would read it with pandas alone."
    import pandas as pd
    with closing(sqlite3.connect(path)) as db:
        prompts = pd.read_sql('SELECT p.id prompt, p.name prompt_id, r.name run FROM prompt p JOIN run r ON r.id = p.run', db)
        trials = pd.read_sql('SELECT seq trial, prompt, number, model, kind, layer, action, parents, tree_parent FROM trial', db)
        samples = pd.read_sql('SELECT trial, prompt_tokens, completion_tokens, cached_tokens, finish_reason, latency, attempts, error FROM sample', db)
        scores = pd.read_sql('SELECT trial, reward, value FROM score', db).pivot(index='trial', columns='reward', values='value')
        return trials.merge(samples, on='trial').merge(prompts, on='prompt').merge(scores, left_on='trial', right_index=True)


def plain_groups(df): return df.groupby(['run', 'prompt_id'])['rm'].agg(['max', 'mean', 'median', 'std'])


def work(path, step):
    "One step in this process; a line of JSON, with the time of the same on a table for `table`."
    import matplotlib.figure  # noqa: F401  not what is measured

    from toa_nb.store import to_frame
    tasks = steps()
    begin = time.process_time()
    found = to_frame(path) if step == 'table' else plain_groups(plain_read(path)) if step == 'pandas' else tasks[step](path)
    row = dict(seconds=time.process_time() - begin, mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3, there={})
    for name, act in tasks.items() if step == 'table' else ():
        begin = time.process_time()
        act(found)
        row['there'][name] = time.process_time() - begin
    print(json.dumps(row))


def main():
    parser = argparse.ArgumentParser()
    for name, default in (('prompts', 6250), ('samples', 160), ('text', 400)): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--store', default='')
    parser.add_argument('--steps', nargs='+', default=list(STEPS), choices=STEPS)
    parser.add_argument('--work', default='')
    args = parser.parse_args()
    if args.work: return work(args.store, args.work)
    with tempfile.TemporaryDirectory() as folder:
        path = args.store or f'{folder}/runs.db'
        if not os.path.exists(path): make(path, args.prompts, args.samples, args.text)
        print(f'{os.path.getsize(path)/1e6:,.0f} MB\n\n| step | CPU s | times pandas | peak, MB | CPU s on a table |\n|---|---|---|---|---|')
        against, there = None, {}
        for step in ('pandas', 'table', *args.steps):
            out = subprocess.run([sys.executable, __file__, '--store', path, '--work', step], capture_output=True, text=True)
            if out.returncode: sys.exit(out.stderr)
            row = json.loads(out.stdout)
            against, there = against or row['seconds'], there or row['there']
            beside = f'{there[step]:.1f}' if step in there else ''
            print(f'| {step} | {row["seconds"]:.1f} | {row["seconds"]/against:.2f} | {row["mb"]:.0f} | {beside} |', flush=True)


if __name__ == '__main__': main()
