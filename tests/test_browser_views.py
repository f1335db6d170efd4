"""Journeys through the panels on stored runs, in JupyterLab and Chromium: what a reader does with mouse and keyboard, and what she sees."""
import asyncio
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import psutil
import pytest
from browser import environment, free_port, journey, wait_for
from test_panels_views import fill

from toa_nb.panels.trees import TreePanel

NASTY = ('<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"> '
         '![i](http://example.com/i.png) '
         '\x1b[31mred\x1b[0m user\u202egnp.exe <b>bold</b> {n}')
SHOWN = '[U+001B][31mred[U+001B][0m user[U+202E]gnp.exe <b>bold</b>'


def stored(lab, name, **kw):
    "A store beside the notebooks, written in a thread that has no event loop yet."
    if not (lab.notebooks/name).exists():
        with ThreadPoolExecutor(1) as thread: thread.submit(asyncio.run, fill(lab.notebooks/name, **kw)).result()


@journey
def test_curves(lab):
    stored(lab, 'curves.db')
    lab.notebook('from toa_nb.panels import CurvePanel', "CurvePanel('curves.db', x='tokens')")
    lab.see('.toa-CurvePanel .toa-code', "reward_curve(df, x='tokens', y='best')")
    lab.until('() => document.querySelector(".toa-curve")?.textContent.includes("Tokens per prompt")', 'no curve: Tokens per prompt')
    lab.page.get_by_label('upwards').select_option('mean of all so far')
    lab.page.get_by_label('log scale').check()
    lab.see('.toa-CurvePanel .toa-code', "reward_curve(df, x='tokens', y='mean'), log=True)")
    lab.until('() => document.querySelector(".toa-curve")?.textContent.includes("of all answers so far")', 'no curve: of all answers so far')
    moves = count(200)
    def tip():
        "What is shown under the mouse, which moves each time, because the curve may just have been drawn anew."
        lab.page.locator('.toa-curve').hover(position=dict(x=next(moves) % 400, y=100))
        return lab.text('.toa-tip')
    wait_for(lambda: 'TOA: ' in tip(), lambda: 'no value under the mouse', lab.page)
    lab.page.locator('.toa-curve .end', has_text='TOA').click()
    lab.page.wait_for_selector('.toa-curve .end[aria-pressed=true]')
    for name in 'curve.svg', 'curve.csv':
        lab.page.get_by_label('save as').fill(name)
        lab.press('.toa-CurvePanel', 'Save')
        lab.see('.toa-CurvePanel .toa-say', f'Written: {name}')
    assert ('<svg' in (lab.notebooks/'curve.svg').read_text()
            and 'mean,low,high' in (lab.notebooks/'curve.csv').read_text())


@journey
def test_a_tree_is_walked_folded_and_played_back(lab):
    stored(lab, 'tree.db', text=NASTY)
    lab.notebook('from toa_nb.panels import TreePanel', "TreePanel('tree.db', 'toa', 'sky')")
    node, text, selected = (lambda n: f'.toa-tree [data-id="{n}"]', '.toa-TreePanel .toa-answer',
                            '.toa-tree [aria-selected=true]')
    lab.see(text, f'{SHOWN} 4')
    assert lab.page.locator('.toa-tree[role=tree] [role=treeitem]').count() == 7
    lab.page.locator(node(2)).click()
    lab.see(text, f'{SHOWN} 2')
    for key, to in ('ArrowUp', 1), ('ArrowDown', 2), ('ArrowDown', 3), ('Home', -1), ('End', 4):
        lab.page.keyboard.press(key)
        lab.page.wait_for_selector(f'{selected}[data-id="{to}"]:focus')
    lab.press('.toa-TreePanel', 'difference from the one above')
    lab.see('.toa-TreePanel ins', '4')
    lab.see('.toa-TreePanel del', '3')
    lab.press('.toa-TreePanel', 'Next')
    lab.see('.toa-TreePanel .toa-code', "TreePanel('")
    lab.see('.toa-TreePanel .toa-code', "'sea'")
    assert (lab.page.title() != 'owned'
            and lab.page.locator('.toa-TreePanel :is(script, b, img:not(.toa-picture))').count() == 0)
    lab.page.locator(node(1)).click()
    lab.page.keyboard.press('Enter')
    lab.page.wait_for_selector(f'{node(1)}[aria-expanded=false]')
    assert lab.page.locator(node(2)).is_hidden()
    lab.page.get_by_role('button', name='unfold all branches').click()
    lab.page.wait_for_selector(f'{node(1)}[aria-expanded=true]')
    seen = ('() => [...document.querySelectorAll(".toa-tree [role=treeitem]")].filter(e => e.style.display !== '
            '"none").length')
    lab.page.get_by_label('samples shown').first.fill('0')
    lab.until(f'() => ({seen})() === 1', 'the samples are not hidden')
    lab.page.get_by_role('button', name='play the search back').click()
    lab.until(f'() => ({seen})() === 7', 'the search is not played back')


