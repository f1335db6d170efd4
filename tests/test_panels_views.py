"""What the panels on stored runs do when nobody clicks: through their traits, and without anywidget."""
import ast
import asyncio
import json
from types import SimpleNamespace

import pytest

from toa_nb.analysis.plot import plot_tree
from toa_nb.core import Completion, InputError, Prompt, Score, Trial, Usage
from toa_nb.panels.base import NOT_LIVE
from toa_nb.panels.compare import ComparePanel
from toa_nb.panels.curves import CurvePanel
from toa_nb.panels.samples import SampleBrowser
from toa_nb.panels.texts import difference
from toa_nb.panels.tree_nodes import ROOT, pixel_places, tree_nodes
from toa_nb.panels.trees import TreePanel
from toa_nb.store.journal import RunStore


async def fill(path, run='toa', prompts=('sky', 'sea'), samples=6, text='text {n}'):
    "A chain of samples per prompt, the last of which failed."
    with RunStore(path, synchronous='NORMAL') as store:
        store.create_run(run, dict(method='toa', reward='rm', held_out=['gold'],
                                   models=[dict(name='a'), dict(name='b')]),
                         [Prompt(p, f'Why is the {p} blue?', meta={'category': 'nature'}) for p in prompts])
        for p in prompts:
            for n in range(samples):
                store.add_trial(run, p, Trial(n, 'ab'[n % 2], (), (n - 1,) if n else (), 'refine' if n else 'fresh',
                                              tree_parent=n - 1 if n else None))
                if n == samples - 1: await store.finish(run, p, n, error='CallTimeout: no <answer>')
                else:
                    answer = Completion(text.format(n=n), Usage(10, 5 + n), latency=1.)
                    await store.finish(run, p, n, answer, scores=[Score('rm', n / 10), Score('gold', -n / 10)])
                store.mark_told(run, p, n)


@pytest.fixture
def db(tmp_path):
    asyncio.run(fill(tmp_path/'runs.db'))
    return tmp_path/'runs.db'


def test_a_curve_panel_is_made_again_by_its_settings(db):
    one = CurvePanel(db, x='tokens', y='top', k=2, held_out='gold', log=True)
    two = CurvePanel(RunStore(db, 'r'), ['toa'], x='tokens', y='top', k=2, held_out='gold', log=True)
    assert [w.series for w in one.views.box.children] == [w.series for w in two.views.box.children] != []
    assert ("reward_curve(df, x='tokens', y='top', k=2), reward_curve(df, x='tokens', y='top', k=2, held_out='gold'), "
            "log=True)" in one.choice.code)


def test_an_error_of_the_curve_is_said_and_the_panel_goes_on(db, tmp_path):
    panel = CurvePanel(db, x='tokens')
    panel.set(runs=[])
    assert 'No run is chosen.' in panel.message.value and not panel.views.box.children
    panel.set(runs=['toa'])
    assert len(panel.views.box.children) == 1
    panel.file.value = str(tmp_path/'no such folder'/'c.png')
    panel.save_button.click()
    assert 'no such folder' in panel.message.value and 'bad' in panel.message.value


def test_reading_again_finds_a_new_run(db):
    panel = CurvePanel(db, x='tokens')
    asyncio.run(fill(db, 'later'))
    panel.reread()
    assert panel.fields['runs'].options and len(panel.fields['runs'].options) == 2
    assert panel.set(runs=['toa', 'later'], by='run').choice.curves()['']
    assert sorted(panel.choice.table()['run'].unique()) == ['later', 'toa']


def test_curves_in_an_event_loop_show_what_was_chosen_last(db):
    async def change():
        panel = CurvePanel(db, x='tokens')
        for y in ('top', 'mean', 'best', 'mean'): panel.fields['y'].value = y
        while panel.jobs: await asyncio.sleep(.01)
        return panel.views.box.children[0].series
    assert asyncio.run(change()) == CurvePanel(db, x='tokens', y='mean').views.box.children[0].series


