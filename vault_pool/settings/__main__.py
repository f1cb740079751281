"""
``python -m vault_pool.settings``: print the table, as Markdown.
"""

from __future__ import annotations

from typing import Any

from vault_pool.settings.table import REQUIRED, SECTIONS, Section, Setting

_TITLES = {
    Section.POOL: "The pool",
    Section.SOURCE: "The source of credentials",
    Section.VAULT: "The way to Vault",
    Section.AUTH: "The login to Vault",
    Section.POLICY: "The timing rules of a lease",
}
_HEAD = "| setting | tier | type | default | meaning |\n| --- | --- | --- | --- | --- |"


def markdown(prefix: str = "VAULT_POOL_") -> str:
    """
    Return the table of settings as Markdown, a section for each constructor.
    """
    preface = (
        "Names are in upper or lower case, as suits the place. In the environment they are in capitals, after "
        f"`{prefix}`. Tier 1 is what everybody sets, tier 3 what hardly anybody needs. A duration is a number of "
        'seconds, or a text such as "90s" or "1m30s".'
    )
    parts = [preface]
    for section, rows in SECTIONS.items():
        lines = "\n".join(_line(row) for row in sorted(rows, key=lambda row: row.tier))
        parts.append(f"## {_TITLES[section]}\n\n{_HEAD}\n{lines}")
    return "\n\n".join(parts) + "\n"


def _line(row: Setting) -> str:
    kind = f"{row.kind.words}; {row.limits}" if row.limits else row.kind.words
    meaning = row.meaning
    if row.of:
        meaning += f" For {', '.join(row.of)}."
    if row.variable:
        meaning += f" (`{row.variable}`)"
    return f"| `{row.name}` | {row.tier} | {kind} | {_default(row.default)} | {meaning} |"


def _default(default: Any) -> str:
    if isinstance(default, dict):
        by_default: dict[str, list[str]] = {}
        for name, each in default.items():
            by_default.setdefault(_default(each), []).append(name)
        return "; ".join(f"{each} ({', '.join(names)})" for each, names in by_default.items())
    if default is REQUIRED:
        return "required"
    if default is None or default == "":
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, (int, float)) else f"`{default}`"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - it is what it is for
