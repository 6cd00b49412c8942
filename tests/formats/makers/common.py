"""What the makers of broken files share."""

MAX_U64 = 2**64 - 1
MAX_I64 = 2**63 - 1
FILES = {}  # "folder/name": content
LARGE = {}  # "name": a function that makes the content


def add(name, content):
    assert name not in FILES, name
    FILES[name] = content if isinstance(content, bytes) else content.encode()


def cuts(name, content, *places):
    """The content cut at each place; a negative one counts from the end."""
    for place in places:
        stem, dot, ending = name.partition(".")
        add(f"{stem}_{place if place >= 0 else f'all_but_{-place}'}{dot}{ending}", content[:place])
