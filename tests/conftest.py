from browser import lab  # noqa: F401  (a fixture for all tests, made once per session)
