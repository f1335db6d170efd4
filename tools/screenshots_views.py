"""Pictures of the panels on stored runs, for README and tutorials. `python tools/screenshots_views.py STORE [FOLDER]` writes them to nbs/images.

STORE is a run store such as that of `make demo`; JupyterLab and Chromium are needed as for the tests.
"""
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parent.parent
sys.path[:0] = [str(root/'tests')]
from browser import Lab  # noqa: E402

CELLS = dict(CurvePanel="CurvePanel(db, x='tokens')", TreePanel='TreePanel(db, {run!r}, view="difference")', SampleBrowser="SampleBrowser(db, {run!r}, sort='best')")


def main(store, folder=root/'nbs/images'):
    Path(folder).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        lab = Lab(home)
        try: lab.thread.submit(shoot, lab, Path(store).resolve(), Path(folder)).result()
        finally: lab.close()


def shoot(lab, store, folder): pass


if __name__ == '__main__': main(*sys.argv[1:])
