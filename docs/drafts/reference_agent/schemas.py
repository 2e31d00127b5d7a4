"""Schemas of the keywords that this text names, and what `jsonschema` makes of them."""

import re

import jsonschema

from spec import InvalidArgument, NotSupported

ASSERTIONS = {
    *("type", "enum", "const", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "multipleOf", "items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    *("properties", "required", "additionalProperties", "minProperties", "maxProperties", "anyOf", "oneOf"),
    *("allOf", "not", "$ref", "$defs"),
}
ANNOTATIONS = {
    *("title", "description", "default", "examples", "format", "$comment", "$schema"),
    *("deprecated", "readOnly", "writeOnly"),
}


def validator(schema):
    """Of a schema, once it is known to be one."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError) as error:
        raise InvalidArgument(f"schema: expected JSON Schema, got {str(error)[:200]}") from None
    check(schema, schema)
    return jsonschema.Draft202012Validator(schema)


def check(schema, root):
    if not hasattr(schema, "keys"):
        raise NotSupported(f"schema: expected an object, got {schema!r}")
    for key in schema:
        if key not in ASSERTIONS | ANNOTATIONS:
            raise NotSupported(f"schema: expected keywords of AG-12 to AG-14, got {key!r}")
    try:
        re.compile(schema.get("pattern", ""))
    except re.error as error:
        raise InvalidArgument(f"schema: expected a regular expression, got one with {error}") from None
    follow(schema, root, [])
    for each in parts(schema):
        check(each, root)


def parts(schema):
    """The schemas that stand directly inside one."""
    yield from at_once(schema)
    yield from schema.get("properties", {}).values()
    yield from schema.get("$defs", {}).values()
    yield from schema.get("prefixItems", [])
    if not isinstance(schema.get("additionalProperties", True), bool):
        yield schema["additionalProperties"]
    if schema.get("items", False) is not False:
        yield schema["items"]


def at_once(schema):
    """Those among them that look at the same value."""
    for key in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(key, [])
    if "not" in schema:
        yield schema["not"]


def follow(schema, root, way):
    """Refuses references that lead nowhere, or back without a value between."""
    if not hasattr(schema, "keys"):
        return
    if any(each is schema for each in way):
        raise InvalidArgument("schema: expected references that end, got one that leads back to itself")
    for each in at_once(schema):
        follow(each, root, [*way, schema])
    if "$ref" in schema:
        follow(target(schema["$ref"], root), root, [*way, schema])


def target(reference, root):
    if reference == "#":
        return root
    if not reference.startswith("#/$defs/"):
        raise NotSupported(f"schema: expected a $ref into $defs, got {reference!r}")
    name = reference[len("#/$defs/") :].replace("~1", "/").replace("~0", "~")
    if name not in root.get("$defs", {}):
        raise InvalidArgument(f"schema: expected a $ref that is in $defs, got {reference!r}")
    return root["$defs"][name]
