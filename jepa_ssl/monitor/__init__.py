"""Monitor training: warn if embeddings collapse or the JEPA gradient is out of proportion."""

from jepa_ssl.monitor.monitor import CollapseMonitor, CollapseWarning, Episode
from jepa_ssl.monitor.packing import pack

__all__ = ["CollapseMonitor", "CollapseWarning", "Episode", "pack"]
