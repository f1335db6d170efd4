"""CPU per call of each layer between us and a server: from the openai SDK as it comes down to bare aiohttp.

Run: python benchmarks/client.py [--slots 32] [--calls 1500] [--repeats 3]

The same chat completion over each layer, 50 ms latency, the test server in a process of its own, each on asyncio's own loop and on uvloop where that is
installed. The layers take turns; the table gives the medians of CPU per call, and of its ratio to bare aiohttp within one turn.
"""
import argparse
import asyncio
import importlib.util
import json
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import openai

from toa_nb import ChatModel, Message

sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from fault_server import running  # noqa: E402

TEXT = 'Describe a place to somebody who was never there, in fifty words. '*4
BODY = dict(model='a', messages=[dict(role='user', content=TEXT)], temperature=.7, top_p=1., max_tokens=2048)


def pooled(most):
    "The SDK's HTTP client on aiohttp, with a pool of `most` connections."
    return openai.DefaultAioHttpClient(limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=most,
        max_keepalive_connections=most))


@asynccontextmanager
async def sdk(url, http=None):
    "The SDK, with an HTTP client of its own choice or another one."
    async with openai.AsyncOpenAI(base_url=url, api_key='none', max_retries=0, http_client=http) as client:
        yield lambda i: client.chat.completions.create(**BODY, seed=i)


@asynccontextmanager
async def http_client(url):
    "The SDK's HTTP client alone, on aiohttp."
    async def call(i): return (await client.post(f'{url}/chat/completions', json=BODY | dict(seed=i))).json()
    async with pooled(256) as client: yield call


@asynccontextmanager
async def ours(url):
    "`ChatModel`: what the SDK does for a chat completion, and retries, balancing and typed failures, on an aiohttp session."
    model = ChatModel('a', url)
    try: yield lambda i: model.generate((Message('user', TEXT),), seed=i)
    finally: await model.close()


@asynccontextmanager
async def bare(url):
    "aiohttp and JSON."
    async def call(i):
        async with session.post(f'{url}/chat/completions', json=BODY | dict(seed=i)) as r:
            return json.loads(await r.read())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session: yield call


LAYERS = {'bare aiohttp': bare, 'ChatModel': ours, "SDK's HTTP client on aiohttp": http_client,
          'SDK on aiohttp, pool of 256': lambda url: sdk(url, pooled(256)),
          'SDK on aiohttp': lambda url: sdk(url, openai.DefaultAioHttpClient()), 'SDK as it comes (httpx)': sdk}


async def cpu(layer, url, slots, calls):
    "Client CPU in ms per call, after a first round that opens the connections."
    async with layer(url) as call:
        async def work(numbers):
            for i in numbers: await call(i)
        async def all_of(n):
            numbers = iter(range(n))
            await asyncio.gather(*(work(numbers) for _ in range(slots)))
        await all_of(2*slots)
        start = time.process_time()
        await all_of(calls)
        return (time.process_time() - start)/calls*1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--slots', type=int, default=32, help='calls in flight')
    parser.add_argument('--calls', type=int, default=1500)
    parser.add_argument('--repeats', type=int, default=3)
    o = parser.parse_args()
    runners = {'asyncio': asyncio.run}
    if importlib.util.find_spec('uvloop'):
        import uvloop
        runners['uvloop'] = uvloop.run
    print('| layer | ' + ' | '.join(f'CPU ms per call, {loop} | times bare' for loop in runners) + ' |')
    print('|---|' + '---|---|'*len(runners))
    with running('--latency', '0.05', '--models', 'a') as url:
        turns = [{(loop, name): run(cpu(layer, url, o.slots, o.calls)) for loop, run in runners.items()
                  for name, layer in LAYERS.items()}
                 for _ in range(o.repeats)]
    for name in LAYERS:
        cells = ([f'{median(t[loop, name] for t in turns):.2f} | '
                  f'{median(t[loop, name]/t[loop, "bare aiohttp"] for t in turns):.1f}' for loop in runners])
        print(f'| {name} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__': main()
