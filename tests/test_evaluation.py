"Our evaluation against the packages that define the benchmarks. Each package is installed once, in an environment of its own."
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from toa_nb.evaluate import length_controlled, read_length_weights, win_rate
from toa_nb.servers.local import cache_folder

ALPACA = '''
import json, sys
import pandas as pd
from alpaca_eval.metrics import glm_winrate
table, gamed = sys.argv[1:]
glm_winrate.hf_hub_download = lambda **kwargs: gamed
found = glm_winrate.get_length_controlled_winrate(pd.read_json(table), save_weights_dir=None)
print(json.dumps({k: float(v) for k, v in found.items() if k in ("win_rate", "length_controlled_winrate")}))
'''


def environment(name, *packages):
    "The Python of an environment with these packages, or a skipped test."
    home = cache_folder()/f'test-{name}'
    exe = str(home/'bin'/'python')
    if not (home/'complete').exists():
        try:
            subprocess.run([sys.executable, '-m', 'venv', '--clear', str(home)], check=True)
            subprocess.run([exe, '-m', 'pip', 'install', '-q', *packages], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as e: pytest.skip(f'{name} could not be installed: {(e.stderr or "")[-300:]}')
        (home/'complete').touch()
    return exe


def synthetic(seed, n=805):
    "Judgements of AlpacaEval with ties and gaps, and a file of weights like df_gamed.csv."
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    lengths = rng.integers(200, 3000, (2, n))
    d = lengths[0] - lengths[1]
    p = 1 / (1 + np.exp(.7 * np.tanh(d / d.std(ddof=1)) - .25 * hard + .3))
    preference = 1 + np.clip(np.round(p + rng.normal(0, .3, n), 3), 0, 1)
    preference[:20] = 0
    preference[20:25] = np.nan
    table = pd.DataFrame(dict(index=range(n), instruction=[f'q{i}' for i in range(n)], preference=preference,
                              output_1=['x'*k for k in lengths[0]], output_2=['y'*k for k in lengths[1]],
                              generator_1='base', generator_2='model', annotator='judge'))
    gamed = pd.DataFrame(dict(index=np.tile(range(n), 2), model=np.repeat(['short', 'long'], n),
                              preference=1 + rng.random(2*n), std_delta_len=rng.normal(0, 1, 2*n),
                              instruction_difficulty=np.tile(hard, 2), not_gamed_baseline=False))
    return table, gamed


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1])
def test_length_controlled_win_rate_is_that_of_alpaca_eval(tmp_path, seed):
    exe = environment('alpaca-eval-0.6.6', 'alpaca_eval==0.6.6', 'setuptools<81')
    table, gamed = synthetic(seed)
    table.to_json(tmp_path/'table.json', orient='records')
    gamed.to_csv(tmp_path/'df_gamed.csv', index=False)
    done = subprocess.run([exe, '-c', ALPACA, tmp_path/'table.json', tmp_path/'df_gamed.csv'], check=True,
                          capture_output=True, text=True, env=os.environ | {'HF_HUB_OFFLINE': '1'})
    theirs = json.loads(done.stdout.splitlines()[-1])
    weights = read_length_weights(tmp_path/'df_gamed.csv', table['instruction'])
    ours = pd.DataFrame(dict(prompt_id=table['instruction'], instruction=table['instruction'],
                             preference=table['preference'].replace(0, 1.5) - 1, length=table['output_2'].str.len(),
                             baseline_length=table['output_1'].str.len()))
    assert win_rate(ours, n_boot=1).value == pytest.approx(theirs['win_rate'], abs=1e-6)
    assert length_controlled(ours, weights, n_boot=0).value == pytest.approx(theirs['length_controlled_winrate'], abs=.05)
    shuffled = ours.sample(frac=1, random_state=0)
    assert length_controlled(shuffled, weights, n_boot=0).value == pytest.approx(theirs['length_controlled_winrate'], abs=.05)


