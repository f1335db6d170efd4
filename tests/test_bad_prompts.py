"""Every way a prompt file is known to be broken: what is reported, at which line, and that reading goes on behind it."""
import json
import os
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toa_nb.core import InputError, messages_of
from toa_nb.data.prompts import BadPrompts, _prompt, _read, _simple_prompt, _unread, load_prompts, prompts_from

GOOD = b'{"id": "good", "instruction": "Name a prime."}\n'
TASK = b'"instruction": "Name a prime."'
REPORT = re.compile(r'prompts\.jsonl:(\d+): ([^:]+): (.+)\. ([A-Z].+[.?])$')

# lines that hold no record: the bytes, the field that is named, words of the reason
RAW = {
    'not JSON': (b'Name a prime.', 'line', 'not valid JSON at column 1'),
    'single quotes': (b"{'id': 'a', 'instruction': 'x'}", 'line', 'not valid JSON at column 2'),
    'cut short': (b'{"id": "a", "instruction": "Name a pr', 'line', 'not valid JSON at column'),
    'CSV': (b'a,Name a prime.', 'line', 'not valid JSON'),
    'comment': (b'# my prompts', 'line', 'not valid JSON'),
    'two objects': (b'{"id": "a", ' + TASK + b'} {"id": "b"}', 'line', 'text after the end'),
    'comma after the object': (b'{"id": "a", ' + TASK + b'},', 'line', 'text after the end'),
    'raw control character': (b'{"id": "a", "instruction": "Name\x01a prime."}', 'line', 'not valid JSON'),
    'raw NUL': (b'{"id": "a", "instruction": "Name\x00a prime."}', 'line', 'not valid JSON'),
    'Latin-1': (b'{"id": "a", "instruction": "Un caf\xe9?"}', 'line', '0xe9 at column 35 is not UTF-8'),
    'cut UTF-8': (b'{"id": "a", "instruction": "Un caf\xc3"}', 'line', '0xc3 at column 35 is not UTF-8'),
    'field twice': (b'{"id": "a", "id": "b", ' + TASK + b'}', 'id', 'given twice'),
    'NaN': (b'{"id": "a", ' + TASK + b', "score": NaN}', 'line', 'NaN is not JSON'),
    'infinity': (b'{"id": "a", ' + TASK + b', "score": -Infinity}', 'line', '-Infinity is not JSON'),
    'nested too deeply': (b'{"id": "a", ' + TASK + b', "x": ' + b'[' * 200_000 + b']' * 200_000 + b'}', 'line',
                          'nested too deeply'),
    'number of 5,000 digits': (b'{"id": "a", ' + TASK + b', "n": ' + b'9' * 5000 + b'}', 'line',
                               'a value that cannot be read'),
    'a number': (b'7', 'line', 'a number instead of an object'),
    'a text': (b'"Name a prime."', 'line', 'text instead of an object'),
    'null': (b'null', 'line', 'null instead of an object'),
    'true': (b'true', 'line', 'true or false instead of an object'),
    'a list on a line': (b'["a", "Name a prime."]', 'line', 'a list instead of an object'),
    'longer than max_line': (b'{"id": "a", "instruction": "' + b'x' * 2**22 + b'"}', 'line',
                             'longer than 4,194,304 bytes'),
}

