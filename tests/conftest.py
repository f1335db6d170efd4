from functools import cache
from pathlib import Path

import pytest
from browser import lab  # noqa: F401  (a fixture for all tests, made once per session)


@cache
def shares(file):
    "Whether the tests of a file share what is made once, such as a server."
    return "scope='" in (Path(__file__).parent.parent/file).read_text(encoding='utf-8')


def unit(test):
    "What stays with one worker: all tests in the browser, a file whose tests share something, or a single test."
    file = test.split('::')[0]
    if 'browser' in file: return 'browser'
    return file if shares(file) else test


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "With several workers (`-n 2`), each takes the next unit when it has done its last."
    from xdist.scheduler import LoadScopeScheduling
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = unit
    return scheduler
