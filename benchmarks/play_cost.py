"""Cost of one play of the tree search at 160, 2,560 and 20,000 plays, beside a search that counts its layers by walking the tree.

Run: python benchmarks/play_cost.py. The walking search is the published way of counting (facts: methods, known weaknesses); it takes the same decisions.
"""
from random import Random
from time import perf_counter

from toa_nb.core import Outcome, Prompt
from toa_nb.search.tree import TOA, TreeSampler


class WalkedLayers(dict):
    "Counts the responses of a layer by a walk over the tree, as often as it is asked."
    def __init__(self, sampler): self.sampler = sampler

    def get(self, layer, default=0):
        todo, count = [self.sampler.root], 0
        while todo:
            for arm in todo.pop().arms:
                if arm.layer == layer: count += len(arm.children)
                todo += arm.children
        return count


def play(plays, walk=False):
    "Seconds, selection and learning only, and the actions taken."
    rng, actions = Random(0), []
    sampler = TOA(n=plays, parallel=1).start(Prompt('p', 'x'), list('abcde'))
    if walk: sampler.layers = WalkedLayers(sampler)
    start = perf_counter()
    while (t := sampler.ask()):
        actions.append(t.action)
        sampler.tell(t, Outcome('text', rng.gauss(.16, .005)))
    return perf_counter() - start, actions


def main():
    assert issubclass(TOA.sampler, TreeSampler)
    first = None
    print('| plays | us per play | relative to 160 plays | layers by walking, us per play | ratio '
          '|\n|---|---|---|---|---|')
    for plays in (160, 2560, 20000):
        seconds, actions = play(plays)
        us = seconds/plays*1e6
        first = first or us
        if plays > 2560: walked = '| too slow to wait for | '
        else:
            slow, same = play(plays, walk=True)
            assert same == actions
            walked = f'| {slow/plays*1e6:.0f} | {slow/seconds:.1f}x '
        print(f'| {plays:,} | {us:.0f} | {us/first:.2f}x {walked}|')


if __name__ == '__main__': main()
