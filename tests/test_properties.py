"""Whatever the order of tells and whatever fails: samplers end, never overshoot, and come back to the same state when their journal is replayed."""
from collections import deque
from dataclasses import fields, is_dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toa_nb.core import Outcome, Prompt
from toa_nb.search.aggregation import RSA, SelfMoA
from toa_nb.search.bandit import REx
from toa_nb.search.chains import QUEST
from toa_nb.search.probing import Probe
from toa_nb.search.rounds import Rounds
from toa_nb.search.routing import RoBoN
from toa_nb.search.samplers import PRS, BestOfN, MoA, ParallelEnsemble, SequentialRefine
from toa_nb.search.tree import TOA

settings.register_profile('toa_nb', deadline=None, derandomize=True)
settings.load_profile('toa_nb')
METHODS = {
    'best_of_n': lambda n: BestOfN(n=n), 'prs': lambda n: PRS(n=n),
    'parallel_ensemble': lambda n: ParallelEnsemble(n=n),
    'sequential_refine': lambda n: SequentialRefine(n=n), 'moa': lambda n: MoA(n=n, n_iter=3),
    'moa_2': lambda n: MoA(n=n, n_agg=2),
    'toa': lambda n: TOA(n=n), 'toa_narrow': lambda n: TOA(n=n, width=2, top_k=2, parallel=3),
    'toa_one': lambda n: TOA(n=n, parallel=1),
    'published': lambda n: TOA.published(n=n), 'rounds': lambda n: Rounds(n=n),
    'rounds_quorum': lambda n: Rounds(n=n, rounds=2, quorum=.5, fresh=0.),
    'self_moa': lambda n: SelfMoA(n=n, proposals=2), 'rsa': lambda n: RSA(n=n, population=3, k=2),
    'robon': lambda n: RoBoN(n=n), 'rex': lambda n: REx(n=n, parallel=3), 'rex_revise': lambda n: REx(n=n, improve='revise'),
    'quest': lambda n: QUEST(n=n, chains=2), 'probe': lambda n: Probe(n=n, moves=('refine', 'continue'))}
OUTCOMES = st.one_of(st.just(Outcome()), st.just(Outcome('unscored')),
                     st.floats(-1e6, 1e6).map(lambda r: Outcome(f'answer worth {r}', r)))
STEPS = st.lists(st.tuples(st.sampled_from(['ask', 'ask', 'tell']), st.integers(0, 99), OUTCOMES), max_size=60)
KINDS = dict(method=st.sampled_from(sorted(METHODS)), n=st.integers(1, 14), k=st.integers(1, 4), seed=st.integers(0, 3))


def start(method, n, k, seed):
    return METHODS[method](n).start(Prompt('sky', 'Why is the sky blue?'), list('abcd')[:k], seed)


def plain(value, seen):
    "Nested tuples that are equal where two objects are; an object met before becomes its number."
    if value is None or isinstance(value, str | int | float | bool): return value
    if hasattr(value, 'tolist'): return plain(value.tolist(), {})
    if id(value) in seen: return f'<{seen[id(value)][0]}>'
    seen[id(value)] = len(seen), value
    if isinstance(value, dict): return tuple((plain(k, seen), plain(v, seen)) for k, v in value.items())
    if isinstance(value, set): return plain(sorted(value), seen)
    if isinstance(value, list | tuple | deque): return tuple(plain(v, seen) for v in value)
    if is_dataclass(value): return tuple(plain(getattr(value, f.name), seen) for f in fields(value))
    slots = [s for c in type(value).__mro__ for s in getattr(c, '__slots__', ())]
    return tuple(plain(getattr(value, s), seen) for s in slots) if slots else plain(vars(value), seen)


def state(sampler):
    "Everything a sampler knows, apart from what it was started with."
    given = ('method', 'prompt', 'templates', 'shuffle')
    return plain({k: v for k, v in vars(sampler).items() if k not in given}, {})


def check(sampler):
    "What holds at any moment."
    assert len(sampler.texts) + len(sampler.outstanding) <= sampler.n
    assert len(sampler.outstanding) <= getattr(sampler, 'parallel', sampler.n)
    assert sampler.best == max(((i, r) for i, r in sampler.rewards.items()), key=lambda ir: (ir[1], -ir[0]),
                               default=None)


def ask(sampler, journal):
    "Ask; None must have changed nothing."
    before = state(sampler)
    t = sampler.ask()
    if t is None:
        assert state(sampler) == before and sampler.ask() is None
        return None
    assert (t.number == sampler.asked-1 and t.in_flight == len(sampler.outstanding)-1 and t.messages
            and t.model in sampler.models)
    assert all(sampler.texts[p] for p in t.parents)
    journal.append(('ask', t))
    return t


def tell(sampler, pick, outcome, journal):
    t = list(sampler.outstanding.values())[pick % len(sampler.outstanding)]
    sampler.tell(t, outcome)
    journal.append(('tell', t, outcome))


