"""JSON Schema as tables by keyword: what may stand there, of which values it speaks, whether it holds."""

import re
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from urllib.parse import unquote

from spec import NotSupported
from spec.agent import MAX_MESSAGE, Problem

from .basics import BLANK, require
from .scanning import Bad, decode, identity


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value):
    return is_number(value) and value == value // 1


def is_array(value):
    return isinstance(value, list | tuple)


def is_object(value):
    return isinstance(value, Mapping)


def is_text(value):
    return isinstance(value, str)


def is_flag(value):
    return isinstance(value, bool)


TYPES = {
    "null": lambda value: value is None,
    "boolean": is_flag,
    "integer": is_integer,
    "number": is_number,
    "string": is_text,
    "array": is_array,
    "object": is_object,
}


def is_count(value):
    return is_integer(value) and value >= 0


def is_texts(value):
    return is_array(value) and all(map(is_text, value)) and len(set(value)) == len(value)


def is_type(value):
    return value in TYPES if is_text(value) else is_texts(value) and bool(value) and set(value) <= set(TYPES)


def is_pattern(value):
    with suppress(re.error):
        return is_text(value) and bool(re.compile(value))
    return False


def is_many(value):
    return is_array(value) and len(value) > 0


SHAPES = {
    **dict.fromkeys(["title", "description", "format", "$comment", "$schema", "$ref"], is_text),
    **dict.fromkeys(["deprecated", "readOnly", "writeOnly", "uniqueItems"], is_flag),
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], is_number),
    **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems"], is_count),
    **dict.fromkeys(["minProperties", "maxProperties"], is_count),
    **dict.fromkeys(["examples", "enum"], is_array),
    **dict.fromkeys(["prefixItems", "anyOf", "oneOf", "allOf"], is_many),
    **dict.fromkeys(["properties", "$defs"], is_object),
    "type": is_type,
    "required": is_texts,
    "pattern": is_pattern,
    "multipleOf": lambda value: is_number(value) and value > 0,
}
UNNAMED = re.compile(
    r"\$(anchor|dynamicAnchor|dynamicRef|id|vocabulary|recursiveAnchor|recursiveRef)|(min|max)?[cC]ontains|if|then"
    "|content(Encoding|MediaType|Schema)|dependent(Required|Schemas)|dependencies|definitions|else"
    "|patternProperties|propertyNames|unevaluated(Items|Properties)"
)


def inner_schemas(keyword, content):
    if keyword in ("prefixItems", "anyOf", "oneOf", "allOf"):
        return list(content)
    if keyword in ("properties", "$defs"):
        return list(content.values())
    if keyword == "not" or (keyword in ("items", "additionalProperties") and not is_flag(content)):
        return [content]
    return []


def anything(value):
    return True


def is_one_of(value, values, schema):
    return identity(value) in map(identity, values)


def has_type(value, names, schema):
    return any(TYPES[name](value) for name in ([names] if is_text(names) else names))


def no_items_left(value, content, schema):
    return content is not False or len(value) <= len(schema.get("prefixItems", []))


def no_keys_left(value, content, schema):
    return content is not False or not value.keys() - schema.get("properties", {}).keys()


RULES = {  # of which values a keyword speaks, and whether it holds
    "type": (anything, has_type),
    "enum": (anything, is_one_of),
    "const": (anything, lambda value, only, schema: identity(value) == identity(only)),
    "minLength": (is_text, lambda value, limit, schema: len(value) >= limit),
    "maxLength": (is_text, lambda value, limit, schema: len(value) <= limit),
    "pattern": (is_text, lambda value, pattern, schema: re.search(pattern, value)),
    "minimum": (is_number, lambda value, limit, schema: value >= limit),
    "maximum": (is_number, lambda value, limit, schema: value <= limit),
    "exclusiveMinimum": (is_number, lambda value, limit, schema: value > limit),
    "exclusiveMaximum": (is_number, lambda value, limit, schema: value < limit),
    "multipleOf": (is_number, lambda value, step, schema: Fraction(value) % Fraction(step) == 0),
    "minItems": (is_array, lambda value, limit, schema: len(value) >= limit),
    "maxItems": (is_array, lambda value, limit, schema: len(value) <= limit),
    "uniqueItems": (
        is_array,
        lambda value, on, schema: not on or len(set(map(identity, value))) == len(value),
    ),
    "items": (is_array, no_items_left),
    "minProperties": (is_object, lambda value, limit, schema: len(value) >= limit),
    "maxProperties": (is_object, lambda value, limit, schema: len(value) <= limit),
    "required": (is_object, lambda value, keys, schema: not set(keys) - value.keys()),
    "additionalProperties": (is_object, no_keys_left),
}
COUNTS = {
    "anyOf": lambda n: n > 0,
    "oneOf": lambda n: n == 1,
    "not": lambda n: n == 0,
}  # of schemas that accept


