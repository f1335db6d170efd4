"""The documentation site: built once, its links lead somewhere, it needs no network, and every public name is on it."""
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import chromium

import toa_nb

root = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp('docs')/'site'
    subprocess.run([sys.executable, 'tools/docs.py', place], cwd=root, check=True)
    return place


class Page(HTMLParser):
    "The ids of a page, where it links to, and what it loads."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if found.get('id'): self.ids.add(found['id'])
        if found.get('href'): (self.links if tag == 'a' else self.loads).add(found['href'])
        if found.get('src'): self.loads.add(found['src'])


def outside(target): return bool(urlsplit(target).scheme or urlsplit(target).netloc)


def test_every_link_leads_somewhere(site):
    pages = {path: Page(path) for path in site.rglob('*.html')}
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links | page.loads):
            if outside(link): continue
            target, anchor = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
            there = (path.parent/target).resolve() if target else path
            ok = there.exists() and (not anchor or there not in pages or anchor in pages[there].ids)
            if not ok: broken.append(f'{path.relative_to(site)}: {link}')
    assert len(pages) > 25
    assert broken == []


def test_pages_load_nothing_from_elsewhere(site):
    loads = {load for path in site.rglob('*.html') for load in Page(path).loads if outside(load)}
    styles = {url for path in site.rglob('*.css') for url in re.findall(r'(?:url\(|@import)\s*["\']?(https?:[^"\')]+)',
        path.read_text())}
    assert loads | styles == set()


@pytest.mark.skipif(chromium is None, reason='no Chromium')
def test_search_works_from_the_disk(site, tmp_path):
    options = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', f'--user-data-dir={tmp_path}',
               '--virtual-time-budget=60000']
    command = [chromium, *options, '--dump-dom', f'{site.as_uri()}/search.html?q=exploration']
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r'<a href="[^"]*tree\.html', found)


def test_every_public_name_is_on_it(site):
    pages = ''.join(path.read_text(encoding='utf-8') for path in (site/'api').glob('*.html'))
    text = (site/'llms-ctx.txt').read_text(encoding='utf-8')
    for name in toa_nb.__all__:
        assert re.search(rf'<h3>{name}<', pages)
        assert re.search(rf'^### (await )?{name}\b', text, re.M)
    assert 'Weight of the exploration bonus' in pages
    assert 'Weight of the exploration bonus' in text


def test_outputs_of_tutorials_are_on_it(site):
    page = (site/'tutorials/02_methods.html').read_text(encoding='utf-8')
    assert page.count('<img') >= 6
    assert 'toa run' in (site/'llms-ctx.txt').read_text(encoding='utf-8')
