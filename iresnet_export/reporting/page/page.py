"""The HTML page: its text from the reports, its looks from the template and style sheet beside this file."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from iresnet_export import __version__
from iresnet_export.reporting.collection import Collection
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.missing import not_measured
from iresnet_export.reporting.page.sections import sections
from iresnet_export.reporting.summary import headline, in_doubt, key_figures, verdicts
from iresnet_export.reporting.tables import environment_rows
from iresnet_export.reporting.words import listed

_UNIT = re.compile(r"(\d) (%|×|ms\b|dB\b|MB\b|GiB\b|threads?\b)")
SIGNS = {"good": "✓", "bad": "✗", "warn": "!", "quiet": "·"}
"""What stands beside a verdict's colour, for those who do not see it."""


def html_page(collection: Collection, comparison: Comparison | None, title: str | None) -> str:
    """A page that needs nothing but itself: no script, no font, no picture from anywhere.

    Everything that comes from a report is escaped by the template; plots are built by an XML library, which escapes too.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_unbroken)
    environment.filters["svg"] = Markup
    sentence = headline(collection, comparison)
    names = listed(collection.networks) if len(collection.networks) <= 3 else f"{len(collection.networks)} networks"
    shown = list(sections(collection, comparison))
    page = environment.from_string(_asset("page.html.j2")).render(
        title=title or sentence,
        eyebrow=title or names or "iresnet-export",
        headline=sentence,
        doubtful=in_doubt(collection, comparison),
        style=Markup(_asset("style.css")),
        figures=key_figures(collection, comparison),
        verdicts=list(verdicts(collection)),
        warnings=list(collection.warnings()),
        sections=shown,
        pictures=any(section.pictures for section in shown),
        absent=list(not_measured(collection)),
        environments=list(environment_rows(collection)),
        files=[comparison.old, *collection.files] if comparison is not None else collection.files,
        signs=SIGNS,
        version=__version__,
    )
    return page.rstrip() + "\n"


def _unbroken(value: Any) -> Any:
    """Text whose figures stay on one line with their units."""
    return _UNIT.sub("\\1\N{NO-BREAK SPACE}\\2", value) if type(value) is str else value


def _asset(name: str) -> str:
    return (files("iresnet_export.reporting.page") / name).read_text(encoding="utf-8")
