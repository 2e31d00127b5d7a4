"""Which tokens may follow: an automaton over bytes, compiled from a schema, walked along a trie of tokens."""

import json
from decimal import Decimal

import torch

from spec import NotSupported

from .basics import require
from .schemas import TYPES, is_array, is_object, is_text

DIGIT = b"0123456789"
TAILS = [  # ranges of the bytes of a character of UTF-8, but for control characters, quote and backslash
    [(0x20, 0x21)],
    [(0x23, 0x5B)],
    [(0x5D, 0x7F)],
    [(0xC2, 0xDF), (0x80, 0xBF)],
    [(0xE0, 0xE0), (0xA0, 0xBF), (0x80, 0xBF)],
    [(0xE1, 0xEC), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xED, 0xED), (0x80, 0x9F), (0x80, 0xBF)],
    [(0xEE, 0xEF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF0, 0xF0), (0x90, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF1, 0xF3), (0x80, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF4, 0xF4), (0x80, 0x8F), (0x80, 0xBF), (0x80, 0xBF)],
]
KEYWORDS = {
    "array": {"type", "items"},
    "object": {"type", "properties", "required", "additionalProperties"},
}


class Automaton:
    """Nodes with edges {byte: [nodes]} and free edges. Each thing is compiled with what follows it."""

    def __init__(self, schema):
        self.edges, self.free = [], []
        self.final = self.node()
        self.begin = self.schema(schema, self.final)
        self.alive = self.reaching()

    def node(self, *free):
        self.edges.append({})
        self.free.append(list(free))
        return len(self.edges) - 1

    def edge(self, node, data, target):
        for byte in data:
            self.edges[node].setdefault(byte, []).append(target)
        return node

    def word(self, data, follow):
        for byte in reversed(data):
            follow = self.edge(self.node(), [byte], follow)
        return follow

    def ranges(self, node, ranges, follow):
        for low, high in reversed(ranges[1:]):
            follow = self.edge(self.node(), range(low, high + 1), follow)
        self.edge(node, range(ranges[0][0], ranges[0][1] + 1), follow)

    def schema(self, schema, follow):
        if not is_object(schema):
            raise NotSupported(f"schema: expected an object, got {schema!r}")
        said = {k: v for k, v in schema.items() if k not in ("title", "description", "default")}
        kind = said.get("type")
        if set(said) == {"enum"}:
            return self.node(*(self.value(value, follow) for value in said["enum"]))
        if set(said) == {"anyOf"}:
            return self.node(*(self.schema(inner, follow) for inner in said["anyOf"]))
        if not is_text(kind) or kind not in TYPES or set(said) - KEYWORDS.get(kind, {"type"}):
            raise NotSupported(f"schema: expected the keywords of AG-38, got {sorted(said)}")
        return getattr(self, kind)(said, follow)

    def value(self, value, follow):
        """A constant in its canonical form."""
        if is_object(value):
            return self.members(
                [(k, lambda after, v=v: self.value(v, after)) for k, v in value.items()], follow
            )
        if is_array(value):
            follow = self.word(b"]", follow)
            for i, item in reversed(list(enumerate(value))):
                follow = self.word(b"," * (i > 0), self.value(item, follow))
            return self.word(b"[", follow)
        if isinstance(value, float):
            text = format(Decimal(repr(value)), "f")
            return self.node(*(self.word(t.encode(), follow) for t in {text, text.removesuffix(".0")}))
        return self.word(self.spell(value), follow)

    def spell(self, value):
        try:
            return json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise NotSupported(f"schema: expected text, got {value!r}") from error

    def members(self, members, follow):
        follow = self.word(b"}", follow)
        for i, (key, member) in reversed(list(enumerate(members))):
            follow = self.word(b"," * (i > 0) + self.spell(key) + b":", member(follow))
        return self.word(b"{", follow)

    def null(self, said, follow):
        return self.word(b"null", follow)

    def boolean(self, said, follow):
        return self.node(self.word(b"true", follow), self.word(b"false", follow))

    def integer(self, said, follow):
        more = self.node(follow)
        self.edge(more, DIGIT, more)
        whole = self.edge(self.edge(self.node(), b"0", follow), DIGIT[1:], more)
        return self.edge(self.node(whole), b"-", whole)

    def number(self, said, follow):
        more = self.node(follow)
        self.edge(more, DIGIT, more)
        point = self.edge(self.node(), b".", self.edge(self.node(), DIGIT, more))
        return self.integer(said, self.node(follow, point))

    def string(self, said, follow):
        inside = self.node()
        for ranges in TAILS:
            self.ranges(inside, ranges, inside)
        low = self.edge(self.node(), b"0123456789abcdef", inside)
        control = self.word(b"u00", self.edge(self.node(), b"01", low))
        self.edge(inside, b"\\", self.edge(self.node(control), b'"\\bfnrt', inside))
        self.edge(inside, b'"', follow)
        return self.word(b'"', inside)

    def array(self, said, follow):
        if "items" not in said:
            raise NotSupported("schema: expected items in an array, got none")
        after = self.word(b"]", follow)
        item = self.schema(said["items"], after)
        self.edge(after, b",", item)
        return self.word(b"[", self.node(item, self.word(b"]", follow)))

    def object(self, said, follow):
        inner = said.get("properties", {})
        if set(said.get("required", [])) != set(inner) or said.get("additionalProperties") is not False:
            raise NotSupported("schema: expected all properties required and no others, got another object")
        return self.members([(k, lambda after, v=v: self.schema(v, after)) for k, v in inner.items()], follow)

    def reaching(self):
        """The nodes from which the end can be reached."""
        before = [set() for _ in self.edges]
        for node, edges in enumerate(self.edges):
            for target in [*self.free[node], *(t for targets in edges.values() for t in targets)]:
                before[target].add(node)
        return self.closure([self.final], before)

    @staticmethod
    def closure(nodes, following):
        found, todo = set(), list(nodes)
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo.extend(following[node])
        return found

    def state(self, nodes):
        return tuple(sorted(self.closure(nodes, self.free) & self.alive))

    def step(self, state, byte):
        return self.state([target for node in state for target in self.edges[node].get(byte, ())])


