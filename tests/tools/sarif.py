"""What SARIF 2.1.0 (OASIS Standard, 27 March 2020) asks of the objects that sockleak writes, by hand
from its text: for each object the section, what it SHALL have, what it MAY have, and the values that
an enumeration allows. A property that the standard does not name is a mistake (its schema says
additionalProperties: false).

problems(log) lists what is wrong, [] for a valid log. schema() is the same as a JSON Schema (draft 7),
for validators of other people's."""

import re
from urllib.parse import urlparse

URI = re.compile(r"^[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+$")  # RFC 3986

# object: (required, optional). A value is the name of an object here, [name] for an array of it, a
# type, a set of allowed strings, or a function that says whether the value is right.
OBJECTS = {
    "sarifLog": ({"version": {"2.1.0"}, "runs": ["run"]}, {"$schema": "uri"}),  # 3.13
    "run": ({"tool": "tool"},  # 3.14
            {"results": ["result"], "columnKind": {"utf16CodeUnits", "unicodeCodePoints"},
             "originalUriBaseIds": dict, "invocations": ["invocation"], "artifacts": list}),
    "invocation": ({"executionSuccessful": bool},  # 3.20
                   {"toolExecutionNotifications": ["notification"], "commandLine": str, "exitCode": int}),
    "notification": ({"message": "message"},  # 3.58
                     {"level": {"none", "note", "warning", "error"}, "locations": ["location"]}),
    "tool": ({"driver": "toolComponent"}, {"extensions": ["toolComponent"]}),  # 3.18
    "toolComponent": ({"name": str},  # 3.19
                      {"version": str, "semanticVersion": str, "informationUri": "uri", "fullName": str,
                       "rules": ["reportingDescriptor"], "organization": str}),
    "reportingDescriptor": ({"id": str},  # 3.49
                            {"name": str, "shortDescription": "multiformatMessageString",
                             "fullDescription": "multiformatMessageString", "helpUri": "uri",
                             "help": "multiformatMessageString",
                             "defaultConfiguration": "reportingConfiguration"}),
    "multiformatMessageString": ({"text": str}, {"markdown": str}),  # 3.12
    "reportingConfiguration": ({}, {"enabled": bool, "rank": float,  # 3.50
                                    "level": {"none", "note", "warning", "error"}}),
    "result": ({"message": "message"},  # 3.27
               {"ruleId": str, "ruleIndex": int, "level": {"none", "note", "warning", "error"},
                "kind": {"pass", "open", "informational", "notApplicable", "review", "fail"},
                "locations": ["location"], "stacks": ["stack"], "codeFlows": ["codeFlow"],
                "relatedLocations": ["location"], "occurrenceCount": lambda n: n >= 1,
                "partialFingerprints": "strings", "fingerprints": "strings",
                "suppressions": ["suppression"],
                "baselineState": {"new", "unchanged", "updated", "absent"}}),
    "message": ({"text": str}, {"markdown": str, "id": str, "arguments": list}),  # 3.11: text or id
    "location": ({}, {"id": int, "physicalLocation": "physicalLocation",  # 3.28
                      "logicalLocations": ["logicalLocation"], "message": "message"}),
    "physicalLocation": ({"artifactLocation": "artifactLocation"}, {"region": "region"}),  # 3.29: or address
    "artifactLocation": ({"uri": "uri"}, {"uriBaseId": str, "index": int}),  # 3.4: or index
    "region": ({"startLine": lambda n: n >= 1},  # 3.30
               {"startColumn": lambda n: n >= 1, "endLine": lambda n: n >= 1}),
    "logicalLocation": ({}, {"name": str, "fullyQualifiedName": str, "decoratedName": str,  # 3.33
                             "kind": str, "index": int, "parentIndex": int}),
    "stack": ({"frames": ["stackFrame"]}, {"message": "message"}),  # 3.44
    "stackFrame": ({}, {"location": "location", "module": str, "threadId": int,  # 3.45
                        "parameters": list}),
    "codeFlow": ({"threadFlows": lambda flows: len(flows) >= 1},  # 3.36, with an array of at least one
                 {"message": "message"}),
    "threadFlow": ({"locations": lambda steps: len(steps) >= 1},  # 3.37
                   {"id": str, "message": "message", "initialState": dict, "immutableState": dict}),
    "threadFlowLocation": ({}, {"location": "location", "stack": "stack", "module": str,  # 3.38
                                "kinds": ["str"], "nestingLevel": lambda n: n >= 0,
                                "executionOrder": lambda n: n >= -1, "executionTimeUtc": str,
                                "importance": {"important", "essential", "unimportant"}}),
    "suppression": ({"kind": {"inSource", "external"}},  # 3.35
                    {"status": {"accepted", "underReview", "rejected"}, "justification": str, "guid": str}),
}


