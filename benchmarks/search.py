"""Searches in simulated worlds: reward, true quality, different answers, compute and time, in paired differences to published TOA.

Run: python benchmarks/search.py. `--fit`, `--reach`, `--settings`, `--wall`, `--cpu`, `--others`, `--after` and `--votes` print other tables; `--prompts`,
`--seeds`, `--worlds`, `--n` and `--jobs` set the size. With the defaults it takes about ten minutes on one core.
"""
import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from math import exp, log
from random import Random
from statistics import median
from time import process_time

import numpy as np

from toa_nb.analysis.priors import fit_prior
from toa_nb.analysis.selection import majority_of_bests, rerank, vote
from toa_nb.core import Completion, Outcome, Prompt, Sample, Score, Trial
from toa_nb.search.adaptive_branching import ABMCTSA
from toa_nb.search.aggregation import RSA, SelfMoA
from toa_nb.search.bandit import REx
from toa_nb.search.chains import QUEST
from toa_nb.search.rounds import Rounds
from toa_nb.search.routing import RoBoN
from toa_nb.search.samplers import PRS, BestOfN, MoA, ParallelEnsemble, SequentialRefine
from toa_nb.search.simulate import FITTED, WORLDS, paired, play, play_samples, simulate_methods
from toa_nb.search.tree import TOA

SD = 5.5e-3  # Standard deviation of a model's fresh answers to one prompt, in the reward's unit
REACH_N = (64, 96, 128, 160, 208)
METHODS = {
    'BestOfN, one model': lambda n: BestOfN(n=n), 'ParallelEnsemble': lambda n: ParallelEnsemble(n=n),
    'TOA published': lambda n: TOA.published(n=n), 'TOA()': lambda n: TOA(n=n),
    'Rounds, two moves': lambda n: Rounds(n=n, moves=['refine']), 'Rounds': lambda n: Rounds(n=n),
    'Rounds, quorum .75': lambda n: Rounds(n=n, quorum=.75)}
OTHERS = {
    'best single model': lambda n: BestOfN(n=n, model='yi'), 'Self-MoA': lambda n: SelfMoA(n=n), 'RSA': lambda n: RSA(n=n),
    'RoBoN': lambda n: RoBoN(n=n), 'QUEST': lambda n: QUEST(n=n), 'REx': lambda n: REx(n=n),
    'AB-MCTS-A': lambda n: ABMCTSA(n=n)}
METHODS |= OTHERS
SHORT = ['ParallelEnsemble', 'TOA published', 'TOA()', 'Rounds, two moves', 'Rounds']
SETTINGS = {
    'as it is': {}, 'fresh and refine': dict(moves=['refine']), 'no revise': dict(moves=['refine', 'continue']), 'least share of fresh .1': dict(fresh=.1),
    'least share of fresh .5': dict(fresh=.5), '6 parents': dict(best=6), '1 parent': dict(best=1), 'depth 1': dict(depth=1), '5 rounds': dict(rounds=5),
    '12 rounds': dict(rounds=12), 'top 5': dict(top=5)}
PUBLISHED = {  # N -> (FLOPs per prompt in 1e16, mean of the ten best rewards), read off the published chart
    'rand': {64: (.051, .1635), 128: (.100, .1656), 256: (.201, .1670), 384: (.303, .1676), 768: (.605, .1688)},
    'PRS': {64: (.075, .1696), 128: (.145, .1722), 256: (.296, .1741), 384: (.443, .1753), 768: (.882, .1774)},
    'parallel': {64: (.066, .1677), 128: (.129, .1699), 256: (.265, .1722), 384: (.396, .1731), 768: (.793, .1748)},
    'sequential': {64: (.103, .1672), 128: (.217, .1705), 256: (.438, .1726), 384: (.663, .1739), 768: (1.331, .1756)},
    'MoA': {64: (.298, .1683), 128: (.599, .1705), 256: (1.191, .1726), 384: (1.781, .1734), 768: (3.575, .1751)},
    'TOA': {64: (.111, .1743), 128: (.216, .1774), 256: (.429, .1801), 384: (.647, .1812), 768: (1.260, .1830)}}
