"""Searches on a real model: best-of-n, TOA and Rounds on prompts and with an analysis that were fixed beforehand (data/experiments/README.md).

Run: python benchmarks/real_search.py. It goes on where it stopped. `--prompts 8` takes the first 8 prompts; `--model URL --served ID` uses a
server of your own in place of the small local model (`--key-env`: the variable with its key; `--spec`: its size, such as 8e9).
`--pool FILE` writes all answers to a compressed file; `--from FILE` reads such a file in place of the store, and needs no server.
"""
import argparse
import gzip
import json
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np

from toa_nb import (
    TOA,
    BestOfN,
    ChatModel,
    Constraints,
    Rounds,
    Run,
    RunStore,
    Score,
    call_flops,
    get_spec,
    llama_cpp,
    load_prompts,
    load_samples,
    local_model,
    spec_from_params,
)
from toa_nb.core import Message
from toa_nb.rewards.constraints import word_list
from toa_nb.search.diversity import different

root = Path(__file__).parent.parent
PROMPTS, STORE = root/'data/experiments/search_prompts.jsonl', root/'runs/real_search.db'
MOVES = ('fresh', 'refine', 'revise', 'continue')
METHODS = {'best-of-n': BestOfN(32), 'TOA published': TOA.published(32), 'TOA()': TOA(32), 'Rounds': Rounds(32),
           'Rounds, all moves': Rounds(32, moves=MOVES)}
BATCH = 4  # Prompts that all methods finish before the next ones begin


class Fine(Constraints):
    "A reward with fine steps: constraints, closeness to the length that was asked for, and variety of words."
    def score_one(self, prompt, response):
        told, words = super().score_one(prompt, response), [w.lower() for w in word_list(response)]
        wanted, variety = prompt.meta['target_words'], len(set(words))/max(1, len(words))
        close = max(0., 1 - abs(len(words) - wanted)/wanted)
        details = told.details | {f'about {wanted} words in all': close >= .9, 'closeness': close, 'variety': variety}
        return Score(self.name, .6*told.value + .25*close + .15*variety, version=self.version, details=details)


class Shared:
    "A model that is asked once for the same messages with the same seed, whichever method asks."
    def __init__(self, model):
        self.inner, self.known = model, {}
        self.name, self.model, self.spec = model.name, model.model, model.spec
        self.can_continue, self.close, self.settings = model.can_continue, model.close, model.settings

    @property
    def capacity(self): return self.inner.capacity

    async def generate(self, messages, *, seed):
        key = messages, seed
        if key not in self.known: self.known[key] = await self.inner.generate(messages, seed=seed)
        return self.known[key]

    def remember(self, samples, prompts):
        "Take in the fresh answers of a store."
        for s in samples:
            if s.trial.kind == 'fresh' and s.completion and not s.error:
                self.known[(Message('user', prompts[s.prompt_id].instruction),), s.trial.seed] = s.completion


@contextmanager
def served(args, max_tokens):
    "The model of the user's server, or the small local one."
    server = nullcontext() if args.model else llama_cpp(local_model(), 'smollm2-135m', parallel=8, ctx=640)
    with server as s:
        where = dict(endpoints=args.model, model=args.served, api_key_env=args.key_env) if args.model else dict(
            endpoints=s.url, model=s.name, api_key_env=s.api_key_env)
        yield ChatModel('model', max_tokens=max_tokens, temperature=.8, spec=spec_of(args), concurrency=8, **where)


def spec_of(args): return spec_from_params('model', float(args.spec)) if args.spec else get_spec('SmolLM2-135M-Instruct')


def add_server(parser):
    "Options that name a server, its model, and how many prompts."
    parser.add_argument('--prompts', type=int, default=48)
    parser.add_argument('--model', help='address of a server')
    parser.add_argument('--served', default='', help='id of the model there')
    parser.add_argument('--key-env', help='environment variable with its key')
    parser.add_argument('--spec', help='number of parameters')


def run_all(args):
    "Run every method on the prompts, a few at a time; returns the samples by method and prompt."
    STORE.parent.mkdir(exist_ok=True)
    prompts = load_prompts(PROMPTS)[:args.prompts]
    with served(args, max_tokens=56) as asked:
        model = Shared(asked)
        with RunStore(STORE) as store:
            for name in store.run_names(): model.remember(store.samples(name), {p.id: p for p in prompts})
        for i in range(0, len(prompts), BATCH):
            for method, settings in METHODS.items():
                run = Run(prompts[i:i + BATCH], settings, [model], Fine(), store=STORE, name=f'{method} {i}', check=False)
                run.wait(show=False)
                print(f'{i + BATCH} prompts, {run.report()}', flush=True)
                if not run.ok: raise SystemExit('stopped; the same command goes on from here')
    with RunStore(STORE, 'r') as store: return gathered(s for name in store.run_names() for s in store.samples(name))