# records: what differs from a good one (... for a field that is left out), the field that is named, words of the reason
RECORDS = {
    'escaped NUL': ({'instruction': 'Name\x00a prime.'}, 'instruction', 'NUL'),
    'NUL in metadata': ({'tags': [['x', {'y': '\x00'}]]}, 'tags', 'NUL'),
    'half a surrogate pair': ({'instruction': 'Name \ud83d'}, 'instruction', 'surrogate'),
    'no id': ({'id': ...}, 'id', 'missing'),
    'null id': ({'id': None}, 'id', 'missing'),
    'blank id': ({'id': '  '}, 'id', 'empty'),
    'fraction as id': ({'id': 1.5}, 'id', 'a number instead of text'),
    'true as id': ({'id': True}, 'id', 'true or false instead of text'),
    'list as id': ({'id': ['a']}, 'id', 'a list instead of text'),
    'newline in id': ({'id': 'a\nb'}, 'id', 'control character'),
    'id of an earlier line': ({'id': 'good'}, 'id', "'good' is also on line 1"),
    'no instruction': ({'instruction': ...}, 'instruction', 'missing'),
    'null instruction': ({'instruction': None}, 'instruction', 'missing'),
    'blank instruction': ({'instruction': ' \n'}, 'instruction', 'empty'),
    'number as instruction': ({'instruction': 7}, 'instruction', 'a number instead of text'),
    'list as instruction': ({'instruction': ['x']}, 'instruction[0]', 'text instead of an object'),
    'object as instruction': ({'instruction': {'text': 'x'}}, 'instruction', 'an object instead of text'),
    'misspelt instruction': ({'instruction': ..., 'Instuction': 'x'}, 'instruction', 'missing'),
    'text instead': ({'instruction': ..., 'text': 'x'}, 'instruction', 'missing'),
    'solution instead': ({'instruction': ..., 'solution': 'x'}, 'instruction', 'missing'),
    'two instructions': ({'question': 'x'}, 'question', 'a second task beside instruction'),
    'list as question': ({'instruction': ..., 'question': ['x']}, 'question[0]', 'text instead of an object'),
    'number as prompt': ({'instruction': ..., 'prompt': 7}, 'prompt', 'a number instead of text'),
    'choices': ({'choices': ['a', 'b']}, 'choices', 'looks like a part of the task'),
    'context': ({'context': 'Once.'}, 'context', 'looks like a part of the task'),
    'images': ({'images': ['a.png']}, 'images', 'looks like a part of the task'),
    'history that is not pairs': ({'history': ['Hi']}, 'history', 'looks like a part of the task'),
    'number as system': ({'system': 7}, 'system', 'a number instead of text'),
    'two system messages': ({'instruction': ..., 'system': 'a',
                             'messages': [{'role': 'system', 'content': 'b'}, {'role': 'user', 'content': 'x'}]},
                             'system',
                            'looks like a part of the task'),
    'list as reference': ({'reference': ['2']}, 'reference', 'a list instead of text'),
    'true as gold answer': ({'gold_answer': True}, 'gold_answer', 'true or false instead of text'),
    'two tasks': ({'instruction': 'x', 'messages': [{'role': 'user', 'content': 'y'}]}, 'instruction',
                  'differs from the last turn'),
    'source without languages': ({'instruction': ..., 'source': 'Ahoj.', 'target_language': 'English'},
                                 'source_language', 'missing'),
    'list as source': ({'instruction': ..., 'source': ['Ahoj.'], 'source_language': 'Czech',
                        'target_language': 'English'}, 'source', 'a list instead of text'),
    'three languages': ({'instruction': ..., 'en': 'Hello.', 'cs': 'Ahoj.', 'de': 'Hallo.', 'dataset': 'wmt22'},
                        'source_language', 'do not tell'),
    'object as constraints': ({'constraints': {'kind': 'json'}}, 'constraints', 'an object instead of a list'),
    'constraint without kind': ({'constraints': [{'n': 3}]}, 'constraints[0]', 'not an object with a kind'),
    'number as category': ({'category': 3}, 'category', 'a number instead of text'),
    'list as meta': ({'meta': []}, 'meta', 'a list instead of an object'),
}

