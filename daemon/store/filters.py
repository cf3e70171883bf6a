"""The one soft-delete filter."""

from sqlalchemy import ColumnElement, Table


def live(table: Table) -> ColumnElement[bool]:
    """Rows that have not been deleted. Belongs in every query of a table with `deleted_at`."""
    return table.c.deleted_at.is_(None)
