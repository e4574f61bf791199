r"""Writes ``src/kaa/api/types/protobuf_fields.py``: where each JSON field stands in Kubernetes' protobuf messages.

    python tools/generate_protobuf.py                       writes the module
    python tools/generate_protobuf.py --check               exit status 1 if writing would change anything
    python tools/generate_protobuf.py extract BINARY...     writes protobuf_fields.txt from Go binaries (kubectl)

The facts stand in two files beside this one. ``protobuf_fields.txt`` is read from the type descriptions that every Go
binary carries for reflection: the struct tags of k8s.io/api name each field's JSON and protobuf place, and the Go type
says whether it is a pointer. ``protobuf_later.txt`` holds what came after that binary, from upstream's generated.proto.

A line is a message, then its fields as ``name=NUMBER MODE KIND`` run together; ``-name`` takes a field
away, or says that its number is not known. ``@module origin`` says that a version began as a copy of another.

======  ====================================  ==========  ====================================================
mode    in Go                                 kind        in JSON
======  ====================================  ==========  ====================================================
``.``   value, zero not in JSON               ``s b``     text, base64 of bytes
``!``   value, zero in JSON                   ``i n t d`` 64-bit and 32-bit integer, truth, double
``?``   pointer                               ``q T M``   Quantity, Time, MicroTime
``*``   slice                                 ``I``       IntOrString
``%``   map with text keys                    ``J``       any JSON (RawExtension, FieldsV1, JSON)
``+``   struct whose fields are its owner's   ``l``       list of text, in a message of its own
\\                                             ``A B S``   JSONSchemaProps or array, truth, list of text
\\                                             otherwise   a message, of the same module if it names none
======  ====================================  ==========  ====================================================
"""

from __future__ import annotations

import importlib
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "src/kaa/api/types/protobuf_fields.py"
EXTRACTED = Path(__file__).parent / "protobuf_fields.txt"
LATER = Path(__file__).parent / "protobuf_later.txt"

