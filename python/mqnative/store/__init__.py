"""What was measured stays measured: one sqlite file of content-addressed rows, and locks beside it."""

from __future__ import annotations

from mqnative.store.keys import content_key
from mqnative.store.measurements import Measurement
from mqnative.store.models import file_stamp
from mqnative.store.paths import home
from mqnative.store.store import Store

__all__ = ["Measurement", "Store", "content_key", "file_stamp", "home"]