PARTS = {("codeFlow", "threadFlows"): "threadFlow", ("threadFlow", "locations"): "threadFlowLocation"}  # arrays that may not be empty


def check_value(value, wanted, where):
    if isinstance(wanted, str) and wanted in OBJECTS:
        return check_object(value, wanted, where)
    if isinstance(wanted, list):
        if not isinstance(value, list):
            return [f"{where}: no array"]
        return [p for i, each in enumerate(value) for p in check_value(each, wanted[0], f"{where}[{i}]")]
    if wanted == "uri":
        right = isinstance(value, str) and URI.match(value) and urlparse(value) is not None
    elif wanted == "strings":
        right = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    elif isinstance(wanted, set):
        right = value in wanted
    elif isinstance(wanted, type):
        right = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    else:
        right = isinstance(value, (int, list)) and wanted(value)
    return [] if right else [f"{where}: {value!r}"]


def check_object(value, name, where):
    if not isinstance(value, dict):
        return [f"{where}: no object"]
    required, optional = OBJECTS[name]
    found = [f"{where}: {name} without {key}" for key in required if key not in value]
    for key, each in value.items():
        wanted = required.get(key, optional.get(key))
        if key == "properties":  # any object may have a property bag (3.8)
            continue
        found += check_value(each, wanted, f"{where}.{key}") if wanted else [f"{where}: {name} has {key}"]
        part = PARTS.get((name, key))
        if part and isinstance(each, list):
            found += check_value(each, [part], f"{where}.{key}")
    return found


def check_run(run):
    """What no single object shows."""
    rules = run["tool"]["driver"].get("rules", [])
    found = [] if len({r["id"] for r in rules}) == len(rules) else ["two rules of one id"]
    suppressions = {"suppressions" in r for r in run.get("results", [])}
    if len(suppressions) > 1:  # 3.27.23
        found.append("suppressions of some results only")
    for result in run.get("results", []):
        index = result.get("ruleIndex", -1)
        if not 0 <= index < len(rules) or rules[index]["id"] != result["ruleId"]:  # 3.27.6
            found.append(f"ruleIndex {index} is not {result['ruleId']}")
    return found


# What a function above asks of a number, for the schema.
MINIMUM = {"occurrenceCount": 1, "startLine": 1, "startColumn": 1, "endLine": 1, "nestingLevel": 0, "executionOrder": -1}


def schema_of(name, key, wanted):
    part = PARTS.get((name, key))
    if part:
        return {"type": "array", "minItems": 1, "items": {"$ref": f"#/definitions/{part}"}}
    if isinstance(wanted, str) and wanted in OBJECTS:
        return {"$ref": f"#/definitions/{wanted}"}
    if isinstance(wanted, list):
        # Of these the standard says that no two are equal.
        unique = key in ("rules", "stacks", "suppressions", "logicalLocations")
        return {"type": "array", "uniqueItems": unique, "items": schema_of(name, "", wanted[0])}
    if wanted in ("uri", "str"):
        return {"type": "string", **({"format": "uri-reference"} if wanted == "uri" else {})}
    if wanted == "strings":
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if isinstance(wanted, set):
        return {"enum": sorted(wanted)}
    if isinstance(wanted, type):
        return {"type": {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object",
                         list: "array"}[wanted]}
    return {"type": "integer", "minimum": MINIMUM[key]}


def schema():
    definitions = {}
    for name, (required, optional) in OBJECTS.items():
        properties = {key: schema_of(name, key, wanted) for key, wanted in {**required, **optional}.items()}
        definitions[name] = {"type": "object", "required": sorted(required), "additionalProperties": False,
                             "properties": {**properties, "properties": {"type": "object"}}}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": definitions,
            "$ref": "#/definitions/sarifLog"}


def problems(log):
    found = check_object(log, "sarifLog", "log")
    return found or [p for run in log["runs"] for p in check_run(run)]