#: Lists of which Go writes null when they are nil, and that clients see so: those of others are ``[]`` or absent here.
NULL_LISTS = frozenset(
    {
        "apiextensions_v1.CustomResourceDefinitionStatus.conditions",
        "apiextensions_v1.CustomResourceDefinitionStatus.storedVersions",
        "autoscaling_v2.HorizontalPodAutoscalerStatus.currentMetrics",
        "rbac_v1.ClusterRole.rules",
        "rbac_v1.Role.rules",
    }
)
#: Go's reflect.Kind numbers
BOOL, INT32, INT64, FLOAT64, MAP, POINTER, SLICE, STRING, STRUCT, UINT8 = 1, 5, 6, 14, 21, 22, 23, 24, 25, 8
SCALARS = {BOOL: "t", INT32: "n", INT64: "i", FLOAT64: "d", STRING: "s"}
SPECIAL = {
    "meta_v1.Time": "T",
    "meta_v1.MicroTime": "M",
    "meta_v1.FieldsV1": "J",
    "resource.Quantity": "q",
    "intstr.IntOrString": "I",
    "runtime.RawExtension": "J",
    "apiextensions_v1.JSON": "J",
    "apiextensions_v1.JSONSchemaPropsOrArray": "A",
    "apiextensions_v1.JSONSchemaPropsOrBool": "B",
    "apiextensions_v1.JSONSchemaPropsOrStringArray": "S",
}
OPTIONS = ("DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "ListOptions", "GetOptions")
#: The end of a Go import path to our module's name.
PACKAGES = {
    r"k8s\.io/api/(\w+)/(v\w+)": r"\1_\2",
    r"k8s\.io/apimachinery/pkg/apis/(meta)/(v1)": r"\1_\2",
    r"k8s\.io/apiextensions-apiserver/pkg/apis/(apiextensions)/(v1)": r"\1_\2",
    r"k8s\.io/kube-aggregator/pkg/apis/(apiregistration)/(v1)": r"\1_\2",
    r"k8s\.io/apimachinery/pkg/(?:api|util)?/?(resource|runtime|intstr)": r"\1",
}


class GoBinary:
    """The type descriptions of an ELF binary that Go linked for a 64-bit machine. Source: Go's internal/abi/type.go."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        table = struct.unpack_from("<Q", self.data, 0x28)[0]
        count, names_at = struct.unpack_from("<HH", self.data, 0x3C)
        sections = [struct.unpack_from("<IIQQQQIIQQ", self.data, table + 64 * n) for n in range(count)]
        names = sections[names_at][4]
        self.sections = {self.text_at(names + section[0]): section for section in sections}
        self.ranges = [(s[3], s[3] + s[5], s[4]) for s in sections if s[3] and s[1] != 8]
        self.types = self.sections[".rodata"][3]

    def text_at(self, offset: int) -> str:
        return self.data[offset : self.data.index(b"\0", offset)].decode()

    def offset(self, address: int) -> int:
        return next(place + address - low for low, high, place in self.ranges if low <= address < high)

    def word(self, address: int) -> int:
        return int(struct.unpack_from("<Q", self.data, self.offset(address))[0])

    def relative(self, address: int) -> int:
        return int(struct.unpack_from("<i", self.data, self.offset(address))[0])

    def varint(self, offset: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self.data[offset]
            value, shift, offset = value | (byte & 127) << shift, shift + 7, offset + 1
            if byte < 128:
                return value, offset

    def name(self, address: int) -> tuple[str, str]:
        """A name and, for a struct's field, its tag."""
        offset = self.offset(address)
        flags = self.data[offset]
        length, offset = self.varint(offset + 1)
        name, tag = self.data[offset : offset + length].decode(), ""
        if flags & 2:
            size, offset = self.varint(offset + length)
            tag = self.data[offset : offset + size].decode()
        return name, tag

    def kind(self, type: int) -> int:
        return self.data[self.offset(type) + 23] & 31

    def element(self, type: int) -> int:
        """What a pointer or slice holds, or the key of a map."""
        return self.word(type + 48)

    def full_name(self, type: int) -> str:
        """``core_v1.Pod`` for a named type of Kubernetes' API; empty for any other."""
        flags = self.data[self.offset(type) + 20]
        if not (flags & 1 and flags & 4):
            return ""
        text = self.name(self.types + self.relative(type + 40))[0].lstrip("*")
        extra = {POINTER: 56, SLICE: 56, STRUCT: 80, STRING: 48}.get(self.kind(type))
        at = self.relative(type + extra) if extra else 0
        package = self.name(self.types + at)[0] if at else ""
        for pattern, module in PACKAGES.items():
            found = re.fullmatch(pattern, package)
            if found:
                return f"{found.expand(module)}.{text.rpartition('.')[2]}"
        return ""

    def fields(self, type: int) -> Iterator[tuple[str, int]]:
        """(tag, type) of each field of a struct."""
        first, count = self.word(type + 56), self.word(type + 64)
        for at in range(first, first + 24 * count, 24):
            yield self.name(self.word(at))[1], self.word(at + 8)

    def structs(self) -> dict[str, int]:
        """{full name: type} of the API's structs."""
        section, found = self.sections[".typelink"], {}
        for (link,) in struct.iter_unpack("<i", self.data[section[4] : section[4] + section[5]]):
            type = self.types + link
            if self.kind(type) == POINTER and self.kind(self.element(type)) == STRUCT:
                found[self.full_name(self.element(type))] = self.element(type)
        found.pop("", None)
        return found


def kind_of(go: GoBinary, type: int, module: str) -> str:
    kind, name = go.kind(type), go.full_name(type)
    if kind == STRUCT:
        return SPECIAL.get(name) or name.removeprefix(module + ".")
    if kind == SLICE:
        return "b" if go.kind(go.element(type)) == UINT8 else "l"
    return SCALARS[kind]


def field_line(go: GoBinary, tag: str, type: int, module: str) -> str | None:
    """One field in the facts' notation; None for a field that protobuf does not carry."""
    json, place = re.search(r'json:"([^"]*)"', tag), re.search(r'protobuf:"(\w+),(\d+)', tag)
    if json is None or place is None:
        return None
    name, _, options = json[1].partition(",")
    number, kind = place[2], go.kind(type)
    if kind == POINTER:
        return f"{name}={number}?{kind_of(go, go.element(type), module)}"
    if kind == MAP:
        return f"{name}={number}%{kind_of(go, go.word(type + 56), module)}"
    if kind == SLICE and kind_of(go, type, module) != "b" and go.full_name(type).rpartition(".")[2] != "Verbs":
        inner = go.element(type)
        inner = go.element(inner) if go.kind(inner) == POINTER else inner
        return f"{name}={number}*{kind_of(go, inner, module)}" + ("" if "omitempty" in options else "!")
    if "inline" in options:
        return f"+={number}+{kind_of(go, type, module)}"
    return f"{name}={number}{'.' if 'omit' in options else '!'}{kind_of(go, type, module)}"


def wanted() -> Iterator[str]:
    sys.path.insert(0, str(ROOT / "src"))
    for path in sorted(OUT.parent.glob("*_v*.py")):
        module = importlib.import_module(f"kaa.api.types.{path.stem}")
        yield from (f"{path.stem}.{name}" for name, kind in vars(module).items() if hasattr(kind, "__struct_fields__"))
    yield from (f"meta_v1.{name}" for name in OPTIONS)


def extract(*binaries: str) -> str:
    """The facts of all messages that our Structs need, from the first binary that has each."""
    left, lines = list(wanted()), {}
    sources = [(go, go.structs()) for go in map(GoBinary, map(Path, binaries))]
    while left:
        name = left.pop()
        source = next(((go, types[name]) for go, types in sources if name in types), None)
        if name in lines or source is None:
            continue
        module = name.partition(".")[0]
        found = [line for line in (field_line(source[0], *f, module) for f in source[0].fields(source[1])) if line]
        lines[name] = " ".join([name, *sorted(found, key=number_of)])
        for kind in re.findall(r"[.!?*%+]((?:\w+\.)?\w\w+)", lines[name].partition(" ")[2]):
            left.append(kind if "." in kind else f"{module}.{kind}")
    return "\n".join(lines[name] for name in sorted(lines)) + "\n"


def number_of(field: str) -> int:
    return int(re.split(r"[=.!?*%+]+", field.partition("=")[2])[0])


def copy_module(rows: dict[str, dict[str, str]], module: str, origin: str) -> None:
    """A version that was made as a copy of another has its messages and numbers, where it has none of its own."""
    for owner in [name for name in rows if name.startswith(origin + ".")]:
        rows.setdefault(module + owner.removeprefix(origin), dict(rows[owner]))


def all_rows() -> dict[str, dict[str, str]]:
    """{message: {field: its place}}: extracted facts, with the later ones added to them."""
    rows: dict[str, dict[str, str]] = {}
    for line in (EXTRACTED.read_text() + LATER.read_text()).splitlines():
        owner, *fields = line.split() or ["#"]
        if owner.startswith("@"):
            copy_module(rows, owner[1:], fields[0])
        elif not owner.startswith("#"):
            row = rows.setdefault(owner, {})
            for text in fields:
                name = text if text[0] == "+" else text.partition("=")[0]
                if text[0] == "-":
                    row.pop(text[1:], None)
                else:
                    row[name] = text
    return rows


def module_text() -> str:
    """The generated module."""
    rows = all_rows()
    for place in NULL_LISTS:  # absent when they are empty, which the Struct writes as null
        owner, _, name = place.rpartition(".")
        rows[owner][name] = rows[owner][name].removesuffix("!")
    head = '"""Protobuf places of JSON fields, by message. Generated by tools/generate_protobuf.py, which explains them."""\n'
    body = [f'    "{owner}": "{" ".join(sorted(rows[owner].values(), key=number_of))}",' for owner in sorted(rows)]
    return "\n".join([head, "#: {module.Message: its fields}", "FIELDS: dict[str, str] = {", *body, "}"]) + "\n"


def main(*arguments: str) -> int:
    if arguments[:1] == ("extract",):
        EXTRACTED.write_text(extract(*arguments[1:]))
        return 0
    text = module_text()
    stale = not OUT.exists() or OUT.read_text() != text
    if "--check" in arguments:
        return int(stale)
    OUT.write_text(text)
    print(OUT.name, "written" if stale else "as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
