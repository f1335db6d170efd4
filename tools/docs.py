"""Builds the documentation site: `python tools/docs.py [FOLDER]`, by default into _docs.

Pages are made from the notebooks with the outputs that they hold; nothing is executed. The API pages and llms-ctx.txt
are made from the tables of `help()`. Sphinx makes HTML from them; a link that leads nowhere is an error. The site needs
no network.
"""
import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from posixpath import normpath, relpath

from api import by_wing, cells, page, plain, public_api, rooms, root, wing_title

CSS = '''
.export .highlight pre { box-shadow: inset 3px 0 var(--color-brand-primary); }
@media (min-width: 100em) { .content { width: 58em; } }
.output .highlight { background: none; }
.output .highlight pre { padding-top: 0; color: var(--color-foreground-secondary); }
p.section { margin: 1rem 0 .3rem; font-weight: 600; }
.table-wrapper table.docutils { font-size: var(--font-size--small); }
.table-wrapper th { text-align: left; }
.table-wrapper td:last-child { min-width: 12rem; }
article h4 { font-size: 1rem; margin-top: 2rem; }
'''
CONF = dict(
    project='toa_nb', html_title='toa_nb', html_theme='furo', html_static_path=['static'], html_css_files=['site.css'],
    html_show_sphinx=False, html_show_copyright=False, html_copy_source=False, html_use_index=False, smartquotes=False,
    extensions=['myst_parser', 'sphinx_copybutton'],
    myst_enable_extensions=['attrs_block'], myst_heading_anchors=4, suppress_warnings=['misc.highlighting_failure'])


def fence(text, mark):
    "A code block that stays whole whatever backticks the text holds."
    ticks = '`'*max(3, *(len(run) + 1 for run in re.findall('`+', text) or ['']))
    return f'{ticks}{mark}\n{text}\n{ticks}'


def linked(source, path, files):
    "Prose with its links leading to pages of the site. Files outside of nbs/ are listed in `files`, to be copied."
    home = path.parent.relative_to(root).as_posix()

    def lead(match):
        target, mark, anchor = match[1].partition('#')
        found = normpath(f'{home}/{target}')
        if found == 'nbs': found = 'nbs/library.md'
        elif not found.startswith('nbs/'):
            files.add(found)
            found = f'nbs/{found}' if found.endswith('.md') else f'nbs/files/{found}'
        return f']({re.sub("[.]ipynb$", ".md", relpath(found, home))}{mark}{anchor.lower()})'
    return re.sub(r'\]\((?!https?:|mailto:|#)([^)\s]+)\)', lead, source)


def shown(output, save):
    "An output as Markdown: a picture, saved beside the page, or a block of text."
    data = output.get('data', {})
    if 'image/png' in data: return f'![output]({save(base64.b64decode("".join(data["image/png"])))})'
    text = ''.join(output.get('text', data.get('text/plain', ''))).rstrip()
    return '{.output}\n' + fence(text, 'text') if text else ''


def page_name(path):
    "The page of a notebook, from the root of the site."
    return path.relative_to(root/'nbs').with_suffix('').as_posix()


def notebook_page(path, out, files):
    "Write a notebook as a page, and return its name. Directives are left out; code of the library is marked."
    name = page_name(path)
    pictures = out/name

    def save(png):
        pictures.mkdir(parents=True, exist_ok=True)
        picture = pictures/f'{len(list(pictures.iterdir()))}.png'
        picture.write_bytes(png)
        return f'{pictures.name}/{picture.name}'

    parts = []
    for kind, source, outputs in cells(path):
        if kind == 'markdown': parts.append(linked(source, path, files))
        if kind != 'code' or re.match(r'#\| (default_exp|hide)', source): continue
        code = '\n'.join(line for line in source.split('\n') if not line.startswith('#|')).strip()
        parts.append(('{.export}\n' if source.startswith('#| export') else '') + fence(code, 'python'))
        parts += [shown(output, save) for output in outputs]
    write(out, name, '\n\n'.join(part for part in parts if part))
    return name


def write(out, name, text):
    "Write a page."
    target = out/f'{name}.md'
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + '\n', encoding='utf-8')


def toctree(caption, pages):
    "A part of the navigation."
    options = [':hidden:', *([f':caption: {caption}'] if caption else [])]
    return fence('\n'.join([*options, *(f'/{page}' for page in pages)]), '{toctree}')


def library(out, files):
    "The library's pages, those of the wings, and one that lists all. Returns what the navigation shows."
    listing = ['# The library', 'From the bottom up: a module uses only what comes before it. '
               'Code with a coloured edge is the library; the code below it shows it and tests it.']
    top = ['library']
    for wing, pages in by_wing({room: notebook_page(room.path, out, files) for room in rooms()}).items():
        table = '| module | what it does |\n|---|---|\n'
        table += '\n'.join(f'| [{room.title}](/{name}.md) | {room.about} |' for room, name in pages.items())
        listing += [f'## {wing_title(wing)}', table]
        if wing:
            top.append(f'{next(iter(pages.values())).split("/")[0]}/index')
            write(out, top[-1], '\n\n'.join([f'# {wing_title(wing)}', table, toctree('', pages.values())]))
        else: top += pages.values()
    write(out, 'library', '\n\n'.join(listing))
    return top


def anchors(text):
    "Where each heading of a page is found, as MyST names it."
    seen, found = {}, {}
    for heading in re.findall(r'^#+ (.+)', re.sub(r'^```.*?^```', '', text, flags=re.M | re.S), re.M):
        slug = re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        found[heading] = slug + (f'-{seen[slug]}' if slug in seen else '')
        seen[slug] = seen.get(slug, 0) + 1
    return found


