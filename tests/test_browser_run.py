"""Journeys through the server panel and the run panel, in JupyterLab in a browser."""
from browser import journey

setup = '''
import asyncio, json
from toa_nb import *
from toa_nb.core import CallTimeout
from toa_nb.panels import *
def reply(messages, seed):
    if seed % 5 == 0: raise CallTimeout('no answer <b>within</b> 60 s')
    return '<img src=x onerror="document.title=1">' + 'x'*(seed % 50)
models = [FakeModel(n, reply, latency=.15, capacity=2) for n in 'ab']
prompts = prompts_from(['What is 1 + 1?', '<script>document.title = 2</script>', '![](https://example.org/x.png)'])
reward = FunctionReward(lambda prompt, response: len(response)/100, name='length')
'''
panel = '.toa-RunPanel'


@journey
def test_run_is_started_watched_paused_resumed_and_there_tomorrow(lab):
    lab.notebook(setup, "panel = RunPanel('runs.db', prompts, models, [reward])\npanel")
    page = lab.page
    page.get_by_role('tab', name='Method').click()
    lab.page.get_by_label('n', exact=True).fill('60')
    page.keyboard.press('Tab')
    lab.press(panel, 'Estimate')
    lab.see(panel, 'At most 180 samples')
    lab.press(panel, 'Start')
    lab.see(panel, 'calls in flight')
    line = '() => document.querySelector(".toa-RunPanel .toa-curve .line")?.getAttribute("d")'
    page.wait_for_function(line)
    page.wait_for_function(f'old => ({line})() !== old', arg=page.evaluate(line))
    lab.press(panel, 'Pause')
    lab.see(panel, 'paused')
    lab.see(panel, 'Resume continues from there')
    assert '180 of 180' not in lab.text(panel)
    lab.press(panel, 'Resume')
    lab.see(panel, '180 of 180 samples')
    lab.see(panel, 'finished in')
    lab.see(panel, 'CallTimeout: no answer <b>within</b> 60 s')
    assert page.get_by_role('button', name='Pause').is_disabled()
    lab.restart()
    lab.see(panel, '180 of 180 samples')
    page.get_by_role('button', name='Extend').click()
    lab.see(panel, '204 of 204 samples')
    assert page.title() not in '12'


@journey
def test_what_is_wrong_is_said_and_cancel_gives_up(lab):
    lab.notebook(setup,
                 "panel = RunPanel('cancelled.db', prompts, [FakeModel('a', latency=60)], [reward], every=.1)\npanel")
    lab.page.get_by_label('or typed in').fill('Why?\nHow?')
    lab.page.get_by_label('how many').fill('some')
    lab.press(panel, 'Start')
    lab.see(panel, "how many: 'some' is not a whole number")
    lab.page.get_by_label('how many').fill('')
    lab.press(panel, 'Start')
    lab.see(panel, 'running')
    lab.see(panel, "prompts_from(['Why?', 'How?'])")
    lab.press(panel, 'Cancel')
    lab.see(panel, 'paused')
    lab.see(panel, 'Everything so far is stored')


@journey
def test_servers_are_added_edited_tried_and_saved(lab):
    code = '''
import http.server, json, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({'choices': [{'message': {'content': '<script>document.title = 3</script>'}, 'finish_reason': 'stop'}],
                                     'usage': {'prompt_tokens': 9, 'completion_tokens': 5}}).encode())
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f'http://127.0.0.1:{server.server_port}/v1'
'''
    lab.notebook('from toa_nb.panels import *', code, "panel = ServerPanel('servers.toml', every=.1)\npanel",
                 'print(url)')
    servers, page = '.toa-ServerPanel', lab.page
    lab.see(servers, 'No models yet')
    url = page.locator('.jp-OutputArea-output pre').last.inner_text().strip()
    page.get_by_label('name', exact=True).fill('mine')
    page.get_by_label('api_key_env').fill('sk-123456')
    page.keyboard.press('Tab')
    lab.see(servers, 'is not the name of an environment variable')
    assert 'sk-123456' not in page.content()
    page.get_by_label('url').fill(url)
    lab.press(servers, 'Add')
    lab.see(servers, 'hosted')
    page.get_by_text('Try', exact=True).click()
    lab.press(servers, 'Ask')
    lab.see(servers, '<script>document.title = 3</script>')
    assert page.title() != '3'
    page.get_by_text('Files', exact=True).click()
    lab.press(servers, 'Save')
    lab.see(servers, '1 model written to servers.toml')
    lab.restart()
    lab.see(servers, 'mine')


@journey
def test_a_panel_follows_a_run_of_another_cell_and_shows_its_settings(lab):
    lab.notebook(setup, "RunPanel('followed.db', every=.1)",
                 "run = await Run(prompts, BestOfN(n=5), [FakeModel('a', latency=.05)], reward, store='followed.db')")
    lab.see(panel, '15 of 15 samples')
    lab.page.get_by_text('Settings of best_of_n').click()
    lab.see(panel, 'best_of_n(n=5')


@journey
def test_a_light_is_what_was_found_last(lab):
    lab.notebook('from toa_nb.panels import *',
                 "panel = ServerPanel([dict(name='gone', url='http://127.0.0.1:1/v1')], every=.1)\npanel")
    servers = '.toa-ServerPanel'
    lab.see(servers, 'no answer')
    lab.see(servers, 'down')
    assert lab.page.locator(f'{servers} .toa-when').count() == 1
    assert ('46, 158, 68' not in lab.page.locator(
        f'{servers} .toa-light > i').first.evaluate('e => getComputedStyle(e).backgroundColor'))
