"TRL trains: a tiny model that is made in code, and with the slow tests SmolLM2 on the pairs of a real run."
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason='TRL needs Python 3.11')

TEMPLATE = ("{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
            "{% if add_generation_prompt %}<assistant> {% endif %}")


def turn(role, text): return dict(role=role, content=text)


def pair(n):
    return dict(prompt=[turn('user', f'tell me about number {n}')], chosen=[turn('assistant', f'the number {n} is good')],
                rejected=[turn('assistant', 'no number is ever bad')])


pairs = [pair(n) for n in range(8)]


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    "A folder with a model of 20,000 weights and a tokenizer of words."
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    words = sorted({w for p in pairs for k in ('prompt', 'chosen', 'rejected') for w in p[k][0]['content'].split()})
    vocab = {w: i for i, w in enumerate(['<pad>', '<end>', '<unk>', '<user>', '<assistant>', *words])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token='<pad>', eos_token='<end>', unk_token='<unk>')
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(vocab), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, eos_token_id=1, bos_token_id=1,
                         max_position_embeddings=64)
    folder = tmp_path_factory.mktemp('tiny')
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


quick = dict(gpus=0, say=None, per_device_train_batch_size=4, logging_steps=1)


def test_ten_steps_of_dpo_move_the_margin(tiny, tmp_path):
    from toa_nb.train import dpo, pair_margins
    done = dpo(pairs, tiny, tmp_path/'out', max_steps=10, learning_rate=2e-3, **quick)
    assert done.plan['report'].startswith('8 rows')
    margins = pair_margins(pairs, done.output)
    assert min(margins) > 0 and sum(margins)/len(margins) > .05
    assert [row['loss'] for row in done.log if 'loss' in row][0] == pytest.approx(.6931, abs=1e-3)
    card = (tmp_path/'out/README.md').read_text()
    assert '10 steps' in card and '`learning_rate` | `0.002`' in card
    assert 'engine = "vllm"' in (tmp_path/'out/serve.toml').read_text()
    assert (tmp_path/'out/model/model.safetensors').exists()
    assert dpo(pairs, tiny, tmp_path/'out', max_steps=10, learning_rate=2e-3, **quick).done


def test_another_training_in_the_same_folder_is_refused(tiny, tmp_path):
    from toa_nb.core import InputError
    from toa_nb.train import prepare
    prepare('dpo', pairs, tiny, tmp_path/'out', gpus=0)
    with pytest.raises(InputError, match='the folder holds another training'):
        prepare('dpo', pairs[1:], tiny, tmp_path/'out', gpus=0)
    with pytest.raises(InputError, match='TRL would leave out every row'):
        prepare('dpo', pairs, tiny, tmp_path/'short', gpus=0, max_length=4)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['sft', 'kto', 'reward'])
def test_the_other_trainers(kind, tiny, tmp_path):
    from toa_nb import train
    rows = [dict(messages=p['prompt'] + p['chosen']) for p in pairs] if kind == 'sft' else pairs
    done = getattr(train, kind)(rows, tiny, tmp_path/'out', max_steps=4, learning_rate=1e-3, **quick)
    assert done.done and [row['step'] for row in done.log if 'loss' in row] == [1, 2, 3, 4]
    if kind == 'reward':
        import asyncio

        from toa_nb import Prompt, load_reward_model
        scores = asyncio.run(load_reward_model(str(tmp_path/'out/model'), family='linear').score(
            Prompt('a', 'tell me about number 1'), ['the number 1 is good']))
        assert isinstance(scores[0].value, float)


@pytest.mark.slow
def test_a_stopped_training_goes_on(tiny, tmp_path, monkeypatch):
    from toa_nb.train import dpo, jobs
    options = dict(max_steps=8, save_steps=2, learning_rate=1e-3, **quick)
    follow = jobs._follow

    def stopped(command, env, log, say):
        "End the process after the third step."
        def see(line):
            if "'epoch': '1.5'" in line or "'epoch': 1.5" in line: raise KeyboardInterrupt
        return follow(command, env, log, see)
    monkeypatch.setattr(jobs, '_follow', stopped)
    with pytest.raises(KeyboardInterrupt): dpo(pairs, tiny, tmp_path/'out', **options)
    monkeypatch.setattr(jobs, '_follow', follow)
    done = dpo(pairs, tiny, tmp_path/'out', **options)
    assert [row['step'] for row in done.log if 'loss' in row] == [*range(1, 9)]
    assert 'resume_from_checkpoint' in (tmp_path/'out/trl.yaml').read_text()
