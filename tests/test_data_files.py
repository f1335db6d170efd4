"""The prompts that toa_nb ships: complete, checkable, and free of contradictions."""
import gzip
import json
import re
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest

from toa_nb.core import Prompt
from toa_nb.rewards.constraints import Constraints, constraint_text, obeys_constraint, parse_constraint

DATA = Path(__file__).parents[1] / 'data'
NUMBERS = dict(enumerate('zero one two three four five six seven eight nine ten'.split()))


def lines(name): return [json.loads(line) for line in (DATA / name).read_text(encoding='utf-8').splitlines()]


INSTRUCTIONS, MATH, TRANSLATION = lines('instructions.jsonl'), lines('math.jsonl'), lines('translation.jsonl')
by_id = pytest.mark.parametrize('record', INSTRUCTIONS, ids=lambda r: r['id'])


def test_sizes_ids_and_categories():
    assert (len(INSTRUCTIONS) >= 60, len(MATH), len(TRANSLATION)) == (True, 60, 30)
    ids = [r['id'] for r in INSTRUCTIONS + MATH + TRANSLATION]
    assert len(set(ids)) == len(ids)
    assert all(r['category'].strip() for r in INSTRUCTIONS + MATH + TRANSLATION)
    assert len({r['category'] for r in INSTRUCTIONS}) >= 8
    texts = [r.get('instruction') or r['source'] for r in INSTRUCTIONS + MATH + TRANSLATION]
    assert len(set(texts)) == len(texts)


def satisfy(constraints):
    "An answer that obeys every constraint, found by trying layouts; None if there is none among them."
    of = {}
    for c in constraints: of.setdefault(c['kind'], []).append(parse_constraint(c)[1])
    def least(kind): return max((c['count'] for c in of.get(kind, ()) if c['relation'] != 'at most'), default=0)
    required = [w for c in of.get('include', ()) for w in c['words']] + [c['options'][0] for c in of.get('one_of', ())]
    required += [c['word'] for c in of.get('keyword', ()) for _ in range(c['count'])] + [c['letter'] * c['count']
        for c in of.get('letter', ())]
    required += ['NB'] * least('capitals') + ['[date]'] * least('placeholders') + ['*so*'] * least('highlights')
    if 'json' in of:
        keys = of['json'][0]['keys']
        return json.dumps({k: ' '.join(required[i::len(keys)]) or 'x' for i, k in enumerate(keys)})
    start, end = (of[kind][0]['phrase'] if kind in of else '' for kind in ('start', 'end'))
    marks = '?' * least('questions') + '!' * least('exclamations')
    counts = [max(least('bullets'), least('numbered'))] if {'bullets', 'numbered'} & of.keys() else range(1, 9)
    for n, filler, gap in product(counts, range(3), ('\n', ' ', '\n\n')):
        parts = [' '.join(['so'] * filler + required[i::n]) or 'so' for i in range(n)]
        parts[0] = f'{start} {parts[0]}'.strip()
        parts = [part + (marks[i] if i < len(marks) else '.') for i, part in enumerate(parts)]
        if end: parts[-1] = end if n > 1 and not required[n - 1::n] else f'{parts[-1]}{gap}{end}'
        sign = '* ' if 'bullets' in of else None
        if sign or 'numbered' in of: parts = [f'{sign or f"{i}. "}{part}' for i, part in enumerate(parts, 1)]
        text = ('<<So>>\n' if 'title' in of else '') + gap.join(parts) + ('\nP.S. so' if 'postscript' in of else '')
        text = text.lower() if 'lower' in of else text.upper() if 'upper' in of else text
        text = f'"{text}"' if 'quoted' in of else text
        if all(obeys_constraint(c, text) for c in constraints): return text


@by_id
def test_constraints_can_be_obeyed_together(record):
    answer = satisfy(record['constraints'])
    assert answer is not None and all(obeys_constraint(c, answer) for c in record['constraints'])
    assert len(answer.split()) < 80


