"""What is wrong, odd or worth knowing about a labelled data set, before anything is trained on it."""

from onestage.checks.checkup import Checkup, check_up, quick_findings
from onestage.checks.findings import Example, Finding

__all__ = ["Checkup", "Example", "Finding", "check_up", "quick_findings"]