# conversations: the messages, the field that is named, words of the reason
TALKS = {
    'text as messages': ('Hi', 'messages', 'text instead of a list'),
    'no messages': ([], 'messages', 'the list is empty'),
    'text as a turn': (['Hi'], 'messages[0]', 'text instead of an object'),
    'unknown role': ([{'role': 'tool', 'content': 'Hi'}], 'messages[0].role', "the role is 'tool'"),
    'unhashable role': ([{'role': ['user'], 'content': 'Hi'}], 'messages[0].role', 'the role is'),
    'null content': ([{'role': 'user', 'content': None}], 'messages[0].content', 'not a text, or empty'),
    'image in a turn': ([{'role': 'user', 'content': [{'type': 'image_url', 'image_url': {}}]}], 'messages[0].content',
                        'not a text, or empty'),
    'answered already': ([{'role': 'assistant', 'content': 'Hello'}], 'messages', 'not the user'),
}


def line_of(**fields):
    "A record of a task that is good but for these fields, as the bytes of a line."
    return json.dumps({k: v for k, v in ({'id': 'a', 'instruction': 'Name a prime.'} | fields).items()
                       if v is not ...}).encode()


LINES = RAW | {name: (line_of(**change), *rest) for name, (change, *rest) in RECORDS.items()}
LINES |= {name: (line_of(instruction=..., messages=turns), *rest) for name, (turns, *rest) in TALKS.items()}


def write(folder, raw):
    file = folder / 'prompts.jsonl'
    file.write_bytes(raw)
    return file


def reports(file):
    with pytest.raises(InputError) as e: load_prompts(file)
    return str(e.value).replace(f'{file.parent}{os.sep}', '').splitlines()


@pytest.mark.parametrize('name', LINES)
def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path, name):
    line, field, reason = LINES[name]
    file = write(tmp_path, GOOD + b'\n' + line + b'\r\n{"id": "last", "instruction": "And another."}')
    found = reports(file)
    assert len(found) == 1, found
    place, what, why, _ = REPORT.fullmatch(found[0]).groups()
    assert (place, what) == ('3', field)
    assert reason in why
    kept = load_prompts(file, skip_bad=True)
    assert [p.id for p in kept] == ['good', 'last']
    assert [str(e).replace(f'{tmp_path}{os.sep}', '') for e in kept.bad] == found


def test_all_bad_lines_are_reported_at_once(tmp_path):
    lines = {name: line for name, line in LINES.items() if name != 'null id'}
    file = write(tmp_path, GOOD + b'\n'.join(line for line, *_ in lines.values()))
    found = [REPORT.fullmatch(r).groups() for r in reports(file)]
    assert [(int(n), field) for n, field, *_ in found] == [(i, field)
                                                           for i, (_, field, _) in enumerate(lines.values(), 2)]


def test_missing_ids_are_one_line_beside_the_other_reports(tmp_path):
    file = write(tmp_path, GOOD + b'{"prompt": "a"}\n{"prompt": 7}\n{"id": null, "prompt": "b"}\n')
    ids, other = reports(file)
    assert (ids.startswith("prompts.jsonl: id: 3 records have no id, the first on line 2. Number them with "
                           "id_prefix='p'; --id-prefix p"))
    assert other.startswith('prompts.jsonl:3: prompt: a number instead of text')
    assert [p.id for p in load_prompts(file, skip_bad=True)] == ['good']


def test_two_faults_of_a_line_are_two_reports(tmp_path):
    assert ([REPORT.fullmatch(r)[2] for r in reports(write(tmp_path,
                                                           b'{"id": 1.5, "instruction": 7, "category": []}'))] == ['id',
                                                               'instruction', 'category'])
    assert [REPORT.fullmatch(r)[2] for r in reports(write(tmp_path, b'{}'))] == ['id', 'instruction']


def test_a_hundred_reports_are_enough_to_print(tmp_path):
    found = reports(write(tmp_path, b'x\n' * 250))
    assert len(found) == 101 and found[-1] == 'and 150 more; see .errors'