def play(sampler, steps, journal):
    "Do the steps that are possible."
    for what, pick, outcome in steps:
        if what == 'ask': ask(sampler, journal)
        elif sampler.outstanding: tell(sampler, pick, outcome, journal)
        check(sampler)


def drain(sampler, outcome_of, journal):
    "Go on to the end; `outcome_of` says what becomes of a trial. Returns how many were told."
    for told in range(2000):
        while ask(sampler, journal): check(sampler)
        if not sampler.outstanding: return told
        t = next(iter(sampler.outstanding.values()))
        tell(sampler, 0, outcome_of(t), journal)
        check(sampler)
    raise AssertionError('it does not end')


def replayed(fresh, journal):
    "A sampler that has lived through `journal`."
    for kind, *entry in journal:
        if kind == 'ask': assert fresh.ask() == entry[0]
        elif kind == 'tell': fresh.tell(*entry)
        else: getattr(fresh, kind)(*entry)
    return fresh


def plain_outcome(t): return Outcome(f'answer {t.number}', t.number % 5 / 5)


@given(steps=STEPS, cut=st.integers(0, 60), **KINDS)
def test_a_replayed_journal_gives_the_same_state_and_future(method, n, k, seed, steps, cut):
    sampler, journal = start(method, n, k, seed), []
    play(sampler, steps[:cut], journal)
    again = replayed(start(method, n, k, seed), journal)
    assert state(again) == state(sampler)
    one, other = list(journal), list(journal)
    play(sampler, steps[cut:], one), play(again, steps[cut:], other)
    assert one == other and state(again) == state(sampler)


@given(steps=STEPS, fates=st.lists(OUTCOMES, min_size=1, max_size=8), **KINDS)
def test_every_search_ends_whatever_fails(method, n, k, seed, steps, fates):
    sampler, journal = start(method, n, k, seed), []
    play(sampler, steps, journal)
    drain(sampler, lambda t: fates[t.number % len(fates)], journal)
    assert sampler.done and (len(sampler.texts) == n or sampler.cooldowns.gave_up)


@given(steps=STEPS, out=st.integers(0, 3), **KINDS)
def test_a_model_that_is_out_costs_no_sample(method, n, k, seed, steps, out):
    "One model always fails; the steps before may have failed as they liked."
    sampler, journal = start(method, n, k, seed), []
    play(sampler, steps, journal)
    out = list('abcd')[out]
    drain(sampler, lambda t: Outcome() if t.model == out else plain_outcome(t), journal)
    if set(sampler.models) - {out} and not sampler.cooldowns.gave_up: assert len(sampler.texts) == n


@given(more=st.lists(st.integers(1, 5), min_size=1, max_size=3), fail=st.integers(2, 9), steps=STEPS, **KINDS)
def test_extending_keeps_what_was_paid_for(method, n, k, seed, more, fail, steps):
    sampler, journal = start(method, n, k, seed), []
    for m in more:
        play(sampler, steps, journal)
        before = dict(sampler.texts)
        sampler.extend(m)
        journal.append(('extend', m))
        assert before.items() <= sampler.texts.items()
    drain(sampler, lambda t: Outcome() if t.number % fail == 0 else plain_outcome(t), journal)
    assert sampler.n == n + sum(more) and sampler.done
    assert state(replayed(start(method, n, k, seed), journal)) == state(sampler)


@settings(max_examples=40)
@given(back=st.integers(1, 40), k=st.integers(2, 4),
       method=st.sampled_from(['parallel_ensemble', 'toa', 'toa_one', 'published', 'moa', 'sequential_refine']))
def test_a_model_that_comes_back_is_taken_back(back, k, method):
    "Model a is out for the first `back` tells of a long search, four trials at a time; then it is asked again."
    sampler, answered = start(method, 160, k, 0), 0
    while not sampler.done:
        while len(sampler.outstanding) < 4 and sampler.ask(): pass
        t = next(iter(sampler.outstanding.values()))
        out = t.model == 'a' and sampler.told < back
        answered += t.model == 'a' and not out
        sampler.tell(t, Outcome() if out else plain_outcome(t))
    assert len(sampler.texts) == 160 and answered


@settings(max_examples=30)
@given(order=st.permutations(range(12)), method=st.sampled_from(['best_of_n', 'parallel_ensemble']),
       k=st.integers(1, 4))
def test_methods_without_feedback_do_not_depend_on_the_order_of_tells(method, k, order):
    "What is asked, and the best of it, is the same in whatever order the answers come."
    sampler = start(method, 12, k, 0)
    trials = [sampler.ask() for _ in range(12)]
    for i in order: sampler.tell(trials[i], plain_outcome(trials[i]))
    assert sampler.done and sampler.best == (4, .8)


@pytest.mark.parametrize('method', sorted(METHODS))
def test_a_stranger_and_a_second_tell_are_refused(method):
    sampler = start(method, 4, 2, 0)
    t = sampler.ask()
    sampler.tell(t, Outcome('text', 1.))
    with pytest.raises(ValueError, match='trial 0 is not outstanding'): sampler.tell(t, Outcome('text', 1.))
