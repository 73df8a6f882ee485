"""Problems: made, and grouped where one kind stands in many modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from adapterhub.documents import Problem


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in their order, but one for all modules where more than 8 have the same: the first, with their count.

    Keys that nothing explains are listed each.
    """
    problems = list(problems)
    counted = Counter(problem.code for problem in problems)
    found: dict[str, Problem] = {}
    for place, problem in enumerate(problems):
        count = counted[problem.code]
        if count <= _MANY or problem.code in _OF_KEYS:
            found[f"{problem.code} {place}"] = problem
        else:
            said = f"{problem.message} (and {count - 1} more like it)"
            found.setdefault(problem.code, problem.model_copy(update={"message": said}))
    return list(found.values())


_MANY = 8
_OF_KEYS = frozenset({"unknown-key", "duplicate-module"})


def error(code: str, where: str, message: str, mend: str | None = None) -> Problem:
    return Problem(severity="error", code=code, where=where, message=message, mend=mend)


def warning(code: str, where: str, message: str, mend: str | None = None) -> Problem:
    return Problem(severity="warning", code=code, where=where, message=message, mend=mend)
