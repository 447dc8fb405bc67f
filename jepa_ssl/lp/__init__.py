"""The LP wing: the only rooms that know that an instance is a linear program."""

from jepa_ssl.lp.layout import flatten, valid_entries

__all__ = ["flatten", "valid_entries"]
