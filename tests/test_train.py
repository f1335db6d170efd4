"TRL trains: a tiny model that is made in code, and with the slow tests SmolLM2 on the pairs of a real run."
import json
import sys
from pathlib import Path

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
    from toa_nb.servers.fleet import read_servers
    assert [(s.name, s.engine) for s in read_servers(tmp_path/'out/serve.toml')] == [('out', 'vllm')]
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


def test_the_command_prepares_and_trains_nothing(tiny, tmp_path, capsys):
    from toa_nb import write_jsonl
    from toa_nb.cli.commands import main
    rows = str(write_jsonl(pairs, tmp_path/'pairs.jsonl'))
    command = ['train', 'dpo', rows, '--model', str(tiny), '-o', str(tmp_path/'out'), '--gpus', '0', '--dry-run']
    assert main([*command, '--set', 'max_steps=2', 'max_length=11']) == 0
    out, shown = capsys.readouterr()
    assert 'prepared, not trained' in out and 'max_steps = 2' in shown and '8 cut' in shown
    assert 'data_files' in (tmp_path/'out/trl.yaml').read_text() and not (tmp_path/'out/trl').exists()
    assert main([*command, '--set', 'max_stepz=2']) == 2
    assert 'max_steps' in capsys.readouterr().err


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


FAMILIES = ['llama', 'llama3', 'mistral', 'qwen2', 'qwen3']


