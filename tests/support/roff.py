# SPDX-License-Identifier: Apache-2.0
"""Markdown of our documentation as pages for man(1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_PARSER = MarkdownIt("commonmark").enable("table")

_LITERAL = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
"""Characters that a formatter would make typographic, or take for its own: pasted they have to be themselves."""

_ATTRIBUTES = re.compile(r"\{[:.#][^}]*\}")


def escape(text: str) -> str:
    """Return text of which each character is meant as it is."""
    return "".join(_LITERAL.get(character, character) for character in text)


def bold(text: str) -> str:
    """Return a word to be typed as it is, of which no part is broken off."""
    return rf"\fB{escape(text)}\fR"


def paragraph(text: str) -> str:
    """Return a line of input that no first character makes a command."""
    return rf"\&{text}" if text[:1] in (".", "'") else text


def render_code(text: str) -> list[str]:
    """Return an example, line by line as it is."""
    return [".PP", ".RS 4", ".nf", *(paragraph(escape(line)) for line in text.rstrip("\n").split("\n")), ".fi", ".RE"]


def render_items(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return terms with what they mean."""
    return [line for term, text in rows for line in (".TP", paragraph(term), paragraph(text or r"\&"))]


def render_inline(text: str) -> str:
    """Return a paragraph of Markdown, on one line."""
    tree = SyntaxTreeNode(_PARSER.parseInline(text))
    return _inline(tree.children)


def render_markdown(text: str, heading: Callable[[str], str] = str) -> list[str]:
    """Return a page, or a part of one, as lines; its title is left out, `heading` gives names of sections."""
    return [line for node in SyntaxTreeNode(_PARSER.parse(text)).children for line in _block(node, heading)]


def _block(node: SyntaxTreeNode, heading: Callable[[str], str]) -> Iterator[str]:
    match node.type:
        case "heading" if node.tag == "h1":
            pass
        case "html_block":  # a comment for whoever writes the page
            pass
        case "heading":
            macro = ".SH" if node.tag == "h2" else ".SS"
            title = _inline(node.children)
            yield f'{macro} "{heading(title)}"'
        case "paragraph":
            yield from (".PP", paragraph(_inline(node.children)))
        case "bullet_list" | "ordered_list":
            for item in node.children:
                yield r".IP \(bu 2"
                for number, part in enumerate(item.children):
                    lines = list(_block(part, heading))
                    yield from lines[1:] if number == 0 and lines[0] == ".PP" else lines
        case "fence" | "code_block":
            yield from render_code(node.content)
        case "table":
            yield from _table(node)
        case other:
            raise ValueError(f"no way to show {other} in a manual page")


def _table(node: SyntaxTreeNode) -> Iterator[str]:
    """Terms and what they mean; more columns, which are too wide for a terminal, become lines with their headings."""
    head, *bodies = node.children
    titles = [_inline(cell.children) for cell in head.children[0].children]
    yield ".PP"
    for row in (row for body in bodies for row in body.children):
        term, *cells = (_inline(cell.children) for cell in row.children)
        if len(set(titles)) == 1:  # a list in two columns
            yield from (line for cell in (term, *cells) if cell for line in (".TP", paragraph(cell), r"\&"))
            continue
        yield from (".TP", paragraph(term))
        told = [(title, cell) for title, cell in zip_longest(titles[1:], cells, fillvalue="") if cell]
        lines = [cell if len(titles) == 2 or title in ("", "meaning") else f"{title}: {cell}" for title, cell in told]
        for number, line in enumerate(lines or [r"\&"]):
            if number:
                yield ".br"
            yield paragraph(line)


def _inline(nodes: Sequence[SyntaxTreeNode]) -> str:
    return "".join(_piece(node) for node in nodes)


def _piece(node: SyntaxTreeNode) -> str:
    match node.type:
        case "inline" | "link":
            return _inline(node.children)
        case "text":
            return escape(_ATTRIBUTES.sub("", node.content))
        case "softbreak" | "hardbreak":
            return " "
        case "code_inline":
            return bold(node.content)
        case "strong":
            return rf"\fB{_inline(node.children)}\fR"
        case "em":
            return rf"\fI{_inline(node.children)}\fR"
        case "image":
            return ""
        case other:
            raise ValueError(f"no way to show {other} in a manual page")
