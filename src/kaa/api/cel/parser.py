"""Tokens to a syntax tree, by descent with operator precedence; macros are expanded as they are read.

Source: CEL specification "Syntax"; cel-go parser/parser.go, whose words the errors use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .errors import CompileError
from .lexer import END, BadLiteral, Token, bytes_value, issue_at, string_value, tokens
from .syntax import (
    Call,
    Entry,
    FieldEntry,
    Identifier,
    ListLiteral,
    Literal,
    MapLiteral,
    Node,
    Select,
    StructLiteral,
)
from .values import INT_MAX, INT_MIN, UINT_MAX, Uint

RECURSION_LIMIT = 250
SIZE_LIMIT = 100_000

RESERVED = frozenset(
    "as break const continue else for function if import let loop package namespace return var void while".split()
)
_VALUES = "'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
#: what may stand where something is missing: any operand, an argument, an index, an item, an entry
_OPERAND = f"{{'[', '{{', '(', '.', '-', '!', {_VALUES}"
_ARGUMENT = f"{{'[', '{{', '(', ')', '.', '-', '!', {_VALUES}"
_INDEX = f"{{'[', '{{', '(', '.', '-', '!', '\\u003F', {_VALUES}"
_ITEM = f"{{'[', ']', '{{', '(', '.', ',', '-', '!', '\\u003F', {_VALUES}"
_ENTRY = f"{{'[', '{{', '}}', '(', '.', ',', '-', '!', '\\u003F', {_VALUES}"
#: {operator: (binding power, function)}
_BINARY = {
    "||": (1, "_||_"),
    "&&": (2, "_&&_"),
    "<": (3, "_<_"),
    "<=": (3, "_<=_"),
    ">": (3, "_>_"),
    ">=": (3, "_>=_"),
    "==": (3, "_==_"),
    "!=": (3, "_!=_"),
    "in": (3, "@in"),
    "+": (4, "_+_"),
    "-": (4, "_-_"),
    "*": (5, "_*_"),
    "/": (5, "_/_"),
    "%": (5, "_%_"),
}


class MacroError(Exception):
    """A macro refuses its arguments."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


#: (position of the call, target, arguments) -> its expansion; None: not this macro after all, leave the call
Expander = Callable[[int, Node | None, list[Node]], Node | None]
#: {(function, is a member call, arguments; -1 for any number): expander}
Macros = Mapping[tuple[str, bool, int], Expander]


def parse(source: str, macros: Macros) -> Node:
    """Read an expression. Raises CompileError with every fault found, in cel-go's words."""
    if len(source) > SIZE_LIMIT:
        message = f"expression code point size exceeds limit: size: {len(source)}, limit {SIZE_LIMIT}"
        raise CompileError((issue_at(source, 0, message),), source)
    found, faults = tokens(source)
    parser = _Parser(found, macros)
    parser.faults.extend(faults)
    tree: Node | None = None
    try:
        tree = parser.whole()
    except _Stop:
        pass
    except RecursionError:
        parser.faults.append((0, f"expression recursion limit exceeded: {RECURSION_LIMIT}"))
    if parser.faults or tree is None:
        ordered = sorted(parser.faults, key=lambda fault: fault[0])
        raise CompileError(tuple(issue_at(source, at, text) for at, text in ordered), source)
    return tree


class _Stop(Exception):
    """No sense can be made of what follows."""


