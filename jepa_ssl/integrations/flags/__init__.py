"""Command-line flags for a JEPA term, and a function that builds the term from them."""

from jepa_ssl.integrations.flags.arguments import MODES, VIEWS, add_jepa_arguments, check_jepa_arguments, require
from jepa_ssl.integrations.flags.build import from_args

__all__ = ["MODES", "VIEWS", "add_jepa_arguments", "check_jepa_arguments", "from_args", "require"]
