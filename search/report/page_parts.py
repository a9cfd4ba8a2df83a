"""What the pages have in common: templates, a content policy, and pictures as markup."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from xml.etree import ElementTree as ET

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from search.report.svg import to_text


def report_template(name: str) -> Template:
    """Return a template, which escapes what it is given."""
    environment = Environment(
        loader=PackageLoader("search.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def read_template(name: str) -> str:
    """Return a file of the templates as it is."""
    return files("search.report").joinpath("templates", name).read_text(encoding="utf-8")


def picture_markup(element: ET.Element) -> Markup:
    """Return a picture, whose text the XML writer escapes."""
    return Markup(to_text(element))


def content_policy(css: str, script: str) -> str:
    """Return a policy that lets a browser use the page's own style and script and nothing else."""
    return (
        f"default-src 'none'; style-src {_digest(css)}; script-src {_digest(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
