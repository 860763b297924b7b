"""How VQAv2's official script compares answers, its two bugs kept.

Source: GT-Vision-Lab/VQA, vqaEval.py (Antol et al. 2015). The bugs: the look-behind of the period
pattern is misspelt, so it is no condition at all, and the flag `re.UNICODE` (32) stands where
`re.sub` takes a count, so only 32 periods are removed.
"""

import re
from collections.abc import Sequence

__all__ = ["normalise_answer", "plain_answer", "soft_accuracy"]

_PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_PERIODS_REMOVED = int(re.UNICODE)

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_DIGITS)}}
_ARTICLES = frozenset({"a", "an", "the"})


def plain_answer(text: str) -> str:
    """What is always done: line ends and tabs become blanks, blanks around are cut."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise_answer(text: str) -> str:
    """What is done to both sides where the ten human answers differ."""
    return _process_digits_and_articles(_process_punctuation(text))


def _process_punctuation(text: str) -> str:
    """Remove a mark that touches a blank anywhere in the text, else put a blank in its place.

    All marks are removed where a comma stands between digits.
    """
    remove_all = _NUMBER_WITH_COMMA.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        removed = remove_all or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if removed else " ")
    return _PERIOD.sub("", result, count=_PERIODS_REMOVED)


def _process_digits_and_articles(text: str) -> str:
    """Lower case, number words to digits, articles dropped, apostrophes put back."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracy(text: str, answers: Sequence[str]) -> float:
    """The mean, over the humans left out in turn, of min(1, others who said the same / 3).

    With ten answers: 0, 0.3, 0.6, 0.9 and 1 for 0, 1, 2, 3 and more matches.
    """
    predicted, given = plain_answer(text), [plain_answer(answer) for answer in answers]
    if len(set(given)) > 1:
        predicted, given = normalise_answer(predicted), [normalise_answer(g) for g in given]
    matches = [answer == predicted for answer in given]
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)


# written=meant. Keys with a capital never match lower-cased words, and "somebody'd" loses its
# apostrophe: both as published.
_PAIRS = """
aint=ain't
arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've
couldnt've=couldn't've didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've
hadn'tve=hadn't've hasnt=hasn't havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's
howd=how'd howll=how'll hows=how's Id've=I'd've I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd
itd've=it'd've it'dve=it'd've itll=it'll let's=let's maam=ma'am mightnt=mightn't
mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've
neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at
'ow'sat='ow's'at shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've
shouldnt=shouldn't shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd
somebodyd've=somebody'd've somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's
someoned=someone'd someoned've=someone'd've someone'dve=someone'd've someonell=someone'll
someones=someone's somethingd=something'd somethingd've=something'd've
something'dve=something'd've somethingll=something'll thats=that's thered=there'd
thered've=there'd've there'dve=there'd've therere=there're theres=there's theyd=they'd
theyd've=they'd've they'dve=they'd've theyll=they'll theyre=they're theyve=they've twas='twas
wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've werent=weren't whatll=what'll whatre=what're
whats=what's whatve=what've whens=when's whered=where'd wheres=where's whereve=where've whod=who'd
whod've=who'd've who'dve=who'd've wholl=who'll whos=who's whove=who've whyll=why'll whyre=why're
whys=why's wont=won't wouldve=would've wouldnt=wouldn't wouldnt've=wouldn't've
wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll y'allll=y'all'll yall'd've=y'all'd've
y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd youd've=you'd've you'dve=you'd've
youll=you'll youre=you're youve=you've
"""
_CONTRACTIONS = dict(pair.split("=") for pair in _PAIRS.split())