def test_arena_hard_v01_by_bradley_terry_is_the_weighted_mean():
    "As in 2024: games doubled, a tie a win for each, clear wins three times, coefficients anchored at the baseline, win rate from the Elo."
    from scipy.optimize import minimize

    from toa_nb.evaluate import arena_scores
    rng = np.random.default_rng(0)
    share = dict(a=[.5, .2, .3], b=[.3, .1, .6], c=[.1, 0, .9])
    rows = [(f'q{i // 2}', m, float(rng.choice([0, .5, 1], p=p)), int(rng.choice([1, 3]))) for m, p in share.items()
            for i in range(200)]
    games = pd.DataFrame(rows, columns=['question', 'model', 'worth', 'weight'])
    games.loc[games['worth'] == .5, 'weight'] = 1
    x, y = [], []
    for _, m, worth, weight in games.itertuples(index=False):
        x += 2 * weight * [[float(m == name) for name in share] + [-1.]]
        y += weight * {0: [0, 0], .5: [0, 1], 1: [1, 1]}[worth]
    x, y = np.array(x) * np.log(10), np.array(y)
    found = minimize(lambda b: (np.logaddexp(0, x @ b) - y * (x @ b)).sum(), np.zeros(4), tol=1e-10).x
    elo = 400 * (found[:3] - found[3]) + 1000
    ours = arena_scores(games, n_boot=1)
    for m, rating in zip(share, elo): assert ours[m].value == pytest.approx(100 / (1 + 10 ** ((1000 - rating) / 400)), abs=1e-2)


def test_style_control_is_at_its_optimum():
    "The fit against a general optimiser, with clear wins counted three times."
    from scipy.optimize import minimize

    from toa_nb.evaluate import style_controlled, style_features
    rng = np.random.default_rng(0)
    questions = [f'q{i}' for i in range(120)]
    def look(): return dict(token_len=int(rng.integers(100, 900)), header_count={'h1': int(rng.integers(0, 5))},
                            list_count={'ordered': int(rng.integers(0, 20))}, bold_count={'**': int(rng.integers(0, 9))})
    metadata = {m: {q: look() for q in questions} for m in ('a', 'b', 'base')}
    rows = [(q, m, float(rng.choice([0, .5, 1])), int(rng.choice([1, 3]))) for m in ('a', 'b') for q in questions
            for _ in range(2)]
    games = pd.DataFrame(rows, columns=['question', 'model', 'worth', 'weight'])
    ours = style_controlled(games, metadata, 'base', n_boot=0)
    expanded = games.loc[games.index.repeat(games['weight'])].reset_index(drop=True)
    style = np.stack([style_features(metadata[m][q], metadata['base'][q])
                      for q, m in zip(expanded['question'], expanded['model'])])
    style = (style - style.mean(0))/style.std(0, ddof=1)
    x = np.c_[expanded['model'] == 'a', expanded['model'] == 'b', style].astype(float)
    y = expanded['worth'].to_numpy()
    found = minimize(lambda b: (np.logaddexp(0, x @ b) - y*(x @ b)).sum(), np.zeros(6), tol=1e-12).x
    for i, m in enumerate('ab'): assert ours[m].value == pytest.approx(100/(1 + np.exp(-found[i])), abs=1e-3)


LM_TASK = '''task: toa_math
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{instruction}}}}"
doc_to_target: "{{{{reference}}}}"
generation_kwargs: {{until: [], max_gen_toks: 24}}
filter_list:
  - name: last_number
    filter: [{{function: regex, regex_pattern: "(-?[0-9.,]+)", group_select: -1}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
'''


@pytest.mark.slow
def test_lm_eval_runs_against_our_server(tmp_path):
    from pathlib import Path

    from toa_nb import llama_cpp, local_model
    from toa_nb.evaluate import lm_eval_command, run_lm_eval
    exe = environment('lm-eval-0.4.13', 'lm_eval[api]==0.4.13', 'setuptools<81')
    data = Path(__file__).parent.parent/'data/math.jsonl'
    (tmp_path/'task.yaml').write_text(LM_TASK.format(file=data))
    with llama_cpp(local_model(), 'smollm2', parallel=4, ctx=1024) as server:
        command = lm_eval_command([str(tmp_path/'task.yaml')], server.url, 'smollm2', tmp_path/'out', limit=4,
                                  concurrent=4, program=str(Path(exe).with_name('lm_eval')))
        found = run_lm_eval(command, server.api_key_env)
    estimate = found['toa_math exact_match (last_number)']
    assert estimate.n == 4 and 0 <= estimate.value <= 100
