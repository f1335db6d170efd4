"""The files of `export` are read by the programs that they are for: `datasets` and the data functions of TRL."""
import json
import os
from pathlib import Path

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')
datasets = pytest.importorskip('datasets')

from toa_nb.core import Completion, Prompt, Sample, Score, Trial, Usage  # noqa: E402
from toa_nb.data.exports import to_dpo, to_kto, to_sft  # noqa: E402
from toa_nb.data.files import file_records  # noqa: E402
from toa_nb.data.rows import arrow_schema, write_jsonl, write_parquet  # noqa: E402
from toa_nb.data.writing import FORMATS, export  # noqa: E402

N, CHUNK = 120, 2**15  # prompts; bytes from which `datasets` takes the types, in place of its 10 MB
TRL = ('sft', 'dpo', 'kto', 'reward', 'ultrafeedback')


def answers(i):
    "Four answers; a held-out reward fails from the 100th prompt on, and the scores are whole numbers before."
    for n in range(4):
        gold = Score('gold', float(n)) if i < 100 else Score('gold', error='RewardTimeout: 60 s')
        armo = Score('armo', float(n) if i < 100 else n + .25, version='' if i < 100 else 'r2')
        parents = (0,) if n and i >= 100 else ()
        yield Sample('r', f'p{i}', Trial(n, 'qwen', (), parents, seed=n),
                     Completion(f'Answer {n} to {i}. ' + 'word ' * 20 * n, Usage(9, n + 1)), None, (armo, gold))


@pytest.fixture(scope='module')
def source():
    prompts = [Prompt(f'p{i}', f'Question {i}?', meta={'dataset': 'demo'}) for i in range(N)]
    return [s for i in range(N) for s in answers(i)], prompts


@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('sets')


def load(path, place):
    kind = 'parquet' if path.suffix == '.parquet' else 'json'
    options = dict(chunksize=CHUNK) if kind == 'json' else {}
    datasets.disable_progress_bars()
    return datasets.load_dataset(kind, data_files=str(path), split='train', cache_dir=str(place/'cache'), **options)


@pytest.mark.parametrize('ending', ['.jsonl', '.parquet'])
@pytest.mark.parametrize('name', TRL)
def test_datasets_reads_what_it_was_given(source, place, name, ending):
    done = export(source[0], place/f'{name}{ending}', name, prompts=source[1], reward='armo')
    assert ending == '.parquet' or done.files[0].stat().st_size > 2 * CHUNK
    found = load(done.files[0], place)
    make = FORMATS[name].make(source[0], source[1], 'armo')
    assert found.features.arrow_schema.equals(arrow_schema(make.columns))
    assert found.to_list() == list(iter(make))


def test_nested_fields_that_become_texts_are_what_breaks(source, place):
    "The form of earlier versions, which the types of the columns now exclude."
    rows = ({'text': 'word ' * 100, 'scores': [{'error': s.error} for s in sample.scores]} for sample in source[0])
    path = write_jsonl(rows, place/'broken.jsonl')
    with pytest.raises(datasets.exceptions.DatasetGenerationError): load(path, place)


def test_a_parquet_file_has_its_columns_whatever_comes_first(source, place):
    rows = to_sft(source[0], source[1], 'armo')
    assert load(write_parquet(rows, place/'a.parquet'), place).column_names == list(rows.columns)


def test_trl_takes_every_format_of_its_own(source, place):
    from trl.data_utils import is_conversational, maybe_extract_prompt, maybe_unpair_preference_dataset
    loaded = {name: load(export(source[0], place/f't_{name}.jsonl', name, prompts=source[1], reward='armo').files[0], place)
              for name in TRL}
    for name, rows in loaded.items():  # UltraFeedback has its prompt as a text, until TRL takes it from the conversation
        row = maybe_extract_prompt(rows[0])
        columns = set(row) & {'prompt', 'chosen', 'rejected', 'completion', 'messages'}
        # One column at a time: of several, `is_conversational` looks at one, and which one depends on the process
        assert {c for c in columns if not is_conversational({c: row[c]})} == set(), name
        assert len(columns) >= 2, name
    for name in ('dpo', 'reward', 'ultrafeedback'):
        row = maybe_extract_prompt(loaded[name][0])
        assert [len(row[k]) for k in ('prompt', 'chosen', 'rejected')] == [1, 1, 1]
        assert row['prompt'][0] == {'role': 'user', 'content': 'Question 0?'}
    unpaired = maybe_unpair_preference_dataset(loaded['dpo'])
    assert sum(unpaired['label']) * 2 == len(unpaired) == 2 * N
    assert loaded['kto']['label'][:4] == [True, False, True, False] == [r['label'] for r in to_kto(*source, 'armo')][:4]