def test_tree_follows_click_step_and_prompt(db):
    panel = TreePanel(db)
    assert panel.tree.selected == 4 and 'text 4' in panel.text.value
    panel.tree.selected = 1
    assert 'text 1' in panel.text.value and panel.number.value == 1
    panel.view.value = 'parents'
    assert 'text 0' in panel.text.value and 'text 1' not in panel.text.value
    panel.tree.selected = ROOT
    assert 'Why is the sky blue?' in panel.text.value
    panel.tree.selected, panel.view.value = 5, 'answer'
    assert 'CallTimeout: no &lt;answer&gt;' in panel.text.value
    panel.prompt.value = 'sea'
    assert panel.tree.selected == 4 and len(panel.tree.nodes) == 7 and panel.tree.step == 6


def test_tree_without_anywidget_is_a_picture(db, monkeypatch):
    for room in ('trees', 'samples'): monkeypatch.setattr(f'toa_nb.panels.{room}.AnyWidget', None)
    panel = TreePanel(db, step=6)
    assert panel.tree.value[:4] == '<img'
    whole = panel.tree.value
    panel.step.value = 2
    assert panel.tree.value != whole
    panel.number.value = 2
    assert 'text 2' in panel.text.value
    with pytest.raises(InputError, match='anywidget is missing'): SampleBrowser(db)


def test_a_tree_of_a_thousand_has_a_place_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr('toa_nb.panels.trees.MOST', 1000)
    asyncio.run(fill(tmp_path/'big.db', prompts=['p'], samples=1100))
    panel = TreePanel(tmp_path/'big.db')
    assert len(panel.tree.nodes) == 1001 and 'the first 1,000 of 1,100' in panel.message.value
    assert len({(n['x'], n['y']) for n in panel.tree.nodes}) == 1001
    assert all(0 <= n['x'] <= panel.tree.size[0] and 0 <= n['y'] <= panel.tree.size[1] for n in panel.tree.nodes)


def test_a_tree_of_nothing_is_a_prompt():
    assert pixel_places([]) == {ROOT: (50., 50.)} and [n['state'] for n in tree_nodes([], 'rm')] == ['prompt']


@pytest.mark.parametrize('panel', [CurvePanel, TreePanel, SampleBrowser, ComparePanel])
def test_an_empty_store_is_said_and_has_a_start(panel, tmp_path):
    RunStore(tmp_path/'empty.db').close()
    empty = panel(tmp_path/'empty.db')
    assert 'empty.db holds no run yet' in empty.message.value
    start, look = [child for row in empty.box.children for child in getattr(row, 'children', ())]
    look.click()
    assert 'empty.db holds no run yet' in empty.message.value
    start.click()
    assert empty.begun.path == tmp_path/'empty.db' and empty.begun.box in empty.box.children
    assert not empty.static() and empty.page_parts() == []
    for run in ('toa', 'later'): asyncio.run(fill(tmp_path/'empty.db', run))
    look.click()
    assert empty.begun.box not in empty.box.children and empty.static() and empty.page_parts()


@pytest.mark.parametrize('panel, act', [(CurvePanel, CurvePanel.reread), (TreePanel, TreePanel.reread), (SampleBrowser, SampleBrowser.search)])
def test_a_store_that_vanished_is_named(panel, act, db):
    p = panel(db)
    p.attempt(lambda: act(p))
    assert p.message_text == ''
    db.unlink()
    p.attempt(lambda: act(p))
    assert p.message_text.startswith('runs.db was deleted or moved')


def test_a_long_difference_is_found_quickly_and_whole():
    old, new = ' '.join(f'w{i % 97}' for i in range(4000)), ' '.join(f'w{i % 89}' for i in range(4000))
    html = difference(old, new)
    assert html.count('<ins>') == html.count('</ins>') > 0


def test_browser_scrolls_and_compares(db):
    browser = SampleBrowser(db)
    browser.found.view.window = 5
    browser.search()
    assert browser.count.value == '12 samples' and [r[1] for r in browser.found.view.rows] == ['0', '1', '2', '3', '4']
    browser.found.view.want = 9
    assert browser.found.view.first == 7 and browser.found.view.rows[-1][4:] == ['', '', 'failed: CallTimeout: no <answer>']
    browser.set(prompt_id='sky', sort='best')
    browser.found.view.chosen = [0, 1]
    browser.viewer.mode.value = 'difference'
    assert [c.value.count('<ins>') for c in browser.viewer.row.children] == [0, 1]
    browser.found.view.chosen = [0, 1, 2]
    assert 'two answers are compared' in browser.message.value and browser.found.view.chosen == [0, 1]
    browser.found.view.sort = 'worst'
    assert browser.fields['sort'].value == 'worst' and browser.found.view.rows[0][1] == '0'


