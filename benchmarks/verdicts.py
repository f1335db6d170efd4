"""How often intervals of 95 % decide between two equal methods: percentiles of a bootstrap over prompts, and those of `compare_methods`.

Run: python benchmarks/verdicts.py [--prompts 6,10,20,48] [--times 2000] [--draws 1000]

The differences of a comparison are drawn around zero: from a normal distribution, and from a skewed one (exponential, less its mean). An interval that holds
its level decides in 5 % of them.
"""
import argparse

import numpy as np

from toa_nb.analysis.comparisons import difference_table
from toa_nb.analysis.curves import bootstrap_band

DRAWN = dict(normal=lambda rng, shape: rng.normal(size=shape), skewed=lambda rng, shape: rng.exponential(size=shape) - 1)


def decided(low, high):
    "The share of the intervals that leave out zero."
    return float(((low > 0) | (high < 0)).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--prompts', default='6,10,20,48')
    parser.add_argument('--times', type=int, default=2000)
    parser.add_argument('--draws', type=int, default=1000)
    args = parser.parse_args()
    print('| differences | prompts | percentiles | expanded | width, times |\n|---|---|---|---|---|')
    for name, draw in DRAWN.items():
        for n in map(int, args.prompts.split(',')):
            d = draw(np.random.default_rng(0), (n, args.times))
            plain = bootstrap_band(d, np.arange(n), n, args.draws, .95, 0)
            wide = difference_table(d, np.zeros_like(d), args.draws)[['low', 'high']].to_numpy().T
            width = (wide[1] - wide[0]).mean()/(plain[1] - plain[0]).mean()
            print(f'| {name} | {n} | {decided(*plain):.1%} | {decided(*wide):.1%} | {width:.2f} |', flush=True)


if __name__ == '__main__': main()