# whole files
FILES = {
    'empty': (b'', 'there are no prompts in it'),
    'blank': (b'\n  \r\n\n', 'there are no prompts in it'),
    'a mark only': (b'\xef\xbb\xbf', 'there are no prompts in it'),
    'empty list': (b'[]', 'there are no prompts in it'),
    'gzip': (b'\x1f\x8b\x08\x00abc', "a gzip file that can't be read"),
    'parquet': (b'PAR1abc', 'a parquet file'),
    'UTF-16': (GOOD.decode().encode('utf-16'), 'UTF-16'),
    'list cut short': (b'[{"id": "a", ' + TASK + b'}', ':1: line: no comma or bracket after this item'),
    'list cut in an item': (b'[{"id": "a", ' + TASK + b'},\n{"id":', ':2: line: not valid JSON'),
    'list without comma': (b'[{"id": "a", ' + TASK + b'}\n{"id": "b", ' + TASK + b'}]',
                           ':1: line: no comma or bracket'),
    'text behind the list': (b'[{"id": "a", ' + TASK + b'}]\n[]', ':1: line: text after the end of the list'),
    'list of texts': (b'["Name a prime."]', ':1: line: text instead of an object'),
    'duplicate in a list': (b'[{"id": "a", ' + TASK + b'},\n\n{"id": "a", ' + TASK + b'}]',
                            ":3: id: 'a' is also on line 1"),
    'Latin-1 in a list': (b'[\n{"id": "caf\xe9", ' + TASK + b'}]', ':2: line: byte 0xe9 is not UTF-8'),
}


@pytest.mark.parametrize('name', FILES)
def test_a_bad_file_is_one_report(tmp_path, name):
    raw, reason = FILES[name]
    found = reports(write(tmp_path, raw))
    assert len(found) == 1 and found[0].startswith('prompts.jsonl:') and reason in found[0]


def test_a_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"promts\.jsonl: there is no such file\. Is it '.*prompts\.jsonl'\?"):
        load_prompts(tmp_path / 'promts.jsonl')
    with pytest.raises(InputError, match='There is no folder'): load_prompts(tmp_path / 'nowhere' / 'prompts.jsonl')
    with pytest.raises(InputError, match='this is a folder'): load_prompts(tmp_path)


def test_skipping_everything_is_no_success(tmp_path):
    with pytest.raises(BadPrompts): load_prompts(write(tmp_path, b'x\ny\n'), skip_bad=True)


# odd but good
@pytest.mark.parametrize('raw', [
    b'\xef\xbb\xbf' + GOOD,                                                   # byte order mark
    GOOD.replace(b'\n', b'\r\n'),                                             # Windows
    b'\n\n' + GOOD.strip(),                                                   # blank lines, no newline at the end
    b' \t' + GOOD,                                                            # indented
    b'[' + GOOD + b']',                                                       # a list
    # a list with all of it and a comma too many
    b'\xef\xbb\xbf [\r\n' + GOOD + b',]',
    json.dumps(json.loads(GOOD), indent=2).encode(),                          # one object over several lines
    b'{"uid": "good", "prompt": "Name a prime."}',                            # the names of a benchmark
])
def test_odd_but_good(tmp_path, raw):
    assert [(p.id, p.instruction) for p in load_prompts(write(tmp_path, raw))] == [('good', 'Name a prime.')]


def test_texts_are_kept_to_the_character(tmp_path):
    text = 'Line\u2028separator, {braces}, \\u0000 as text, emoji \U0001f600 and\ttab'
    file = write(tmp_path, json.dumps({'id': 'a', 'instruction': text}, ensure_ascii=False).encode())
    assert load_prompts(file)[0].instruction == text


def test_published_fields(tmp_path):
    math = {'id': 3, 'instruction': 'Two and two?', 'dataset': 'gsm8k', 'tag': 'gsm8k', 'gold_response': 'It is 4.',
            'gold_answer': 4}
    wmt = {'id': 4, 'instruction': 'Ahoj.', 'en': 'Hello.', 'cs': 'Ahoj.', 'dataset': 'wmt22'}
    a, b = prompts_from([math, wmt])
    assert (a.id, a.reference, a.meta['gold_response'], a.meta['tag']) == ('3', '4', 'It is 4.', 'gsm8k')
    assert (b.source, b.reference, b.meta['source_language'], b.meta['target_language'], b.meta['en']) == ('Ahoj.',
        'Hello.', 'Czech', 'English', 'Hello.')