def test_a_bound_that_is_no_number_is_named_beside_the_fields(db):
    browser = SampleBrowser(db)
    browser.fields['low'].value = 'much'
    assert 'from: &#x27;much&#x27; is not a number' in browser.wrong.value
    browser.fields['low'].value = '0.3'
    assert min(row[4] for row in browser.found.found) == .3 and not browser.wrong.value


def test_pairs_outlive_the_panel_and_can_be_taken_back(db):
    browser = SampleBrowser(db, prompt_id='sky')
    browser.found.view.chosen = [1, 3]
    browser.prefer()
    browser.found.view.chosen = [3, 0]
    browser.prefer()
    later = SampleBrowser(db)
    assert [(p['trial_chosen'], p['trial_rejected']) for p in later.pairs.rows()] == [(1, 3), (3, 0)]
    assert '2 pairs by hand' in later.pair_line.value
    later.undo()
    later.export_pairs(db.parent/'dpo.jsonl')
    rows = [json.loads(line) for line in (db.parent/'dpo.jsonl').read_text().splitlines()]
    assert [(r['prompt_id'], r['policy']) for r in rows] == [('sky', 'by hand'), ('sea', 'mu-2sigma')]
    assert rows[0].keys() == rows[1].keys()


@pytest.mark.parametrize('rows, why', [([0], '1 sample chosen'), ([0, 5], 'no answer with a score'),
                                       ([0, 6], 'different prompts')])
def test_what_is_no_pair_is_refused(db, rows, why):
    browser = SampleBrowser(db)
    browser.found.view.chosen = rows
    with pytest.raises(InputError, match=why): browser.prefer()
    assert not browser.pairs.path.exists()


def test_the_selection_is_written_as_a_table(db):
    browser = SampleBrowser(db, model='a')
    text = browser.export(db.parent/'s.csv').read_text()
    assert len(text.splitlines()) == 7 and 'text 4' in text
    with pytest.raises(InputError, match='another ending'): browser.export(db.parent/'s.xls')


def test_a_panel_reads_beside_a_run_that_is_being_written(tmp_path):
    async def both():
        await fill(tmp_path/'runs.db')
        with RunStore(tmp_path/'runs.db') as store:
            panel = TreePanel(tmp_path/'runs.db', selected=0)
            store.add_trial('toa', 'sky', Trial(6, 'a', (), (4,), 'refine', tree_parent=4))
            await store.finish('toa', 'sky', 6, Completion('new', Usage(1, 1)), scores=[Score('rm', .9)])
            panel.reread()
            return panel
    panel = asyncio.run(both())
    assert [n['state'] for n in panel.tree.nodes].count('best') == 1 and 6 in panel.samples and panel.number.value == 0


@pytest.mark.parametrize('open_panel', [
    lambda db: CurvePanel(db, x='tokens', held_out='gold', finished=True),
    lambda db: CurvePanel(db, x='tokens', facets=True, log=True, bands=False),
    lambda db: TreePanel(db, 'toa', 'sea', selected=2),
    lambda db: CurvePanel(db, x='tokens', by='run', against='later', held_out='gold'),
    lambda db: SampleBrowser(db, prompt_id='sky', sort='best', low=.1),
    lambda db: ComparePanel(db, category='nature', sort='asked', value='mean')])
