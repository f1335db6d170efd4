"""TRL trains a step on the files of `export`, as they are and slim: the trainers themselves, in this process."""
import os

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')
trl = pytest.importorskip('trl')
datasets = pytest.importorskip('datasets')

from toa_nb.core import Completion, Prompt, Sample, Score, Trial, Usage  # noqa: E402
from toa_nb.data.writing import export  # noqa: E402

TEMPLATE = ("{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
            "{% if add_generation_prompt %}<assistant> {% endif %}")
WORDS = 'tell me about number 0 1 2 3 the is good no ever bad'.split()
prompts = [Prompt(f'p{i}', f'tell me about number {i}') for i in range(4)]


def answers(i):
    "Three answers; a held-out reward fails for the last prompts."
    for n, text in enumerate(('no number is ever bad', f'the number {i} is', f'the number {i} is good')):
        gold = Score('gold', float(n)) if i < 2 else Score('gold', error='RewardTimeout: 60 s')
        yield Sample('r', f'p{i}', Trial(n, 'qwen', (), seed=n), Completion(text, Usage(9, n + 1)), None,
                     (Score('armo', float(n)), gold))


@pytest.fixture(scope='module')
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    vocab = {w: i for i, w in enumerate(['<pad>', '<end>', '<unk>', '<user>', '<assistant>', *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token='<pad>', eos_token='<end>', unk_token='<unk>')
    found.chat_template = TEMPLATE
    return found


def model(kind, tokenizer, folder):
    "A folder, from which DPO and KTO take their reference too."
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, eos_token_id=1, bos_token_id=1,
                         max_position_embeddings=64, num_labels=1)
    (LlamaForSequenceClassification if kind == 'reward' else LlamaForCausalLM)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize('slim', [False, True], ids=['whole', 'slim'])
@pytest.mark.parametrize('kind, ending', [('sft', '.jsonl'), ('dpo', '.parquet'), ('kto', '.jsonl'), ('reward', '.parquet')])
def test_a_step_on_the_files(kind, ending, slim, tokenizer, tmp_path):
    samples = [s for i in range(4) for s in answers(i)]
    rules = {} if kind == 'sft' else dict(rejected='min')
    place = export(samples, tmp_path/f'rows{ending}', kind, prompts=prompts, reward='armo', slim=slim, **rules).files[0]
    datasets.disable_progress_bars()
    rows = datasets.load_dataset('parquet' if ending == '.parquet' else 'json', data_files=str(place), split='train',
                                 cache_dir=str(tmp_path/'cache'))
    assert (len(rows.column_names) <= 3) is slim
    if slim: assert len((tmp_path/'rows.origins.jsonl').read_text().splitlines()) == len(rows)
    name = dict(sft='SFT', dpo='DPO', kto='KTO', reward='Reward')[kind]
    options = dict(output_dir=str(tmp_path/'out'), max_steps=1, per_device_train_batch_size=4, use_cpu=True, bf16=False,
                   report_to='none', logging_steps=1, save_strategy='no', disable_tqdm=True)
    trainer = getattr(trl, f'{name}Trainer')(model(kind, tokenizer, tmp_path/'model'), train_dataset=rows,
                                             args=getattr(trl, f'{name}Config')(**options), processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(rows) == (8 if kind == 'kto' else 4)
    if kind == 'sft': assert trainer.train_dataset[0]['labels'][:9].count(-100) == 8  # the prompt is not trained on
    trainer.train()
    [loss] = [row['loss'] for row in trainer.state.log_history if 'loss' in row]
    assert 0 < loss < 10 and trainer.state.global_step == 1
