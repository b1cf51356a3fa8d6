import pytest
from pydantic import TypeAdapter, ValidationError

from hone.verifiers.answers import How, extract, present


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        ("tag", "<answer>1</answer> no: <answer> 2 </answer> bye", "2"),
        ("tag", "just 3 ", "just 3"),
        ("tag", "<answer>cut <answer>4</answer>", "4"),
        ("tag", "<answer>a\nb</answer>", "a\nb"),
        ("tag", "<answer></answer>", ""),
        ("tag", " \n", None),
        ("boxed", r"\boxed{1} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} and cut \boxed{2", "1"),
        ("boxed", r"\boxed{\boxed{5}}", "5"),
        ("boxed", r"\boxed {7}", "7"),
        ("boxed", r"{ \boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        ("boxed", "boxed{1} 42", None),
        ("last_number", "from 3 to $1,234.50!", "1234.50"),
        ("last_number", "x = -3", "-3"),
        ("last_number", "10-3", "3"),
        ("last_number", "1,2345", "2345"),
        ("last_number", "only .5 left", ".5"),
        ("last_number", "−7 below", "-7"),
        ("last_number", "no digits, not even ४", None),
        ("last_integer", "5 apples at 3.75 each", "5"),
        ("last_integer", "it costs $42.00", "42"),
        ("last_integer", "half: 0.5", None),
        ("last_line", "first\n\n the last \n\n", "the last"),
        ("last_line", "\n", None),
        ("text", " all of it ", "all of it"),
        (r"regex:#### (\S+)", "#### 1\n#### 2", "2"),
        (r"regex:\d+ km", "3 km or 4 km", "4 km"),
        (r"regex:a(b)?", "a", None),
        ("regex:zzz", "abc", None),
    ],
)
def test_extract(how, text, expected):
    assert extract(text, how) == expected


def test_only_the_end_is_read():
    assert extract(r"\boxed{1}" + " " * 100, "boxed", max_chars=100) is None
    assert extract("x" * 100 + r"\boxed{1}", "boxed", max_chars=9) == "1"


@pytest.mark.parametrize("how", ["tag", "boxed", "last_number", "last_integer", "last_line", "text", r"regex:(\d+)"])
def test_present_is_the_inverse_of_extract(how):
    assert extract(present("42", how), how) == "42"


def test_present_knows_what_it_cannot_write():
    assert present("1/2", "last_number") is None
    assert present("two\nlines", "last_line") is None
    assert present("}", "boxed") is None


def test_unknown_ways_are_refused_with_the_valid_ones():
    how = TypeAdapter(How)
    assert how.validate_python("regex:a+") == "regex:a+"
    with pytest.raises(ValidationError, match="boxed"):
        how.validate_python("box")
    with pytest.raises(ValidationError):
        how.validate_python("regex:(")


@pytest.mark.parametrize("text", [r"\boxed{" * 2800, "<answer>" * 2500, "-" * 20_000, "1," * 10_000, "{" * 20_000])
@pytest.mark.parametrize("how", ["tag", "boxed", "last_number", "last_integer", "last_line"])
def test_extraction_takes_linear_time(how, text):
    import time

    start = time.perf_counter()
    extract(text, how)
    assert time.perf_counter() - start < 0.5