class _Parser:
    def __init__(self, found: list[Token], macros: Macros) -> None:
        self.tokens = found
        self.macros = macros
        self.at = 0
        self.depth = 0
        #: what may come where the next operand is looked for
        self.wanted = _OPERAND
        self.faults: list[tuple[int, str]] = []

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def next(self) -> Token:
        token = self.tokens[self.at]
        if token.kind != END:
            self.at += 1
        return token

    def take(self, kind: str) -> Token | None:
        return self.next() if self.token.kind == kind else None

    def stopped(self, message: str, position: int | None = None) -> _Stop:
        self.faults.append((self.token.position if position is None else position, message))
        return _Stop()

    def expect(self, kind: str, *, or_comma: bool = False) -> Token:
        """The token, or the nearest thing: one too many is skipped, and one that is missing made up."""
        token = self.take(kind)
        if token is not None:
            return token
        found = self.token
        shown = kind if kind.isupper() else f"'{kind}'"
        if or_comma:
            shown = f"{{{shown}, ','}}"
        if self.following().kind == kind:
            self.fault(found.position, f"Syntax error: extraneous input '{found.text}' expecting {shown}")
            self.next()
            return self.next()
        if not or_comma and kind in _CLOSING and (found.kind in _AFTER_VALUE or found.kind in _BINARY):
            self.fault(found.position, f"Syntax error: missing {shown} at '{found.text}'")
            return Token(kind, kind, found.position)
        raise self.stopped(f"Syntax error: mismatched input '{found.text}' expecting {shown}")

    def following(self) -> Token:
        return self.tokens[min(self.at + 1, len(self.tokens) - 1)]

    def fault(self, position: int, message: str) -> None:
        self.faults.append((position, message))

    def whole(self) -> Node:
        tree = self.expression()
        if self.token.kind != END:
            raise self.stopped(f"Syntax error: extraneous input '{self.token.text}' expecting <EOF>")
        return tree

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > RECURSION_LIMIT:
            raise self.stopped(f"expression recursion limit exceeded: {RECURSION_LIMIT}", 0)

    def expression(self) -> Node:
        self.deeper()
        tree = self.binary(1)
        question = self.take("?")
        if question is not None:
            then = self.binary(1)
            self.expect(":")
            otherwise = self.expression()
            tree = Call(position=question.position, function="_?_:_", arguments=[tree, then, otherwise])
        self.depth -= 1
        return tree

    def binary(self, power: int) -> Node:
        left = self.unary()
        length = 0
        while True:
            token = self.token
            binding = _BINARY.get(token.kind)
            if binding is None or binding[0] < power:
                return left
            self.next()
            right = self.binary(binding[0] + 1)
            left = self.joined(binding[1], token.position, left, right)
            length += 1
            if length > RECURSION_LIMIT and binding[0] > 2:
                raise self.stopped(f"expression recursion limit exceeded: {RECURSION_LIMIT}", 0)

    def joined(self, function: str, position: int, left: Node, right: Node) -> Node:
        """`&&` and `||` gather their terms in one call, as deep trees of them would cost stack."""
        if function in ("_&&_", "_||_") and isinstance(left, Call) and left.function == function:
            left.arguments.append(right)
            return left
        return Call(position=position, function=function, arguments=[left, right])

    def unary(self) -> Node:
        token = self.token
        if token.kind == "!":
            count = self.repeated("!")
            operand = self.member()
            return operand if count % 2 == 0 else Call(position=token.position, function="!_", arguments=[operand])
        if token.kind == "-":
            count = self.repeated("-")
            if self.token.kind in ("NUM_INT", "NUM_FLOAT"):
                operand = self.postfix(self.number(self.next(), negative=True))
                count -= 1
            else:
                operand = self.member()
            return operand if count % 2 == 0 else Call(position=token.position, function="-_", arguments=[operand])
        return self.member()

    def repeated(self, kind: str) -> int:
        count = 0
        while self.take(kind):
            count += 1
        return count

    def member(self) -> Node:
        return self.postfix(self.primary())

    def postfix(self, tree: Node) -> Node:
        length = 0
        while True:
            token = self.token
            if token.kind == ".":
                self.next()
                tree = self.selected(tree, token)
            elif token.kind == "[":
                self.next()
                optional = self.take("?") is not None
                self.wanted = _INDEX
                index = self.expression()
                self.expect("]")
                tree = Call(position=token.position, function="_[?_]" if optional else "_[_]", arguments=[tree, index])
            elif token.kind == "{" and self.message_name(tree):
                self.next()
                tree = self.struct(tree, token.position)
            else:
                return tree
            length += 1
            if length > RECURSION_LIMIT:
                raise self.stopped(f"expression recursion limit exceeded: {RECURSION_LIMIT}", 0)

    def selected(self, operand: Node, dot: Token) -> Node:
        optional = self.take("?") is not None
        name = self.field_name()
        opened = None if optional else self.take("(")
        if opened is not None:
            arguments = self.arguments(")")
            return self.call(opened.position, name.text, operand, arguments)
        return Select(position=dot.position, operand=operand, name=name.text, optional=optional)

    def field_name(self) -> Token:
        token = self.token
        if token.kind == "ESC_IDENTIFIER":
            self.fault(token.position, "unsupported syntax: '`'")
        elif token.kind != "IDENTIFIER":
            shown = "" if token.kind == END else token.text
            raise self.stopped(f"Syntax error: no viable alternative at input '.{shown}'")
        return self.next()

    def arguments(self, closing: str) -> list[Node]:
        found: list[Node] = []
        if self.take(closing):
            return found
        self.wanted = _ARGUMENT
        while True:
            found.append(self.expression())
            if self.take(","):
                continue
            self.expect(closing)
            return found

    def call(self, position: int, name: str, target: Node | None, arguments: list[Node]) -> Node:
        member = target is not None
        for count in (len(arguments), -1):
            expander = self.macros.get((name, member, count))
            if expander is None:
                continue
            try:
                expanded = expander(position, target, arguments)
            except MacroError as err:
                self.fault(err.position, str(err))
                return Literal(position=position, value=None)
            if expanded is not None:
                return expanded
        return Call(position=position, function=name, target=target, arguments=arguments)

    def primary(self) -> Node:
        token = self.token
        reader = _PRIMARY.get(token.kind)
        expecting, self.wanted = self.wanted, _OPERAND
        if reader is None:
            if self.following().kind not in _PRIMARY:
                raise self.stopped(f"Syntax error: mismatched input '{token.text}' expecting {expecting}")
            self.fault(token.position, f"Syntax error: extraneous input '{token.text}' expecting {expecting}")
            self.next()
            return self.primary()
        self.next()
        return reader(self, token)

    def grouped(self, _token: Token) -> Node:
        tree = self.expression()
        self.expect(")")
        return tree

    def identifier(self, token: Token, leading: str = "") -> Node:
        opened = self.take("(")
        if opened is not None:
            return self.call(opened.position, leading + token.text, None, self.arguments(")"))
        if token.text in RESERVED and not leading:
            self.fault(token.position, f"reserved identifier: {token.text}")
        return Identifier(position=token.position, name=leading + token.text)

    def rooted(self, _token: Token) -> Node:
        name = self.expect("IDENTIFIER")
        return self.identifier(name, ".")

    def listed(self, closing: str, wanted: str, item: Callable[[], None]) -> None:
        """Items between commas, up to the bracket; a comma may stand before it."""
        if self.token.kind == "," and self.following().kind == closing:
            self.next()
        self.wanted = wanted
        while not self.take(closing):
            item()
            if not self.take(","):
                self.expect(closing, or_comma=True)
                break
            if self.token.kind == END:
                self.expect(closing)
                break
        self.wanted = _OPERAND

    def list_literal(self, token: Token) -> Node:
        elements: list[Node] = []
        optional: set[int] = set()

        def item() -> None:
            if self.take("?"):
                optional.add(len(elements))
            elements.append(self.expression())

        self.listed("]", _ITEM, item)
        return ListLiteral(position=token.position, elements=elements, optional=frozenset(optional))

    def map_literal(self, token: Token) -> Node:
        entries: list[Entry] = []

        def item() -> None:
            optional = self.take("?") is not None
            key = self.expression()
            colon = self.expect(":")
            entries.append(Entry(position=colon.position, key=key, value=self.expression(), optional=optional))

        self.listed("}", _ENTRY, item)
        return MapLiteral(position=token.position, entries=entries)

    @staticmethod
    def message_name(tree: Node) -> bool:
        while isinstance(tree, Select) and not tree.optional and not tree.test_only:
            tree = tree.operand
        return isinstance(tree, Identifier)

    def struct(self, named: Node, position: int) -> Node:
        parts: list[str] = []
        while isinstance(named, Select):
            parts.append(named.name)
            named = named.operand
        assert isinstance(named, Identifier)
        name = ".".join([named.name, *reversed(parts)])
        entries: list[FieldEntry] = []

        def item() -> None:
            optional = self.take("?") is not None
            word = self.expect("IDENTIFIER")
            colon = self.expect(":")
            value = self.expression()
            entries.append(FieldEntry(position=colon.position, name=word.text, value=value, optional=optional))

        self.listed("}", _OPERAND, item)
        return StructLiteral(position=position, name=name, entries=entries)

    def number(self, token: Token, *, negative: bool = False) -> Node:
        text = token.text
        sign = -1 if negative else 1
        position = token.position - (1 if negative else 0)
        if token.kind == "NUM_FLOAT":
            value: object = sign * float(text)
            if value in (float("inf"), float("-inf")):
                self.fault(position, "invalid double literal")
        elif token.kind == "NUM_UINT":
            whole = int(text[:-1], 16 if text[:2] == "0x" else 10)
            if whole > UINT_MAX:
                self.fault(position, "invalid uint literal")
            value = Uint(whole)
        else:
            value = whole = sign * int(text, 16 if text[:2] == "0x" else 10)
            if not INT_MIN <= whole <= INT_MAX:
                self.fault(position, "invalid int literal")
        return Literal(position=position, value=value)

    def text(self, token: Token) -> Node:
        try:
            value = string_value(token.text) if token.kind == "STRING" else bytes_value(token.text)
        except BadLiteral as err:
            self.fault(token.position, str(err))
            value = ""
        return Literal(position=token.position, value=value)

    def word(self, token: Token) -> Node:
        return Literal(position=token.position, value={"true": True, "false": False, "null": None}[token.text])


_CLOSING = frozenset(")]")
#: what can come after a value that is over
_AFTER_VALUE = frozenset((END, ")", "]", "}", ",", "?", ":", ".", "["))
_PRIMARY: dict[str, Callable[[_Parser, Token], Node]] = {
    "(": _Parser.grouped,
    "[": _Parser.list_literal,
    "{": _Parser.map_literal,
    ".": _Parser.rooted,
    "IDENTIFIER": _Parser.identifier,
    "NUM_INT": _Parser.number,
    "NUM_UINT": _Parser.number,
    "NUM_FLOAT": _Parser.number,
    "STRING": _Parser.text,
    "BYTES": _Parser.text,
    "true": _Parser.word,
    "false": _Parser.word,
    "null": _Parser.word,
}
