"""A hook of MkDocs that writes formulas as MathML, which browsers show without a script; GitHub reads the LaTeX."""

import re

from latex2mathml.converter import convert

FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\w$])\$(?P<inline>[^$\n]+?)\$(?![\w$])", re.DOTALL)
CODE = re.compile(r"(^```.*?^```|^    [^\n]*$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return the page with its formulas, but not what is code, as MathML."""
    return "".join(part if CODE.fullmatch(part) else FORMULA.sub(_mathml, part) for part in CODE.split(markdown))


def _mathml(formula: re.Match[str]) -> str:
    block, inline = formula["block"], formula["inline"]
    made = convert(" ".join((block or inline).split()), display="block" if block else "inline")
    # In a paragraph Markdown would take a line that begins with <math> for a block of its own.
    return f'<div style="overflow: auto hidden; padding-block: 0.3em">{made}</div>' if block else f"<span>{made}</span>"
