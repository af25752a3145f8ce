import re

import pytest


@pytest.fixture
def picture():
    """The bytes of an explorer's picture, as its view holds them."""
    return lambda explorer: re.search(r'src="data:image/png;base64,([^"]+)"', explorer.view)[1]


@pytest.fixture
def pictures(picture):
    """How many different pictures an explorer shows, one after each control that is set: (name, value) pairs."""

    def count(explorer, *values):
        seen = {picture(explorer)}
        for name, value in values:
            explorer.controls[name].value = value
            seen.add(picture(explorer))
        return len(seen)

    return count
