"""Do calls that begin alike reach the replica that has read the beginning? Two local llama.cpp servers behind one model name.

Run: python benchmarks/prefix_routing.py [--topics 4] [--fresh 2] [--more 4] [--tokens 12] [--router PATH_OF_VLLM_ROUTER]

Some questions, fresh answers to each, then continuations of them, all in flight and in random order. `one` is a single server, `least busy` the free one
of two with the fewest calls, `ours` the balancer of `ChatModel`, `router` vLLM's router (pip install vllm-router==0.1.17) before the same two. *Ideal* is
the share of prompt tokens that one cache before all servers could have held (`models.prefixes`).
"""
import argparse
import asyncio
import socket
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager
from random import Random
from time import monotonic, sleep
from unittest.mock import patch

from prefix_cache import TOPICS, question

from toa_nb import ChatModel, llama_cpp, local_model
from toa_nb.models.endpoints import Balancer
from toa_nb.models.prefixes import PrefixCounter
from toa_nb.search.moves import Continue, Parent
from toa_nb.templates import Templates

AIM = Balancer.home


def least_busy(balancer, beginning, free): return AIM(balancer, '', free)


async def measure(model, args):
    "Prompt tokens of the continuations, and the shares that were cached, and that could have been; calls by server."
    counter, rng, ours, used = PrefixCounter(), Random(0), Templates(), Counter()

    async def ask(messages, seed):
        done = await model.generate(messages, seed=seed)
        counter.count('m', '', messages, done.text, done.usage)
        used[done.endpoint] += 1
        return done
    jobs = []
    for p in map(question, TOPICS[:args.topics]):
        answers = await asyncio.gather(*(ask(ours.fresh(p), seed) for seed in range(args.fresh)))
        jobs += [Continue().messages(p, [Parent(answers[i % args.fresh].text)], ours, rng.randrange(10**6)) for i in range(args.more)]
    rng.shuffle(jobs)
    counter.counts, start = {}, monotonic()
    used.clear()
    await asyncio.gather(*(ask(messages, 9 + i) for i, messages in enumerate(jobs)))
    seconds = monotonic() - start
    await model.close()
    read, cached, possible = counter.counts['m']
    return f'{read:,}', f'{cached/read:.0%}', f'{possible/read:.0%}', ' + '.join(map(str, used.values())), f'{seconds:.0f} s'


@contextmanager
def routed(path, servers):
    "vLLM's router before some servers."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    urls = [server.url.removesuffix('/v1') for server in servers]
    process = subprocess.Popen([path, '--worker-urls', *urls, '--host', '127.0.0.1', '--port', str(port), '--policy', 'cache_aware'],
                               stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=5)
            except urllib.error.HTTPError: pass
            except OSError:
                sleep(.5)
                continue
            break
        yield f'http://127.0.0.1:{port}/v1'
    finally:
        process.terminate()
        process.wait()


def row(mode, args):
    "One line of the table."
    with ExitStack() as stack:
        servers = [stack.enter_context(llama_cpp(local_model(), 's', parallel=4, ctx=512, say=None)) for _ in range(1 + (mode != 'one'))]
        urls = [stack.enter_context(routed(args.router, servers))] if mode == 'router' else [s.url for s in servers]
        if mode == 'least busy': stack.enter_context(patch.object(Balancer, 'home', least_busy))
        model = ChatModel('m', urls, model=servers[0].name, api_key_env=servers[0].api_key_env, max_tokens=args.tokens, continues='trailing',
                          concurrency=4*len(servers)//len(urls))
        return asyncio.run(measure(model, args))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    for name, default in (('topics', 4), ('fresh', 2), ('more', 4), ('tokens', 12)): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--router', default='', help='path of the program vllm-router')
    parser.add_argument('--modes', nargs='*', choices=['one', 'least busy', 'ours', 'router'], help='default: all')
    args = parser.parse_args()
    print('| calls go to | prompt tokens | cached | ideal | calls by server | time |\n|---|---|---|---|---|---|')
    for mode in args.modes or ['one', 'least busy', 'ours', *(['router'] if args.router else [])]:
        print('| ' + ' | '.join([mode, *row(mode, args)]) + ' |', flush=True)


if __name__ == '__main__': main()
