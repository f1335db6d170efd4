"""Journeys through the panels on stored runs, in JupyterLab and Chromium: what a reader does with mouse and keyboard, and what she sees."""
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from browser import journey, wait_for
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
