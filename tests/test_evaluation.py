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
    assert length_controlled(ours, weights, n_boot=0).value == pytest.approx(theirs['length_controlled_winrate'], abs=.02)
    shuffled = ours.sample(frac=1, random_state=0)
    assert length_controlled(shuffled, weights, n_boot=0).value == pytest.approx(theirs['length_controlled_winrate'], abs=.02)
