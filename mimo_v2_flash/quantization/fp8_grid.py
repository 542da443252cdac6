"""The grid of FP8 scales: blocks of 128 or 64 rows and 128 columns, the last ones partial."""

from math import gcd

__all__ = [
    "BLOCK",
    "HALF_BLOCK",
    "Shapes",
    "block_height",
    "grid",
    "plain_height",
    "sliced_block_height",
]

BLOCK, HALF_BLOCK = 128, 64

Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # of codes and of scales


def plain_height(where: str, code: tuple[int, ...], scale: tuple[int, ...]) -> int:
    """Return the height of blocks of a weight on a plain grid, from its shape and its scales'.

    Parameters
    ----------
    where : str
        Where the weight is, for messages.
    code, scale : tuple of int
        Shapes of codes and scales.

    Raises
    ------
    ValueError
        If the number of scale rows or columns is another; the message begins with `where`.
    """
    height = block_height((code, scale))
    if height is None:
        grids = " or ".join(str(grid(code, h)) for h in (BLOCK, HALF_BLOCK))
        raise ValueError(
            f"{where}: {code} has scales {scale}, expected {grids}: blocks of {BLOCK} or "
            f"{HALF_BLOCK} rows"
        )
    return height


def block_height(*weights: Shapes) -> int | None:
    """Return the block height that puts the scales of all `weights` on a plain grid, or None."""
    heights = (BLOCK, HALF_BLOCK)
    return next((h for h in heights if all(grid(code, h) == s for code, s in weights)), None)


def sliced_block_height(height: int, rows: range) -> int:
    """Return the height of blocks in a slice of `rows`, from blocks of `height`.

    It is the same in all equal shards: heads of 192 rows in blocks of 128 have blocks of 64.
    """
    return gcd(height, rows.start, len(rows))


def grid(shape: tuple[int, ...], height: int) -> tuple[int, int]:
    """Return the shape of the scales of a weight of `shape` in blocks of `height` rows."""
    outputs, inputs = shape
    return -(-outputs // height), -(-inputs // BLOCK)
