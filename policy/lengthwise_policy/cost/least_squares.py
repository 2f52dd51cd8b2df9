"""Least squares with non-negative coefficients, for a handful of columns.

Written out because policy has the standard library alone, and because a fit on an engine's own
thread has microseconds, not an import of a numerical library, to spend.

Everything works on the normal equations G x = m with the columns scaled to length 1, so
that the diagonal of G is 1; callers check `condition` first.
"""

from collections.abc import Sequence
from math import inf

Matrix = list[list[float]]

# A step uphill below this (of columns scaled to 1) is rounding.
GRADIENT_TOLERANCE = 1e-10


def condition(gram: Matrix) -> float:
    """Condition number of a symmetric matrix in the 1-norm; inf when it is singular.

    Of a Gram matrix it is about the square of that of the columns.
    """
    size = len(gram)
    inverse = []
    for index in range(size):
        unit = [0.0] * size
        unit[index] = 1.0
        column = solve(gram, unit)
        if column is None:
            return inf
        inverse.append(column)
    return _norm(gram) * _norm(inverse)


def solve(matrix: Matrix, right: Sequence[float]) -> list[float] | None:
    """Solves a symmetric positive definite system; None when a pivot vanishes (singular)."""
    size = len(matrix)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for index, pivot in enumerate(rows):
        if pivot[index] <= 1e-14:
            return None
        for row in rows[index + 1 :]:
            factor = row[index] / pivot[index]
            for column in range(index, size + 1):
                row[column] -= factor * pivot[column]
    solution = [0.0] * size
    for index in reversed(range(size)):
        row = rows[index]
        known = sum(row[column] * solution[column] for column in range(index + 1, size))
        solution[index] = (row[size] - known) / row[index]
    return solution


def nonnegative(gram: Matrix, moments: Sequence[float]) -> list[float] | None:
    """The x >= 0 with the least squared error (Lawson and Hanson, chapter 23); None if it fails.

    Columns enter one by one, the steepest first; those that would turn negative leave again.
    """
    size = len(gram)
    solution = [0.0] * size
    used: list[int] = []
    for _ in range(3 * size):  # their bound; each round ends with a smaller error
        slope = [
            moments[i] - sum(g * x for g, x in zip(gram[i], solution, strict=True))
            for i in range(size)
        ]
        steepest = max(
            (i for i in range(size) if i not in used), key=slope.__getitem__, default=None
        )
        if steepest is None or slope[steepest] <= GRADIENT_TOLERANCE * max(moments):
            return solution
        used.append(steepest)
        if not _settle(gram, moments, used, solution):
            return None
    return None


def _settle(gram: Matrix, moments: Sequence[float], used: list[int], solution: list[float]) -> bool:
    """Moves `solution` to the optimum over `used`, dropping from it what reaches 0 on the way."""
    while used:
        best = solve([[gram[i][j] for j in used] for i in used], [moments[i] for i in used])
        if best is None:
            return False
        if min(best) > 0:
            for i, value in zip(used, best, strict=True):
                solution[i] = value
            return True
        share, first = min(
            (solution[i] / (solution[i] - value) if solution[i] > 0 else 0.0, i)
            for i, value in zip(used, best, strict=True)
            if value <= 0
        )
        for i, value in zip(used, best, strict=True):
            solution[i] += share * (value - solution[i])
        solution[first] = 0.0
        used[:] = [i for i in used if solution[i] > 0]
    return True


def _norm(matrix: Matrix) -> float:
    return max(sum(map(abs, row)) for row in matrix)
