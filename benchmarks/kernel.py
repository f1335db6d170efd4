"""What the moves do to real answers: the kernel of recorded answers, and the part of it that hangs on the cut.

Run: python benchmarks/kernel.py [FILE.jsonl.gz | STORE.db] [--figure FILE.png]. Without a file: data/pool_mod.jsonl.gz, answers of
SmolLM2-135M-Instruct (data/README.md). A store of `toa run` with the method `probe` measures any other model.
"""
import argparse
import gzip
import json
from pathlib import Path

from toa_nb.analysis.kernels import kernel, plot_kernel
from toa_nb.core import Completion, Sample, Score, Trial, Usage

POOL = Path(__file__).parent.parent/'data'/'pool_mod.jsonl.gz'
FIGURES = ('level', 'slope', 'noise', 'beats', 'fresh_beats', 'beats_more', 'copied', 'alike')


def sample(r):
    "An answer of a pool as a sample."
    parents = () if r['parent'] is None else (r['parent'],)
    trial = Trial(r['i'], 'SmolLM2-135M', (), parents, r['move'], seed=r['seed'],
                  prefix=r['cut'] if r['move'] == 'continue' else 0)
    completion = Completion(r['text'], Usage(r['tin'], r['tout'], r['cached']))
    return Sample(r['method'], r['prompt'], trial, completion, scores=(Score('reward', r['reward']),))


def samples_in(path):
    with gzip.open(path, 'rt', encoding='utf-8') as f: return [sample(json.loads(line)) for line in f]


def cell(row, name):
    value, low, high = (row[c] for c in (name, f'{name}_low', f'{name}_high'))
    return '' if value != value else f'{value:.2f} [{low:.2f}, {high:.2f}]'


def rows(table, first):
    "The figures as a table in Markdown."
    head = [*first, 'answers', *[f.replace('_', ' ') for f in FIGURES], 'read', 'written', 'cached']
    print('| ' + ' | '.join(head) + ' |\n|' + '---|'*len(head))
    for _, r in table.iterrows():
        cells = [*[r[c] for c in first], r['answers'], *[cell(r, f) for f in FIGURES]]
        print('| ' + ' | '.join(map(str, [*cells, *[f'{r[c]:.0f}' for c in ('read', 'written', 'cached')]])) + ' |')
    print()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('source', nargs='?', type=Path, default=POOL)
    parser.add_argument('--figure', type=Path)
    args = parser.parse_args()
    found = kernel(samples_in(args.source) if args.source.name.endswith('.gz') else args.source)
    rows(found.table, ['move', 'model'])
    if len(found.cuts): rows(found.cuts, ['kept'])
    if args.figure: plot_kernel(found).savefig(args.figure, dpi=120)


if __name__ == '__main__': main()
