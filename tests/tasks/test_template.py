import pytest

from hone.tasks.template import Template, lookup

ROW = {
    "question": [[{"role": "user", "content": "Why?"}]],
    "nums": [3, 4],
    "target": 7,
    "ratio": 0.125,
    "void": None,
    "dotted.name": "itself",
    "with space": "yes",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{nums}", [3, 4]),
        ("{target}", 7),
        ("{void}", None),
        ("{question[0]}", [{"role": "user", "content": "Why?"}]),
        ("{question[0][-1].content}", "Why?"),
        ("{question[0][0][content]}", "Why?"),
        ("{dotted.name}", "itself"),
        ("{with space}", "yes"),
        ("Use {nums} for {target}.", "Use [3, 4] for 7."),
        ("{target} ", "7 "),
        ("{target:03d}", "007"),
        ("{ratio:.1%}", "12.5%"),
        ("{with space!r}", "'yes'"),
        ("{question!j}", '[[{"role": "user", "content": "Why?"}]]'),
        ("{void!j}", "null"),
        (r"{target}: \boxed{{}} {{x}}", r"7: \boxed{} {x}"),
    ],
)
def test_fills(text, value):
    filled = Template(text).fill(ROW)
    assert filled == value
    assert type(filled) is type(value)


def test_json_is_not_escaped():
    assert Template("{name!j}").fill({"name": "é×"}) == '"é×"'


def test_braces_in_values_are_left_alone():
    assert Template("Solve {question}").fill({"question": r"\frac{1}{2} {question}"}) == r"Solve \frac{1}{2} {question}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question", "names no field"),
        (r"{question} in \boxed{}", "doubled"),
        (r"{question} \frac{1}{2}", r"'\{1\}' names no field.*doubled"),
        ("{question", "doubled"),
        ("question}", "doubled"),
        ("{a[}", "doubled"),
    ],
)
def test_malformed_templates_are_refused_when_made(text, message):
    with pytest.raises(ValueError, match=message):
        Template(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nmus}", "no 'nmus' in the row: did you mean 'nums'"),
        ("{question[1]}", "no '1' in question: it is a list of 1"),
        ("{question[0][0].contents}", "no 'contents' in question.0.0: did you mean 'content'"),
        ("{question[x]}", "no 'x' in question"),
        ("{target.real}", "no 'real' in target: it is 7"),
        ("{nums.count}", "no 'count' in nums"),
        ("Make {void}", "'void' is null"),
        ("{nums:d} ", "field 'nums'"),
        ("{nums!q}", "field 'nums'.*conversion"),
    ],
)
def test_rows_that_do_not_fit_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Template(text).fill(ROW)


def test_lookup_reads_no_attributes():
    with pytest.raises(ValueError, match="__class__"):
        lookup({"a": "b"}, "a.__class__")
