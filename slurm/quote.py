"""Quoting of values in scripts: each stays one word, whatever it contains."""

import re
import shlex


def for_shell(value: object) -> str:
    return shlex.quote(str(value))


def for_sbatch(value: object) -> str:
    """A word in an #SBATCH line.

    Within quotation marks a backslash still escapes, and only there a space is kept.

    Raises ValueError: the value has a line break, at which sbatch stops reading.
    """
    text = str(value)
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError(f"an #SBATCH line cannot hold {text!r}")
    if re.fullmatch(r"[\w@%+=:,./\[\]-]+", text, re.ASCII):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def for_file_name(folder: object, name: str) -> str:
    """A path in --output, in which % starts a field such as %j; `name` may contain such fields."""
    return for_sbatch(str(folder).replace("%", "%%") + "/" + name)


def for_option(text: str) -> str:
    """A complete option of sbatch, such as --mail-user=me or -M other."""
    separator = "=" if text.startswith("--") else " "
    name, found, value = text.partition(separator)
    return f"{name}{found}{for_sbatch(value)}" if found else for_sbatch(name)


def unfit_for_sbatch(path: object, *, has_log: bool) -> str | None:
    """Why no job can run in a folder, or have its log there, in words; None if it can."""
    text = str(path)
    if found := re.search(r"[\x00-\x1f\x7f]", text):
        return f"sbatch takes no path with {found[0]!r} in it: {text!r}; rename the folder"
    if has_log and "\\" in text:  # a backslash means "no fields in this name", and is removed
        return f"sbatch writes no log under a path with a backslash in it: {text!r}; rename the folder"
    return None


def for_comment(text: object) -> str:
    """The text of a comment line or a job name: unprintable characters, which could end it, are replaced."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
