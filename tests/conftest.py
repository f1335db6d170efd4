import pytest
from browser import lab  # noqa: F401  (a fixture for all tests, made once per session)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "With several workers (`-n 2`), a file stays with one of them, so its fixtures are made once; so do all tests in the browser."
    for item in items:
        if not item.get_closest_marker('xdist_group'):
            item.add_marker(pytest.mark.xdist_group('browser' if 'lab' in item.fixturenames else item.path.stem))
