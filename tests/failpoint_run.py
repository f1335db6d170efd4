"""The runs that tests/test_failpoints.py ends: a process that forks a life for each line of its input, and prints how it ended.

A life counts its failpoints, which are the moments right before and right after each commit, each call of a model (`call`), each score of a reward
(`judge`) and each tell of a sampler (`listen`). It writes them down, and dies at the one that it was given."""
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import replace

from toa_nb.compute import Budget
from toa_nb.core import Prompt, ServerFailed
from toa_nb.models.fakes import FakeModel
from toa_nb.rewards.base import Rule
from toa_nb.run import Run, rescore
from toa_nb.search.tree import TOA
from toa_nb.store import RunStore, commits

SEARCH = TOA(n=3, parallel=1)


class Points:
    "Counts failpoints, writes them down, and dies at one of them."
    def __init__(self, log, at): self.log, self.at, self.seen = open(log, 'w'), at and tuple(at), Counter()

    def note(self, text):
        self.log.write(text + '\n')
        self.log.flush()

    def reach(self, name, when):
        self.seen[name, when] += 1
        self.note(f'{name}|{when}|{self.seen[name, when]}')
        if (name, when, self.seen[name, when]) == self.at: os.kill(os.getpid(), signal.SIGKILL)


class Letters(Rule):
    "How many different letters a text has, and a little for its first ones."
    name, version = 'letters', '1'
    def score_one(self, prompt, response): return len(set(response)) + int(response[:4], 16)/1e6


class Second(Letters):
    "A reward that is added later."
    name = 'second'
    def score_one(self, prompt, response): return float(len(response))


def kind_of(op):
    "The name of an operation: its tables and the kinds of its events."
    return '+'.join(sorted({f'event {row[3]}' if table == 'event' else table for table, row in op.rows})) or 'flush'


def instrument(points):
    "Count what the store, the models, the rewards and the samplers do; every operation is a commit of its own."
    commits.GROUP = 1
    commit, generate, score_one, start = commits.CommitThread.commit, FakeModel.generate, Letters.score_one, TOA.start

    def counted_commit(self, ops):
        points.reach(kind_of(ops[0]), 'before')
        commit(self, ops)
        points.reach(kind_of(ops[0]), 'after')

    async def counted_generate(self, messages, *, seed):
        points.note(f'seed|{seed}|')
        points.reach('call', 'before')
        try: return await generate(self, messages, seed=seed)
        finally: points.reach('call', 'after')

    def counted_score(self, prompt, response):
        points.reach('judge', 'before')
        try: return score_one(self, prompt, response)
        finally: points.reach('judge', 'after')

    def counted_start(self, *args, **more):
        sampler = start(self, *args, **more)
        tell = sampler.tell

        def counted_tell(*args):
            points.reach('listen', 'before')
            tell(*args)
            points.reach('listen', 'after')
        sampler.tell = counted_tell
        return sampler

    commits.CommitThread.commit, FakeModel.generate, Letters.score_one, TOA.start = (counted_commit, counted_generate,
        counted_score, counted_start)


class Odd(FakeModel):
    "A model that thinks, and whose server counts beyond 64 bits."
    async def generate(self, messages, *, seed):
        found = await super().generate(messages, seed=seed)
        return replace(found, usage=replace(found.usage, cached_tokens=2**64), thoughts='Hm.')


class Cached(FakeModel):
    "A model whose server finds part of each prompt in its prefix cache."
    async def generate(self, messages, *, seed):
        found = await super().generate(messages, seed=seed)
        return replace(found, usage=replace(found.usage, cached_tokens=1))


def broken(number): return ServerFailed('HTTP 500', model='a', endpoint='fake')


class Lines(FakeModel):
    "A model that answers in lines, and continues such an answer unless it is called b."
    def __init__(self, name, fail=None):
        super().__init__(name, lambda messages, seed: '\n'.join(f'{seed % n:04x} is a line.' for n in (97, 89, 83)),
                         fail=fail, continues=name != 'b')


def run(store, fail=None, kind=FakeModel, more=0, names='ab', method=SEARCH, **change):
    "A small run of TOA on two models, brought to its end."
    tasks = [Prompt(f'p{i}', f'Write about the number {i}.') for i in range(2)]
    made = Run(tasks, method, [kind(name, fail=fail) for name in names], Letters(), store=store, name='r',
               **change)
    if more: made.extend(more)
    return made.wait(show=False)


def extended(store):
    "The run with two more samples, however often this is started."
    with RunStore(store, 'r') as there: done = there.extended('r')
    return run(store, more=2 - done)


SCENARIOS = dict(
    fresh=run,
    odd=lambda store: run(store, kind=Odd),
    continued=lambda store: run(store, kind=Lines, method=TOA(n=4, parallel=1, improve='continue')),
    cached=lambda store: run(store, kind=Cached),
    stopped=lambda store: run(store, budget=Budget(per_run=Budget(samples=3))),
    goes_on=run,
    begins=lambda store: run(store, budget=Budget(per_run=Budget(samples=1)), concurrency=1),
    shrunk=lambda store: run(store, names='a', without=['b'], concurrency=1),
    fails=lambda store: run(store, fail=broken),
    retried=run,
    extended=extended,
    rescored=lambda store: asyncio.run(rescore(store, 'r', Second(), every=0)))


def live(scenario, store, log, at):
    "One life."
    instrument(Points(log, at))
    SCENARIOS[scenario](store)


def fork(*args):
    "A life; returns how it ended."
    pid = os.fork()
    if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        live(*args)
        code = 0
    finally: os._exit(code)


if __name__ == '__main__':
    for line in sys.stdin: print(fork(*json.loads(line)), flush=True)