FITS = {
    'rand': lambda n: BestOfN(n=n, model='qwen'), 'PRS': lambda n: PRS(n=n, model='qwen'),
    'parallel': lambda n: ParallelEnsemble(n=n),
    'sequential': lambda n: SequentialRefine(n=n), 'MoA': lambda n: MoA(n=n), 'TOA': lambda n: TOA.published(n=n)}


def submit(pool, world, methods, n, args, in_flight=1):
    "Simulate some of `METHODS` at one size in one world."
    return pool.submit(simulate_methods, WORLDS[world], {m: METHODS[m](n) for m in methods}, args.prompts, args.seeds,
                       in_flight)


def show(pair): return f'{pair[0]:+.2f} ± {pair[1]:.2f}'


def rows(head, table):
    print('| ' + ' | '.join(head) + ' |\n|' + '---|'*len(head))
    for row in table: print('| ' + ' | '.join(str(x) for x in row) + ' |')
    print(flush=True)


def fit(pool, prompts):
    "The fitted world beside the published figure."
    jobs = {(name, n): pool.submit(simulate_methods, FITTED, {name: FITS[name](n)}, prompts) for name in FITS
            for n in PUBLISHED[name]}
    errors, table = [], []
    for name in FITS:
        found = {n: jobs[name, n].result()[name] for n in PUBLISHED[name]}
        gaps = [1e3*(float(found[n]['top10'].mean()) - PUBLISHED[name][n][1]) for n in found]
        errors += gaps
        flops = [found[n]['flops'].mean()/1e16/PUBLISHED[name][n][0] for n in found]
        table.append([name, *[f'{g:+.2f} ({f:.2f})' for g, f in zip(gaps, flops)],
                      f'{np.sqrt(np.mean(np.square(gaps))):.2f}'])
    rows(['method', *[f'N = {n}' for n in PUBLISHED['TOA']], 'RMSE'], table)
    print(f'All points: RMSE {np.sqrt(np.mean(np.square(errors))):.2f} (thousandths).\n')


def differences(world, n, out):
    "Paired differences to published TOA, in standard deviations, and compute relative to it."
    base, unit = out['TOA published'], 1 if world == 'verifier' else SD*WORLDS[world].scale/1e-3
    for name, r in out.items():
        gains = [show(paired(r[k], base[k], unit)) for k in ('top10', 'best', 'different10', 'quality')]
        costs = [f'{r[k].mean()/base[over].mean():.2f}' for k, over in (('flops', 'flops'), ('shared', 'flops'),
            ('reward_flops', 'flops'))]
        yield [world, n, name, *gains, *costs]


def reach(curve, cost, measure, target, picked):
    "Compute at which a method's `measure` reaches `target`; infinite where no size of the grid does."
    x = [log(r[cost][picked].mean()) for r in curve]
    y = np.maximum.accumulate([r[measure][picked].mean() for r in curve])
    if target > y[-1]: return np.inf
    return exp(np.interp(target, y, x)) if target >= y[0] else exp(x[0])


def reaches(base, curve, cost, measure, draws=1000):
    "Reach relative to the plain FLOPs of published TOA at N = 160, with a bootstrap interval over prompts."
    rng, count = np.random.RandomState(0), len(base['top10'])
    def ratio(picked):
        return reach(curve, cost, measure, base[measure][picked].mean(), picked)/base['flops'][picked].mean()
    low, high = np.quantile([ratio(rng.randint(count, size=count)) for _ in range(draws)], [.025, .975],
                            method='nearest')
    def text(x): return f'{x:.2f}' if np.isfinite(x) else 'not reached'
    return f'{text(ratio(np.arange(count)))} [{text(low)}, {text(high)}]'


def cpu(method, words, repeats=7):
    "Median CPU milliseconds per sample of asking and telling, for answers of that many words."
    rng, times = Random(0), []
    texts = [' '.join(rng.choices([f'word{i}' for i in range(2000)], k=words)) for _ in range(method.n)]
    for k in range(repeats):
        s, start = method.start(Prompt(f'p{k}', 'Why is the sky blue? '*10), list('abcd')), process_time()
        while out := list(iter(s.ask, None)):
            for t in out:
                s.tell(t, Outcome(texts[t.number], rng.gauss(s.rewards[t.parents[0]]/3 if t.parents else 0., 1.)))
        times.append((process_time() - start)/method.n*1e3)
    return f'{median(times):.3f}'


