"""One self-contained page: pictures inside it, the table, what to type to see it again, and the versions that made it.

No script, no style sheet, no font and no picture is fetched from anywhere: the file can be mailed.
"""

from __future__ import annotations

import base64
import html
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from score_lab.build import refuse
from score_lab.evaluation import Estimate, Table

__all__ = ["Page", "versions"]

_PACKAGES = ("score-lab", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn", "matplotlib")

_STYLE = "\n".join((
    "",
    ":root { color-scheme: light; }",
    "body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; background: #fff; max-width: 1120px; margin: 2em auto; padding: 1em; }",
    "h1 { font-size: 1.7em; margin-bottom: .2em; } h2 { font-size: 1.2em; margin: 1.8em 0 .4em; }",
    "p { max-width: 76ch; } .lead { color: #555c64; } .foot { color: #6b727a; font-size: .86em; max-width: none; }",
    "figure { margin: 1em 0; } img { max-width: 100%; height: auto; } figcaption { color: #555c64; font-size: .92em; max-width: 90ch; }",
    ".wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .86em; font-variant-numeric: tabular-nums; }",
    "th { text-align: left; border-bottom: 2px solid #22262b; } td { border-bottom: 1px solid #e6e8eb; }",
    "th, td { padding: .28em .7em; white-space: nowrap; } td small { color: #6b727a; }",
    "td.met { background: #e8f5ee; } td.missed { background: #fbe3df; }",
    "pre { background: #f4f5f7; padding: .8em 1em; overflow-x: auto; font-size: .88em; }",
    "",
))  # fmt: skip


def versions() -> dict[str, str]:
    """Python, the packages that matter here where they are installed, and the devices that jax sees (their kind and number, no names of
    machines).
    """
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    import jax

    devices = jax.devices()
    return found | {"devices": f"{len(devices)} x {devices[0].device_kind}"}


class Page:
    """A page that grows from the top: ``page.section(...)``, ``.picture(...)``, ``.table(...)``, ``.commands(...)``, then ``.write(file)``.
    """

    def __init__(self, title: str, lead: str = ""):
        self.title, self.lead = title, lead
        self.parts: list[str] = []

    def section(self, heading: str, *paragraphs: str) -> Page:
        """A heading and paragraphs of plain text."""
        self.parts.append(f"<h2>{html.escape(heading)}</h2>" + "".join(f"<p>{html.escape(p)}</p>" for p in paragraphs))
        return self

    def picture(self, file: str | Path, caption: str = "") -> Page:
        """A PNG, put into the page; ``caption`` also is what is read aloud.  Raises ConfigError if ``file`` is not there or is no PNG."""
        file = Path(file)
        data = file.read_bytes() if file.is_file() else b""
        if not data.startswith(b"\x89PNG"):
            refuse("page.picture", str(file), "a PNG file that exists")
        text = html.escape(caption, quote=True)
        source = base64.b64encode(data).decode()
        self.parts.append(f'<figure><img alt="{text}" src="data:image/png;base64,{source}"><figcaption>{text}</figcaption></figure>')
        return self

    def table(self, table: Table) -> Page:
        """The rows with their intervals; a cell is green where its criterion is met and red where it is not."""
        names = list(table.rows[0].name) if table.rows else []
        head = "".join(f"<th>{html.escape(str(c))}</th>" for c in [*names, *table.columns])
        body = []
        for row in table.rows:
            met = table.passes(row)
            cells = [f"<td>{html.escape(str(row.name[n]))}</td>" for n in names]
            cells += [_cell(row.measures.get(c), met.get(c)) for c in table.columns]
            body.append(f"<tr>{''.join(cells)}</tr>")
        legend = "small: 95 % interval; green: the criterion is met; red: it is not"
        foot = "<br>".join(html.escape(line) for line in [*table.foot()[:-1], legend])
        self.parts.append(f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div><p class="foot">{foot}</p>')
        return self

    def commands(self, lines: Sequence[str], heading: str = "See it again") -> Page:
        """Lines to type in a shell."""
        self.parts.append(f"<h2>{html.escape(heading)}</h2><pre>{html.escape(chr(10).join(lines))}</pre>")
        return self

    def links(self, pages: Sequence[tuple[str, str]]) -> Page:
        """One line of links for each page, (words, where): relative to this one's file, so that a folder of both can be moved."""
        lines = (f'<p><a href="{html.escape(where, quote=True)}">{html.escape(words)}</a></p>' for words, where in pages)
        self.parts.append("".join(lines))
        return self

    def write(self, file: str | Path, made_with: Mapping[str, str] | None = None) -> Path:
        """Writes the page as UTF-8; ``made_with`` replaces ``versions()`` at its foot."""
        made = ", ".join(f"{name} {value}" for name, value in (versions() if made_with is None else made_with).items())
        text = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>\n<body><h1>{html.escape(self.title)}</h1>"
            f'<p class="lead">{html.escape(self.lead)}</p>\n'
            + "\n".join(self.parts)
            + f'\n<p class="foot">Made with {html.escape(made)}.</p></body></html>\n'
        )
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file


def _cell(estimate: Estimate | None, met: bool | None) -> str:
    mark = "" if met is None else f' class="{"met" if met else "missed"}"'
    if estimate is None:
        return f"<td{mark}>–</td>"
    value, _, rest = str(estimate).partition(" ")
    title = html.escape(f"n = {estimate.n}. {estimate.note}", quote=True)
    return f'<td{mark} title="{title}">{html.escape(value)} <small>{html.escape(rest)}</small></td>'