@journey
def test_samples(lab):
    stored(lab, 'samples.db', text=NASTY)
    lab.notebook('from toa_nb.panels import SampleBrowser', "SampleBrowser('samples.db', 'toa')")
    row, first = (lambda n: lab.page.locator(
        f'.toa-list tbody tr[data-row="{n}"]')), '.toa-SampleBrowser .toa-answer >> nth=0'
    lab.see('.toa-list', 'CallTimeout: no <answer>')
    lab.page.locator('.toa-list th button', has_text='reward').click()
    lab.see(first, f'{SHOWN} 4')
    lab.page.get_by_text('Filters and columns').click()
    lab.page.get_by_label('prompt id').fill('sky')
    lab.page.keyboard.press('Enter')
    lab.see('.toa-SampleBrowser', '6 samples')
    row(1).click()
    lab.see(first, f'{SHOWN} 3')
    lab.page.keyboard.press('ArrowDown')
    lab.see(first, f'{SHOWN} 2')
    row(0).locator('input').click()
    lab.see('.toa-SampleBrowser .toa-answer >> nth=1', f'{SHOWN} 4')
    lab.press('.toa-SampleBrowser', 'Prefer first')
    lab.see('.toa-SampleBrowser', '1 pair by hand in samples.pairs.jsonl, the last for sky: 2 before 4')
    lab.press('.toa-SampleBrowser', 'Save pairs')
    lab.see('.toa-SampleBrowser .toa-say', '2 pairs written: dpo.jsonl')
    assert ([json.loads(line)['policy']
             for line in (lab.notebooks/'dpo.jsonl').read_text().splitlines()] == ['by hand', 'mu-2sigma'])
    lab.press('.toa-SampleBrowser', 'Save samples')
    lab.see('.toa-SampleBrowser .toa-say', '2 samples written: samples.jsonl')
    assert lab.page.title() != 'owned' and lab.page.locator('.toa-SampleBrowser :is(script, b, img)').count() == 0
    lab.restart()
    lab.see('.toa-SampleBrowser', '1 pair by hand')


@journey
def test_a_list_of_any_length_is_walked_to_its_end(lab):
    stored(lab, 'long.db', samples=300)
    lab.notebook('from toa_nb.panels import SampleBrowser', "SampleBrowser('long.db', 'toa')")
    lab.see('.toa-SampleBrowser', '600 samples')
    lab.page.locator('.toa-list tr[data-row="0"]').click()
    lab.page.keyboard.press('End')
    lab.page.wait_for_selector('.toa-list tr[data-row="599"][aria-selected=true]:focus')
    assert lab.page.locator('.toa-list tr[data-row]').count() == 100
    lab.page.locator('.toa-list').evaluate('e => e.scrollTop = 0')
    lab.page.wait_for_selector('.toa-list tr[data-row="0"]')
    lab.page.get_by_role('button', name='messages').click()
    lab.see('.toa-SampleBrowser', 'can not be rebuilt')