def test_trl_masks_the_prompt_of_a_row_of_sft(source, place):
    "The trainer takes this path for rows with `prompt` and `completion`; a row with `messages` has no mask."
    row = to_sft(source[0], source[1][:1], 'armo')[0]
    assert set(row) >= {'prompt', 'completion'} and 'messages' not in row
    assert row['completion'][0]['role'] == 'assistant'


def test_another_rule_reads_the_same_samples(source):
    few = source[0][:40], source[1][:10]
    by_rule = {rule: [r['trial_rejected'] for r in to_dpo(*few, 'armo', rejected=rule)] for rule in ('min', 'rank:2')}
    assert by_rule == {'min': [0] * 10, 'rank:2': [2] * 10}


@pytest.mark.parametrize('form', FORMATS['llama_factory'].forms)
def test_llama_factory_finds_its_columns(source, place, form):
    "By the schema of its documentation: each column named in dataset_info.json is in the file, with the right type."
    done = export(source[0], place/f'lf_{form}', 'llama_factory', form, prompts=source[1], reward='armo')
    entry = json.loads((place/f'lf_{form}/dataset_info.json').read_text())['train']
    found = load(place/f'lf_{form}'/entry['file_name'], place)
    assert set(entry['columns'].values()) == set(found.column_names) and len(found) == done.rows
    assert entry.get('formatting', 'alpaca') == form.partition('_')[0] and entry.get('ranking', False) == form.endswith('dpo')
    if form.endswith('kto'): assert {type(tag) for tag in found['kto_tag']} == {bool}


def schema(**fields): return dict(type='object', properties=fields, required=list(fields), additionalProperties=False)


TEXT, NUMBER = dict(type='string', minLength=1), dict(type='number')
TURN = schema(role=dict(enum=['system', 'user', 'assistant']), content=TEXT)
TALK = dict(type='array', items=TURN, minItems=1)
ONE = TALK | dict(maxItems=1)
SCHEMAS = {  # by the documentation of each reader
    ('openai', 'chat'): schema(messages=TALK),
    ('openai', 'preference_dpo'): schema(input=schema(messages=TALK), preferred_output=ONE, non_preferred_output=ONE),
    ('axolotl', 'chat_template'): schema(messages=TALK),
    ('axolotl', 'default_dpo'): schema(messages=TALK, chosen=TURN, rejected=TURN),
    ('axolotl', 'argilla_chat_dpo'): schema(chosen=TALK, rejected=TALK),
    ('distilabel', ''): schema(prompt=TEXT, prompt_id=dict(type='string', pattern='^[0-9a-f]{64}$'), chosen=TALK,
                               rejected=TALK, chosen_model=TEXT, chosen_rating=NUMBER, rejected_model=TEXT,
                               rejected_rating=NUMBER),
    ('rewardbench', ''): schema(prompt=TEXT, chosen=TEXT, rejected=TEXT),
    ('nemo_rl', ''): schema(context=TALK, completions=dict(type='array', minItems=2, items=schema(
        rank=dict(type='integer'), completion=ONE, reward=NUMBER))),
    ('alpaca_eval', ''): schema(dataset=TEXT, instruction=TEXT, output=TEXT, generator=TEXT),
}


@pytest.mark.parametrize('name, form', SCHEMAS)
def test_rows_have_the_schema_of_their_reader(source, place, name, form):
    jsonschema = pytest.importorskip('jsonschema')
    endings = FORMATS[name].endings
    ending = '.jsonl' if '.jsonl' in endings else endings[0]
    done = export(source[0], place/f's_{name}{form}{ending}', name, form, prompts=source[1], reward='armo')
    rows = [row for _, row in file_records(done.files[0])]
    check = jsonschema.Draft202012Validator(SCHEMAS[name, form])
    assert not [error.message for row in rows for error in check.iter_errors(row)]
    assert len(rows) == N
    origins = Path(done.files[0]).with_name(f's_{name}{form}.origins.jsonl')
    if FORMATS[name].turn: assert len(origins.read_text().splitlines()) == N