class JsonConstraint:
    ENDED = ("ended",)

    def __init__(self, schema, vocabulary, eos):
        size = len(vocabulary)
        right = len(eos) > 0 and all(0 <= i < size for i in eos)
        require(right, f"eos: expected ids from 0 to {size - 1}, at least one, got {list(eos)}")
        self.automaton, self.vocabulary, self.eos = Automaton(schema), list(vocabulary), set(eos)
        self.moves, self.masks = {}, {}
        self.trie = ({}, [])
        for token, data in enumerate(self.vocabulary):
            children, ids = self.trie
            for byte in data:
                children, ids = children.setdefault(byte, ({}, []))
            if data and token not in self.eos:
                ids.append(token)

    def start(self):
        return self.automaton.state([self.automaton.begin])

    def move(self, state, byte):
        if (state, byte) not in self.moves:
            self.moves[state, byte] = self.automaton.step(state, byte)
        return self.moves[state, byte]

    def allowed(self, state):
        require(state != self.ENDED, "state: expected one before the end, got the end")
        if state not in self.masks:
            mask = torch.zeros(len(self.vocabulary), dtype=torch.bool)
            todo = [(state, self.trie)]
            while todo:
                here, (children, ids) = todo.pop()
                mask[ids] = True
                for byte, child in children.items():
                    if there := self.move(here, byte):
                        todo.append((there, child))
            mask[list(self.eos)] = self.is_complete(state)
            self.masks[state] = mask
        return self.masks[state].clone()

    def advance(self, state, token):
        token = int(token)
        right = 0 <= token < len(self.vocabulary) and bool(self.allowed(state)[token])
        require(right, f"token: expected one that is allowed, got {token}")
        if token in self.eos:
            return self.ENDED
        for byte in self.vocabulary[token]:
            state = self.move(state, byte)
        return state

    def is_complete(self, state):
        return state == self.ENDED or self.automaton.final in state
