"""
As much of HCL 1 as policies are written in: blocks with labels, and ``key = value``; JSON is accepted as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
      |(?P<heredoc><<-?(?P<tag>\w+)\n.*?\n\s*(?P=tag)(?=\n|$))
      |(?P<text>"(?:\\.|[^"\\])*")
      |(?P<number>-?\d+(?:\.\d+)?)
      |(?P<word>[A-Za-z_][\w.-]*)
      |(?P<sign>[{}\[\]=:,])""",
    re.VERBOSE | re.DOTALL,
)


class HclError(ValueError):
    """
    The text is no HCL; the message follows Go's.
    """


@dataclass(slots=True, kw_only=True)
class Block:
    """
    A block ``kind "label" { … }``: its attributes, and the blocks inside it.
    """

    kind: str = ""
    label: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)


def parse(text: str) -> Block:
    """
    Return *text*, HCL or JSON, as one nameless block.
    """
    if text.lstrip().startswith("{"):
        try:
            return _from_json(json.loads(text))
        except ValueError as error:
            raise HclError(str(error)) from None
    return _Parser(text).body(closing=False)


def _from_json(document: dict[str, Any]) -> Block:
    top = Block()
    for kind, value in document.items():
        if isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values()):
            top.blocks += [Block(kind=kind, label=label, attributes=inner) for label, inner in value.items()]
        else:
            top.attributes[kind] = value
    return top


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan())
        self._index = 0

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                raise HclError(f"At {self._place(position)}: illegal character")
            kind = match.lastgroup if match.lastgroup != "tag" else "heredoc"
            if kind != "blank":
                yield str(kind), match[0], position
            position = match.end()

    def _place(self, position: int) -> str:
        before = self._text[:position]
        return f"{before.count(chr(10)) + 1}:{position - before.rfind(chr(10))}"

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._index] if self._index < len(self._tokens) else ("end", "EOF", len(self._text) + 1)

    def _next(self) -> tuple[str, str, int]:
        token = self._peek()
        self._index += 1
        return token

    def body(self, *, closing: bool, kind: str = "", label: str = "") -> Block:
        """
        Read attributes and blocks up to the closing brace, or up to the end.
        """
        block = Block(kind=kind, label=label)
        while True:
            form, text, position = self._next()
            if form == "end" and not closing:
                return block
            if text == "}" and closing:
                return block
            if text == "," and closing:
                continue
            if form not in {"word", "text"}:
                expected = "object expected closing RBRACE got: " if closing else "unknown token: "
                raise HclError(f"At {self._place(position)}: {expected}{text}")
            self._item(block, _unquote(text))

    def _item(self, block: Block, name: str) -> None:
        _, text, position = self._next()
        label = ""
        if text.startswith('"'):
            label = _unquote(text)
            _, text, position = self._next()
        if text == "{":
            block.blocks.append(self.body(closing=True, kind=name, label=label))
        elif text in {"=", ":"} and not label:
            block.attributes[name] = self._value()
        else:
            place = self._place(position)
            raise HclError(f"At {place}: key '{name}' expected start of object ('{{') or assignment ('=')")

    def _value(self) -> Any:
        form, text, position = self._next()
        if form == "text":
            return _unquote(text)
        if form == "number":
            return float(text) if "." in text else int(text)
        if form == "heredoc":
            return "\n".join(text.split("\n")[1:-1]) + "\n"
        if text in {"true", "false"}:
            return text == "true"
        if text == "[":
            return self._list()
        if text == "{":
            inner = self.body(closing=True)
            return inner.attributes
        raise HclError(f"At {self._place(position)}: unexpected token while parsing value: {text}")

    def _list(self) -> list[Any]:
        items: list[Any] = []
        while self._peek()[1] != "]":
            if self._peek()[0] == "end":
                raise HclError(f"At {self._place(self._peek()[2])}: error parsing list, unexpected token: EOF")
            items.append(self._value())
            if self._peek()[1] == ",":
                self._next()
        self._next()
        return items


def _unquote(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text
