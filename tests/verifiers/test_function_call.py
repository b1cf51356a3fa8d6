import json

import pytest

from hone.types import Task
from hone.verifiers.function_call import FunctionCallVerifier

SIMPLE = [{"calculate_triangle_area": {"base": [10], "height": [5], "unit": ["units", ""]}}]
MULTIPLE = [
    {
        "triangle_properties.get": {
            "side1": [5],
            "side2": [4],
            "side3": [3],
            "get_area": ["", True],
            "get_perimeter": ["", True],
        }
    }
]
PARALLEL = [
    {"spotify.play": {"artist": ["Taylor Swift"], "duration": [20]}},
    {"spotify.play": {"artist": ["Maroon 5"], "duration": [15]}},
]
NESTED = [
    {
        "query": {
            "conditions": [
                [
                    {"field": ["age"], "operation": [">"], "value": ["25"]},
                    {"field": ["job"], "operation": ["="], "value": ["engineer"]},
                ]
            ],
            "stops": [["Santa Barbara", "Monterey"], ["Monterey", "Santa Barbara"]],
            "where": [
                {"department": ["Science"], "school": ["Bluebird High School", "Bluebird HS"], "year": ["", 1999]}
            ],
            "years": ["", []],
            "mod": ["", None],
        }
    }
]


def call(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments})


AREA = call("calculate_triangle_area", base=10, height=5)


@pytest.mark.parametrize(
    "response",
    [
        AREA,
        f"[{AREA}]",
        f"<tool_call>\n{AREA}\n</tool_call>",
        f"<tool_call>{AREA}",
        f"Sure.\n```json\n{AREA}\n```",
        f"```\n{AREA}\n```",
        f"<think>maybe {{}} or <tool_call>?</think>\n{AREA}",
        AREA.replace("10", "10.0"),
        AREA.replace("arguments", "parameters"),
        call("calculate_triangle_area", base=10, height=5, unit="Units"),
        call("calculate_triangle_area", base=10, height=5, unit=""),
        json.dumps({"name": "calculate_triangle_area", "arguments": '{"base": 10, "height": 5}', "id": 7}),
    ],
)
def test_simple_right(judge, response):
    assert judge(FunctionCallVerifier(), response, SIMPLE).value == 1


@pytest.mark.parametrize(
    "response",
    [
        "",
        "The area is 25.",
        f"Here it is: {AREA}",
        f"[{AREA}, {AREA}]",
        f"<tool_call>{AREA}</tool_call><tool_call>{AREA}</tool_call>",
        call("calculate_triangle_area", base=10),
        call("calculate_triangle_area", base=10, height=6),
        call("calculate_triangle_area", base=10, height=True),
        call("calculate_triangle_area", base="10", height=5),
        call("calculate_triangle_area", base=10, height=5, unit="miles"),
        call("calculate_triangle_area", base=10, height=5, colour="red"),
        call("calculate_area", base=10, height=5),
        AREA.replace('"height"', '"base"'),
        AREA.replace("10", "NaN"),
        AREA.replace("10", "Infinity"),
        AREA.replace("10", "1e999"),
        AREA[:-1],
        "[]",
        "{}",
        '{"name": 3, "arguments": {}}',
        '{"name": "calculate_triangle_area", "arguments": [10, 5]}',
        '{"name": "calculate_triangle_area"}',
        "[" * 100_000,
        '{"a":' * 5000,
    ],
)
def test_simple_wrong(judge, response):
    assert judge(FunctionCallVerifier(max_chars=200_000), response, SIMPLE).value == 0


def test_true_is_not_one(judge):
    right = call("triangle_properties.get", side1=5, side2=4, side3=3, get_area=True)
    assert judge(FunctionCallVerifier(), right, MULTIPLE).value == 1
    assert judge(FunctionCallVerifier(), right.replace("true", "1"), MULTIPLE).value == 0


def test_parallel_calls_in_any_order(judge):
    swift, maroon = (
        call("spotify.play", artist="taylor swift", duration=20),
        call("spotify.play", artist="Maroon5", duration=15),
    )
    for calls in ((swift, maroon), (maroon, swift)):
        assert judge(FunctionCallVerifier(), f"[{', '.join(calls)}]", PARALLEL).value == 1
        tagged = "".join(f"<tool_call>{written}</tool_call>" for written in calls)
        assert judge(FunctionCallVerifier(), tagged, PARALLEL).value == 1
    assert judge(FunctionCallVerifier(), f"[{swift}, {swift}]", PARALLEL).value == 0
    assert judge(FunctionCallVerifier(), swift, PARALLEL).value == 0


def test_parallel_calls_are_matched_even_where_greed_fails(judge):
    reference = [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}]
    assert judge(FunctionCallVerifier(), f"[{call('f', x=1)}, {call('f', x=2)}]", reference).value == 1
    assert judge(FunctionCallVerifier(), f"[{call('f', x=2)}, {call('f', x=2)}]", reference).value == 0


