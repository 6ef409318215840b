"""HTML from Python values: text is escaped unless it says that it is markup, so a class name cannot become a tag."""

from __future__ import annotations

import html

VOID = frozenset({"br", "col", "hr", "img", "link", "meta"})
"""Elements of HTML without an end tag."""


class Markup(str):
    """A piece of HTML, made by `element` or written by us; everything else is text."""

    __slots__ = ()


Child = str | Markup | None


def element(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """An element of HTML or SVG.

    Args:
        name: of the element.
        children: markup as it is, text to be escaped; None is left out.
        attributes: `class_` for `class`, `stroke_width` for `stroke-width`; None is left out. A float is written with
            at most two decimals: that is a hundredth of a pixel.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            text = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
            words.append(f'{key.rstrip("_").replace("_", "-")}="{html.escape(text)}"')
    start = f"<{' '.join(words)}>"
    return Markup(start) if name in VOID else Markup(f"{start}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after another."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(child)
            for child in children
            if child is not None
        )
    )