def test_a_contradiction_has_no_answer():
    assert satisfy([{'kind': 'lower'}, {'kind': 'upper'}]) is None
    assert satisfy([{'kind': 'include', 'words': ['ice']}, {'kind': 'exclude', 'words': ['ice']}]) is None


STATED = dict(
    bullets='bullet point', numbered='numbered item', words='word', sentences='sentence', paragraphs='paragraph',
    lines='line', placeholders='placeholder',
    highlights='asterisks', capitals='capitals', questions='question', exclamations='exclamation mark', title='title',
    postscript='P.S.', json='JSON',
    lower='lower case', upper='capital letters', quoted='quotation marks', no_commas='no commas', no_digits='no digits',
    letter='letter', start='Begin',
    end='nd with', include=('nclude', 'se the word', 'ention the word', 'holds the word', 'with the word'),
    exclude=('not', 'without'),
    one_of=('one of', 'both'), keyword='word')


@by_id
def test_every_constraint_is_stated_in_the_instruction(record):
    text, constraints = record['instruction'], record['constraints']
    assert 3 <= len(constraints) <= 4 and len({constraint_text(c) for c in constraints}) == len(constraints)
    for c in constraints:
        kind, params = c['kind'], parse_constraint(c)[1]
        hints = STATED[kind] if isinstance(STATED[kind], tuple) else (STATED[kind],)
        assert any(h in text for h in hints), constraint_text(c)
        values = [v for p in params.values() for v in (p if isinstance(p, list) else [p])
                  if v not in ('exactly', 'at least', 'at most')]
        for value in values:
            if value == 0: assert re.search(r'\bno\b', text), constraint_text(c)
            else:
                assert re.search(rf'(?<!\w){re.escape(str(value))}(?!\w)|\b{NUMBERS.get(value, "-")}\b',
                                 text), constraint_text(c)
        if params.get('count'):
            says = {'exactly': 'exactly', 'at least': 'at least|At least',
                    'at most': 'at most|no more than|within'}[params['relation']]
            assert any(s in text for s in says.split('|')), constraint_text(c)


@by_id
def test_no_instruction_obeys_its_own_constraints(record):
    assert not all(obeys_constraint(c, record['instruction']) for c in record['constraints'])


def test_the_constraints_are_varied():
    used = {c['kind'] for r in INSTRUCTIONS for c in r['constraints']}
    assert used == set(STATED), set(STATED) ^ used


def test_the_reward_accepts_every_instruction():
    for r in INSTRUCTIONS:
        Constraints().validate(Prompt(r['id'], r['instruction'], meta={'constraints': r['constraints']}))


@pytest.mark.parametrize('record', MATH, ids=lambda r: r['id'])
def test_math_answers_are_right(record):
    value = eval(record['check'], {'__builtins__': {'Fraction': Fraction, 'next': next, 'range': range, 'sum': sum}})
    assert float(Fraction(record['reference'])) == pytest.approx(float(value), rel=1e-12)


def test_translations_are_complete():
    assert len({r['source_language'] for r in TRANSLATION}) >= 5
    for r in TRANSLATION:
        assert (r['source'].strip() and r['reference'].strip() and r['source'] != r['reference']
                and r['target_language'] == 'English')


def test_recorded_answers_are_whole():
    "Every parent is an earlier answer of the same prompt and method, and a continuation begins with what it kept."
    with gzip.open(DATA/'pool_mod.jsonl.gz', 'rt', encoding='utf-8') as f: found = [json.loads(line) for line in f]
    at = {(r['prompt'], r['method'], r['i']): r for r in found}
    assert len(found) == len(at) == 2048 and len({r['prompt'] for r in found}) == 16
    for r in found:
        parent = None if r['parent'] is None else at[r['prompt'], r['method'], r['parent']]
        assert (parent is None) == (r['move'] == 'fresh') and (parent is None or parent['i'] < r['i'])
        if r['move'] == 'continue': assert r['text'][:r['cut']] == parent['text'][:r['cut']]
