"""What a demonstration shows at its end."""

from __future__ import annotations

from tideover.cli.demo import where_to_look

UI = "http://127.0.0.1:4200"


def test_demo_that_stops_its_server_names_no_page_of_it() -> None:
    shown = str(where_to_look(UI, keep=False))
    assert UI not in shown
    assert "KEEP=1 make demo" in shown


def test_demo_that_goes_on_names_the_pages_of_its_server() -> None:
    pages = dict(where_to_look(UI, keep=True))
    assert list(pages) == ["run history", "health board", "automations"]
    assert all(page.startswith(UI) for page in pages.values())
