"""Necks: layers that combine a backbone's feature maps into the maps that a head reads."""

from onestage.necks.fpn import FPN, P6From
from onestage.necks.mlfpn import MLFPN, Norm
from onestage.necks.pan import PAN
from onestage.necks.top_down import TopDown

__all__ = ["FPN", "MLFPN", "PAN", "Norm", "P6From", "TopDown"]