class Checker:
    """A schema, looked through."""

    def __init__(self, schema):
        self.root = schema
        self.inspect(schema)

    def inspect(self, schema):
        if is_flag(schema):
            raise NotSupported(f"schema: expected an object, got {schema}")
        require(is_object(schema), f"schema: expected an object, got {schema!r}")
        for keyword, content in schema.items():
            if UNNAMED.fullmatch(keyword):
                raise NotSupported(f"schema: expected the keywords of AG-10 to AG-12, got {keyword}")
            right = SHAPES.get(keyword, lambda content: True)(content)
            require(right, f"schema: expected a value of JSON Schema for {keyword}, got {content!r}")
            for inner in inner_schemas(keyword, content):
                self.inspect(inner)
            if keyword == "$ref":
                self.resolve(content)

    def resolve(self, reference):
        if reference == "#":
            return self.root
        match = re.fullmatch(r"#/\$defs/([^/]*)", reference)
        if not match:
            raise NotSupported(f"$ref: expected # or #/$defs/name, got {reference}")
        name = unquote(match[1]).replace("~1", "/").replace("~0", "~")
        require(name in self.root.get("$defs", {}), f"$ref: expected a name of $defs, got {name}")
        return self.root["$defs"][name]

    def see(self, schema, value, path):
        """The problems of a value, its own and those of what is in it."""
        for keyword, content in schema.items():
            if not self.holds(keyword, content, schema, value):
                message = f"{path}: expected {keyword} {str(content)[:80]}, got {str(value)[:80]}"
                times = len(set(content) - value.keys()) if keyword == "required" else 1
                yield from [Problem(path, keyword, message[-MAX_MESSAGE:])] * times
        for inner, member, place in self.within(schema, value, path):
            if not is_flag(inner):
                yield from self.see(inner, member, place)

    def holds(self, keyword, content, schema, value):
        if keyword in COUNTS:
            schemas = content if is_array(content) else [content]
            return COUNTS[keyword](sum(not any(self.see(inner, value, "")) for inner in schemas))
        if keyword not in RULES:
            return True
        speaks_of, test = RULES[keyword]
        return not speaks_of(value) or test(value, content, schema)

    def within(self, schema, value, path):
        """The schemas that must hold beside this one, of which value, and where that is."""
        for inner in schema.get("allOf", []):
            yield inner, value, path
        if "$ref" in schema:
            yield self.resolve(schema["$ref"]), value, path
        if is_array(value):
            first = schema.get("prefixItems", [])
            for i, item in enumerate(value):
                yield (first[i] if i < len(first) else schema.get("items", True)), item, f"{path}/{i}"
        if is_object(value):
            others = schema.get("additionalProperties", True)
            for key, member in value.items():
                place = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
                yield schema.get("properties", {}).get(key, others), member, place

    def judge(self, arguments):
        """The value of arguments, and its problems."""
        try:
            value = decode(arguments) if arguments.strip(BLANK) else None
        except Bad:
            return None, [Problem("", "json", f"expected JSON, got {arguments[:80]!r}"[:MAX_MESSAGE])]
        if value is None:
            value = {}
        if not is_object(value):
            return None, [Problem("", "type", f"expected an object, got {str(value)[:80]}")]
        return value, list(self.see(self.root, value, ""))


def validate_arguments(schema, arguments):
    return Checker(schema).judge(arguments)[1]
