"""The main job on real local models: the default method and six others on real prompts with a real reward. `make demo`, or `make demo SMALL=1`.

Two llama.cpp servers on the CPU serve SmolLM2-135M-Instruct; three samplers of it (named for what they do) stand in for several models.
The reward is the share of a prompt's eight verifiable instructions that an answer obeys. Everything lands in runs/demo: the run store,
SFT and DPO files, a table and the figure. Stopped with Ctrl-C, it goes on from there the next time.
"""
import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from toa_nb import (
    PRS,
    TOA,
    BestOfN,
    ChatModel,
    Constraints,
    MoA,
    ParallelEnsemble,
    Run,
    RunStore,
    SequentialRefine,
    compare_methods,
    default_method,
    llama_cpp,
    load_prompts,
    local_model,
    plot_curve,
    reward_curve,
    summarize,
    to_dpo,
    to_frame,
    to_sft,
    write_jsonl,
)

root = Path(__file__).parent.parent
careful = 'Follow every instruction about form exactly: counts, words to use, words to avoid. Answer with nothing else.'


def samplers(servers):
    "Three ways to sample the same weights, over all servers."
    common = dict(endpoints=[s.url for s in servers], model=servers[0].name, api_key_env=servers[0].api_key_env,
                  max_tokens=64, spec='SmolLM2-135M-Instruct')
    return [ChatModel('plain', temperature=.7, **common), ChatModel('bold', temperature=1.1, **common),
            ChatModel('careful', temperature=.7, system=careful, **common)]


def methods(n):
    return dict(best_of_n=BestOfN(n), prs=PRS(n), parallel_ensemble=ParallelEnsemble(n),
                sequential_refine=SequentialRefine(n),
                moa=MoA(n, n_iter=3), toa=TOA(n), rounds=default_method(n))


def table(df):
    "The summary in plain columns; per prompt where it is not a count."
    names = dict(method='method', prompts='prompts', samples='samples', failures='failed',
                 mean='mean', top3='top 3', best='best', flops='FLOPs', tokens='tokens')
    t = summarize(df).reset_index()[list(names)].rename(columns=names)
    return t.to_string(index=False, float_format=lambda v: f'{v:.3g}' if v >= 10 else f'{v:.3f}')


def differences(df):
    "Each method against best-of-n, prompt by prompt, at equal samples."
    others = [name for name in methods(1) if name != 'best_of_n']
    rows = {name: compare_methods(df, name, 'best_of_n', x='samples', n_boot=2000).iloc[0] for name in others}
    return '\n'.join(f'{name:>18}  {r.difference:+.3f}  [{r.low:+.3f}, {r.high:+.3f}]' for name, r in rows.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--small', action='store_true', help='6 prompts x 8 samples per method instead of 12 x 12')
    args = parser.parse_args()
    n_prompts, n, out = (6, 8, root/'runs/demo-small') if args.small else (12, 12, root/'runs/demo')
    out.mkdir(parents=True, exist_ok=True)
    prompts = load_prompts(root/'data/experiments/search_prompts.jsonl')[:n_prompts]
    start = time.monotonic()

    with ExitStack() as stack:
        model = local_model()
        servers = [stack.enter_context(llama_cpp(model, 'smollm2-135m', parallel=8, ctx=2048)) for _ in range(2)]
        for name, method in methods(n).items():
            run = Run(prompts, method, samplers(servers), Constraints(), store=out/'demo.db', name=name,
                      concurrency=16).wait()
            if run.progress.state != 'finished':
                sys.exit(f'Stopped; everything so far is in {out/"demo.db"}. The same command goes on from there.')

    with RunStore(out/'demo.db', 'r') as store:
        df = to_frame(store)
        sft, dpo = (write_jsonl(rows, out/f'{kind}.jsonl') for kind, rows in (('sft', to_sft(store)),
            ('dpo', to_dpo(store))))
    figure = plot_curve(reward_curve(df, x='flops', y='best'),
                        title=f'SmolLM2-135M, {n_prompts} prompts, share of instructions obeyed')
    figure.savefig(out/'curve.png', dpi=200)
    summarize(df).to_csv(out/'summary.csv')
    files = ', '.join(str(path.relative_to(root)) for path in (out/'demo.db', sft, dpo, out/'curve.png',
                                                               out/'summary.csv'))
    print(f'\n{table(df)}\n\nBest reward of a prompt, difference to best_of_n (95 % interval over {n_prompts} prompts):\n'
          f'{differences(df)}\n\nWritten in {time.monotonic() - start:.0f} s: {files}')



if __name__ == '__main__': main()
