"""How much of the prompts of continuations a llama.cpp server finds in its cache, without and with memory for prefixes that no slot holds.

Run: python benchmarks/prefix_cache.py [--mib 0 1024] [--slots 8] [--order random sorted]. Eight questions, four fresh answers each,
then 48 continuations of them, all in flight; the ideal is counted by `models.prefixes`.
"""
import argparse
import asyncio
from random import Random
from time import monotonic

from toa_nb import ChatModel, Prompt, llama_cpp, local_model
from toa_nb.models.prefixes import PrefixCounter
from toa_nb.search.moves import Continue, Parent
from toa_nb.templates import Templates

TOPICS = 'dogs trains rivers bread clouds violins winter maps'.split()


def question(topic):
    return Prompt(topic, f'Write a short text about {topic}. Include the words window, silver, careful and evening. '
                         'Use no commas, and use at most sixty words in all.')


async def measure(server, slots, order):
    "Shares of the prompt tokens that were cached, and that could have been."
    model = ChatModel('m', server.url, model=server.name, api_key_env=server.api_key_env, max_tokens=24, continues='trailing', concurrency=slots)
    counter, rng, ours = PrefixCounter(), Random(0), Templates()
    async def ask(messages, seed):
        done = await model.generate(messages, seed=seed)
        counter.count('m', done.endpoint, messages, done.text, done.usage)
        return done
    jobs = []
    for p in map(question, TOPICS):
        answers = await asyncio.gather(*(ask(ours.fresh(p), seed) for seed in range(4)))
        jobs += [Continue().messages(p, [Parent(answers[i % 4].text)], ours, rng.randrange(10**6)) for i in range(6)]
    if order == 'random': rng.shuffle(jobs)
    counter.counts, start = {}, monotonic()
    await asyncio.gather(*(ask(messages, 9 + i) for i, messages in enumerate(jobs)))
    await model.close()
    read, cached, possible = counter.counts['m']
    return f'{read:,}', f'{cached/read:.0%}', f'{possible/read:.0%}', f'{monotonic() - start:.0f} s'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--mib', type=int, nargs='+', default=[0, 1024], help='memory for prefixes')
    parser.add_argument('--slots', type=int, default=8)
    parser.add_argument('--order', nargs='+', default=['random', 'sorted'], choices=['random', 'sorted'])
    args = parser.parse_args()
    print('| memory, MiB | slots | order of the calls | prompt tokens | cached | possible | time |\n|---|---|---|---|---|---|---|')
    for mib in args.mib:
        for order in args.order:
            with llama_cpp(local_model(), 's', parallel=args.slots, ctx=512, cache_mib=mib, say=None) as server:
                row = asyncio.run(measure(server, args.slots, order))
            print('| ' + ' | '.join([str(mib), str(args.slots), order, *row]) + ' |', flush=True)


if __name__ == '__main__': main()