def test_numbers_for_records_without_an_id(tmp_path):
    file = write(tmp_path, b'[{"dataset": "x", "instruction": "a", "output": "o"},\n{"instruction": "b"}]')
    assert [p.id for p in load_prompts(file, id_prefix='eval-')] == ['eval-1', 'eval-2']


# forms of data sets: the record, what the model gets, the reference
def turns(*pairs): return [{'role': role, 'content': text} for role, text in pairs]


FORMS = {
    'Alpaca': ({'instruction': 'Translate.', 'input': 'Bonjour', 'output': 'Hello'},
               [('user', 'Translate.\n\nBonjour')], None),
    'Alpaca without input': ({'instruction': 'Hi', 'input': '', 'output': 'Hello'}, [('user', 'Hi')], None),
    'Alpaca with history': ({'instruction': 'Why?', 'system': 'Be short.', 'history': [['Hi', 'Hello']]},
                            [('system', 'Be short.'), ('user', 'Hi'), ('assistant', 'Hello'), ('user', 'Why?')], None),
    'system': ({'system': 'You are a pirate.', 'prompt': 'Who are you?'},
               [('system', 'You are a pirate.'), ('user', 'Who are you?')], None),
    'system_prompt': ({'system_prompt': 'You are a pirate.', 'question': 'Who?', 'response': 'Arr.'},
                      [('system', 'You are a pirate.'), ('user', 'Who?')], None),
    'system beside messages': ({'system': 'S', 'messages': turns(('user', 'Hi'))}, [('system', 'S'), ('user', 'Hi')],
                               None),
    'empty system': ({'system': '', 'prompt': 'Hi'}, [('user', 'Hi')], None),
    'GSM8K': ({'question': 'Two and two?', 'answer': 'It is\n#### 4'}, [('user', 'Two and two?')], 'It is\n#### 4'),
    'MATH-500': ({'problem': 'Two and two?', 'solution': 'It is 4.', 'answer': '4', 'level': 2},
                 [('user', 'Two and two?')], '4'),
    'MATH': ({'problem': 'Two and two?', 'solution': 'It is \\boxed{4}.'}, [('user', 'Two and two?')],
             'It is \\boxed{4}.'),
    'ShareGPT': ({'conversations': [{'from': 'human', 'value': 'Hi'}]}, [('user', 'Hi')], None),
    'ShareGPT with answers': ({'conversations': [{'from': f, 'value': v}
                                                 for f, v in (('system', 'S'), ('human', 'Hi'), ('gpt', 'Hello'),
                                                              ('human', 'Why?'),
                               ('gpt', 'Because.'))]}, [('system', 'S'), ('user', 'Hi'), ('assistant', 'Hello'),
                                                        ('user', 'Why?')], None),
    'TRL prompt': ({'prompt': turns(('system', 'S'), ('user', 'Hi')), 'chosen': turns(('assistant', 'a')),
                    'rejected': turns(('assistant', 'b'))},
                   [('system', 'S'), ('user', 'Hi')], None),
    'SFT messages': ({'messages': turns(('user', 'Hi'), ('assistant', 'Hello'))}, [('user', 'Hi')], None),
    'text parts': ({'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'},
                                                              {'type': 'text', 'text': 'there'}]}]},
                                                              [('user', 'Hi\nthere')], None),
    'empty system turn': ({'messages': turns(('system', ''), ('user', 'Hi'))}, [('user', 'Hi')], None),
    'Arena-Hard turns': ({'turns': [{'content': 'Hi'}], 'cluster': 'c'}, [('user', 'Hi')], None),
    'published': ({'instruction': 'Two?', 'gold_response': 'It is 4.', 'gold_answer': 4}, [('user', 'Two?')], '4'),
}