def api_page(wing): return f'api/{wing or "ground_floor"}'


def api_pages(out, api):
    "One page per wing, and one that lists all names. Returns what the navigation shows."
    listing = ['# The public API', 'Every public name with its parameters: meaning, unit, range and default. '
               '`help(name)` and `name?` show the same.']
    top = ['api/index']
    for wing, found in by_wing(api).items():
        top.append(api_page(wing))
        text = page(wing_title(wing), found)
        write(out, top[-1], text)
        at = anchors(text)
        links = ', '.join(f'[{n.name}](/{top[-1]}.md#{at[n.name]})' for names in found.values() for n in names)
        listing += [f'## {wing_title(wing)}', links]
    write(out, 'api/index', '\n\n'.join(listing))
    return top


def command_help(*words):
    "What a command line says with --help."
    project = (root/'pyproject.toml').read_text(encoding='utf-8')
    module, main = re.search(r'^toa = "([\w.]+):(\w+)"', project, re.M).groups()
    code = f'import sys; from {module} import {main}; sys.exit({main}(sys.argv[1:]))'
    plain_text = dict(os.environ, COLUMNS='88', NO_COLOR='1', PYTHONPATH=str(root))
    call = [sys.executable, '-c', code, *words, '--help']
    return subprocess.run(call, env=plain_text, capture_output=True, text=True, check=True).stdout.strip()


def commands(*words):
    "The help of `toa` and of each command below it, by command line."
    text = command_help(*words)
    found = {' '.join(['toa', *words]): text}
    block = re.search(r'^commands:\n(.*?)(?:\n\n|\Z)', text, re.S | re.M)
    for word in re.findall(r'^ {4}(\w[\w-]*)', block[1] if block else '', re.M): found |= commands(*words, word)
    return found


def write_pages(out, api, command_texts):
    "Everything that Sphinx needs."
    files, nbs = set(), root/'nbs'
    shutil.copytree(nbs/'images', out/'images')
    front = notebook_page(nbs/'index.ipynb', out, files)
    lessons = [notebook_page(path, out, files) for path in sorted((nbs/'tutorials').glob('[0-9]*.ipynb'))]
    parts = {'Tutorials': lessons, 'Library': library(out, files), 'API': [*api_pages(out, api), 'cli']}
    sections = [f'## {name}\n\n{fence(text, "text")}' for name, text in command_texts.items()]
    write(out, 'cli', '\n\n'.join(['# Command line', *sections]))
    for name in files:
        copy = out/name if name.endswith('.md') else out/'files'/name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/name, copy)
    parts['Project'] = sorted(name.removesuffix('.md') for name in files if name.endswith('.md'))
    tail = '\n\n'.join(toctree(caption, pages) for caption, pages in parts.items())
    write(out, front, (out/f'{front}.md').read_text(encoding='utf-8') + '\n' + tail)
    (out/'static').mkdir()
    (out/'static/site.css').write_text(CSS, encoding='utf-8')
    (out/'conf.py').write_text('\n'.join(f'{key} = {value!r}' for key, value in CONF.items()), encoding='utf-8')


def llms_txt(about, api):
    "The list of pages for assistants (llmstxt.org)."
    def names(found): return ', '.join(n.name for here in found.values() for n in here)
    wings = by_wing(api).items()
    parts = {'Start here': ['- [llms-ctx.txt](llms-ctx.txt): what is needed to write code with toa_nb, in one file',
                            '- [Command line](cli.html): the commands of `toa`'],
             'API': [f'- [{wing_title(wing)}]({api_page(wing)}.html): {names(found)}' for wing, found in wings],
             'Library': [f'- [{r.title}]({page_name(r.path)}.html): {r.about}' for r in rooms()]}
    lists = [f'## {title}\n\n' + '\n'.join(lines) for title, lines in parts.items()]
    return '\n\n'.join(['# toa_nb', f'> {about}', *lists]) + '\n'


def llms_ctx_txt(about, api, command_texts):
    "Everything that is needed to write code: an overview with examples, a configuration file, commands, the API."
    parts = {'README': (root/'README.md').read_text(encoding='utf-8'),
             'Configuration file (data/example.toml)': (root/'data/example.toml').read_text(encoding='utf-8'),
             'Command line': '\n\n'.join(f'$ {name} --help\n{text}' for name, text in command_texts.items()),
             'Public API': plain(api)}
    docs = '\n'.join(f'<doc title="{title}">\n{text.strip()}\n</doc>' for title, text in parts.items())
    return f'<project title="toa_nb" summary="{about}">\n{docs}\n</project>\n'


def main(site):
    api, command_texts = public_api(), commands()
    with tempfile.TemporaryDirectory() as folder:
        pages, built = Path(folder)/'pages', Path(folder)/'html'
        pages.mkdir()
        write_pages(pages, api, command_texts)
        strict = ['-q', '-W', '--keep-going', '-d', f'{folder}/doctrees']
        subprocess.run([sys.executable, '-m', 'sphinx', '-b', 'html', *strict, pages, built], check=True)
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(built, site)
    about = re.search(r'^> (.+)', (root/'README.md').read_text(encoding='utf-8'), re.M)[1]
    (site/'llms.txt').write_text(llms_txt(about, api), encoding='utf-8')
    (site/'llms-ctx.txt').write_text(llms_ctx_txt(about, api, command_texts), encoding='utf-8')
    print(f'{site}/index.html')


if __name__ == '__main__': main(Path(sys.argv[1] if len(sys.argv) > 1 else root/'_docs').resolve())
