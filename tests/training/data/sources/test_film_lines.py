from training.data.sources.film_lines import Line, joined_lines


def joined(*lines):
    """Lines as `film number speaker text`, in any order -> the texts of each dialogue."""
    found = [Line(*line.split(maxsplit=3), place) for place, line in enumerate(lines, start=1)]
    return [row.problem or " ".join(row.texts) for row in joined_lines(found)]


def test_lines_whose_numbers_follow_each_other_make_a_dialogue_in_whatever_order_they_come():
    assert joined("m0 L12 u0 c", "m0 L10 u0 a", "m0 L11 u1 b", "m0 L14 u1 e", "m0 L15 u0 f") == ["a b c", "e f"]


def test_lines_of_two_films_never_make_one():
    assert joined("m0 L1 u0 a", "m0 L2 u1 b", "m1 L3 u0 c", "m1 L4 u1 d") == ["a b", "c d"]


def test_another_begins_where_a_third_one_speaks_or_one_goes_on_alone():
    assert joined("m0 L1 u0 a", "m0 L2 u1 b", "m0 L3 u2 c", "m0 L4 u1 d") == ["a b", "c d"]
    assert joined("m0 L1 u0 a", "m0 L2 u1 b", "m0 L3 u1 c", "m0 L4 u0 d") == ["a b", "c d"]


def test_a_single_line_stays_with_those_before_it_unless_there_are_none():
    assert joined("m0 L1 u0 a", "m0 L2 u1 b", "m0 L3 u2 c", "m0 L9 u0 d") == ["a b c", "d"]
    assert joined("m0 L1 u0 a", "m0 L2 u0 b", "m0 L3 u1 c") == ["a b c"]


def test_a_line_without_a_number_or_a_text_is_a_problem_and_a_row_has_its_film_and_place():
    lines = [Line("m0", "x", "u0", "a", 1), Line("m0", "L2", "u0", None, 2), Line("m7", "L3", "u0", "b", 3)]
    first, second, third = joined_lines(lines)
    assert (first.problem, second.problem) == ("no number in line id: 'x'", "the line has no text")
    assert (third.texts, third.group, third.place) == (("b",), "m7", 3)
