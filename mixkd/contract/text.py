"""What every text must be before it is kept."""


def encodes(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> bool:
    """Whether Postgres can hold a text, too: it has no NUL."""
    return "\0" not in text and encodes(text)
