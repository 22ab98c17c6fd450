"""Values in scripts: each stays one word, whatever is in it."""

import re
import shlex


def for_shell(value: object) -> str:
    return shlex.quote(str(value))


def for_sbatch(value: object) -> str:
    """A word in an #SBATCH line: a backslash counts within quotation marks too, a space only there is kept.

    Raises ValueError: the value has a line's end, after which sbatch reads no more of it.
    """
    text = str(value)
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError(f"an #SBATCH line cannot hold {text!r}")
    if re.fullmatch(r"[\w@%+=:,./\[\]-]+", text, re.ASCII):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def for_file_name(folder: object, name: str) -> str:
    """A path in --output, in which % begins a field such as %j; `name` may have some."""
    return for_sbatch(str(folder).replace("%", "%%") + "/" + name)


def for_option(text: str) -> str:
    """A whole option of sbatch, such as --mail-user=me or -M other."""
    separator = "=" if text.startswith("--") else " "
    name, found, value = text.partition(separator)
    return f"{name}{found}{for_sbatch(value)}" if found else for_sbatch(name)


def for_comment(text: object) -> str:
    """A comment's line: what is not printable would end it."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
