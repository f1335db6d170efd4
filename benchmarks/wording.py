"""Wordings of refine and revise on a real model: what each makes of the same drafts, and of drafts that are no answer to the prompt.

Run: python benchmarks/wording.py. It goes on where it stopped. The plan is in data/experiments/README.md. `--prompts 8` takes the first 8 prompts;
`--model URL --served ID` uses a server of your own in place of the small local model (`--key-env`: the variable with its key).
`--refine FILE` and `--revise FILE` add a wording of yours. `--pool FILE` writes all answers to a compressed file; `--from FILE` reads such a
file, and needs no server.
"""
import argparse
import asyncio
import json
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from kernel import rows
from real_search import Fine, add_server, interval, served, write_pool

from toa_nb import Constraints, load_prompts, load_samples
from toa_nb.analysis.kernels import kernel
from toa_nb.core import Sample, Trial, derive_seed
from toa_nb.search.moves import MOVES, Parent
from toa_nb.templates import REFINE, REVISE, Templates

root = Path(__file__).parent.parent
SOURCES = root/'data/experiments/search_prompts.jsonl', root/'data/instructions.jsonl'
STORE = root/'runs/wording.jsonl'
FRESH, CHILDREN = 6, 3  # Fresh answers per prompt; the first of them are the drafts of every wording
USUAL = {'refine': 'long', 'revise': 'turn'}  # The wordings that the others are compared with
WORDINGS = {
    'refine': {
        'long': REFINE,
        'short': '{question}\n\nHere is an answer that is not good enough:\n\n{answer}\n\nWrite a better one. Reply with the new answer only.',
        'task last': 'An answer to the task below was:\n\n{answer}\n\nIt was not good enough. Write a better answer to this task:\n\n{question}'},
    'revise': {
        'turn': REVISE,
        'short': '{problems} Try again.',
        'task again': '{problems} Here is the task once more. Reply with a new answer only.\n\n{question}'}}


def prompts_and_rewards(limit):
    "Prompts of both files in turn, each with its reward."
    fine, plain = load_prompts(SOURCES[0])[:24], load_prompts(SOURCES[1])[::3]
    both = [pair for two in zip(fine, plain) for pair in zip(two, (Fine('reward'), Constraints('reward')))]
    return both[:limit]


async def answers_of(model, prompt, reward, unrelated, wordings):
    "The samples of one prompt: fresh answers, children of the first of them by each wording, and a null draft for each wording."
    async def one(number, kind, messages, parents, turn):
        seed = derive_seed('wording', prompt.id, turn)
        trial = Trial(number, model.name, messages, parents, kind, action=f'{model.name}_probe_{bool(kind != "fresh"):d}', seed=seed)
        completion = await model.generate(messages, seed=seed)
        score, = await reward.score(prompt, [completion.text])
        return Sample('wording', prompt.id, replace(trial, messages=()), completion, scores=(score,))
    first = await asyncio.gather(*[one(i, 'fresh', Templates().fresh(prompt), (), i) for i in range(FRESH)])
    drafts = [(Parent(s.completion.text, reward.explain(s.scores[0])), (s.trial.number,)) for s in first[:CHILDREN]]
    drafts.append((Parent(unrelated), ()))
    asked = [(f'{move}: {name}', MOVES[move].messages(prompt, [draft], Templates(**{move: text})), parents, FRESH + turn)
             for move, texts in wordings.items() for name, text in texts.items() for turn, (draft, parents) in enumerate(drafts)]
    return [*first, *await asyncio.gather(*[one(FRESH + i, *task) for i, task in enumerate(asked)])]


async def ask_all(model, limit, wordings):
    "Ask for the answers to all prompts that have none yet; the null draft is empty, or an answer to the prompt before."
    done, before = stored(), ''
    for i, (prompt, reward) in enumerate(prompts_and_rewards(limit)):
        found = done.get(prompt.id)
        if not found:
            found = await answers_of(model, prompt, reward, before if i % 2 else '', wordings)
            with open(STORE, 'a', encoding='utf-8') as f: f.writelines(json.dumps(asdict(s), ensure_ascii=False) + '\n' for s in found)
            print(f'{i + 1} prompts', flush=True)
        before = found[0].completion.text
    await model.close()


def stored():
    "The samples that are there, by prompt."
    found = defaultdict(list)
    for s in load_samples(STORE) if STORE.exists() else (): found[s.prompt_id].append(s)
    return found


def means(samples, kind, null=False):
    "Mean reward by prompt of a kind of answers."
    found = defaultdict(list)
    for s in samples:
        if s.trial.kind == kind and (kind == 'fresh' or null != bool(s.trial.parents)): found[s.prompt_id].append(s.scores[0].value)
    return {p: np.mean(v) for p, v in found.items()}


def differences(samples):
    "Each wording beside fresh answers, the usual wording and null drafts: paired differences over prompts."
    kinds, fresh = dict.fromkeys(s.trial.kind for s in samples if s.trial.kind != 'fresh'), means(samples, 'fresh')
    print(f'{len(fresh)} prompts, fresh answers {np.mean(list(fresh.values())):.3f}.\n')
    print('| wording | reward | above fresh answers | above the usual wording | above null drafts | null drafts above fresh |\n|---|---|---|---|---|---|')
    for kind in kinds:
        move = kind.split(':')[0]
        own, null, usual = means(samples, kind), means(samples, kind, True), means(samples, f'{move}: {USUAL[move]}')
        def above(a, b): return interval([a[p] - b[p] for p in a if p in b])
        print(f'| {kind} | {np.mean(list(own.values())):.3f} | {above(own, fresh)} | {above(own, usual) if own != usual else ""} | '
              f'{above(own, null)} | {above(null, fresh)} |')
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add_server(parser)
    for move in WORDINGS: parser.add_argument(f'--{move}', type=Path, action='append', default=[], help='file with a wording of yours')
    parser.add_argument('--pool', help='file to write')
    parser.add_argument('--from', dest='source', help='file to read')
    args = parser.parse_args()
    wordings = {move: texts | {f.stem: f.read_text(encoding='utf-8') for f in getattr(args, move)} for move, texts in WORDINGS.items()}
    if not args.source:
        STORE.parent.mkdir(exist_ok=True)
        with served(args, max_tokens=72) as model: asyncio.run(ask_all(model, args.prompts, wordings))
    samples = load_samples(args.source or STORE)
    if args.pool: write_pool(samples, args.pool)
    first = {p.id for p, _ in prompts_and_rewards(None)[::2]}
    for name, part in (('Both sets', samples), ('Search prompts', [s for s in samples if s.prompt_id in first]),
                       ('Instructions', [s for s in samples if s.prompt_id not in first])):
        print(f'**{name}**: ', end='')
        differences(part)
    rows(kernel(samples, 'reward').table, ['move'])


if __name__ == '__main__': main()
