"""Command-line flags of a JEPA term, and the term that they describe."""

from jepa_ssl.integrations.flags.arguments import MODES, VIEWS, add_jepa_arguments, check_jepa_arguments, require
from jepa_ssl.integrations.flags.build import from_args

__all__ = ["MODES", "VIEWS", "add_jepa_arguments", "check_jepa_arguments", "from_args", "require"]