def random_model(family, folder):
    "A random model whose vocabulary is the bytes and four more, in a folder. The heads of Qwen3 are wider than the model."
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    rope = dict(rope_type='default', rope_theta=1e4)
    if family == 'llama3':
        rope = dict(rope_type='llama3', rope_theta=5e5, factor=8., low_freq_factor=1., high_freq_factor=4.,
                    original_max_position_embeddings=8192)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family.rstrip('3') if family == 'llama3' else family, vocab_size=260, hidden_size=128, intermediate_size=256,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64 if family == 'qwen3' else 32,
        max_position_embeddings=256, rope_parameters=rope, initializer_range=.15, tie_word_embeddings=family == 'qwen2',
        bos_token_id=259, eos_token_id=257, pad_token_id=258)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def gguf_original(model, family, out):
    "A GGUF file with the metadata and the shapes of a model, all weights zero; independent of our own writer."
    import gguf
    import numpy as np
    config, architecture = model.config, family if 'qwen' in family else 'llama'
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters['rope_theta'])
    if size := getattr(config, 'head_dim', None):
        writer.add_key_length(size)
        writer.add_value_length(size)
        writer.add_rope_dimension_count(size)
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('qwen2')
    writer.add_token_list([*bytes_to_unicode().values(), 'ab', '<end>', '<pad>', '<begin>'])
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(['a b'])
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(258)
    writer.add_bos_token_id(259)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == 'lm_head.weight' and config.tie_word_embeddings: continue
        writer.add_tensor(names.get_name(name, try_suffixes=('.weight', '.bias')), np.zeros(tensor.shape, dtype=np.float32))
    if family == 'llama3':
        plain = 5e5 ** (-np.arange(16) / 16)
        writer.add_tensor('rope_freqs.weight', (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file): step()
    writer.close()


@pytest.fixture(scope='session')
def written(tmp_path_factory):
    "For each family: the random model, and the GGUF file that we wrote of it."
    from toa_nb.train import folder_to_gguf
    from toa_nb.train.gguf import check_gguf
    found = {}
    for family in FAMILIES:
        home = tmp_path_factory.mktemp(family)
        model = random_model(family, home/'model')
        gguf_original(model, family, home/'original.gguf')
        check_gguf(home/'model', home/'original.gguf')
        found[family] = model, folder_to_gguf(home/'model', home/'original.gguf', home/'model.gguf')
    return found


@pytest.mark.parametrize('family', FAMILIES)
def test_a_family_goes_to_gguf_and_back(family, written, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from toa_nb.train import gguf_to_folder
    model, path = written[family]
    back = AutoModelForCausalLM.from_pretrained(gguf_to_folder(path, tmp_path/'back'), dtype=torch.float32)
    assert torch.allclose(back.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq, rtol=1e-4)
    there, here = model.state_dict(), back.state_dict()
    assert here.keys() == there.keys()
    for name in there: assert (here[name] - there[name]).abs().max() <= there[name].abs().max() / 127


def test_a_gguf_file_of_another_model_is_refused(written):
    from toa_nb.core import InputError
    from toa_nb.train.gguf import check_gguf
    def folder(family): return written[family][1].parent/'model'
    with pytest.raises(InputError, match='the file holds a qwen3 model'):
        check_gguf(folder('llama'), written['qwen3'][1])
    with pytest.raises(InputError, match="the tensor 'output.weight' has not the shape"):
        check_gguf(folder('qwen2'), untied(written['qwen2'][0], folder('qwen2').parent))


def untied(model, home):
    "A GGUF file of the same model with an output matrix of its own."
    from copy import deepcopy
    other = deepcopy(model)
    other.config.tie_word_embeddings = False
    gguf_original(other, 'qwen2', home/'untied.gguf')
    return home/'untied.gguf'


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_llama_cpp_gives_the_probabilities_of_transformers(family, written):
    import os
    from urllib.request import Request, urlopen

    import torch
    from transformers import AutoModelForCausalLM

    from toa_nb import llama_cpp
    from toa_nb.train import gguf_to_folder
    path = written[family][1]
    model = AutoModelForCausalLM.from_pretrained(gguf_to_folder(path, path.parent/'back'), dtype=torch.float32)
    ids = [(7 * i + 3) % 256 for i in range(100)]
    with llama_cpp(path, family, parallel=1, ctx=256, say=None) as server:
        body = dict(prompt=ids, n_predict=1, n_probs=260, temperature=0, cache_prompt=False,
                    logit_bias=[[token, False] for token in range(94, 260)])  # part of a character is not shown
        request = Request(server.url.removesuffix('/v1') + '/completion', json.dumps(body).encode(),
                          {'Authorization': 'Bearer ' + os.environ[server.api_key_env], 'Content-Type': 'application/json'})
        with urlopen(request, timeout=60) as answer: found = json.load(answer)['completion_probabilities'][0]['top_logprobs']
    with torch.no_grad(): ours = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    theirs = torch.full((260,), -30.)
    for token in found: theirs[token['id']] = token['logprob']
    far = (theirs - ours).norm() / (ours - ours.mean()).norm()
    print(family, far)
    assert far < .05  # llama.cpp rounds what goes into a matrix to eight bits


@pytest.mark.slow
def test_the_loop_closes_on_a_cpu(tmp_path):
    """A real run, SFT and DPO on its rows, the adapter merged and written as GGUF, served by llama.cpp and run beside the old model.

    Four to five minutes of CPU time; on two free cores about as long by the clock."""
    from toa_nb import BestOfN, ChatModel, Constraints, Run, RunStore, llama_cpp, load_prompts, local_model, to_frame
    from toa_nb.train import dpo, pair_margins, sft
    prompts = load_prompts(Path(__file__).parent.parent/'data/instructions.jsonl')[:8]
    store = tmp_path/'runs.db'

    def run(gguf, name, n):
        with llama_cpp(gguf, name, parallel=8, ctx=1024, say=None) as server:
            model = ChatModel(name, server.url, api_key_env=server.api_key_env, max_tokens=40, temperature=.9,
                              spec='SmolLM2-135M-Instruct')
            return Run(prompts, BestOfN(n), [model], Constraints(), store=store, name=name).wait(show=False)

    assert run(local_model(), 'before', 6).progress.state == 'finished'
    common = dict(gpus=0, say=None, logging_steps=1, per_device_train_batch_size=1, max_length=256, learning_rate=2e-4,
                  gradient_checkpointing=False)
    tuned = sft(store, 'local', tmp_path/'sft', max_steps=8, **common)
    assert len([row for row in tuned.log if 'loss' in row]) == 8
    again = dpo(store, tuned.folder, tmp_path/'dpo', max_steps=10, export=dict(rejected='min', cut=True), **common)
    rows = [json.loads(line) for line in (tmp_path/'dpo/rows.jsonl').read_text().splitlines()]
    margins = pair_margins(rows, again.output)
    assert sum(margins)/len(margins) > .02, margins
    assert run(tmp_path/'dpo/model.gguf', 'after', 2).progress.state == 'finished'
    with RunStore(store, 'r') as found: means = to_frame(found).groupby('run')['reward'].agg(['mean', 'count'])
    assert means['count'].to_dict() == dict(before=48, after=16)
    print(means, again.plan['report'], sum(margins)/len(margins))


@pytest.mark.slow
def test_the_gpu_benchmark_runs_small(monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent/'benchmarks'))
    import gpu
    gpu.main(['--small'])
    shown = capfd.readouterr().out
    assert 'speed-up of toa_nb' in shown and 's per step' in shown


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['sft', 'dpo', 'kto', 'reward'])
def test_trl_leaves_out_as_many_rows_as_the_report_says(kind, tiny, tmp_path):
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer

    from toa_nb.train import row_report, training_rows
    from toa_nb.train.options import TRAINERS
    long = [dict(p, prompt=[turn('user', 'tell me about number ' * n)]) for n, p in enumerate(pairs, 1)]
    source = [dict(messages=p['prompt'] + p['chosen']) for p in long] if kind == 'sft' else long
    rows = training_rows(kind, source)
    report = row_report(kind, rows, AutoTokenizer.from_pretrained(tiny), max_length=20)
    config = getattr(trl, TRAINERS[kind])(output_dir=str(tmp_path), max_length=20, use_cpu=True, bf16=False,
                                          report_to='none')
    trainer = getattr(trl, TRAINERS[kind].replace('Config', 'Trainer'))(str(tiny), args=config,
                                                                        train_dataset=Dataset.from_list(rows))
    assert 0 < report.dropped < report.rows
    assert len(trainer.train_dataset) == report.rows - report.dropped
