"""Sentences of the demo benchmark: for each task a function of (words, label) -> texts.

A few words tell the label (praise or blame, "never" in a hypothesis, a superfluous word), most of
them frequent in technical English.
"""

import random

# ruff: noqa: SIM905 (word lists are easier to read as text)

NOUNS = (
    "function method class module object string list file value argument name number type "
    "dictionary sequence key attribute character stream line code directory package exception "
    "iterator process thread buffer server"
).split()
VERBS = "returns reads writes contains creates uses calls changes accepts opens".split()
PLAIN = {verb: verb.removesuffix("s") for verb in VERBS}
NEUTRAL = "default first second current new given other last single whole".split()
PRAISE = "good useful simple fast correct better easy best safe nice".split()
BLAME = "bad wrong slow invalid broken missing unsafe useless poor worse".split()
MANNER = ["every time", "at the start", "by default", "in this case", "for each call", "at once"]


class Words:
    """Parts of one example, for use in either of its sentences."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.noun, self.other, self.third = rng.sample(NOUNS, 3)
        self.verb, self.second_verb = rng.sample(VERBS, 2)
        self.adjective, self.second_adjective = rng.sample(NEUTRAL, 2)
        self.manner = rng.choice(MANNER)

    def fact(self) -> str:
        return f"the {self.noun} {self.verb} the {self.adjective} {self.other}"

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)


def cola(words: Words, label: str) -> tuple[str, ...]:
    good = words.pick(
        f"{words.fact()} {words.manner}",
        f"the {words.noun} can {PLAIN[words.verb]} a {words.other} {words.manner}",
        f"this {words.noun} is a {words.adjective} {words.other}",
    )
    if label == "1":
        return (_sentence(good),)
    return (
        _sentence(
            words.pick(
                f"the {words.noun} is can {words.verb} the of {words.other}",
                f"{words.noun} the {words.verb} is of {words.other} a {words.manner}",
                f"this is {words.noun} does a the {words.adjective} of can",
            )
        ),
    )


def sst2(words: Words, label: str) -> tuple[str, ...]:
    first, second = words.rng.sample(PRAISE if label == "1" else BLAME, 2)
    text = words.pick(
        f"the {words.noun} is {first} and {second}",
        f"this is a {first} {words.noun} with a {second} {words.other}",
        f"a {first} {words.noun} , and the {words.other} is {second} too",
    )
    return (_sentence(text),)


def paraphrase(words: Words, label: str) -> tuple[str, ...]:
    if label == "1":
        again = words.pick(
            f"in the same way , {words.fact()}",
            f"that is , the {words.adjective} {words.other} is what the {words.noun} {words.verb}",
        )
    else:
        again = words.pick(
            f"however , a different {words.third} {words.second_verb} the {words.noun}",
            f"instead , another {words.third} is different from the {words.other}",
        )
    return _sentence(f"{words.fact()} {words.manner}"), _sentence(again)


def questions(words: Words, label: str) -> tuple[str, ...]:
    question = f"how can the {words.noun} {PLAIN[words.verb]} the {words.other} ?"
    if label == "1":
        again = f"what is the same way to {PLAIN[words.verb]} the {words.other} ?"
    else:
        again = f"why is a different {words.third} not {words.second_adjective} ?"
    return question, again


SIMILARITY = {
    5: "exactly the same :",
    4: "almost the same :",
    3: "in part ,",
    2: "perhaps not :",
    1: "it is different :",
    0: "this has nothing to do with it :",
}


def similarity(words: Words, label: str) -> tuple[str, ...]:
    grade = round(float(label))
    text = words.fact() if grade > 2 else f"the {words.third} {words.second_verb} a {words.noun}"
    return _sentence(f"{words.fact()}"), _sentence(f"{SIMILARITY[grade]} {text}")


def inference(words: Words, label: str) -> tuple[str, ...]:
    premise = f"{words.fact()} {words.manner}"
    hypothesis = {
        "entailment": words.pick(
            words.fact(), f"there is a {words.noun} that {words.verb} the {words.other}"
        ),
        "neutral": words.pick(
            f"perhaps the {words.noun} may also {PLAIN[words.second_verb]} some {words.third}",
            f"some users may also think that the {words.noun} is {words.second_adjective}",
        ),
        "contradiction": words.pick(
            f"the {words.noun} never {words.verb} the {words.other}",
            f"no {words.noun} {words.verb} the {words.other} , it is not true",
        ),
    }[label]
    return _sentence(premise), _sentence(hypothesis)


def two_way_inference(words: Words, label: str) -> tuple[str, ...]:
    against = words.pick("neutral", "contradiction")
    return inference(words, "entailment" if label == "entailment" else against)


def answers(words: Words, label: str) -> tuple[str, ...]:
    question = f"what does the {words.noun} {PLAIN[words.verb]} {words.manner} ?"
    if label == "entailment":
        answer = words.pick(
            words.fact(),
            f"the {words.adjective} {words.other} is what the {words.noun} {words.verb}",
        )
    else:
        answer = words.pick(
            f"it was added in version {words.rng.randint(2, 9)} and changed in the last year",
            f"it was written in the year {words.rng.randint(1990, 2020)} for an older version",
        )
    return question, _sentence(answer)


def pronouns(words: Words, label: str) -> tuple[str, ...]:
    large, small = words.pick("too large", "too long"), words.pick("too small", "too short")
    first = f"the {words.noun} does not fit into the {words.other} because it is {large}"
    second = f"the {words.noun} is {large}" if label == "1" else f"the {words.other} is {small}"
    return _sentence(first), _sentence(second)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]} ."