def test_many_equal_calls_take_no_time(judge):
    reference = [{"f": {"x": [1]}}] * 40
    calls = [call("f", x=1)] * 39 + [call("f", x=2)]
    assert judge(FunctionCallVerifier(), f"[{', '.join(calls)}]", reference).value == 0


def test_nested_values(judge):
    right = {
        "conditions": [
            {"field": "Age", "operation": ">", "value": "25"},
            {"field": "job", "operation": "=", "value": "engineer"},
        ],
        "stops": ["monterey", "Santa Barbara"],
        "where": {"department": "science", "school": "Bluebird HS"},
    }
    ask = FunctionCallVerifier()
    assert judge(ask, call("query", **right), NESTED).value == 1
    assert judge(ask, call("query", **right, years=[], mod=None), NESTED).value == 1
    assert judge(ask, call("query", **{**right, "stops": ["Monterey"]}), NESTED).value == 0
    assert judge(ask, call("query", **{**right, "conditions": right["conditions"][::-1]}), NESTED).value == 0
    assert judge(ask, call("query", **{**right, "where": {"department": "Science"}}), NESTED).value == 0
    assert judge(ask, call("query", **{**right, "where": {**right["where"], "year": 2000}}), NESTED).value == 0
    assert judge(ask, call("query", **right, mod=0), NESTED).value == 0


def test_strings_are_standardised_as_bfcl_does(judge):
    reference = [{"book": {"date": ["April 1, 2024"], "who": ["O'Neil"]}}]
    assert judge(FunctionCallVerifier(), call("book", date="april 1 2024", who='o"neil'), reference).value == 1
    assert judge(FunctionCallVerifier(), call("book", date="April 2, 2024", who="O'Neil"), reference).value == 0


EXACT = [{"name": "search", "arguments": {"query": "Paris", "limit": 3, "filters": {"a": [1, 2]}}}]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"limit": 3.0, "query": "Paris", "filters": {"a": [1, 2]}}, 1),
        ({"limit": 3, "query": "paris", "filters": {"a": [1, 2]}}, 0),
        ({"limit": 3, "query": "Paris", "filters": {"a": [2, 1]}}, 0),
        ({"limit": 3, "query": "Paris", "filters": {"a": [True, 2]}}, 0),
        ({"limit": 3, "query": "Paris"}, 0),
    ],
)
@pytest.mark.parametrize("form", ["auto", "exact"])
def test_exact(judge, arguments, value, form):
    for reference in (EXACT, json.dumps(EXACT), EXACT[0]):
        assert judge(FunctionCallVerifier(form=form), call("search", **arguments), reference).value == value


def test_nothing_to_call(judge):
    for response, value in [("I have no tool for that.", 1), ("[]", 1), ("", 0), (AREA, 0), ("<tool_call>x", 0)]:
        assert judge(FunctionCallVerifier(), response, []).value == value


@pytest.mark.parametrize("reference", [SIMPLE, MULTIPLE, PARALLEL, NESTED, EXACT, []])
def test_example(judge, reference):
    example = FunctionCallVerifier().example(Task("t", [], reference))
    assert judge(FunctionCallVerifier(), example, reference).value == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "task 't' has no reference answer, but None"),
        (float("nan"), "has no reference answer, but nan"),
        ("", "task 't': the reference '' cannot be read"),
        ("area(base=10)", "cannot be read"),
        ("null", "not a list of calls"),
        (3, "not a list of calls"),
        ({}, "not a list of calls"),
        ([{}], "not a list of calls"),
        ([None], "not a list of calls"),
        (["area"], "not a list of calls"),
        ([{"area": None}], "'area' has None for its object of arguments"),
        ([{"area": {"base": [10]}, "mean": None}], "'mean' has None for its object of arguments"),
        ([{"area": {"base": None}}], "'area': 'base' has None for its list of allowed values"),
        ([{"area": {"base": 10}}], "'area': 'base' has 10 for its list"),
        ([{"area": {"unit": "cm"}}], "'area': 'unit' has 'cm' for its list"),
        ([{"area": {"base": []}}], r"'area': 'base' has \[\] for its list"),
        ([{"area": {"at": [{"x": 1}]}}], r"'area.at': 'x' has 1 for its list"),
        ([{"area": {"base": [float("nan")]}}], "'area': 'base' allows nan"),
        ('[{"name": "area", "arguments": {"base": NaN}}]', "not a finite number"),
        ([{"name": "area", "arguments": None}], "object of arguments"),
    ],
)
def test_a_reference_that_nothing_could_match_fails(judge, reference, message):
    for response in ("", "No.", AREA):
        with pytest.raises(ValueError, match=message):
            judge(FunctionCallVerifier(), response, reference)


def test_null_may_be_an_allowed_value(judge):
    assert judge(FunctionCallVerifier(), call("f", x=None), [{"f": {"x": [None]}}]).value == 1