@journey
def test_two_runs_are_compared(lab):
    stored(lab, 'compare.db')
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, fill(lab.notebooks/'compare.db', 'later', text='better {n}')).result()
    lab.notebook('from toa_nb.panels import ComparePanel', "ComparePanel('compare.db')")
    lab.see('.toa-ComparePanel', 'later against toa: +0')
    lab.page.locator('.toa-list tr[data-row="1"]').click()
    lab.see('.toa-ComparePanel .toa-answer >> nth=0', 'better 4')
    lab.see('.toa-ComparePanel .toa-answer >> nth=1', 'text 4')
    assert lab.page.locator('.toa-kept').is_hidden()
    lab.until('() => document.querySelector(".toa-kept").textContent.includes("Why is the sea blue?")', 'what was chosen is not kept')
    lab.page.evaluate('() => document.querySelector(".toa-panel").remove()')
    lab.see('.toa-kept', 'later against toa: +0')


@journey
def test_a_saved_page_answers_without_a_kernel(lab):
    stored(lab, 'tree.db', text=NASTY)
    def saved(): return TreePanel(lab.notebooks/'tree.db', 'toa', 'sky').save(lab.notebooks/'page.html').read_text()
    with ThreadPoolExecutor(1) as thread: page = thread.submit(saved).result()
    lab.page.goto('about:blank')
    lab.page.set_content(page)
    lab.page.locator('.toa-tree [data-id="2"]').click()
    lab.see('.toa-answer', f'{SHOWN} 2')
    lab.page.locator('.toa-link').first.click()
    lab.see('.toa-answer', f'{SHOWN} 1')
    assert lab.page.title() == 'Search tree'


def two_runs(lab):
    "A store with two runs of one method."
    if (lab.notebooks/'two.db').exists(): return
    stored(lab, 'two.db')
    with ThreadPoolExecutor(1) as thread: thread.submit(asyncio.run, fill(lab.notebooks/'two.db', 'later', text='**better** {n}')).result()


@journey
def test_an_answer_is_read_in_every_way(lab):
    two_runs(lab)
    lab.notebook('from toa_nb.panels import SampleBrowser', "browser = SampleBrowser('two.db', 'later')\nbrowser")
    page, panel, ticked = lab.page, '.toa-SampleBrowser', '.toa-list tr[aria-selected=true]'
    row = lambda n: page.locator(f'.toa-list tr[data-row="{n}"]')  # noqa: E731
    page.get_by_label('go to row').fill('4')
    page.keyboard.press('Enter')
    page.wait_for_selector(f'{ticked}[data-row="3"]')
    lab.see(f'{panel} .toa-answer strong', 'better')
    page.locator(f'{panel} .toa-raw summary').click()
    lab.see(f'{panel} .toa-raw pre', '**better** 3')
    page.locator(f'{panel} .toa-copy').click()
    lab.see(f'{panel} .toa-copy', 'Copied')
    lab.see(f'{panel} .toa-task', 'Why is the sky blue?')
    page.locator(f'{panel} .toa-task summary').click()
    page.locator(f'{panel} .toa-link').click()
    page.wait_for_selector(f'{ticked}[data-row="2"]')
    page.wait_for_selector(f'{panel} .toa-task[open]')  # what was unfolded stays so
    row(4).locator('input').click()
    page.wait_for_function(f'() => document.querySelectorAll("{ticked}").length === 2')
    row(0).locator('input').click()
    lab.see(f'{panel} .toa-say', 'two answers are compared. Untick one of them')
    page.wait_for_function(f'() => document.querySelectorAll("{ticked}").length === 2')
    row(9).click()
    row(4).locator('input').click()
    page.wait_for_function(f'() => document.querySelectorAll("{ticked}").length === 2')
    assert page.get_by_role('button', name='Prefer first').is_disabled()  # two prompts
    page.get_by_text('Filters and columns').click()
    page.get_by_label('from', exact=True).fill('much')
    page.keyboard.press('Tab')
    lab.see(f'{panel} [role=alert]', "from: 'much' is not a number")
    page.locator(panel).get_by_label('number').select_option('tokens written')
    page.get_by_label('from', exact=True).fill('8')
    page.keyboard.press('Tab')
    lab.see(panel, '4 samples')
    page.get_by_label('columns').select_option(['prompt', 'seconds', 'text'])
    page.wait_for_function('() => [...document.querySelectorAll(".toa-list thead th")].map(e => e.textContent).join() === "chosen,prompt ▾,seconds,text"')