def cpu_table():
    rows(['N', 'words per answer', 'TOA()', 'Rounds'],
        ([n, words, cpu(TOA(n=n), words), cpu(Rounds(n=n), words)] for n in (64, 160, 2560) for words in (100, 600)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--prompts', type=int, default=200)
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--worlds', default=','.join(WORLDS))
    parser.add_argument('--n', default='160', help='samples per prompt, separated by commas')
    parser.add_argument('--jobs', type=int, default=1)
    for name, text in (('fit', 'the published figure'), ('reach', 'compute to reach published TOA'),
            ('settings', 'other settings of Rounds at a smaller n'),
            ('wall', 'time with 1, 16, 32 calls in flight'),
            ('cpu', 'time that asking and telling take'), ('others', 'searches by others'),
            ('after', 'what can be done after the search'), ('votes', 'votes on short answers')):
        parser.add_argument(f'--{name}', action='store_true', help=text)
    args = parser.parse_args()
    if args.cpu: return cpu_table()
    if args.votes: return votes(args.prompts)
    worlds = args.worlds.split(',')
    with ProcessPoolExecutor(args.jobs) as pool:
        if args.fit: return fit(pool, args.prompts)
        if args.wall: return wall(pool, worlds, args)
        if args.reach: return reach_table(pool, worlds, args)
        if args.settings: return settings_table(pool, worlds, args)
        if args.after: return after(pool, args)
        gains(pool, worlds, args, ['TOA published', *OTHERS] if args.others else SHORT)


def chosen(world, method, number):
    "True quality of the answers that different rules choose, for one prompt."
    samples = play_samples(play(world, method, number))
    best = sorted(samples, key=lambda s: -s.value('reward'))[:10]
    picks = dict(reward=best[0], second=max(best, key=lambda s: s.value('second')),
        mean=rerank(samples, ['reward', 'second'])[0],
        different=rerank(samples, ['reward', 'second'], limit=.5)[0])
    claimed = dict(claimed=best[0].value('reward') - best[0].value('true'))
    return {name: s.value('true') for name, s in picks.items()} | claimed


def chosen_all(world, method, prompts):
    found = [chosen(world, method, p) for p in range(prompts)]
    return {k: np.array([f[k] for f in found]) for k in found[0]}


def after(pool, args):
    "What re-ranking is worth where the reward has errors, and what guiding by the mean of two rewards is."
    n, table = int(args.n.split(',')[0]), []
    worlds = {f'error {sd / 5.5:.1f} sd, drift {drift}': replace(FITTED, reward_sd=sd, drift=drift)
              for sd, drift in ((3.8, .0), (3.8, .5), (7.6, .5))}
    methods = {name: METHODS[name](n) for name in ('ParallelEnsemble', 'TOA()', 'Rounds')}
    jobs = {(w, m): pool.submit(chosen_all, worlds[w], methods[m], args.prompts) for w in worlds for m in methods}
    halves = {(w, m): pool.submit(chosen_all, replace(worlds[w], reward_sd=worlds[w].reward_sd/2**.5), methods[m],
                                  args.prompts) for w in worlds for m in methods}
    for (w, m), job in jobs.items():
        out, half = job.result(), halves[w, m].result()
        gains = [show(paired(out[k], out['reward'], SD)) for k in ('mean', 'different', 'second')]
        table.append([w, m, f'{out["claimed"].mean()/SD:.2f}', *gains, show(paired(half['reward'], out['reward'], SD))])
    rows(['world', 'method', 'reward overrates its best by', 'ten best, mean of two rewards', 'the same, different ones',
          'ten best, second reward alone', 'search guided by the mean of two'], table)


def votes(prompts, n=64):
    "Accuracy of the chosen short answer; wrong answers compete, and the reward has an error."
    table, digit = [], str
    for share, rivals, error in ((.3, 8, 1.), (.3, 2, 1.), (.15, 8, 1.), (.3, 8, 2.)):
        right = {'best of n': [], 'majority': [], 'weighted majority': [], 'majority of the bests': []}
        for p in range(prompts):
            rng, samples = Random(p), []
            for i in range(n):
                good = rng.random() < share
                text = 'right' if good else f'wrong {min(rng.randrange(rivals), rng.randrange(rivals))}'
                reward = max(0., 2 + good + error*rng.gauss(0, 1))
                samples.append(Sample('r', 'p', Trial(i, 'm', ()), Completion(text, None), scores=(Score('r', reward),)))
            best = max(samples, key=lambda s: s.value('r')).completion.text
            found = [best, vote(samples, digit).answer, vote(samples, digit, 'r').answer,
                     majority_of_bests(samples, digit, 'r').answer]
            for name, answer in zip(right, found): right[name].append(answer == 'right')
        table.append([share, rivals, error, *[f'{np.mean(r):.2f}' for r in right.values()]])
    rows(['share of right answers', 'wrong answers', 'error of the reward', *right], table)


def gains(pool, worlds, args, methods):
    sizes = [int(n) for n in args.n.split(',')]
    jobs = {(w, n): submit(pool, w, methods, n, args) for w in worlds for n in sizes}
    rows(['world', 'N', 'method', 'ten best', 'best', 'ten different', 'true quality of the best', 'FLOPs', 'shared',
          'reward model'],
        (row for (w, n), out in jobs.items() for row in differences(w, n, out.result())))


def reach_table(pool, worlds, args):
    methods = ['TOA published', 'TOA()', 'Rounds, two moves', 'Rounds']
    jobs = {(w, n): submit(pool, w, methods, n, args) for w in worlds for n in REACH_N}
    def table():
        for w in worlds:
            out = {n: jobs[w, n].result() for n in REACH_N}
            for m in methods:
                curve = [out[n][m] for n in REACH_N]
                base = out[160]['TOA published']
                yield [w, m, *[reaches(base, curve, cost, k) for k in ('top10', 'different10')
                               for cost in ('flops', 'shared')]]
    rows(['world', 'method', *[f'{k}, {cost}' for k in ('ten best', 'ten different') for cost in ('plain', 'shared')]],
         table())


def learned(world, prompts=60):
    "What other prompts of a world show about its models and moves."
    return fit_prior([s for p in range(9000, 9000 + prompts) for s in play_samples(play(world, Rounds(n=160), p))], 'reward')


def settings_table(pool, worlds, args):
    "Rounds with other settings and fewer samples, beside published TOA at N = 160."
    def job(w, method): return pool.submit(simulate_methods, WORLDS[w], {'it': method}, args.prompts, args.seeds, 1, 5000)
    def table():
        for w in worlds:
            base, priors = job(w, TOA.published(n=160)), {'prior of 60 other prompts': dict(prior=learned(WORLDS[w]))}
            jobs = {(n, name): job(w, Rounds(n=int(n), **given)) for n in args.n.split(',') for name, given in (SETTINGS | priors).items()}
            theirs = base.result()['it']
            for (n, name), asked in jobs.items():
                ours = asked.result()['it']
                gains = [show(paired(ours[k], theirs[k], SD*WORLDS[w].scale/1e-3)) for k in ('top10', 'different10', 'best')]
                yield [w, n, name, *gains, *[f'{ours[k].mean()/theirs["flops"].mean():.2f}' for k in ('flops', 'shared')]]
    rows(['world', 'N', 'setting', 'ten best', 'ten different', 'best', 'FLOPs', 'shared'], table())


def wall(pool, worlds, args):
    sizes = [int(n) for n in args.n.split(',')]
    jobs = {(w, n, f): submit(pool, w, list(METHODS), n, args, f) for w in worlds for n in sizes for f in (1, 16, 32)}
    def table():
        for w in worlds:
            for n in sizes:
                out = {f: jobs[w, n, f].result() for f in (1, 16, 32)}
                base, unit = out[1]['TOA published'], SD*WORLDS[w].scale/1e-3
                for m in METHODS:
                    times = [f'{out[f][m]["wall"].mean()/base["wall"].mean():.3f}' for f in out]
                    yield [w, n, m, *times, show(paired(out[16][m]['top10'], base['top10'], unit))]
    rows(['world', 'N', 'method', 'time, 1 in flight', '16', '32', 'ten best at 16 in flight'], table())


if __name__ == '__main__': main()
