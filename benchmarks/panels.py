"""CPU seconds until each panel holds its first picture on a large store, and what its usual actions and its saved picture take.

Run: python benchmarks/panels.py [--prompts 200] [--samples 160] [--keep FILE]

The store is written by SQL: six methods on the same prompts, made-up answers of about 800 characters by four models, in trees, 2 % of them failed, with two
rewards. All threads are counted, and no event loop runs, so that a call returns when its picture is there; what the browser adds is not in these numbers.
"""
import argparse
import os
import random
import sqlite3
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import process_time

from toa_nb import Prompt, RunStore, Usage, get_spec
from toa_nb.compute import Spent, priced
from toa_nb.run.progress import Summary

METHODS = 'best_of_n', 'prs', 'parallel_ensemble', 'moa', 'toa', 'rounds'
MODELS = dict(llama='Llama-3.1-8B-Instruct', qwen='Qwen2-7B-Instruct', mistral='Mistral-7B-Instruct-v0.2', yi='Yi-1.5-9B-Chat-16K')
WORDS = 'air light sky blue wave scatters short long because every answer says that the sun is low at dusk and red then'.split()


def fill(path, prompts, samples):
    "Write six finished runs of made-up samples."
    rng = random.Random(0)
    tasks = [Prompt(f'p{i:04}', f'Question {i}: why is the sky blue?', meta={'category': ['science', 'writing', 'coding'][i % 3]}) for i in range(prompts)]
    specs = [dict(name=name, spec=asdict(get_spec(spec))) for name, spec in MODELS.items()]
    each = {k: v*samples for k, v in priced(Usage(100, 300), get_spec('Qwen2-7B-Instruct')).items()}
    note = Summary(Spent(samples, samples, 100*samples, 0, 300*samples, **each), samples, samples, samples, best=.9).as_note()
    with RunStore(path) as store:
        for method in METHODS:
            config = dict(method=method, settings={}, seed=0, models=specs, reward='rm', held_out=['gold'], versions={}, budget={}, templates={})
            store.create_run(method, config, tasks)
            for p in tasks: store.event(method, p.id, 'done', note)
            store.set_status(method, 'finished', 3600.)
    with sqlite3.connect(path) as db:
        for start in range(0, len(METHODS)*prompts, 50):
            for table, rows in rows_of(range(start, min(start + 50, len(METHODS)*prompts)), samples, rng).items():
                db.executemany(f'INSERT INTO {table} VALUES ({",".join("?"*len(rows[0]))})', rows)
    db.close()


def rows_of(searches, samples, rng):
    "The rows of some searches, by table."
    out = dict(trial=[], answer=[], sample=[], score=[], tell=[])
    for search in searches:
        for n in range(samples):
            seq, model, failed = search*samples + n + 1, rng.choice([*MODELS]), rng.random() < .02
            up = rng.randrange(n) if n > 8 and rng.random() < .7 else None
            kind, parents = ('fresh', '') if up is None else ('refine', str(up))
            out['trial'].append((seq, search + 1, n, model, kind, 1, f'{model}_layer_1', parents, up, n, 0, 'd'))
            out['tell'].append((seq, seq))
            if failed: out['sample'].append((seq, *[None]*9, 1, None, 'CallTimeout: no answer within 60 s'))
            else:
                text = ' '.join(rng.choices(WORDS, k=160))
                out['answer'].append((seq, text))
                out['sample'].append((seq, len(text), 100 + n % 50, 200 + seq % 97, 0, 'stop', 1.5, 'u', 'm', 1, 1, None, None))
                out['score'] += [(seq, 2*seq + j, name, rng.gauss(n/400, .1), None, '1', 300, None) for j, name in enumerate(('rm', 'gold'))]
    return out


def timed(what, act):
    "Do something, and print the CPU seconds that it took."
    start = process_time()
    result = act()
    print(f'| {what} | {process_time() - start:.2f} |', flush=True)
    return result


def measure(path):
    "Open each panel and use it."
    from toa_nb.panels import ComparePanel, CurvePanel, RunPanel, SampleBrowser, TreePanel
    print(f'load {os.getloadavg()[0]:.1f}\n\n| | CPU s |\n|---|---|')
    run = timed('RunPanel: open, with its curves', lambda: RunPanel(path))
    curves = timed('CurvePanel: open, with six curves', lambda: CurvePanel(path))
    timed('CurvePanel: another statistic', lambda: curves.set(y='top'))
    timed('CurvePanel: difference to best_of_n', lambda: curves.set(y='best', against='best_of_n'))
    timed('CurvePanel: three categories, held-out reward', lambda: curves.set(facets=True, held_out='gold', against=''))
    tree = timed('TreePanel: open', lambda: TreePanel(path))
    timed('TreePanel: next prompt', lambda: tree.next_prompt(1))
    timed('TreePanel: another node', lambda: tree.select(5))
    found = timed('SampleBrowser: open', lambda: SampleBrowser(path))
    for search in dict(sort='best'), dict(text='dusk and'), dict(text='', model='qwen'), dict(outcome='failed', model=''), dict(outcome='', low=.1):
        timed(f'SampleBrowser: {", ".join(f"{k}={v!r}" for k, v in search.items() if v)}', lambda search=search: found.set(**search))
    timed('SampleBrowser: last row', lambda: found.go_to(len(found.found.keys) - 1))
    compare = timed('ComparePanel: open', lambda: ComparePanel(path, 'rounds', 'best_of_n'))
    timed('ComparePanel: another order', lambda: compare.set(sort='best'))
    timed('ComparePanel: another prompt', lambda: compare.choose(100))
    for panel in run, curves, tree, found, compare: timed(f'{type(panel).__name__}: what a saved notebook keeps', panel.static)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--prompts', type=int, default=200)
    parser.add_argument('--samples', type=int, default=160)
    parser.add_argument('--keep', type=Path, help='use this store, and make it where it is missing')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder)/'runs.db'
        if not path.exists(): fill(path, args.prompts, args.samples)
        measure(path)


if __name__ == '__main__': main()