def test_the_code_under_a_panel_makes_what_it_shows(open_panel, db, monkeypatch):
    asyncio.run(fill(db, 'later', text='more {n}'))
    monkeypatch.chdir(db.parent)
    panel = open_panel(db)
    *before, last = ast.parse(panel.code_text).body
    names = {}
    exec(compile(ast.Module(before, []), 'panel', 'exec'), names)
    made = eval(compile(ast.Expression(last.value), 'panel', 'eval'), names)
    if isinstance(panel, SampleBrowser):
        assert made['number'].astype(str).tolist() == [row[1] for row in panel.found.view.rows]
    elif isinstance(panel, ComparePanel): assert made.equals(panel.rows)
    elif isinstance(panel, TreePanel): assert drawn(made) == drawn(plot_tree(panel.samples.values(), 'rm'))
    else:
        figures = [*made] if isinstance(made, (tuple, list)) else [made]
        assert [drawn(f) for f in figures] == [drawn(f) for f in panel.choice.figures().values()]


def drawn(figure):
    return [repr(line.get_xydata().tolist()) for ax in figure.axes for line in ax.lines]


@pytest.mark.parametrize('open_panel, shown', [
    (CurvePanel, 'toa: best answer so far across'), (TreePanel, 'toa, prompt sky: 6 samples, best rm 0.4 (no. 4)'),
    (SampleBrowser, 'toa: 12 samples')])
def test_a_panel_leaves_plain_text_where_no_widget_is_drawn(open_panel, shown, db):
    text = open_panel(db)._repr_mimebundle_()['text/plain']
    assert shown in text and 'VBox(' not in text and '<style>' not in text


@pytest.mark.slow
def test_what_a_panel_leaves_is_in_a_page_of_nbconvert(db, monkeypatch):
    nbconvert = pytest.importorskip('nbconvert')
    outputs = []
    monkeypatch.setattr('IPython.display.display', lambda data, **options: outputs.append(data))
    SampleBrowser(db, prompt_id='sky')._ipython_display_()
    rows = [dict(output_type='display_data', data=data, metadata={}) for data in outputs]
    cell = dict(cell_type='code', id='c', metadata={}, execution_count=1, source='browser', outputs=rows)
    notebook = nbconvert.exporters.exporter.nbformat.from_dict(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5))
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    assert NOT_LIVE in page and 'text 0' in page and 'CallTimeout: no &lt;answer&gt;' in page


def test_nothing_to_draw_is_named(db):
    panel = CurvePanel(db, x='tokens')
    assert panel.set(runs=[]).message_text == 'No run is chosen.'
    with RunStore(db) as store:
        store.create_run('new', dict(method='toa', reward='rm', models=[]), [Prompt('p', 'Why?')])
    panel.reread()
    assert panel.set(runs=['new']).message_text == 'No sample in new yet.'
    browser = SampleBrowser(db, 'toa', text='no such text')
    assert "nothing found in toa with text 'no such text'" in browser.as_text()


def test_the_published_curve_stands_behind_flops_only(db):
    panel = CurvePanel(db, x='tokens', backdrop=True)
    assert 'it is in FLOPs, and this axis is not' in panel.message_text and 'backdrop' not in panel.code_text
    for x in ('samples', 'seconds', 'cost'): assert panel.set(x=x).choice.behind() is None
    for x in ('flops', 'flops_uncached', 'flops_published_with_reward'):
        assert panel.set(x=x).choice.behind() is not None


def test_an_error_of_a_wrong_choice_is_one_line(db):
    with pytest.raises(InputError) as caught: CurvePanel(db, x='watts')
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize('opened', [False, True], ids=['a path', 'an open store'])
def test_panels_take_a_run(db, opened):
    asyncio.run(fill(db, 'later'))
    run = SimpleNamespace(store_at=RunStore(db, 'r') if opened else db, name='toa')
    curves, tree, found, pair = (panel(run) for panel in (CurvePanel, TreePanel, SampleBrowser, ComparePanel))
    assert (curves.fields['runs'].value, tree.run.value, found.fields['run'].value) == (('toa',), 'toa', 'toa')
    assert (pair.fields['a'].value, pair.fields['b'].value) == ('toa', 'later')
    assert TreePanel(run, 'later').run.value == 'later'


@pytest.mark.parametrize('panel', [CurvePanel, TreePanel, SampleBrowser, ComparePanel])
def test_a_panel_refuses_what_is_not_a_store(panel):
    with pytest.raises(InputError, match='store: a value of type int is not a store. Give a Run, a RunStore, or'):
        panel(7)
