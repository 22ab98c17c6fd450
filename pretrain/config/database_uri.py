"""The URI of an SQLite database: how SQLAlchemy writes a file name, and reads it.

It takes `?` for the beginning of options, and `%41` for a letter.
"""

import re
from pathlib import Path
from urllib.parse import unquote

SQLITE = re.compile(r"sqlite(\+\w+)?:///")
OPTIONS = frozenset(
    (
        *("cached_statements", "check_same_thread", "detect_types", "isolation_level", "timeout", "uri"),
        *("cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"),
    )
)
"""What may follow a `?`: arguments of `sqlite3.connect`, and parameters of SQLite's own URIs."""


def database_uri(path: Path) -> str:
    return for_mlflow("sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F"))


def for_mlflow(uri: str) -> str:
    """A URI with which MLflow makes no extra folder.

    It makes the folder of a plain sqlite URI literally, %3F and all. A URI that also names the driver it
    leaves to SQLAlchemy.
    """
    return uri.replace("sqlite:", "sqlite+pysqlite:", 1) if uri.startswith("sqlite:") and "%" in uri else uri


def database_path(uri: str) -> Path | None:
    """The file of a URI; None if it is of another kind, or names a database in memory."""
    match = SQLITE.match(uri)
    name = unquote(uri[match.end() :].partition("?")[0], errors="surrogateescape") if match else ""
    return None if name in ("", ":memory:") or name.startswith("file:") else Path(name)


def unknown_option(uri: str) -> str | None:
    """The first unknown option of a URI, whose `?` was meant as part of the name; None if there is none."""
    query = uri.partition("?")[2] if SQLITE.match(uri) else ""
    names = [part.partition("=")[0] for part in query.split("&") if part]
    return next((name for name in names if name not in OPTIONS), None)
