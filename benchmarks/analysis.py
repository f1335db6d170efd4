"""What the tables and figures of a large store take: CPU seconds and peak memory of each, on a synthetic store.

Run: python benchmarks/analysis.py [--prompts 6250] [--samples 160] [--text 400] [--store FILE]

The store is written by SQL, two runs of half the samples each: one with refinements, as of a tree search, and an ensemble. `table` reads the samples; the
other steps take that table. The aim for a million samples: 10 s and 1 GB for the table, and a few seconds for each step.

Two steps of plain pandas, in the same process, are what the others are compared with: `plain read` has the columns of trials, answers and scores by
`read_sql` and joins them by `merge`; `plain groups` is `groupby` of that table with best, mean, median and standard deviation by search. Ratios of one run
can be compared where other programs take most of a machine; seconds cannot.
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
    "What is measured, by name; each takes the table."
    import toa_nb.analysis as a
    return dict(
        summary=lambda df: a.summarize(df, held_out='gold'),
        winners=lambda df: [a.winners(df, what) for what in ('model', 'action', 'kind', 'layer')],
        compare=lambda df: a.compare_all(df), curve=lambda df: a.reward_curve(df, y='top'),
        reach=lambda df: a.compute_to_reach(df, .9), leave_out=lambda df: a.leave_out(df),
        paths=lambda df: a.mixing(a.winning_paths(df)), signs=lambda df: a.reward_signs(df),
        prompts=lambda df: a.prompts_by_method(df),
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


def work(path):
    "All steps in this process; a line of JSON for each."
    import matplotlib.figure  # noqa: F401  not what is measured

    from toa_nb.store import to_frame
    tasks = steps()

    def measured(name, act, *given):
        begin = time.process_time()
        found = act(*given)
        row = dict(step=name, seconds=time.process_time() - begin, mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3)
        print(json.dumps(row), flush=True)
        return found
    df = measured('table', to_frame, path)
    for name, act in tasks.items(): measured(name, act, df)
    del df
    measured('plain groups', plain_groups, measured('plain read', plain_read, path))  # last, so that the peaks before are ours


def main():
    parser = argparse.ArgumentParser()
    for name, default in (('prompts', 6250), ('samples', 160), ('text', 400)): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--store', default='')
    parser.add_argument('--work', action='store_true')
    args = parser.parse_args()
    if args.work: return work(args.store)
    with tempfile.TemporaryDirectory() as folder:
        path = args.store or f'{folder}/runs.db'
        if not os.path.exists(path): make(path, args.prompts, args.samples, args.text)
        print(f'{os.path.getsize(path)/1e6:,.0f} MB\n\n| step | CPU s | times plain pandas | peak so far, MB |\n|---|---|---|---|')
        out = subprocess.run([sys.executable, __file__, '--store', path, '--work'], capture_output=True, text=True)
        rows = [json.loads(line) for line in out.stdout.splitlines()]
        seconds = {row['step']: row['seconds'] for row in rows}
        for row in rows:
            against = seconds.get('plain read' if row['step'] in ('plain read', 'table') else 'plain groups', float('nan'))
            print(f'| {row["step"]} | {row["seconds"]:.1f} | {row["seconds"]/against:.1f} | {row["mb"]:.0f} |')
        if out.returncode: sys.exit(out.stderr)


if __name__ == '__main__': main()
