from __future__ import annotations

import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.data.questions import LETTERS, MOST, PASSAGE_WORDS, questions

NAMES = ("Ada", "Bern", "Cork", "Dover", "Essen", "Fano", "Graz", "Haifa")
THINGS = ("river", "village", "painter", "engine", "castle", "sparrow", "violin", "desert")
DOCUMENTS = [
    f"{name} {number} is a {thing} of the {place} country. Every {thing} there was older than any other {place} house."
    for number, (name, thing, place) in enumerate(
        (name, thing, place) for name in NAMES for thing in THINGS for place in ("northern", "southern")
    )
]
CLOZE = re.compile(r"Question: (.*)\nChoices:\n(.*)\nAnswer: ([A-E])", re.DOTALL)


def test_the_same_documents_give_the_same_questions() -> None:
    assert list(questions(DOCUMENTS)) == list(questions(iter(DOCUMENTS)))
    assert len(set(questions(DOCUMENTS))) > 100


def test_what_a_passage_defines_is_so_and_what_another_defines_is_not() -> None:
    answers: Counter[str] = Counter()
    for text in questions(DOCUMENTS):
        passage = text.split("\nQuestion:")[0]
        for question, answer in re.findall(r"\nQuestion: is ([A-Z].*)\?\nAnswer: (yes|no)", text):
            answers[answer] += 1
            subject, predicate = question.split(" a ", 1)
            assert (f"{subject} is a {predicate}" in passage) == (answer == "yes")
    assert answers.total() > 50 and min(answers.values()) > 0.35 * answers.total()


def test_the_letter_is_that_of_the_missing_word() -> None:
    letters: Counter[str] = Counter()
    for text in questions(DOCUMENTS):
        if (match := CLOZE.fullmatch(text)) is None:
            continue
        sentence, listed, letter = match.groups()
        choices = dict(line.split(". ", 1) for line in listed.split("\n"))
        assert 4 <= len(choices) <= 5 and len(set(choices.values())) == len(choices)
        whole = re.compile(re.escape(sentence).replace("_", choices[letter], 1), re.IGNORECASE)
        assert any(whole.search(story) for story in DOCUMENTS)
        wrong = [word for other, word in choices.items() if other != letter]
        assert not any(re.search(rf"\b{word}\b", sentence, re.IGNORECASE) for word in wrong)
        letters[letter] += 1
    assert set(letters) == set(LETTERS)
    assert max(letters.values()) < 0.4 * letters.total()


def test_whether_a_word_is_in_a_passage_and_several_questions_about_one() -> None:
    answers: Counter[str] = Counter()
    most = 0
    for text in questions(DOCUMENTS):
        passage = text.split("\nQuestion:")[0]
        found = re.findall(r"\nQuestion: is there anything about (\w+)\?\nAnswer: (yes|no)", text)
        for word, answer in found:
            assert (word in passage.lower()) == (answer == "yes")
            answers[answer] += 1
        most = max(most, text.count("Answer: "))
    assert answers.total() > 100 and min(answers.values()) > 0.35 * answers.total()
    assert most == MOST


def test_headings_and_speakers_are_left_out_and_long_texts_cut_at_sentences() -> None:
    document = "= A heading =\n" + "\n".join(f"A: Sentence {i} says something about nothing much." for i in range(60))
    found = list(questions([document]))
    assert found and not any("heading" in text or "A: Sent" in text for text in found)
    for text in found:
        passage = text.split("\nQuestion:")[0]
        assert len(passage.split()) <= PASSAGE_WORDS
        assert passage.startswith(("Sentence", "Question")) and "much." in passage


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=200), max_size=6))
def test_any_text_is_survived(documents: list[str]) -> None:
    for text in questions(documents):
        assert text.rsplit("\nAnswer: ", 1)[1] in ("yes", "no", *LETTERS)