@pytest.mark.parametrize('name', FORMS)
def test_forms_of_data_sets(tmp_path, name):
    record, sent, reference = FORMS[name]
    file = write(tmp_path, json.dumps({'id': 7} | record).encode())
    for [prompt] in (load_prompts(file), prompts_from([{'id': 7} | record]), prompts_from({'id': 7} | record),
                     prompts_from(pd.DataFrame([{'id': 7} | record]))):
        assert [(m.role, m.content) for m in messages_of(prompt)] == sent
        assert (prompt.id, prompt.reference) == ('7', reference)


@pytest.mark.parametrize('name', ['MATH-500', 'TRL prompt', 'SFT messages', 'Alpaca with history', 'system_prompt'])
def test_forms_of_data_sets_in_parquet(tmp_path, name):
    record, sent, reference = FORMS[name]
    pd.DataFrame([{'id': i} | record for i in range(3)]).to_parquet(tmp_path / 'a.parquet')
    found = load_prompts(tmp_path / 'a.parquet')
    assert [p.id for p in found] == ['0', '1', '2']
    assert [(m.role, m.content) for m in messages_of(found[2])] == sent and found[2].reference == reference


def test_every_field_that_nothing_reads_is_counted(tmp_path):
    records = [{'id': 1, 'problem': 'x', 'answer': '4', 'solution': 'So 4.', 'level': 1, 'category': 'sums'},
               {'id': 2, 'prompt': 'x', 'output': 'y', 'level': None},
               {'id': 3, 'messages': turns(('user', 'Hi'), ('assistant', 'Hello'))},
               {'id': 4, 'prompt': 'x', 'en': 'y', 'meta': {'own': 1}}]
    assert prompts_from(records).unread == {'solution': 1, 'level': 1, 'output': 1,
                                            'last answer of the conversation': 1, 'en': 1}


def test_csv(tmp_path):
    (tmp_path / 'a.csv').write_text('id,question,answer\n1,"One, two?",3\n2,"Two\nlines",\n')
    assert [(p.id, p.instruction, p.reference) for p in load_prompts(tmp_path / 'a.csv')] == [('1', 'One, two?', '3'),
        ('2', 'Two\nlines', None)]
    (tmp_path / 'a.csv').write_text('id,question\n1,One, two?\n2,Why?\n')
    with pytest.raises(BadPrompts, match='a.csv:2: line: more than the 2 cells of the header'):
        load_prompts(tmp_path / 'a.csv')


class Split(list):
    column_names = ['id', 'prompt']


def test_data_sets_in_memory():
    assert [p.id for p in prompts_from(Split([{'id': 'a', 'prompt': 'x'}]))] == ['a']
    with pytest.raises(InputError, match='several splits. Name one: train, test'):
        prompts_from({'train': Split(), 'test': Split()})
    with pytest.raises(InputError, match='x: it holds a bytes'): prompts_from([{'id': 'a', 'prompt': 'x', 'x': b'\xff'}])


VALUES = st.none() | st.integers(-1, 9) | st.booleans() | st.lists(st.text(max_size=2), max_size=2) | st.text(max_size=4)
NAMES = ['id', 'instruction', 'reference', 'category', 'dataset', 'source', 'input', 'Id', 'question', 'en', 'de', 'x']
RECORDS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6).map(lambda r: {'id': 'a', 'instruction': 'b'} | r)


@settings(max_examples=300, deadline=None)
@given(RECORDS | st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=()), max_size=3)))
def test_simple_records_are_read_without_the_checks_to_the_same_effect(record):
    simple = _simple_prompt(dict(record))
    if simple is None: return
    problems, read = _read(record)
    assert (problems, _unread(read)) == ([], []) and _prompt(read) == simple
    assert list(_prompt(read).meta) == list(simple.meta)