@journey
def test_a_tree_is_zoomed_moved_filtered_and_asked_what_it_knew(lab):
    lab.notebook('from toa_nb import *\nfrom toa_nb.panels import TreePanel', """
models = [FakeModel(name, lambda messages, seed: f'Air {seed % 50}') for name in ('a', 'b')]
length = FunctionReward(lambda prompt, text: len(text), name='length')
await Run(prompts_from(['Why is the sky blue?']), TOA(n=12, parallel=1), models, length, store='known.db')
TreePanel('known.db')""")
    page, tree = lab.page, '.toa-TreePanel'
    box = lambda: tuple(map(float, page.locator('svg.toa-tree').get_attribute('viewBox').split()))  # noqa: E731
    whole = box()
    page.get_by_role('button', name='zoom in').click()
    near = box()
    at = page.locator('svg.toa-tree').bounding_box()
    page.mouse.move(at['x'] + 20, at['y'] + 20)
    page.mouse.down()
    page.mouse.move(at['x'] + 80, at['y'] + 60, steps=3)
    page.mouse.up()
    assert len({whole, near, box()}) == 3
    page.get_by_role('button', name='fit the whole tree').click()
    assert box() == whole
    child = page.locator('.toa-tree [aria-level="3"]').first
    child.click()
    for view, shown in (('messages', 'they have the stored fingerprint'), ('what the search knew', 'tried here before'),
                        ('prompt', 'Why is the sky blue?'), ('parents', 'Air')):
        lab.press(tree, view)
        lab.see(f'{tree} .toa-page', shown)
    lab.press(tree, 'answer')
    parent = page.locator(f'{tree} .toa-link').inner_text().split()[1]
    page.locator(f'{tree} .toa-link').click()
    page.wait_for_selector(f'.toa-tree [aria-selected=true][data-id="{parent}"]')
    page.get_by_text('Colour and filters').click()
    page.get_by_label('colour').select_option('reward')
    page.locator(tree).get_by_label('model', exact=True).select_option('a')
    page.wait_for_function('() => document.querySelectorAll(".toa-tree .faded").length > 0')
    assert page.locator('.toa-tree .faded [fill="#0072b2"]').count() == 0  # the colours are those of the rewards


@journey
def test_one_curve_is_isolated_and_differences_stand_beside(lab):
    two_runs(lab)
    lab.notebook('from toa_nb.panels import CurvePanel', "CurvePanel('two.db', x='tokens')")
    lab.page.wait_for_selector('.toa-curve .end >> nth=1')
    assert lab.page.locator('.toa-curve .band').count() == 2
    lab.page.locator('.toa-curve .end').first.focus()
    lab.page.keyboard.press('Enter')
    lab.page.wait_for_selector('.toa-curve .series.faded')
    assert lab.page.locator('.toa-curve .series:not(.faded)').count() == lab.page.locator('.toa-curve .band').count() == 1
    lab.page.get_by_label('difference to').select_option('toa')
    lab.page.wait_for_selector('.toa-curve .zero', state='attached')
    lab.see('.toa-CurvePanel .toa-code', "difference_curve(df, 'toa', x='tokens', y='best', by='run')")
    lab.press('.toa-CurvePanel', 'Save')
    lab.see('.toa-CurvePanel .toa-say', 'Written: curve.png, curve-difference.png')


@journey
def test_a_comparison_is_sorted_walked_and_read(lab):
    two_runs(lab)
    lab.notebook('from toa_nb.panels import ComparePanel', "ComparePanel('two.db', 'later', 'toa')")
    panel, first = '.toa-ComparePanel', '.toa-ComparePanel .toa-page >> nth=0'
    lab.page.locator('.toa-list th button', has_text='difference').click()
    lab.see(f'{panel} .toa-code', ".sort_values('difference', ascending=False, kind='stable')")
    lab.page.locator('.toa-list tr[data-row="0"]').click()
    lab.page.keyboard.press('ArrowDown')
    lab.page.wait_for_selector('.toa-list tr[data-row="1"][aria-selected=true]:focus')
    assert lab.page.locator('.toa-list input').count() == 0  # one prompt at a time
    lab.press(panel, 'difference')
    lab.see(f'{panel} ins', 'text')
    lab.press(panel, 'answer')
    lab.page.locator(f'{panel} .toa-link').first.click()
    lab.see(first, 'later, from no. 4')
    lab.see(first, 'better 3')
    lab.page.get_by_text('Settings that differ').click()
    lab.see(panel, 'All settings are the same.')


