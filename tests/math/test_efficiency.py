import pytest

from hone.math.efficiency import reasoning_efficiency


def test_the_paper_s_own_number():
    """Table 1, R1-Distill-1.5B on OlympiadBench: 45.5 against 38.8, and 4944 tokens of 8192; figure: +11.1."""
    assert reasoning_efficiency(45.5, 38.8, [4944], 8192) == pytest.approx(11.1, abs=0.01)


def test_by_hand():
    assert reasoning_efficiency(0.5, 0.25, [10, 30], 80) == pytest.approx(0.25 / 0.25)
    assert reasoning_efficiency(0.25, 0.5, [80, 80], 80) == pytest.approx(-0.25)


@pytest.mark.parametrize(("thinking", "most"), [([], 10), ([0, 0], 10), ([3], 0)])
def test_without_a_cost_there_is_none(thinking, most):
    with pytest.raises(ValueError, match="reasoning efficiency"):
        reasoning_efficiency(1.0, 0.0, thinking, most)
