"""Every way a prompt file is known to be broken: what is reported, at which line, and that reading goes on behind it."""
import json
import os
import re

import pytest

from toa_nb.core import InputError
from toa_nb.data.prompts import BadPrompts, load_prompts, prompts_from

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
    'nested too deeply': (b'{"id": "a", ' + TASK + b', "x": ' + b'[' * 200_000 + b']' * 200_000 + b'}', 'line', 'nested too deeply'),
    'number of 5,000 digits': (b'{"id": "a", ' + TASK + b', "n": ' + b'9' * 5000 + b'}', 'line', 'a value that cannot be read'),
    'a number': (b'7', 'line', 'a number instead of an object'),
    'a text': (b'"Name a prime."', 'line', 'text instead of an object'),
    'null': (b'null', 'line', 'null instead of an object'),
    'true': (b'true', 'line', 'true or false instead of an object'),
    'a list on a line': (b'["a", "Name a prime."]', 'line', 'a list instead of an object'),
    'longer than max_line': (b'{"id": "a", "instruction": "' + b'x' * 2**22 + b'"}', 'line', 'longer than 4,194,304 bytes'),
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
    'list as instruction': ({'instruction': ['x']}, 'instruction', 'a list instead of text'),
    'object as instruction': ({'instruction': {'text': 'x'}}, 'instruction', 'an object instead of text'),
    'misspelt instruction': ({'instruction': ..., 'Instruction': 'x'}, 'instruction', 'missing'),
    'question instead': ({'instruction': ..., 'question': 'x'}, 'instruction', 'missing'),
    'list as reference': ({'reference': ['2']}, 'reference', 'a list instead of text'),
    'true as gold answer': ({'gold_answer': True}, 'reference', 'true or false instead of text'),
    'two tasks': ({'instruction': 'x', 'messages': [{'role': 'user', 'content': 'y'}]}, 'instruction', 'differs from the last turn'),
    'source without languages': ({'instruction': ..., 'source': 'Ahoj.', 'target_language': 'English'}, 'source_language', 'missing'),
    'list as source': ({'instruction': ..., 'source': ['Ahoj.'], 'source_language': 'Czech', 'target_language': 'English'}, 'source', 'a list instead of text'),
    'three languages': ({'instruction': ..., 'en': 'Hello.', 'cs': 'Ahoj.', 'de': 'Hallo.', 'dataset': 'wmt22'}, 'source_language', 'do not say'),
    'object as constraints': ({'constraints': {'kind': 'json'}}, 'constraints', 'an object instead of a list'),
    'constraint without kind': ({'constraints': [{'n': 3}]}, 'constraints[0]', 'no object with a kind'),
    'number as category': ({'category': 3}, 'category', 'a number instead of text'),
    'list as meta': ({'meta': []}, 'meta', 'a list instead of an object'),
}

# conversations: the messages, the field that is named, words of the reason
TALKS = {
    'text as messages': ('Hi', 'messages', 'text instead of a list'),
    'no messages': ([], 'messages', 'the list is empty'),
    'text as a turn': (['Hi'], 'messages[0]', 'text instead of an object'),
    'unknown role': ([{'role': 'human', 'content': 'Hi'}], 'messages[0].role', "the role is 'human'"),
    'unhashable role': ([{'role': ['user'], 'content': 'Hi'}], 'messages[0].role', 'the role is'),
    'null content': ([{'role': 'user', 'content': None}], 'messages[0].content', 'no text, or empty'),
    'answered already': ([{'role': 'assistant', 'content': 'Hello'}], 'messages', 'not the user'),
}


def line_of(**fields):
    "A record of a task that is good but for these fields, as the bytes of a line."
    return json.dumps({k: v for k, v in ({'id': 'a', 'instruction': 'Name a prime.'} | fields).items() if v is not ...}).encode()


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
    file = write(tmp_path, GOOD + b'\n'.join(line for line, *_ in LINES.values()))
    found = [REPORT.fullmatch(r).groups() for r in reports(file)]
    assert [(int(n), field) for n, field, *_ in found] == [(i, field) for i, (_, field, _) in enumerate(LINES.values(), 2)]


def test_two_faults_of_a_line_are_two_reports(tmp_path):
    assert [REPORT.fullmatch(r)[2] for r in reports(write(tmp_path, b'{"id": 1.5, "instruction": 7, "category": []}'))] == ['id', 'instruction', 'category']
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
    'gzip': (b'\x1f\x8b\x08\x00abc', 'compressed (gzip)'),
    'parquet': (b'PAR1abc', 'a parquet file'),
    'UTF-16': (GOOD.decode().encode('utf-16'), 'UTF-16'),
    'list cut short': (b'[{"id": "a", ' + TASK + b'}', ':1: line: no comma or bracket after this item'),
    'list cut in an item': (b'[{"id": "a", ' + TASK + b'},\n{"id":', ':2: line: not valid JSON'),
    'list without comma': (b'[{"id": "a", ' + TASK + b'}\n{"id": "b", ' + TASK + b'}]', ':1: line: no comma or bracket'),
    'text behind the list': (b'[{"id": "a", ' + TASK + b'}]\n[]', ':1: line: text after the end of the list'),
    'list of texts': (b'["Name a prime."]', ':1: line: text instead of an object'),
    'duplicate in a list': (b'[{"id": "a", ' + TASK + b'},\n\n{"id": "a", ' + TASK + b'}]', ":3: id: 'a' is also on line 1"),
    'Latin-1 in a list': (b'[\n{"id": "caf\xe9", ' + TASK + b'}]', ':2: line: byte 0xe9 is not UTF-8'),
}


@pytest.mark.parametrize('name', FILES)
def test_a_bad_file_is_one_report(tmp_path, name):
    raw, reason = FILES[name]
    found = reports(write(tmp_path, raw))
    assert len(found) == 1 and found[0].startswith('prompts.jsonl:') and reason in found[0]


def test_a_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"promts\.jsonl: there is no such file\. Is it '.*prompts\.jsonl'\?"): load_prompts(tmp_path / 'promts.jsonl')
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
    b'\xef\xbb\xbf [\r\n' + GOOD + b',]',                                     # a list with all of it and a comma too many
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
    math = {'id': 3, 'instruction': 'Two and two?', 'dataset': 'gsm8k', 'tag': 'gsm8k', 'gold_response': 'It is 4.', 'gold_answer': 4}
    wmt = {'id': 4, 'instruction': 'Ahoj.', 'en': 'Hello.', 'cs': 'Ahoj.', 'dataset': 'wmt22'}
    a, b = prompts_from([math, wmt])
    assert (a.id, a.reference, a.meta['gold_response'], a.meta['tag']) == ('3', '4', 'It is 4.', 'gsm8k')
    assert (b.source, b.reference, b.meta['source_language'], b.meta['target_language'], b.meta['en']) == ('Ahoj.', 'Hello.', 'Czech', 'English', 'Hello.')


def test_numbers_for_records_without_an_id(tmp_path):
    file = write(tmp_path, b'[{"dataset": "x", "instruction": "a", "output": "o"},\n{"instruction": "b"}]')
    assert [p.id for p in load_prompts(file, id_prefix='eval-')] == ['eval-1', 'eval-2']