@journey
def test_a_saved_notebook_shows_its_panels_without_a_kernel(lab):
    two_runs(lab)
    names = 'RunPanel', 'CurvePanel', 'ComparePanel', 'TreePanel', 'SampleBrowser'
    lab.notebook(f'from toa_nb.panels import {", ".join(names)}', *(f"{name}('two.db')" for name in names))
    lab.page.wait_for_selector('.toa-busy', state='detached')
    lab.until(f'() => document.querySelectorAll(".toa-panel").length === {len(names)}', 'not every panel is there')
    lab.until('() => document.querySelectorAll(".toa-kept img").length >= 3', 'not every picture is kept')
    assert lab.page.locator('.toa-kept >> visible=true').count() == 0
    lab.page.evaluate('() => window.jupyterapp.shell.currentWidget.context.save()')
    kept = json.loads((lab.notebooks/'journey.ipynb').read_text())
    kept['metadata']['kernelspec'] = dict(name='gone', display_name='gone', language='python')
    (lab.notebooks/'later.ipynb').write_text(json.dumps(kept))
    lab.page.goto(f'{lab.url}/lab/tree/later.ipynb?reset')
    lab.until(f'() => document.querySelectorAll(".toa-kept").length === {len(names)}', 'not every panel is kept')
    assert lab.page.locator('.toa-kept >> visible=true').count() == len(names) and not lab.page.locator('.toa-panel').count()
    assert lab.page.locator('.toa-kept img').count() >= 3  # the run's curve, the curves, the tree
    lab.see('.toa-kept >> nth=2', 'later against toa: +0')
    lab.errors.clear()  # there is no kernel of this name


@pytest.mark.slow
@journey
def test_the_command_opens_the_panels_and_ends_with_all_that_it_started(lab, tmp_path):
    two_runs(lab)
    main = 'from toa_nb.cli import main; raise SystemExit(main())'
    words = [sys.executable, '-c', main, 'panel', str(lab.notebooks/'two.db'), '--port', str(free_port())]
    with open(tmp_path/'said', 'wb') as said:
        command = subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path) | {'BROWSER': 'true'}, stdin=subprocess.DEVNULL,
                                   stdout=said, stderr=said)
    try:
        wait_for(lambda: [*tmp_path.glob('runtime/jpserver-*.json')], lambda: (tmp_path/'said').read_text())
        server = json.loads(next(tmp_path.glob('runtime/jpserver-*.json')).read_text())
        lab.page.goto(f'{server["url"]}doc/tree/panels.ipynb?token={server["token"]}')
        there = '() => document.querySelectorAll(".toa-panel").length === 5'
        lab.until(there, 'the panels do not open by themselves')
        lab.page.locator('.toa-CurvePanel').get_by_label('save as').fill('here.csv')
        lab.press('.toa-CurvePanel', 'Save')
        lab.see('.toa-CurvePanel .toa-say', 'Written: here.csv')
        assert (tmp_path/'here.csv').exists()
        lab.until('() => !window.document.title.startsWith("*")', 'the notebook is not saved')
        lab.page.reload()
        lab.until(there, 'the panels are gone after a reload')
        assert all(url.startswith(server['url']) for url in lab.outside), lab.outside
        lab.page.goto('about:blank')
        family = [psutil.Process(server['pid']), *psutil.Process(server['pid']).children(recursive=True)]
        assert len(family) > 1  # the kernel too
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 0
        assert psutil.wait_procs(family, timeout=60)[1] == []
    finally:
        command.kill()
        lab.outside.clear()
        lab.errors.clear()  # of a page whose server has ended
