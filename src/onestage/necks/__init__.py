"""Necks: feature maps in, other feature maps out, which have seen each other."""

from onestage.necks.fpn import FPN, P6From
from onestage.necks.mlfpn import MLFPN, Norm
from onestage.necks.top_down import TopDown

__all__ = ["FPN", "MLFPN", "Norm", "P6From", "TopDown"]
