"""What every check finds."""

from ssd_edge.runtime.doctor.diagnosis import CHECKS
from ssd_edge.runtime.doctor.finding import OK, Finding


def findings(**changes: Finding) -> dict[str, Finding]:
    """All is fine but `changes`."""
    return {key: changes.get(key, Finding(OK, "fine")) for key in CHECKS}
