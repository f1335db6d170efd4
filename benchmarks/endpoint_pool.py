"""Three local servers behind one model name, one of them slow, one dying: the rate of the calls, and the share that each server got.

    python benchmarks/endpoint_pool.py [CALLS]
"""
import asyncio
import os
import signal
import sys
import threading
import time
from collections import Counter

from toa_nb.core import GenerationError, Message
from toa_nb.models.file import models_from
from toa_nb.servers.engines import llama_cpp_spec
from toa_nb.servers.fleet import start_all
from toa_nb.servers.watcher import Watcher, notify_models

CALLS, TOKENS, IN_FLIGHT = int(sys.argv[1]) if len(sys.argv) > 1 else 120, 24, 24


def slow_down(server, end, share=.25, period=.2):
    "Let a server run only for a share of the time, until `end` is set."
    pid = server.pid
    while not end.wait(period * share):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(period * (1 - share))
        os.kill(pid, signal.SIGCONT)


async def drive(model, calls, at=None, then=None):
    "Make all calls, at most `IN_FLIGHT` at once; do `then` once, after `at` of them."
    gate, done, failed = asyncio.Semaphore(IN_FLIGHT), [], Counter()

    async def one(i):
        async with gate:
            try:
                done.append(await model.generate((Message('user', f'Tell me something about the number {i}.'),),
                                                 seed=i))
            except GenerationError as e: failed[type(e).__name__] += 1
            if then and len(done) == at: then()
    begun = time.monotonic()
    await asyncio.gather(*map(one, range(calls)))
    return done, failed, time.monotonic() - begun


def report(title, fleet, roles, done, failed, seconds):
    "Print one table."
    calls, attempts = Counter(c.endpoint for c in done), Counter(c.attempts for c in done)
    tokens = sum(c.usage.completion_tokens for c in done)
    print(f'\n{title}: {len(done)} calls in {seconds:.1f} s, {len(done) / seconds:.2f} calls/s, {tokens / seconds:.1f} '
          f'tokens/s, '
          f'{sum(failed.values())} failed {dict(failed) or ""}, {sum(n for a, n in attempts.items() if a > 1)} needed '
          f'another attempt')
    for server, role in zip(fleet.servers, roles):
        print(f'  {role:8} {server.url:28} {calls[server.url]:5} calls {calls[server.url] / len(done):6.1%}')


async def main():
    spec = llama_cpp_spec('local', 'smollm2-135m', parallel=8)
    with start_all([spec] * 3) as fleet:
        model, = models_from({'models': fleet.models})
        model.max_tokens = TOKENS
        report('All well', fleet, ['healthy'] * 3, *await drive(model, CALLS))
        watcher = Watcher(fleet.servers, on_change=notify_models([model])).start(every=.2)
        end = threading.Event()
        slow = threading.Thread(target=slow_down, args=(fleet.servers[1], end))
        slow.start()
        died = fleet.servers[2].pid
        try: result = await drive(model, CALLS, CALLS // 3, lambda: os.kill(died, signal.SIGKILL))
        finally:
            end.set()
            slow.join()
            watcher.stop()
        report('One slow, one killed after a third', fleet, ('healthy', 'slow', 'killed'), *result)
        await model.close()


if __name__ == '__main__': asyncio.run(main())