def gathered(samples):
    "Samples by method and prompt, in the order of asking."
    found = defaultdict(lambda: defaultdict(list))
    for s in samples:
        if not s.error: found[s.run.rsplit(' ', 1)[0]][s.prompt_id].append(s)
    return found


def reward(s): return s.scores[0].value


def flops(s, spec, cache): return call_flops(spec, s.completion.usage.prompt_tokens, s.completion.usage.completion_tokens,
                                             s.completion.usage.cached_tokens if cache else 0).total


def measures(samples):
    "The best reward, and the mean of the five best different answers."
    ranked = sorted(samples, key=reward, reverse=True)
    five = different([s.completion.text for s in ranked], 5)
    return reward(ranked[0]), np.mean([reward(ranked[i]) for i in five])


def within(samples, limit, spec, cache):
    "The first samples whose FLOPs stay within a limit."
    spent = np.cumsum([flops(s, spec, cache) for s in samples])
    return samples[:max(1, int((spent <= limit*(1 + 1e-9)).sum()))]


def interval(d, draws=2000):
    "Mean of paired differences, and its 95 % interval by bootstrap over prompts."
    d, rng = np.asarray(d), np.random.RandomState(0)
    low, high = np.quantile(d[rng.randint(len(d), size=(draws, len(d)))].mean(1), [.025, .975])
    return f'{d.mean():+.3f} [{low:+.3f}, {high:+.3f}]'


def table(found, spec):
    "Paired differences to best-of-n."
    base = found['best-of-n']
    ids = [p for p in base if all(len(found[m].get(p, ())) >= 32 for m in METHODS)]
    first = np.array([measures(base[p]) for p in ids])
    top8 = np.mean([max(map(reward, base[p][:8])) < max(map(reward, base[p])) for p in ids])
    print(f'{len(ids)} prompts x 32 samples. Best-of-n: best {first[:, 0].mean():.3f}, five different {first[:, 1].mean():.3f}; '
          f'the best of 8 is below the best of 32 on {top8:.0%} of the prompts.\n')
    print('| method | samples | best | five different | FLOPs, as cached |\n|---|---|---|---|---|')
    for m in list(METHODS)[1:]:
        for name, cache in (('equal samples', None), ('equal FLOPs, no cache', False), ('equal FLOPs, as cached', True)):
            taken = [found[m][p] if cache is None else
                     within(found[m][p], sum(flops(s, spec, cache) for s in base[p]), spec, cache) for p in ids]
            d = np.array([measures(t) for t in taken]) - first
            cost = np.mean([sum(flops(s, spec, True) for s in t) for t in taken])/np.mean(
                [sum(flops(s, spec, True) for s in base[p]) for p in ids])
            print(f'| {m} | {name}: {np.mean([len(t) for t in taken]):.1f} | {interval(d[:, 0])} | {interval(d[:, 1])} | {cost:.2f} |')
    last, other = 'Rounds, all moves', 'TOA()'
    d = np.array([measures(found[last][p]) for p in ids]) - [measures(found[other][p]) for p in ids]
    print(f'\n{last} against {other}, equal samples: best {interval(d[:, 0])}, five different {interval(d[:, 1])}.')
    print('\n' + moves_table(found, ids))


def moves_table(found, ids):
    "What each move brought: answers, mean reward, tokens, and how often it beat its parent."
    rows = defaultdict(list)
    for m in METHODS:
        for p in ids:
            by_number = {s.trial.number: s for s in found[m][p]}
            for s in found[m][p]:
                parent = by_number.get(s.trial.parents[0]) if s.trial.parents else None
                u = s.completion.usage
                rows[m, s.trial.kind].append((reward(s), parent and reward(s) > reward(parent), u.prompt_tokens,
                                              u.cached_tokens, u.completion_tokens))
    lines = ['| method | move | answers | reward | beats its parent | tokens read | of them cached | written |', '|---|---|---|---|---|---|---|---|']
    for (m, kind), r in rows.items():
        value, beats, read, cached, written = zip(*r)
        won = f'{np.mean(beats):.0%}' if kind != 'fresh' else ''
        lines.append(f'| {m} | {kind} | {len(r)} | {np.mean(value):.3f} | {won} | {np.mean(read):.0f} | '
                     f'{sum(cached)/sum(read):.0%} | {np.mean(written):.0f} |')
    return '\n'.join(lines)


def write_pool(samples, path):
    "All answers in a compressed file for `load_samples`."
    with gzip.open(path, 'wt', encoding='utf-8', compresslevel=9) as f:
        for s in samples: f.write(json.dumps(asdict(s), ensure_ascii=False) + '\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add_server(parser)
    parser.add_argument('--pool', help='file to write')
    parser.add_argument('--from', dest='source', help='file to read')
    args = parser.parse_args()
    found = gathered(load_samples(args.source)) if args.source else run_all(args)
    if args.pool: write_pool([s for asked in found.values() for samples in asked.values() for s in samples], args.pool)
    table(found, spec_of(args))


if __name__ == '__main__': main()
