"""Time for tests: it passes by what happens, and not by how busy the machine is.

A limit on the time of a whole test (`HANG`) only ends a test that would never end; no test measures with it."""
import asyncio
import json
import sys
import time
from functools import partial
from types import SimpleNamespace

from fault_server import digest

from toa_nb.core import CallTimeout

HANG = 600.


class Clock:
    "Seconds that a test moves on; like `time.monotonic`, it does not begin at 0."
    def __init__(self): self.now = 1000.
    def __call__(self): return self.now
    def pass_by(self, seconds): self.now += seconds


def set_clock(monkeypatch, wing, clock):
    "Let every loaded room of a wing, such as `toa_nb.run`, read this clock."
    rooms = [m for name, m in sys.modules.items() if name.startswith(f'{wing}.')]
    for room in rooms:
        if hasattr(room, 'monotonic'): monkeypatch.setattr(room, 'monotonic', clock)
        if hasattr(room, 'time'):
            monkeypatch.setattr(room, 'time', SimpleNamespace(**vars(time) | {'monotonic': clock}))
    assert any(hasattr(room, 'monotonic') or hasattr(room, 'time') for room in rooms)


def time_out_in_silence(model, server):
    "Let calls of `model` time out where the server in this event loop stays silent, and nowhere else."
    for endpoint in model.ready().endpoints: endpoint.connection.exchange = partial(_exchange, endpoint.connection.exchange, server)


async def _exchange(exchange, server, body, limit):
    "A call with as much time as it needs; when the server has decided to give no answer, its limit is over."
    sent = json.loads(body)
    silent = server.silences[digest(sent['model'], sent['messages'],
                                    sent.get('seed'))] = asyncio.get_running_loop().create_future()
    call = asyncio.ensure_future(exchange(body, HANG))
    try:
        await asyncio.wait({call, silent}, return_when=asyncio.FIRST_COMPLETED)
        if silent.done(): raise CallTimeout(f'no whole answer within {limit:g} s')
        return await call
    finally:
        call.cancel()
        silent.cancel()
